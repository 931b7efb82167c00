"""Pictures of several sizes in one run, and prompts that say what is not wanted."""

import json
from pathlib import Path

import pytest
import torch

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked
from flowgrpo.data.media import read
from flowgrpo.data.prompts import Prompt, batches
from flowgrpo.policies import tiny
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._sizes import size_of
from flowgrpo.runs.run import Run

CPU = torch.device("cpu")
SIZES = [[16, 16], [16, 32], [32, 16]]
PROMPTS = [Prompt(i, f"row {i}", {"prompt": f"row {i}"}) for i in range(12)]


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A pipeline whose noise levels depend on the size of the picture."""
    folder = tmp_path_factory.mktemp("flux")
    tiny.pipelines()["flux"].build().save_pretrained(folder)
    return folder


def config_of(folder: Path, **call) -> DiffusersConfig:
    entry = tiny.pipelines()["flux"]
    plain = {key: value for key, value in entry.call.items() if key not in ("height", "width")}
    tree = {"model": str(folder), "steps": 3, "call": {**plain, **call}, "lora": {"rank": 2, "alpha": 4}}
    return checked(DiffusersConfig, tree, "policy")


def test_batches_hold_prompts_of_one_key_in_order():
    parity = [[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9, 11]]
    assert batches(PROMPTS, 3, lambda prompt: prompt.index % 2) == parity
    assert batches(PROMPTS, 5, lambda prompt: None) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_a_row_has_the_same_size_whenever_it_is_asked_for_and_rows_differ():
    call = {"sizes": SIZES}
    drawn = [size_of(call, prompt) for prompt in PROMPTS]
    assert drawn == [size_of(call, prompt) for prompt in PROMPTS] and len(set(drawn)) == 3
    assert size_of({}, PROMPTS[0]) is None


def test_a_policy_of_several_sizes_is_for_each_the_policy_of_that_size(flux):
    """Starts, predictions, laws and pictures, bit for bit, whichever size came first."""
    several = config_of(flux, sizes=SIZES).build(CPU, seed=0)
    rows = batches(PROMPTS, 2, several.config.batch_key)
    levels = set()
    for places in rows:
        prompts = [PROMPTS[i] for i in places]
        height, width = size_of({"sizes": SIZES}, prompts[0])
        one = config_of(flux, height=height, width=width).build(CPU, seed=0)
        keys = [("a", i) for i in places]
        with torch.no_grad():
            x = several.start(prompts, keys)
            assert torch.equal(x, one.start(prompts, keys))
            assert torch.equal(several.predict(x, prompts, 1), one.predict(x, prompts, 1))
            pictures = several.decode(x, prompts).outputs
            assert torch.equal(pictures, one.decode(x, prompts).outputs) and pictures.shape[-2:] == (height, width)
            made = several.generate(prompts, places, 2).outputs
            assert torch.equal(made, one.generate(prompts, places, 2).outputs)
        assert several.schedule(prompts) == one.schedule(prompts)
        levels.add(several.schedule(prompts).sigmas)
    assert len(levels) > 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"sizes": SIZES, "height": 16}, "call.sizes takes the place of call.height"),
        ({"sizes": []}, "call.sizes must list pairs"),
        ({"sizes": [[16, 0]]}, "call.sizes must list pairs"),
        ({"sizes": [16, 16]}, "call.sizes must list pairs"),
    ],
)
def test_sizes_that_can_not_be_meant_are_refused(flux, call, words):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        config_of(flux, **call)


def test_a_run_of_several_sizes_trains_evaluates_and_reports(flux, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": p.text, "negative_prompt": "blurry"} if p.index % 2 else {"prompt": p.text} for p in PROMPTS]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.py").write_text("def bright(samples):\n    return samples.images.flatten(1).mean(1).tolist()\n")
    config = config_of(flux, sizes=SIZES)
    policy = json.dumps({**config.model_dump(mode="json"), "call": {**config.call, "true_cfg_scale": 2.0}})
    small = ["rollout.prompts_per_update=6", "rollout.group_size=2", "rollout.micro_batch=4", "updates=2"]
    evaluation = "evaluation={prompts: rows.jsonl, metric: bright, steps: 2, batch: 3, pictures: 12}"
    rewards = "rewards={bright: {use: 'mine.py:bright'}}"
    assert main(["train", "mini", "cps", f"policy={policy}", *small, "rollout.prompts=rows.jsonl", rewards, evaluation]) == 0
    run = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["grad_norm"] > 0
    records = Run(run).records("before")
    assert [record.prompt for record in records] == [row["prompt"] for row in rows]
    sizes = [read(run / "samples" / "before" / record.shown["image"]).shape[:2] for record in records]
    assert sizes == [size_of({"sizes": SIZES}, prompt) for prompt in PROMPTS]


def negative_of(policy, prompts):
    return policy._arguments(prompts, torch.Generator()).get("negative_prompt")


def test_what_a_row_does_not_want_goes_into_its_call(flux):
    policy = config_of(flux, sizes=[[16, 16]], negative_prompt="dark").build(CPU, seed=0)
    plain, mine = PROMPTS[:2], Prompt(1, "b", {"prompt": "b", "negative_prompt": "blurry"})
    assert negative_of(policy, plain) == ["dark", "dark"]
    assert negative_of(policy, [plain[0], mine]) == ["dark", "blurry"]


def test_a_text_that_is_not_wanted_and_too_long_is_said(flux):
    call = {"max_sequence_length": 16}
    (note,) = config_of(flux, **call).check([Prompt(0, "a", {"prompt": "a", "negative_prompt": "no " * 40})])
    assert note.startswith("1 of 1 negative prompts are too long") and note.endswith("they are cut there")


def test_what_is_not_wanted_is_refused_where_a_pipeline_takes_no_such_text(tmp_path):
    entry = tiny.pipelines()["flux2"]
    entry.build().save_pretrained(tmp_path)
    config = checked(DiffusersConfig, {"model": str(tmp_path), "steps": 2, "call": entry.call, "lora": None}, "policy")
    with pytest.raises(UserError, match=r"row 1: prompt rows have 'negative_prompt', but .* takes none"):
        config.check([Prompt(0, "a", {"prompt": "a", "negative_prompt": "b"})])


def test_pictures_of_ids_have_one_size(capsys):
    assert main(["plan", "mini-amused", "trajectory", "policy.call.sizes=[[16, 16], [32, 32]]"]) == 2
    assert "policy.call.sizes is for continuous latents" in capsys.readouterr().err


def test_halves_are_told_what_a_row_does_not_want():
    """Logits without the prompt are those of the text that is not wanted, of the row or of the call."""
    tree = {"type": "amused", "model": "asset:mini-amused", "steps": 3, "length": 64}

    def predicted(call, **row):
        config = checked(AmusedConfig, {**tree, "lora": None, "call": {"guidance_scale": 2.0, **call}}, "policy")
        policy, prompts = config.build(CPU, seed=0), [Prompt(0, "a red circle", {"prompt": "a red circle", **row})]
        with torch.no_grad():
            return policy.halves(policy.start(prompts, [("a",)]), prompts, 0)

    said = predicted({}, negative_prompt="a blue square")
    assert torch.equal(said, predicted({"negative_prompt": "a blue square"})) and not torch.equal(said, predicted({}))
