"""`train --tiny`: whole runs of shipped recipes on tiny random models of the same classes."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import load_file

from flowgrpo.cli.main import main
from flowgrpo.config.recipes import METHODS, TASKS, fitting, models, read_recipe
from flowgrpo.config.run import Config, load_config
from flowgrpo.config.sections import FleetConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import load_prompts
from flowgrpo.training.rehearsal import rehearsed
from flowgrpo.training.rehearsal._fewer import editions
from flowgrpo.training.rehearsal._prompts import few_prompts

HUB = [name for name in models() if any(about.tiny for about in read_recipe(name).about.values())]
FIRST = ("flow_grpo", "diffu_grpo")
ASK_MORE = ("code",)
"""Tasks that want a word of the user first."""
SAME = ("credit", "advantage", "selection", "objective")
BF16 = 1e-3
"""How far two roundings of a log-prob in bfloat16 may be apart."""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Path, str]:
    """The run, and what was said."""
    code = main(["train", *words, "--tiny"])
    said = capsys.readouterr()
    assert code == 0, said.err[-2000:]
    return Path(json.loads(said.out.strip().splitlines()[-1])["run"]), said.err


def sentence_of(place: int, model: str) -> list[str]:
    """By turns its first method with its own task, and another method with another task. `tools/rehearse.py` has them all."""
    methods, tasks = fitting(model, METHODS), [task for task in fitting(model, TASKS) if task not in ASK_MORE]
    if place % 2 == 0:
        return [model, next(method for method in FIRST if method in methods)]
    return [model, methods[3 * place % len(methods)], tasks[place % len(tasks)]]


SENTENCES = [sentence_of(place, model) for place, model in enumerate(HUB)]


@pytest.mark.parametrize("words", SENTENCES, ids=" ".join)
def test_a_recipe_is_rehearsed_whole(words, capsys):
    run, _ = train(capsys, *words)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if "reward" in row] == [0, 1] and rows[0]["grad_norm"] > 0
    assert rows[0]["ratio/first_log_abs_max"] <= BF16
    assert "The same prompts, before and after" in (run / "report.html").read_text()
    state = load_file(run / "checkpoint-000002" / "state" / "trainable.safetensors")
    assert load_config(str(run / "config.yaml")).policy.lora is None or any(
        ".lora_B." in key and value.any() for key, value in state.items()
    )


@pytest.mark.parametrize("model", ["sd3.5-medium", "flux.1-dev", "hunyuan-video", "llada-8b", "dream-7b"])
def test_every_method_finds_a_small_edition_and_stays_what_it_is(model):
    for method in fitting(model, METHODS):
        recipe = read_recipe([model, method])
        full = recipe.checked(Config, [])
        config = next(found for found in map(valid, editions(recipe.tree)) if found)
        assert config.rollout.group_size * config.policy.steps <= 256 and config.rollout.prompts_per_update == 2
        for section in SAME:
            assert getattr(config, section) == getattr(full, section), section
        assert config.optimizer.lr == full.optimizer.lr


def valid(tree) -> Config | None:
    try:
        return Config.model_validate(tree)
    except ValueError:
        return None


def test_a_rehearsal_says_what_it_is_before_and_after_in_the_report_and_in_the_card(capsys):
    run, said = train(capsys, "sd3.5-medium", "flow_grpo", "pickscore")
    sentence = "a rehearsal with random weights: no number of it means anything"
    stands = "StableDiffusion3Pipeline with random weights stands for stabilityai/stable-diffusion-3.5-medium"
    assert said.count(f"flowgrpo: {sentence}") == 2 and stands in said
    for file in ("report.html", "checkpoint-000002/README.md", "config.yaml"):
        assert sentence in (text := (run / file).read_text()) and stands in text, file
    assert run.name.startswith("sd3.5-medium-flow_grpo-pickscore-tiny-")


def test_the_models_that_ship_keep_their_weights(capsys):
    run, said = train(capsys, "mini-mdlm", "gdpo")
    assert "a rehearsal of two updates" in said and "the weights are those of asset:mini-mdlm" in said
    assert load_config(str(run / "config.yaml")).policy.model == "asset:mini-mdlm"


def test_overrides_have_the_last_word_and_their_rewards_have_twins():
    own = ["rewards.more={use: hps, weight: 0.5}", "rollout.group_size=3", "output=elsewhere", "updates=3"]
    config = rehearsed("sd3.5-medium flow_grpo pickscore", own)
    assert (config.rollout.group_size, config.updates, config.rewards["more"].weight) == (3, 3, 0.5)
    assert Path(config.rewards["more"].arguments["checkpoint"]).is_relative_to("elsewhere/tiny")


def test_states_that_are_valued_on_their_way_are_told_apart_by_their_latents(capsys):
    """On another model's latents than those of the example that ships: packed ones."""
    stated = "range=(0.0, 9.0), better='so', licence='none', source='here'"
    reward = f"import flowgrpo as fg\n\n@fg.card(reads='latents', noisy=True, {stated})\ndef spread(samples):\n"
    Path("mine.py").write_text(reward + "    return samples.latents.states.flatten(1).std(1)\n")
    words = ["rewards={mine: {use: 'mine.py:spread'}}", "evaluation.metric=mine", "rollout.plan.completion={type: latents}"]
    run, _ = train(capsys, "flux.1-dev", "dense_grpo", *words)
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["grad_norm"] > 0 and first["ratio/first_log_abs_max"] <= BF16
    assert load_config(str(run / "config.yaml")).rewards["lots"].use.endswith(":lots_of_latents")


def test_the_call_has_the_sizes_of_the_tiny_model_and_the_guidance_of_the_recipe():
    config, full = rehearsed("sd3.5-medium flow_grpo pickscore"), load_config("sd3.5-medium flow_grpo pickscore")
    assert config.policy.call["height"] == 8 and full.policy.call["height"] == 512
    assert config.policy.call["guidance_scale"] == full.policy.call["guidance_scale"]


def test_a_model_with_settings_of_ones_own_is_rehearsed_in_tiny_sizes():
    own = ["policy.call={sizes: [[512, 512], [768, 432]], guidance_scale: 3.0}", "policy.runtime.offload=true", "policy.steps=40"]
    policy = rehearsed("sd3.5-medium flow_grpo ocr", own).policy
    assert policy.call == {"max_sequence_length": 16, "guidance_scale": 3.0, "sizes": [[8, 8], [8, 4]]}
    assert not policy.runtime.offload and policy.steps == 4


def test_a_rehearsal_is_not_resumed(capsys):
    assert main(["train", "sd3.5-medium", "flow_grpo", "pickscore", "--tiny", "--resume"]) == 2
    assert "begin it again without --resume" in capsys.readouterr().err
    Path("one.txt").write_text("a cat\n")
    assert main(["train", "sd3.5-medium", "flow_grpo", "pickscore", "--tiny", "rollout.prompts=one.txt"]) == 2
    assert capsys.readouterr().err.strip().endswith("2 prompts per update, but there are only 1")


def test_a_model_without_a_builder_is_one_sentence(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("policy: {type: diffusers, model: some/body, steps: 4}\nevaluation: {steps: 4}\n")
    assert main(["train", "mine.yaml", "flow_grpo", "pickscore", "--tiny"]) == 2
    assert "does not know how a model like 'some/body' is made" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(
        "about: {tiny: sd33}\npolicy: {type: diffusers, model: some/body, steps: 4}\nevaluation: {steps: 4}\n"
    )
    assert main(["train", "mine.yaml", "flow_grpo", "pickscore", "--tiny"]) == 2
    assert "no tiny model is called 'sd33' (did you mean 'sd3'?" in capsys.readouterr().err


def test_example_rows_stand_for_prompts_of_a_hub(tmp_path):
    rows = ({"prompt": "make it snow", "image": "a.jpg", "images": ["b.jpg", "c.jpg"], "tag": "x"},)
    source = few_prompts("hub:some/edits:prompt?split=train", rows, tmp_path / "made", {"image": (8, 16)})
    prompts = load_prompts(source)
    assert len(prompts) >= 4 and {prompt.text for prompt in prompts} == {"make it snow"}
    assert prompts[0].conditions.keys() == {"image", "images"} and prompts[0].metadata["tag"] == "x"
    with pytest.raises(UserError, match=r"gives no examples of them; say some: about: \{rows"):
        few_prompts("hub:some/edits:prompt", (), tmp_path, {})


def test_a_generator_makes_a_few_prompts_and_files_stay(tmp_path):
    assert few_prompts("ocr:train?count=50000&seed=3", (), tmp_path, {}) == "ocr:train?count=4&seed=3"
    (tmp_path / "mine.txt").write_text("a cat")
    for source in ("mine.txt", "missing.txt", "asset:mini-sd3/prompts/train.jsonl.gz"):
        assert few_prompts(source, (), tmp_path, {}) == source


def test_what_is_not_valid_in_the_recipe_is_said_of_the_recipe(capsys):
    assert main(["train", "sd3.5-medium", "flow_grpo", "pickscore", "--tiny", "rollout.group_size=1"]) == 2
    assert "group_size must be at least 2" in capsys.readouterr().err


def test_a_fleet_is_rehearsed_with_one_process_of_each_kind_and_no_card():
    tree = read_recipe(["sd3.5-medium", "flow_grpo", "ocr"]).tree
    smallest = next(editions({**tree, "fleet": {"rollout": 15, "rewards": {"ocr": 4}, "gpus": 2.0, "lag": 1}}))
    fleet = FleetConfig.model_validate(smallest["fleet"])
    assert (fleet.rollout, fleet.gpus, fleet.lag) == (1, 0.0, 1)
    assert fleet.rewards["ocr"].actors == 1 and fleet.rewards["ocr"].gpus == 0.0


def test_overrides_of_the_plan_count_when_sizes_are_chosen():
    config = rehearsed("sd3.5-medium flow_grpo pickscore", ["rollout.plan={type: sliding, size: 6, every: 1}"])
    assert config.policy.steps > 6


def test_nothing_is_asked_of_a_hub(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "asks.py").write_text(
        "import huggingface_hub\n\n\ndef asks(samples):\n"
        "    assert huggingface_hub.is_offline_mode()\n    return [float(len(text)) for text in samples.texts]\n"
    )
    train(capsys, "llada-8b", "gdpo", "countdown", "rewards.asks={use: 'asks.py:asks'}")


def test_a_baseline_that_asks_for_a_range_is_rehearsed_with_whatever_twins_say(capsys):
    overrides = ["advantage.baseline={type: tracker, low: 15, high: 30}"]
    config = rehearsed("sd3.5-medium flow_grpo single_stream pickscore", overrides)
    assert (config.rollout.group_size, config.advantage.baseline.low, config.advantage.baseline.high) == (1, -100.0, 100.0)
    assert main(["train", "mini", "flow_grpo", "ngrpo", "rewards.strict.weight=2", "evaluation=null"]) == 2
    assert "virtual_maximum is a sample that earns 1, and these rewards may be up to 2.5" in capsys.readouterr().err
