"""Configs: every recipe parses, and every mistake gets one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from pydantic import Field

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import names, shipped
from flowgrpo.config.run import dump, load_config
from flowgrpo.config.sections import EmaConfig, OptimizerConfig, RewardConfig, RolloutConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import Section
from flowgrpo.objective.bounds.constant import Constant


@pytest.mark.parametrize("name", [*shipped()])
def test_every_whole_recipe_parses_plans_and_survives_a_round_trip(name, tmp_path):
    config = load_config(name)
    saved = tmp_path / "config.yaml"
    saved.write_text(dump(config))
    assert load_config(str(saved)) == config
    bill = bill_of(config)
    assert bill["trained_transitions_per_sample"] > 0
    assert bill["peak_memory_bytes"] > 0


def test_the_config_imports_no_torch():
    code = "import sys, flowgrpo.config.run as c; c.load_config('quickstart'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_published_hyper_parameters_of_sd35():
    config = load_config("sd3.5-medium/flow_grpo")
    bill = bill_of(config)
    assert (bill["prompts_per_update"], bill["group_size"], bill["steps"]) == (48, 24, 10)
    assert bill["network_evaluations_per_sample"] == 10 and bill["trained_transitions_per_sample"] == 9
    assert config.objective.clip == Constant(low=1e-4, high=1e-4) and config.optimizer.lr == 3e-4


@pytest.mark.parametrize(
    ("words", "steps", "levels", "power", "group", "lr"),
    [
        ("sd3.5-medium nft", 10, {"type": "uniform", "count": 9, "first": 0, "last": None}, 1.0, (48, 24), 3e-4),
        ("sd3.5-medium awm geneval", 14, {"type": "stratified", "count": 6, "first": 1, "last": 11}, 0.25, (72, 24), 3e-4),
        ("sd3.5-medium awm pickscore", 14, {"type": "stratified", "count": 6, "first": 1, "last": 11}, 0.25, (24, 24), 3e-4),
        ("sd3.5-medium dgpo ocr", 10, {"type": "uniform", "count": 4, "first": 0, "last": 6}, 1.0, (8, 16), 3e-4),
        ("sd3.5-medium dgpo geneval", 10, {"type": "uniform", "count": 4, "first": 0, "last": 4}, 1.0, (8, 16), 3e-4),
        ("flux.1-dev nft", 8, {"type": "stratified", "count": 2, "first": 0, "last": 5}, 1.0, (48, 16), 3e-4),
        ("flux.1-dev awm", 10, {"type": "stratified", "count": 4, "first": 0, "last": 7}, 0.25, (48, 16), 3e-4),
        ("wan2.1-1.3b nft", 12, {"type": "stratified", "count": 4, "first": 0, "last": 10}, 1.0, (48, 16), 1e-4),
        ("wan2.2-a14b nft", 12, {"type": "stratified", "count": 2, "first": 0, "last": None}, 1.0, (48, 16), 1e-4),
    ],
)
def test_published_hyper_parameters_of_methods_that_noise_samples(words, steps, levels, power, group, lr):
    config = load_config(words.split())
    matching = config.policy.matching
    assert (config.policy.steps, config.optimizer.lr, matching.power) == (steps, lr, power)
    assert (config.rollout.prompts_per_update, config.rollout.group_size) == group
    assert matching.levels.model_dump(exclude={"grid"}) == levels and matching.levels.grid is None
    assert config.optimizer.steps_per_update == 1


def test_what_one_method_adds_is_not_left_in_those_that_build_on_it():
    for model in ("sd3.5-medium", "flux.1-dev"):
        for method in ("dgpo", "dpo", "raft"):
            matching = load_config([model, method]).policy.matching
            assert (matching.weight, matching.power) == ("one", 1.0)
        assert load_config([model, "dpo"]).objective.reference == "start"
        assert load_config([model, "dgpo"]).advantage.clip == 5.0


def test_an_average_lags_more_and_more_up_to_its_decay():
    assert [EmaConfig(decay=0.9).decay_at(step) for step in (0, 10, 1000)] == [0.1, 11 / 20, 0.9]
    assert [EmaConfig(decay=0.3, rate=0.001).decay_at(step) for step in (0, 100, 1000)] == [0.0, 0.1, 0.3]


def test_overrides_are_honoured():
    config = load_config("mini/cps", ["optimizer.lr=1e-5", "rollout.plan.kernel.noise_level=0.5", "policy.call.guidance_scale=2"])
    assert config.optimizer.lr == 1e-5
    assert config.rollout.plan.kernel.noise_level == 0.5
    assert config.policy.call["guidance_scale"] == 2


def test_base_merges_sections_and_replaces_components_of_another_type():
    fast, plain = load_config("mini/flow_grpo_fast"), load_config("mini/flow_grpo")
    assert fast.rollout.plan.type == "random" and plain.rollout.plan.type == "all"
    assert fast.rollout.prompts == plain.rollout.prompts


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.group_sise=4", "rollout: unknown key 'group_sise' (did you mean 'group_size'?"),
        ("optimiser.lr=1", "unknown key 'optimiser' (did you mean 'optimizer'?"),
        ("rollout.plan.kernel.noise=1", "unknown key 'noise'"),
        ("rollout.plan.kernel.type=flow_sdd", "did you mean 'flow_sde'?"),
        ("rollout.plan.kernel={type: ode}", "deterministic: there is nothing to train"),
        ("rollout.plan={type: fixed, steps: []}", "nothing would be trained"),
        ("rollout.group_size=1", "at least 2"),
        ("rollout.group_size=many", "rollout.group_size: "),
        ("optimizer.steps_per_update=5", "must divide"),
        ("updates=1000", "set optimizer.decay_over=1000 too"),
        ("credit=gain", "which nothing completes"),
        ("selection=[{type: width}]", "and the plan has none"),
        ("rollout.plan={type: comb, teeth: 5}", "multiple of teeth"),
        ("rollout.plan.completion={kernel: flow_sde}", "a completion must be deterministic"),
        ("rollout.plan.completion={at: [9]}", "levels to complete from"),
        ("evaluation.metric=strickt", "is not one of"),
        ("rollout.prompts=nowhere.txt", "prompt file nowhere.txt does not exist"),
        ("seed", "no config file or shipped recipe 'seed'"),
    ],
)
def test_each_mistake_is_one_sentence_and_exit_code_2(override, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "quickstart", override]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert list(tmp_path.iterdir()) == []


def test_unknown_recipes_name_the_nearest(capsys):
    assert main(["plan", "mini/flow_grp"]) == 2
    assert "did you mean 'flow_grpo'?" in capsys.readouterr().err


def test_user_components_come_by_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from flowgrpo.sampling.kernels import GaussianKernel\n\n\nclass Mine(GaussianKernel):\n"
        "    strength: float = 0.1\n\n    def coefficients(self, step):\n        return step.sigma_next, self.strength\n"
    )
    config = load_config("quickstart", [f"rollout.plan.kernel={{type: '{tmp_path}/mine.py:Mine', strength: 0.2}}"])
    assert config.rollout.plan.kernel.strength == 0.2


def test_plan_json_has_the_agreed_keys(capsys):
    assert main(["plan", "quickstart", "--json"]) == 0
    bill = json.loads(capsys.readouterr().out)
    wanted = {
        "steps",
        "prompts_per_update",
        "group_size",
        "samples_per_update",
        "network_evaluations_per_sample",
        "trained_transitions_per_sample",
        "peak_memory_bytes",
    }
    assert wanted <= bill.keys()


def test_files_that_are_no_config(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1,")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(bad))
    bad.write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(UserError, match="mapping"):
        load_config(str(bad))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=.nan", ".nan is not a finite number"),
        ("rewards.soft.weight=-.inf", "-.inf is not a finite number"),
        ("policy.call.guidance_scale=1e400", "1e400 is not a finite number"),
        ("optimizer.lr=1e5", "optimizer.lr: Input should be less than or equal to 1"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas.1: Input should be less than 1"),
        ("seed=18446744073709551617", "seed: Input should be less than"),
        ("evaluation.seed=-1", "evaluation.seed: Input should be greater than or equal to 0"),
        ("policy.steps=1000000000", "policy.steps: Input should be less than or equal to"),
        ("policy.runtime.gradient_checkpointing=-1", "gradient_checkpointing: must be true, false, or a number n"),
        ("rewards.soft={use: null, url: []}", "rewards.soft.url: must be the address of a server, or a list of"),
        ("rewards.soft={use: null, url: ['http://here', 3]}", "rewards.soft.url: must be the address of a server, or a list of"),
        ("policy.steps=99999", "is more than 1,000,000 states"),
        ("rollout.group_size=1000000000", "rollout.group_size: Input should be less than or equal to"),
        ("rollout={group_size: 2, group_size: 3}", "the key 'group_size' is there twice"),
        ("x=" + "[" * 3000 + "]" * 3000, "brackets are nested too deep"),
        ("optimizer.lr=true", "optimizer: lr is a number, not true or false"),
        ("evaluation.limit=on", "evaluation: limit is a number, not true or false"),
        ("optimizer.betas=[no, 0.9]", "optimizer: betas is a number, not true or false"),
        ("rollout.plan.kernel.noise_level=yes", "noise_level is a number, not true or false"),
        ("rewards.soft.weight=off", "rewards.soft: weight is a number, not true or false"),
        ("ema=", "'ema=' has no value; write ema=null for none"),
        ("rewards.soft= ", "has no value; write rewards.soft=null for none"),
    ],
)
def test_numbers_and_texts_that_no_run_can_have_are_one_sentence(override, words, capsys):
    assert main(["plan", "quickstart", override]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and len(said) < 500


def test_a_section_made_in_python_takes_no_nan():
    with pytest.raises(ValueError, match="finite number"):
        RewardConfig(use="scene:strict", weight=float("nan"))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a": "base: a.yaml\nseed: 1\n"}, "it is a base of itself (a.yaml -> a.yaml)"),
        ({"a": "base: b.yaml\n", "b": "base: a.yaml\n"}, "it is a base of itself (a.yaml -> b.yaml -> a.yaml)"),
        ({"a": "base: quickstart\nseed: 1\nseed: 2\n"}, "the key 'seed' is there twice, line 3, column 1"),
        ({"a": "base: 7\n"}, "base: must be names of files or shipped recipes, not 7"),
    ],
)
def test_files_that_can_not_be_meant_are_one_sentence(texts, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert main(["plan", "a.yaml"]) == 2
    assert words in capsys.readouterr().err


def test_the_old_name_of_the_checkpoints_section_counts_with_a_warning():
    with pytest.warns(FutureWarning, match=r"checkpoint_every is now checkpoints\.every"):
        config = load_config("quickstart", ["checkpoint_every=7"])
    assert config.checkpoints.every == 7


def written(folder: Path, **files: str) -> Path:
    """YAML files by name; the first is the one that is read."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_base_beside_the_file_is_found_by_its_name_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    top = written(tmp_path, top="base: common\nupdates: 3", common="base: below/quickstart.yaml\nseed: 5")
    written(tmp_path / "below", quickstart="base: quickstart\nupdates: 7\ncheckpoints: {every: 2}")
    monkeypatch.chdir(tmp_path / "below")
    found = load_config(str(top))
    assert (found.updates, found.seed, found.checkpoints.every) == (3, 5, 2)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("nonsense", "top.yaml: base: no config file or shipped recipe 'nonsense'"),
        ("mini/cpss", "top.yaml: base: no config file or shipped recipe 'cpss' of 'mini/cpss' (did you mean 'cps'?"),
        ("[quickstart, 7]", "top.yaml: base: must be names of files or shipped recipes, not 7"),
        ("{x: y}", "top.yaml: base: must be names of files or shipped recipes, not {'x': 'y'}"),
    ],
)
def test_a_base_that_is_not_there_is_said_with_the_file_that_names_it(tmp_path, base, words):
    top = written(tmp_path, exp="base: top", top=f"base: {base}")
    with pytest.raises(UserError) as error:
        load_config(str(top))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ("policy: {stpes: 3}", "policy: unknown key 'stpes' (did you mean 'steps'?"),
        ("policy: {steps: -3}", "policy.steps: Input should be greater than 0"),
        ("updatse: 3", "unknown key 'updatse' (did you mean 'updates'?"),
        ("rollout: {plan: {type: random, trian: 1}}", "rollout.plan: unknown key 'trian'"),
        ("rewards: {x: {use: a, url: b}}", "rewards.x: a reward has either"),
        ("optimizer: {betas: [0.9, x]}", "optimizer.betas.1: Input should be a valid number"),
    ],
)
def test_an_error_names_the_file_that_has_it(tmp_path, wrong, where):
    top = written(tmp_path, top="base: middle\nseed: 3", middle=f"base: quickstart\n{wrong}")
    with pytest.raises(UserError) as error:
        load_config(str(top))
    assert str(error.value).startswith(f"{tmp_path / 'middle.yaml'}, a base of {top}: {where}")
    with pytest.raises(UserError) as error:
        load_config(str(tmp_path / "middle.yaml"))
    assert str(error.value).startswith(f"{tmp_path / 'middle.yaml'}: {where}")


def test_an_error_of_an_override_or_of_nothing_names_no_base(tmp_path):
    top = written(tmp_path, top="base: middle\nseed: 3", middle="base: quickstart\nupdates: 9")
    for override in ("updates=-1", "policy.stpes=3", "policy={stpes: 3, type: diffusers}"):
        with pytest.raises(UserError) as error:
            load_config(str(top), [override])
        assert str(error.value).startswith(f"{top}: ")


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("{arguments: {frames: 8}}", {"use": "video:FrameWise", "arguments": {"reward": "pickscore", "frames": 8}}),
        ("{weight: 2.0}", {"use": "video:FrameWise", "arguments": {"reward": "pickscore", "frames": 4}, "weight": 2.0}),
        ("{use: hps}", {"use": "hps"}),
        ("{use: hps, arguments: {version: v2}}", {"use": "hps", "arguments": {"version": "v2"}}),
        ("{use: 'video:FrameWise'}", {"use": "video:FrameWise", "arguments": {"reward": "pickscore", "frames": 4}}),
        ("{url: 'http://127.0.0.1:8000'}", {"url": "http://127.0.0.1:8000"}),
        ("{url: 'http://127.0.0.1:8000', weight: 3.0}", {"url": "http://127.0.0.1:8000", "weight": 3.0}),
    ],
)
def test_a_reward_of_another_name_has_arguments_of_its_own(tmp_path, over, expected):
    first = "{use: 'video:FrameWise', arguments: {reward: pickscore, frames: 4}}"
    top = written(
        tmp_path, top=f"base: below\nrewards: {{clips: {over}}}", below=f"base: quickstart\nrewards: {{clips: {first}}}"
    )
    assert load_config(str(top)).rewards["clips"] == RewardConfig(**expected)


@pytest.mark.parametrize(
    ("use", "first", "over", "expected"),
    [
        ("win_rate", {"judge": "vlm:Pairwise", "arguments": {"model": "m"}}, {"judge": "hps"}, {"judge": "hps"}),
        ("objects:Soft", {"detector": "owlv2", "arguments": {"overlap": 0.4}}, {"detector": "faces"}, {"detector": "faces"}),
        (
            "video:FrameWise",
            {"reward": "hps", "arguments": {"version": "v2"}, "frames": 4},
            {"reward": "ocr"},
            {"reward": "ocr", "frames": 4},
        ),
        (
            "video:FrameWise",
            {"reward": "hps", "arguments": {"version": "v2"}, "frames": 4},
            {"arguments": {"batch": 2}},
            {"reward": "hps", "arguments": {"version": "v2", "batch": 2}, "frames": 4},
        ),
    ],
)
def test_so_has_who_a_reward_works_with(tmp_path, use, first, over, expected):
    def rewards(arguments):
        return f"base: BASE\nrewards: {json.dumps({'x': {'use': use, 'arguments': arguments}})}"

    top = written(tmp_path, top=rewards(over).replace("BASE", "below"), below=rewards(first).replace("BASE", "quickstart"))
    assert load_config(str(top)).rewards["x"].arguments == expected


def test_a_served_reward_is_replaced_by_one_of_this_process(tmp_path):
    served = "{url: 'http://127.0.0.1:8000', weight: 2.0}"
    top = written(tmp_path, top="base: below\nrewards: {x: {use: hps}}", below=f"base: quickstart\nrewards: {{x: {served}}}")
    assert load_config(str(top)).rewards["x"] == RewardConfig(use="hps", weight=2.0)


def test_win_rates_replace_the_reward_of_a_base(tmp_path):
    judge = "{judge: 'vlm:Pairwise', arguments: {url: 'http://127.0.0.1:8000/v1', model: judge}}"
    top = written(tmp_path, top=f"base: wan2.2-a14b/grpo_guard\nrewards: {{reward: {{use: win_rate, arguments: {judge}}}}}")
    assert load_config(str(top)).rewards["reward"].arguments == yaml.safe_load(judge)


def test_held_out_prompts_take_the_steps_of_the_policy_where_nothing_is_said(tmp_path):
    base = "base: [mini, flow_grpo, scenes]\npolicy: {steps: 5}\n"
    top = written(tmp_path, top=base.replace("mini", "model"), model=without_evaluation("mini"))
    assert load_config(str(top)).evaluation.steps == 5
    assert load_config(str(top), ["policy.steps=4"]).evaluation.steps == 4
    assert load_config(str(top), ["evaluation.steps=2"]).evaluation.steps == 2


def without_evaluation(model: str) -> str:
    return re.sub(r"(?m)^evaluation:.*\n", "", names()[model].read_text())


def test_the_shape_of_an_update_is_drawn_once_for_all():
    config = load_config("mini/flow_grpo_fast")
    assert config.shape() == config.shape(0) == config.with_plan(shared_start=False).shape()
    starts = {min(config.shape(update).nodes[i].step for i in config.shape(update).trained) for update in range(20)}
    drawn = {config.shapes(0, {0: 12}, draw=("calibration plan", round_))[0] for round_ in range(20)}
    assert len(starts) > 1 and len(drawn) > 1
    bill = bill_of(config)
    assert bill["network_evaluations_per_group"] == config.shape().network_evaluations


class Renamed(Section):
    """A section with keys that had other names."""

    renamed: ClassVar[dict[str, str]] = {"old": "new", "flat": "inner.deep"}
    new: int = 0
    inner: dict[str, int] = Field(default_factory=dict)


def test_an_old_key_stands_for_its_new_name_and_says_so():
    with pytest.warns(FutureWarning, match=r"old is now new; the old name goes"):
        assert Renamed.model_validate({"old": 3}) == Renamed(new=3)
    with pytest.warns(FutureWarning, match=r"flat is now inner\.deep"):
        assert Renamed.model_validate({"flat": 4, "inner": {"other": 1}}) == Renamed(inner={"other": 1, "deep": 4})
    with pytest.raises(ValueError, match="unknown key 'older'"):
        Renamed.model_validate({"older": 1})


def test_the_pace_of_a_window_was_called_its_schedule():
    with pytest.warns(FutureWarning, match="schedule is now pace"):
        old = load_config("mini/mix_grpo", ["rollout.plan.schedule=frozen"])
    assert old == load_config("mini/mix_grpo", ["rollout.plan.pace=frozen"])


def test_a_section_refuses_what_it_can_see_alone():
    with pytest.raises(ValueError, match=r"plan\.kernel 'ode' is deterministic"):
        RolloutConfig(prompts="asset:none", prompts_per_update=2, group_size=2, plan={"type": "all", "kernel": "ode"})
    assert "must divide" in OptimizerConfig(lr=1e-4, steps_per_update=3).complaint(prompts=4, updates=1)
    assert [*OptimizerConfig(lr=1e-4, steps_per_update=2).minibatches(4)] == [[0, 1], [2, 3]]
