"""Configs: every recipe parses, and every mistake gets one sentence."""

import json
import subprocess
import sys

import pytest
import yaml

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import dump, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import recipes


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_parses_plans_and_survives_a_round_trip(name, tmp_path):
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
    assert config.objective.clip == (1e-4, 1e-4) and config.optimizer.lr == 3e-4


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
        ("seed", "must look like"),
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
    assert "did you mean 'mini/flow_grpo'?" in capsys.readouterr().err


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
