"""What `import flowgrpo` offers, on the miniature model."""

import doctest
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import flowgrpo as fg
from flowgrpo.core.held import hold_code
from flowgrpo.core.paths import locate
from flowgrpo.data.prompts import PromptOrder
from flowgrpo.evaluation.benchmarks.catalogue import find_benchmark
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal

CALL = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 1}
SMALL = {
    "rollout": {"prompts_per_update": 2, "group_size": 4},
    "optimizer": {"decay_over": None, "steps_per_update": 1},
    "evaluation": {"limit": 4},
}


def bright(samples):
    return samples.images.mean((1, 2, 3))


def dark(samples):
    return -samples.images.mean((1, 2, 3))


def mini_sd3():
    return StableDiffusion3Pipeline.from_pretrained(
        locate("asset:mini-sd3"), text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )


def small(*sentence: str, **changes: object) -> fg.Recipe:
    return fg.recipe(*(sentence or ("mini flow_grpo",)), **{**SMALL, "updates": 1, **changes})


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_importing_it_imports_nothing_heavy_and_lists_what_there_is():
    script = "import sys, flowgrpo; print('torch' in sys.modules, 'pydantic' in sys.modules); print(*dir(flowgrpo))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "False False"
    assert {"train", "rollout", "score", "evaluate", "compare", "recipe", "Run", "plans"} <= {*said[1].split()}


def test_every_name_is_there_and_no_other():
    assert all(name in vars(fg) or fg.__getattr__(name) is not None for name in fg.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        fg.tran  # noqa: B018


@pytest.mark.parametrize("module", ["api.load", "api.rollout", "api.score", "api.train", "policies.diffusers._policy"])
def test_examples_in_docstrings_are_right(module):
    result = doctest.testmod(importlib.import_module(f"flowgrpo.{module}"))
    assert result.attempted and not result.failed


def test_a_loaded_pipeline_rolls_out_like_its_folder():
    pipe = mini_sd3()
    loaded, named = (fg.DiffusersPolicy(model, steps=3, call=CALL, lora=fg.Lora(rank=4)) for model in (pipe, "asset:mini-sd3"))
    assert loaded.config.dtype == "fp32" and loaded.config.check([fg.Prompt(0, "red " * 99)])
    one, other = (fg.rollout(policy, ["a red circle", "a blue square"], group_size=2) for policy in (loaded, named))
    assert torch.equal(one.samples.images, other.samples.images)
    with pytest.raises(fg.UserError, match="has adapters already"):
        fg.DiffusersPolicy(pipe, steps=3, call=CALL)


def test_settings_that_do_not_fit_a_policy_are_refused():
    with pytest.raises(fg.UserError, match="DiffusersPolicy: unknown key 'stps'"):
        fg.DiffusersPolicy("asset:mini-sd3", stps=3)
    policy = fg.load_policy("mini")
    with pytest.raises(fg.UserError, match="must be a multiple of teeth = 3"):
        fg.rollout(policy, ["a"], fg.plans.Comb(teeth=3), group_size=4)
    with pytest.raises(fg.UserError, match="can't move the states"):
        fg.rollout(policy, ["a"], fg.plans.AllSteps(kernel=fg.kernels.Maskgit()), group_size=4)
    with pytest.raises(fg.UserError, match="no prompt"):
        fg.rollout(policy, [], group_size=4)


def test_a_rollout_is_the_one_that_training_makes():
    chosen = small(evaluation=None)
    run = fg.train(chosen)
    policy = fg.load_policy("mini flow_grpo")
    prompts = PromptOrder(fg.load_prompts(chosen.config.rollout.prompts), 2, chosen.config.seed)(0)
    tree = fg.rollout(policy, prompts, chosen.config.rollout.plan, group_size=4, seed=chosen.config.seed)
    scores = fg.score(tree.samples, {"strict": "scene:strict"})
    assert run.metrics[0]["reward/strict"] == pytest.approx(scores.mean("strict"))
    config = chosen.config
    weights = {label: reward.weight for label, reward in config.rewards.items()}
    scored = tree.assess(fg.score(tree.samples, config.rewards), config.credit, config.advantage, weights)
    trained = list(tree.shapes[0].trained)
    assert run.metrics[0]["advantage/std"] == pytest.approx(scored.advantage[:, trained].std(), rel=1e-5)
    batches = list(tree.batches(scored))
    assert sum(len(advantage) for _, advantage in batches) == len(trained) * 2
    with pytest.raises(fg.UserError, match="'strict' has 9 rewards, and the tree has 8 samples"):
        tree.assess({"strict": [0.0] * 9})
    rarity = fg.transforms.Rarity(form="strict")
    scores = {"strict": np.arange(8.0), "soft": np.ones(8)}
    seen, plain = (np.nanmax(tree.assess(scores, transforms=chain).trained_on) for chain in ([rarity], []))
    assert seen == 4 * plain == 32.0
    with pytest.raises(fg.UserError, match="reads the reward 'strict', and there is none"):
        tree.assess({"soft": np.ones(8)}, transforms=[rarity])
    page = tree.plot(scored)._repr_html_()
    assert "Group 0 of 2" in page and "iframe" in page


def test_scores_are_a_table_with_intervals_and_escape_what_they_show():
    samples = fg.Samples(["<b>", "<b>"], [{}, {}], [0, 0], torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]))
    scores = fg.score(samples, {"<i>": bright, "jpeg": "jpeg:compressibility"})
    assert scores["<i>"].tolist() == [0.0, 1.0] and scores.interval("<i>") == (0.0, 1.0)
    assert "&lt;i&gt;" in scores._repr_html_() and "| <i>" in str(scores)
    assert "&lt;b&gt;" in samples._repr_html_() and samples._repr_html_().count("<img") == 2
    with pytest.raises(fg.UserError, match="reward 'nan' returned nan"):
        fg.score(samples, {"nan": lambda samples: [float("nan")] * 2})


def test_what_a_pipeline_returns_is_scored_in_every_form():
    pipe, prompts = mini_sd3(), ["a red circle", "a blue square"]
    found = {}
    for form in ("pil", "np", "pt"):
        made = pipe(prompts, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type=form, **CALL).images
        found[form] = fg.score(made, {"mean": bright}, prompts)["mean"]
    assert (
        np.ptp(found["pt"]) > 0.01
        and found["np"] == pytest.approx(found["pt"])
        and found["pil"] == pytest.approx(found["pt"], abs=1 / 255)
    )


def test_prompts_bring_their_rows_and_nothing_that_is_passed_is_ignored(tmp_path):
    rows = fg.load_prompts("asset:mini-sd3/prompts/held_out.jsonl.gz")[:2]
    samples = fg.rollout(fg.load_policy("mini"), rows, group_size=1).samples
    strict = fg.score(samples, {"strict": "scene:soft"})["strict"]
    assert fg.score(samples.images, {"strict": "scene:soft"}, rows)["strict"].tolist() == strict.tolist()
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    length = {"length": lambda samples: [len(prompt) for prompt in samples.prompts]}
    assert fg.score(samples.shown(), length, tmp_path / "prompts.txt")["length"].tolist() == [12, 13]
    for arguments, words in (
        ((samples, length, ["a", "b"]), "have their prompts already"),
        ((samples.images, length, None, tmp_path), "`out` is for the scores of files"),
        ((tmp_path, length, ["a"]), "the prompts of files are the name of a file"),
        (("", length), "the name of what to score is empty"),
    ):
        with pytest.raises(fg.UserError, match=words):
            fg.score(*arguments)


def test_a_function_is_called_what_it_is_called():
    pictures = torch.rand(2, 3, 8, 8)
    assert list(fg.score(pictures, bright)) == ["bright"]
    assert list(fg.score(pictures, [bright, dark, "jpeg:compressibility"])) == ["bright", "dark", "jpeg:compressibility"]
    run = fg.train(small(updates=1, evaluation=None), rewards=dark)
    assert run.config.rewards["dark"].weight == 1 and run.config.rewards["strict"].weight == 0
    for rewards, words in (
        ([bright, bright], "called alike: bright, bright"),
        (lambda samples: [0.0] * 2, "a reward of type function needs a label"),
        ([None], "a reward of type NoneType needs a label"),
    ):
        with pytest.raises(fg.UserError, match=words):
            fg.score(pictures, rewards)


def test_a_lone_model_and_a_lone_folder_need_no_list():
    one, listed = (fg.evaluate("mini_scenes", models, limit=2) for models in ("mini", ["mini"]))
    assert str(one) == str(listed)
    with pytest.raises(fg.UserError, match="runs"):
        fg.compare("runs")


def test_what_is_of_another_type_is_said_in_a_sentence():
    with pytest.raises(fg.UserError, match=r"a recipe is words, as in recipe\('mini flow_grpo'\), and this is of type list"):
        fg.train(["mini", "flow_grpo"])
    with pytest.raises(
        fg.UserError, match="a model is a pipeline of diffusers, its folder or its hub id, and this is of type Linear"
    ):
        fg.DiffusersPolicy(torch.nn.Linear(2, 2), steps=3)
    with pytest.raises(fg.UserError, match="a method is a text or a recipe, one argument each, and this is of type list"):
        fg.measure_credit("mini", ["flow_grpo"])


def test_files_are_scored_like_samples(tmp_path):
    tree = fg.rollout(fg.load_policy("mini"), ["a red circle"], group_size=2)
    for i, picture in enumerate(tree.samples.shown()):
        picture.save(tmp_path / f"{i}.png")
    here, there = fg.score(tree.samples, {"bright": bright}), fg.score(tmp_path, {"bright": bright})
    assert there["bright"] == pytest.approx(here["bright"], abs=1 / 255)


def test_a_function_is_trained_on_and_the_recipe_s_rewards_are_measured():
    run = fg.train(small(), rewards={"mine": bright})
    assert run.metrics[0]["reward"] == pytest.approx(run.metrics[0]["reward/mine"])
    assert run.config.rewards["strict"].weight == 0 and run.held_out["metric"] == "strict"
    assert "object:mine:" in run.config_text and "mine" in run.plot()._repr_html_()
    command = [sys.executable, "-m", "flowgrpo", "train", "mini", "flow_grpo", "updates=2", "--resume", str(run.path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "is an object that was passed in from Python" in refused.stderr


def test_a_run_goes_on_with_the_same_function_only():
    run = fg.train(small(updates=2, checkpoints={"every": 1}), rewards={"mine": bright})
    whole = fg.train(small(updates=3, checkpoints={"every": 1}), rewards={"mine": bright})
    on = fg.train(small(updates=3, checkpoints={"every": 1}), rewards={"mine": bright}, resume=run)
    numbers = [[row["reward"] for row in one.metrics if "reward" in row] for one in (on, whole)]
    assert on.path == run.path and numbers[0] == numbers[1]
    with pytest.raises(fg.UserError, match=r"began with rewards\.mine\.use"):
        fg.train(small(updates=4, checkpoints={"every": 1}), rewards={"mine": dark}, resume=run)


def test_code_that_carries_other_things_has_another_name():
    def scaled(factor):
        return lambda samples: factor * samples.images.mean((1, 2, 3))

    names = {hold_code(reward, "mine") for reward in (bright, dark, scaled(1.0), scaled(2.0), scaled(2.0))}
    assert len(names) == 4


def test_a_callback_sees_the_metrics_and_may_stop():
    seen = []

    def look(metrics):
        seen.append(metrics["update"])
        return fg.STOP if len(seen) == 2 else None

    run = fg.train(small(updates=5), on_update=look)
    assert seen == [0, 1] and run.summary["updates"] == 2 and run.held_out is not None


def test_a_policy_is_trained_in_place_and_ends_with_the_run_s_weights():
    policy = fg.load_policy("mini flow_grpo")
    before = {name: value.detach().clone() for name, value in policy.trainable().items()}
    run = fg.train(small(updates=2, ema={"decay": 0.5}, evaluation=None), policy=policy)
    assert run.policy is policy and any(not torch.equal(before[name], value) for name, value in policy.trainable().items())
    prompts, again = [fg.Prompt(0, "a red circle")], fg.Run(run.path)
    made = [model.generate(prompts, [3], 3).images for model in (policy, again.policy)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-5)


def test_a_subclass_is_a_credit():
    class_of_mine = fg.recipe("mini dense_grpo", credit=Mine()).config.credit
    assert isinstance(class_of_mine, Mine) and class_of_mine.type.endswith(":Mine")


class Mine(Gain):
    """As in a notebook cell."""


def test_models_are_evaluated_on_the_same_prompts_and_runs_compared():
    runs = [fg.train(small(seed=seed, optimizer={**SMALL["optimizer"], "lr": 0.01})) for seed in (0, 1)]
    report = fg.evaluate("mini_scenes", {"base": "mini", "live": fg.load_policy("mini"), "run": runs[0]}, limit=2, out="out")
    base, live, trained = ([record.scores for record in records] for records in report.records.values())
    assert base == live != trained and "| figure" in str(report) and "iframe" in report._repr_html_()
    assert Path("out/summary.json").is_file()
    with pytest.raises(fg.UserError, match="holds results with other"):
        fg.evaluate("mini_scenes", {"base": "mini", "live": runs[1].policy}, limit=2, out="out")
    found = fg.compare(runs)
    assert len(found.recipes[0].seeds) == 2 and "flow_grpo" in str(found) and "iframe" in found._repr_html_()
    assert json.loads((runs[0].path / "summary.json").read_text()) == runs[0].summary


def test_recipes_are_refused_in_a_sentence():
    with pytest.raises(fg.UserError, match="unknown key 'upates'"):
        fg.recipe("mini flow_grpo", upates=3)
    with pytest.raises(fg.UserError, match="needs a word"):
        fg.recipe(updates=3)
    assert fg.recipe("mini flow_grpo updates=7").config.updates == 7
    half = fg.recipe("mini flow_grpo", rewards={"mine": {"use": bright, "weight": 0.5}})
    assert half.config.rewards["mine"].weight == 0.5


def test_a_reward_is_changed_added_and_taken_out():
    changed = fg.recipe("mini flow_grpo", rewards={"soft": {"weight": 0.5}, "mine": bright}).config.rewards
    assert (changed["soft"].use, changed["soft"].weight, {*changed}) == ("scene:soft", 0.5, {"soft", "strict", "mine"})
    alone = fg.recipe("mini flow_grpo", rewards={"soft": None, "strict": None, "mine": bright}, evaluation={"metric": "mine"})
    assert {*alone.config.rewards} == {"mine"}
    run = fg.train(small(evaluation=None), rewards={"mine": bright, "strict": None})
    assert {*run.config.rewards} == {"soft", "mine"} and run.config.rewards["soft"].weight == 0


def test_two_versions_of_a_recipe_have_names_of_their_own():
    runs = [fg.train(small(name=name, credit=credit)) for name, credit in (("one", "terminal"), ("other", Plain()))]
    assert [recipe.recipe for recipe in fg.compare(runs).recipes] == ["one", "other"]
    again = fg.train(small(name="one", updates=2), resume=runs[0])
    assert again.path == runs[0].path and again.summary["updates"] == 2


class Plain(Terminal):
    """As in a notebook cell."""


def test_a_model_is_evaluated_in_as_many_steps_as_on_the_command_line():
    free = replace(find_benchmark("mini_scenes"), steps=None)
    run = fg.train(small(evaluation={"limit": 4, "steps": 4}))
    models = {"quickstart": 4, run: 4, run.path / "config.yaml": 4, fg.load_policy("mini"): 3}
    assert [fg.evaluate(free, [model], limit=1).exam.steps for model in models] == list(models.values())
    assert fg.evaluate(free, [run], limit=1, steps=2).exam.steps == 2
    with pytest.raises(fg.UserError, match="the benchmark has 5 steps of its own; leave out steps = 2"):
        fg.evaluate("mini_scenes", [run], steps=2)
    with pytest.raises(fg.UserError, match="limit = 0 leaves no prompt"):
        fg.evaluate("mini_scenes", [run], limit=0)


def test_what_is_not_there_is_refused_in_a_sentence():
    policy = fg.load_policy("mini")
    with pytest.raises(fg.UserError, match="there is no group 9; the tree has 1"):
        fg.rollout(policy, ["a"], group_size=2).plot(group=9)
    with pytest.raises(fg.UserError, match="the prompt is missing or empty"):
        fg.rollout(policy, [""], group_size=2)
    with pytest.raises(fg.UserError, match="nothing to report"):
        fg.Run("nowhere").plot()
    with pytest.raises(fg.UserError, match="there is no run to compare"):
        fg.compare([])
    with pytest.raises(fg.UserError, match=r"'sotf' is null, and there is no such reward to take out \(did you mean 'soft'"):
        fg.recipe("mini flow_grpo rewards.sotf=null")
    with pytest.raises(fg.UserError, match="'sotf' is null, and there is no such reward"):
        fg.recipe("mini flow_grpo", rewards={"sotf": None})
    with pytest.raises(fg.UserError, match="the recipe has no reward 'sotf' to take out"):
        fg.train(small(), rewards={"mine": bright, "sotf": None})


def test_code_without_a_source_differs_by_its_constants():
    one, other = (eval(f"lambda samples: {factor} * samples.images.mean((1, 2, 3))") for factor in (1.0, 2.0))
    assert hold_code(one, "mine") != hold_code(other, "mine")
