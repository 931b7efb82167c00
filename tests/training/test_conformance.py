"""Any diffusers pipeline: the policy does with it what it does with itself. `python tools/conformance.py` checks them all."""

import re
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image

import flowgrpo
from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import load_prompts
from flowgrpo.policies import tiny
from flowgrpo.policies.tiny.asked import config_of, prompt_of
from flowgrpo.training.conformance import table
from flowgrpo.training.conformance.check import check

KINDS_OF_LOOP = {
    "sd3_skip_layer": "guidance that is on in some steps only",
    "flux2_klein_kv": "a cache that the first step fills",
    "sana_sprint": "another noise schedule, at another scale",
    "sd15_dpm": "a multistep scheduler",
    "sd15_pndm": "a scheduler that visits a level twice",
    "sdxl": "states at another scale than the network's",
    "sd15_img2img_half": "a part of the schedule",
    "sd15_inpaint_blend": "latents that are written over after a step",
    "sd_controlnet_interval": "pictures beside the text",
    "latent_diffusion": "a loop without enumerate, latents without a method",
    "lcm": "what is decoded is not the latents",
    "flux_kontext": "tokens of a picture behind those of the latents",
    "wan22": "two experts",
    "wan_i2v": "a picture in front of a clip",
    "wan_vace": "one text and one sample a call",
    "ltx_i2v": "a part of the latents is stepped",
    "ltx_condition_video": "noise drawn inside the loop",
    "ltx2": "pictures and sound",
    "mochi": "time that runs the other way",
    "cosmos3": "latents in another shape",
    "pixart_alpha": "a denoiser without diffusers' adapters",
}


@pytest.mark.parametrize("name", KINDS_OF_LOOP)
def test_every_kind_of_loop_is_served(name, tmp_path):
    entry = tiny.pipelines()[name]
    entry.build().save_pretrained(tmp_path / "pipeline")
    found = check(name, entry.kind, config_of(entry, tmp_path / "pipeline"), prompt_of(entry, tmp_path))
    assert found.passed, found


def test_the_table_has_every_tiny_pipeline_and_reasons_for_what_fails():
    rows = table.read()
    assert [row["name"] for row in rows] == list(tiny.pipelines())
    passed, _ = table.classes(rows)
    assert len(passed) >= 95
    assert all(row["checks"]["ratio"] == "exact" for row in rows if row["passed"])
    assert all(len(table.reason(row)) > 20 for row in rows if not row["passed"])
    recorded = {row["pipeline"] for row in rows if row["passed"] and row["recorded"] == "yes"}
    page = Path(__file__).parents[2] / "docs" / "concepts" / "pipelines.md"
    assert len(recorded) >= 120 and f"{len(recorded)} of {len(passed)} that pass" in page.read_text(encoding="utf-8")
    assert all(len(row["recorded"]) > 20 for row in rows if row["passed"] and row["recorded"] != "yes")


def test_models_prints_the_table_and_checks_a_folder(tmp_path, capsys):
    assert main(["models"]) == 0
    assert re.search(r"sd3 +StableDiffusion3Pipeline +exact +exact", capsys.readouterr().out)
    entry = tiny.pipelines()["sd3"]
    entry.build().save_pretrained(tmp_path / "mine")
    overrides = [f"call.{key}={value}" for key, value in entry.call.items()]
    assert main(["models", "--check", str(tmp_path / "mine"), *overrides, "lora.rank=2"]) == 0
    assert "1 pipeline classes pass in 1 entries" in capsys.readouterr().out
    assert main(["models", "--check", str(tmp_path / "nowhere")]) == 2
    assert "is not a diffusers pipeline folder" in capsys.readouterr().err
    assert main(["models", "call.height=8"]) == 2
    assert "are for --check" in capsys.readouterr().err


def test_a_pipeline_that_is_no_chain_is_refused_at_start_up(tmp_path):
    entry = tiny.pipelines()["cosmos1"]
    entry.build().save_pretrained(tmp_path / "pipeline")
    with pytest.raises(UserError, match="steps its scheduler twice"):
        config_of(entry, tmp_path / "pipeline").build(torch.device("cpu"), seed=0)


def test_several_loops_in_a_call_are_refused(tmp_path):
    entry = tiny.pipelines()["framepack_sections"]
    entry.build().save_pretrained(tmp_path / "pipeline")
    policy = config_of(entry, tmp_path / "pipeline").build(torch.device("cpu"), seed=0)
    prompt = prompt_of(entry, tmp_path)
    with pytest.raises(UserError, match="in 2 loops"):
        policy.decode(policy.start([prompt], [("a",)]), [prompt])


OF_ONE_MODEL = ("_table.py", "real_pipelines.py", "published.py")
"""What a class is known to need, the sizes of `bench --random`, and the loop of `bench --baseline`, published for one model."""


def test_no_code_names_a_model_outside_the_table_and_the_tiny_ones():
    models = {
        name
        for name in dir(diffusers)
        if re.search(r"(Pipeline|Model|Transformer\w*|UNet\w*|^Autoencoder\w*)$", name) and name != "DiffusionPipeline"
    }
    root = Path(flowgrpo.__file__).parent
    files = [f for f in root.rglob("*.py") if f.name not in OF_ONE_MODEL and not {"masked", "tiny"} & {*f.parts}]
    named = {(f.name, word) for f in files for word in re.findall(r"\w+", f.read_text()) if word in models}
    assert not named


def rows(folder: Path, line: str) -> str:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    (folder / "prompts.jsonl").write_text(line)
    return str(folder / "prompts.jsonl")


def test_rows_name_pictures_relative_to_their_file(tmp_path):
    source = rows(tmp_path / "set", '{"prompt": "bluer", "image": "red.png", "images": ["red.png", null], "tag": "colour"}')
    (prompt,) = load_prompts(source)
    picture = tmp_path / "set" / "red.png"
    assert prompt.conditions == {"image": picture, "images": [picture, None]}
    assert prompt.metadata["tag"] == "colour" and prompt.metadata["image"] == "red.png"


@pytest.mark.parametrize(("value", "message"), [('"none.png"', "does not exist"), ("3", "must be a path or a list of paths")])
def test_a_picture_that_is_not_there_is_named_with_its_row(tmp_path, value, message):
    source = rows(tmp_path / "set", '{"prompt": "a"}\n{"prompt": "b", "image": ' + value + "}")
    with pytest.raises(UserError, match=f"row 2: image.*{message}"):
        load_prompts(source)


def test_pictures_are_refused_where_none_is_taken_and_asked_for_where_one_is_needed(tmp_path):
    (prompt,) = load_prompts(rows(tmp_path / "set", '{"prompt": "bluer", "image": "red.png"}'))
    (bare,) = load_prompts(rows(tmp_path / "bare", '{"prompt": "a"}'))
    for name, given, message in [("latte", prompt, "takes none"), ("wan_i2v", bare, "works from 'image'")]:
        entry = tiny.pipelines()[name]
        entry.build().save_pretrained(tmp_path / name)
        policy = config_of(entry, tmp_path / name).build(torch.device("cpu"), seed=0)
        with pytest.raises(UserError, match=message):
            policy.start([given], [("a",)])


def test_a_picture_is_encoded_once(tmp_path):
    entry = tiny.pipelines()["flux_kontext"]
    entry.build().save_pretrained(tmp_path / "pipeline")
    policy = config_of(entry, tmp_path / "pipeline").build(torch.device("cpu"), seed=0)
    prompt = prompt_of(entry, tmp_path)
    encoded = []
    policy.pipe.vae.encoder.register_forward_hook(lambda *_: encoded.append(1))
    with torch.no_grad():
        x = policy.start([prompt] * 2, [("a",), ("b",)])
        for step in range(4):
            policy.predict(x, [prompt] * 2, step)
    assert len(encoded) == 1
