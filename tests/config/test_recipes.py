"""Recipes are sentences: how their words are found and merged, and that the names of before mean what they meant."""

import gzip
import json
from pathlib import Path

import pytest

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import METHODS, RULES, TASKS, fitting, models, name_of, names, read_recipe, shipped
from flowgrpo.config.run import dump, load_config
from flowgrpo.config.sections import FleetConfig
from flowgrpo.core.errors import UserError

ROWS = gzip.decompress(Path(__file__).with_name("recipes.jsonl.gz").read_bytes()).splitlines()
GONE = ("mini-amused/co_grpo", "mini-amused/schedule_only")
RETUNED = ("quickstart",)
BEFORE = [before for before in map(json.loads, ROWS) if before["name"] not in (*GONE, *RETUNED)]
PLACEHOLDERS = ("prompts.txt", "prompts.jsonl", "edits.jsonl")


def flat(tree, at=""):
    if not isinstance(tree, dict):
        return {at: tree}
    return {key: value for name, below in tree.items() for key, value in flat(below, f"{at}.{name}").items()}


def of_the_task(key):
    return key.startswith((".rewards.", ".evaluation.", ".rollout.prompts")) and not key.startswith(".rollout.prompts_")


SINCE = dict.fromkeys(("llada-8b/mdpo", "mini-mdlm/mdpo"), (".objective.weight", ".objective.reduce"))
SINCE |= {"mini/two_rewards": (".evaluation.every",)}
"""What has been put right, or is evaluated more often."""
EMPTY = (".optimizer.turns", ".policy.schedule")
"""Keys that are no more, and said nothing."""
RENAMED = {f".rollout.plan{inner}.schedule": f".rollout.plan{inner}.pace" for inner in ("", ".window")}


def respelled(numbers):
    """What was `trust` is a surrogate, what was a name is a section with a type, and what was off is left to the device."""
    trust, limit = numbers.pop(".objective.trust"), numbers.pop(".objective.kl_limit")
    surrogate = {"type": "kl_mask", "limit": limit} if trust == "kl" else {"type": "clip"}
    if numbers.get(".policy.runtime.compile") is False:
        numbers[".policy.runtime.compile"] = None
    return {**numbers, ".objective.ratio": {"type": numbers[".objective.ratio"]}, ".objective.surrogate": surrogate}


@pytest.mark.parametrize("before", BEFORE, ids=lambda before: before["name"])
def test_a_name_with_a_slash_means_the_numbers_that_it_meant(before):
    """Where prompts were a placeholder, the task is the model's own by now; a KL that is not counted has no unit."""
    old, new = flat(before["config"]), flat(load_config(before["name"]).model_dump(mode="json"))
    old = flat({RENAMED.get(key, key)[1:]: value for key, value in respelled(old).items()})
    for numbers in (old, new):
        if not numbers[".objective.kl.coefficient"]:
            del numbers[".objective.kl.unit"]
    assert not any(old.pop(key, None) for key in EMPTY)
    assert not any(new.pop(key) for key in list(new) if key.endswith(".beside"))  # what there was not is off
    named = [key for key in new if key.startswith((".policy.call.", ".rewards."))]
    stood_for_something = old[".rollout.prompts"] in PLACEHOLDERS
    kept = [key for key in [*old, *named] if not (stood_for_something and of_the_task(key))]
    kept = [key for key in kept if key not in SINCE.get(before["name"], ())]
    assert {key: new.get(key) for key in kept} == {key: old.get(key) for key in kept}


@pytest.mark.parametrize("model", models())
def test_every_model_goes_with_every_method_and_task_of_its_kind(model, tmp_path):
    methods = fitting(model, METHODS)
    sentences = [[model, method] for method in methods] + [[model, methods[0], task] for task in fitting(model, TASKS)]
    for words in sentences:
        config = load_config(words)
        assert bill_of(config)["trained_transitions_per_sample"] > 0
    saved = tmp_path / "config.yaml"
    saved.write_text(dump(config))
    assert load_config(str(saved)) == config


def test_there_is_a_method_and_a_task_for_every_model():
    assert all(fitting(model, METHODS) and fitting(model, TASKS) for model in models())
    assert {"flow_grpo", "mix_grpo", "ddpo"} <= {*fitting("sdxl", METHODS)} and "gdpo" not in fitting("sdxl", METHODS)
    assert "gdpo" in fitting("llada-8b", METHODS) and "scenes" not in fitting("llada-8b", TASKS)


def test_names_are_there_once():
    folders = [*shipped(), *(name for folder in ("models", METHODS, RULES, TASKS) for name in shipped(folder))]
    assert len(folders) == len(set(folders)) == len(names())


def written(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return [str(folder / f"{name}.yaml") for name in files]


def test_words_are_merged_from_left_to_right_and_bases_before_their_file(tmp_path):
    words = written(tmp_path, one="a: 1\nb: {x: 1, y: 1}", two="base: low\nb: {y: 2}", low="a: 0\nb: {z: 0}")[:2]
    assert read_recipe(words).tree == {"a": 0, "b": {"x": 1, "y": 2, "z": 0}}
    assert read_recipe(words[::-1]).tree == {"a": 1, "b": {"x": 1, "y": 1, "z": 0}}


def test_a_base_may_be_several_and_is_said_once(tmp_path):
    (top, *_) = written(tmp_path, top="base: [l, r]\nc: 3", l="base: low\na: 1", r="base: low\nb: 2", low="a: 0\nb: 0")
    assert read_recipe(top).tree == {"a": 1, "b": 2, "c": 3}


WITH = """
a: 0
with:
  method: {a: 1}
  method task, other task: {b: 1}
"""


@pytest.mark.parametrize(
    ("said", "tree"),
    [
        (["model"], {"a": 0}),
        (["model", "method"], {"a": 1}),
        (["model", "better"], {"a": 1, "c": 2}),
        (["model", "method", "task"], {"a": 1, "b": 1, "d": 4}),
        (["model", "other", "task"], {"a": 0, "b": 5, "d": 4}),
        (["method", "model"], {"a": 1}),
    ],
)
def test_sections_of_with_count_where_their_words_are_said_and_stand_behind_the_first(tmp_path, monkeypatch, said, tree):
    monkeypatch.chdir(tmp_path)
    method = "b: 9\n" if said[-1] == "task" and "method" in said else ""
    written(tmp_path, model=WITH, method=method or "{}", better="base: method\nc: 2", task="d: 4", other="{}")
    if "other" in said:
        written(tmp_path, task="d: 4\nb: 5")
    assert read_recipe([f"{word}.yaml" for word in said]).tree == tree


def test_a_sentence_without_rewards_has_its_models_own_task():
    assert load_config("mini flow_grpo") == load_config("mini flow_grpo scenes") == load_config(["mini", "flow_grpo"])
    assert load_config("mini/flow_grpo") == load_config("mini flow_grpo")
    assert "hps" in load_config("wan2.1-1.3b dance_grpo").rewards and "ocr" in load_config("wan2.1-1.3b flow_grpo").rewards


def test_a_task_takes_the_place_of_the_rewards_before_it(tmp_path):
    (mine,) = written(tmp_path, mine="base: mini/flow_grpo\nrewards: {mine: {use: mine.py:x}}")
    assert {*load_config(mine).rewards} == {"strict", "soft", "mine"}
    assert {*load_config([mine, "pickscore"]).rewards} == {"pickscore"}


def test_models_say_which_rewards_of_a_task_a_method_was_published_with():
    assert {name: reward.weight for name, reward in load_config("flux.2 flow_grpo_fast").rewards.items()} == {
        "pickscore": 0.5,
        "clip": 1.0,
    }
    pairs = load_config("wan2.2-a14b grpo_guard unified").rewards
    assert {name for name, reward in pairs.items() if reward.weight} == {"wins", "clip"} and "unified" in pairs
    assert load_config("sd3.5-medium flow_grpo ocr").objective.kl.coefficient == 0.04
    assert load_config("sd3.5-medium flow_grpo").objective.kl.coefficient == 0.01
    assert load_config("sd3.5-medium mix_grpo ocr").objective.kl.coefficient == 0.001


def test_a_base_of_several_words_brings_no_task_of_its_own(tmp_path):
    rollout = "rollout: {prompts: asset:mini-sd3/prompts/train.jsonl.gz}\nevaluation: null"
    (mine,) = written(tmp_path, mine=f"base: [mini, flow_grpo]\nrewards: {{mine: {{use: mine.py:x}}}}\n{rollout}")
    assert {*load_config(mine).rewards} == {"mine"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("mini gdpo", "mini gdpo: method 'diffu_grpo' trains policies of type masked, not 'diffusers' as the model's"),
        ("llada-8b cps", "method 'flow_grpo' trains policies of type diffusers, not 'masked' as the model's"),
        ("mini-wan flow_grpo scenes", "task 'scenes' judges images, and the model makes videos"),
        ("mini flow_grpo motions", "task 'motions' judges videos, and the model makes images"),
        ("sd3.5-medium flow_grpo latent_scenes", "judges the latents of mini-sd3, and the model makes others"),
        ("mini pref_grpo {mine}", "method 'pref_grpo' is about the reward win_rate, which no reward of the task is"),
        ("mini flow_gpro scenes", "no config file or shipped recipe 'flow_gpro' (did you mean 'flow_grpo'?"),
        ("mini/flow_gpro", "no config file or shipped recipe 'flow_gpro' of 'mini/flow_gpro' (did you mean 'flow_grpo'?"),
        ("mini", "mini: a model and a method make a recipe, such as `mini flow_grpo`; `flowgrpo recipes` lists them"),
        ("sdxl flux.1-dev flow_grpo", "'sdxl' and 'flux.1-dev' are two models; say one, or write what you want of both into"),
        ("mini mix_grpo/cps", "'mix_grpo' and 'cps' are two methods; say one, or"),
        ("flow_grpo ocr", "a model and a method make a recipe, such as `sd3.5-medium flow_grpo`"),
        ("{bad_with}", "with: must be sections by words, such as {flow_grpo: {objective: {clip: 1e-4}}}"),
        ("{bad_word}", "with: nothing is named 'flow_gpro' (did you mean 'flow_grpo'?"),
        ("mini flow_grpo {bad_policy}", "policy.steps: Field required"),
        ("{bad_task}", "task: must be the name of a task, not 3"),
        ("{bad_about}", "about: unknown key 'licens' (did you mean 'licence'?"),
    ],
)
def test_a_sentence_that_can_not_be_meant_says_why(said, words, capsys, tmp_path):
    files = {
        "mine": "rewards: {x: {use: size}}",
        "bad_with": "with: 3",
        "bad_word": "with: {flow_gpro: {seed: 3}}",
        "bad_policy": "policy: diffusers",
        "bad_task": "base: [pipeline, flow_grpo]\ntask: 3",
        "bad_about": "about: {licens: MIT}",
    }
    said = said.format(**dict(zip(files, written(tmp_path, **files), strict=True)))
    assert main(["plan", *said.split()]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_an_error_names_the_part_that_has_it(tmp_path):
    (mine,) = written(tmp_path, mine="optimizer: {lr: 7}")
    with pytest.raises(UserError, match=rf"{mine}, a part of mini flow_grpo {mine}: optimizer\.lr: "):
        load_config(f"mini flow_grpo {mine}")
    (within,) = written(tmp_path, within="with: {flow_grpo: {optimizer: {lr: 7}}}")
    with pytest.raises(UserError, match=rf"{within}, a part of mini flow_grpo {within}: optimizer\.lr: "):
        load_config(f"mini flow_grpo {within}")
    for said, override, place in (
        ("mini flow_grpo", "optimizer.lr=7", "optimizer.lr"),
        ("quickstart", "policy.call.sizes=[[32, 32]]", "policy"),
        ("quickstart", "policy.steps=0", "policy.steps"),
    ):
        with pytest.raises(UserError, match=rf"^{said}: {place}: "):
            load_config(said, [override])


def test_words_that_another_is_based_on_may_be_said_too():
    assert load_config("mini flow_grpo cps") == load_config("mini cps")
    assert load_config("mini mini-wan dance_grpo") == load_config("mini-wan dance_grpo")


def test_a_file_with_blanks_in_its_name_is_one_word(tmp_path):
    (file,) = written(tmp_path, **{"my run": "base: quickstart"})
    assert load_config(file) == load_config("quickstart") and name_of(file) == "my run"
    assert name_of("mini/cps") == name_of("mini cps") == name_of(["mini", "cps"]) == "mini-cps"


EXAMPLES = Path(__file__).parents[2] / "examples" / "dense_credit"


def test_the_recipe_that_is_one_update_behind_is_the_quickstart_but_for_that():
    behind = load_config(str(EXAMPLES.parent / "fleet" / "one_behind.yaml"))
    assert behind.fleet.lag == 1 and behind.model_copy(update={"fleet": FleetConfig()}) == load_config("quickstart")


@pytest.mark.parametrize("file", sorted(set(EXAMPLES.glob("*.yaml")) - {EXAMPLES / "six_steps.yaml"}), ids=lambda file: file.stem)
def test_the_recipes_of_dense_credit_answer_one_question_at_about_the_same_cost(file):
    config = load_config(str(file))
    assert config.policy == load_config(str(EXAMPLES / "flow_grpo.yaml")).policy
    assert config.evaluation == load_config(str(EXAMPLES / "flow_grpo.yaml")).evaluation
    assert 330 <= bill_of(config)["network_evaluations_per_update"] <= 504
