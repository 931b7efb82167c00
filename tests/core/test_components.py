"""A component says its name once: what ships is named by its file or class, any other by where a config finds its class."""

import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import flowgrpo.sampling.plans as plans
from flowgrpo.config.run import dump, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import load_file, shipped, snake_case
from flowgrpo.core.section import Component, class_of, package_of
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.selection import Selection
from flowgrpo.policies import PolicyConfig
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.kernels.orders import LowConfidence
from flowgrpo.sampling.likelihood import Likelihood
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.comb import Comb

KINDS: list[type[Component]] = [Credit, Selection, Kernel, plans.Plan, Likelihood, PolicyConfig]
SUBCLASSES = {
    "credit": ("objective.credit.gain", "Gain", "credit", "mini dense_grpo"),
    "kernel": ("sampling.kernels.flow_sde", "FlowSde", "rollout.plan.kernel", "mini flow_grpo"),
    "plan": ("sampling.plans.all", "AllSteps", "rollout.plan", "mini flow_grpo"),
    "selection": ("objective.selection.step_fraction", "StepFraction", "selection", "mini flow_grpo"),
    "likelihood": ("sampling.likelihood.trajectory", "Trajectory", "policy.likelihood", "mini-mdlm trajectory"),
    "context": ("data.context.draft", "Draft", "rollout.context", "mini-mdlm trajectory"),
    "transform": ("objective.transform.concise", "Concise", "transforms", "mini-mdlm trajectory"),
    "decision_weight": ("objective.decision_weight.conflict", "Conflict", "objective.decision_weights", "mini-mdlm trajectory"),
    "auxiliary": ("objective.auxiliary.answers", "Answers", "objective.auxiliary", "mini-mdlm trajectory expo"),
    "policy": ("policies.diffusers", "DiffusersConfig", "policy.type", "mini flow_grpo"),
}
LISTS = {"selection": "[{}]", "decision_weight": "[{}]", "auxiliary": "[{}]", "transform": "[{{type: '{}', length: strict}}]"}
"""How a config names one of several."""


def subclass(module: str, name: str) -> str:
    return f"from flowgrpo.{module} import {name}\n\n\nclass Mine({name}):\n    pass\n"


def at(config, place: str):
    for key in place.split(".") if place != "policy.type" else ["policy"]:
        config = getattr(config, key)
    return config[0] if isinstance(config, tuple) else config


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_shipped_class_has_the_name_that_finds_it(kind):
    package = package_of(kind)
    assert shipped(package)
    for name, place in shipped(package).items():
        found = class_of(name, kind)
        fields = {key: 1 for key, field in found.model_fields.items() if field.is_required()}
        texts = {"model": "asset:none", "sampler": "origin"}
        assert found.__name__ == place.name and not inspect.isabstract(found)
        wanted = {key: texts.get(key, (1,) if key == "steps" and name == "fixed" else value) for key, value in fields.items()}
        assert found.model_validate(wanted).type == name
        assert found.model_fields["type"].default == "" and "type" not in vars(found).get("__annotations__", {})


def test_those_that_share_a_file_are_named_by_their_classes():
    assert LowConfidence().type == "low_confidence" and Comb(teeth=4).type == "comb" and AllSteps().type == "all"
    assert [snake_case(name) for name in ("LeftToRight", "MaskgitPlus", "Origin")] == ["left_to_right", "maskgit_plus", "origin"]
    with pytest.raises(UserError, match="did you mean 'low_confidence'"):
        class_of("low_confidance", Kernel)
    with pytest.raises(UserError, match=r"did you mean 'masked'.*known: amused, diffusers, masked"):
        class_of("maskd", PolicyConfig)


def test_a_plug_in_package_shows_its_classes_without_importing_them():
    code = (
        "import sys, flowgrpo.sampling.kernels as k; assert 'MaskgitPlus' in dir(k) and 'torch' not in sys.modules;"
        "assert k.FlowSde().type == 'flow_sde' and 'torch' not in sys.modules and k.Margin().type == 'margin'"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert plans.Comb is Comb
    with pytest.raises(AttributeError, match="no attribute 'Combe'"):
        plans.Combe  # noqa: B018


@pytest.mark.parametrize("kind", SUBCLASSES)
@pytest.mark.parametrize("form", ["mine.py", "mine.py:Mine", "mine:Mine", "theirs_too.mine:Mine"])
def test_a_subclass_in_a_file_or_module_of_the_user_is_a_component(kind, form, tmp_path, monkeypatch):
    module, name, place, recipe = SUBCLASSES[kind]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / ("theirs_too/mine.py" if form.startswith("theirs_too") else "mine.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(subclass(module, name))
    for loaded in ("mine", "theirs_too", "theirs_too.mine"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    config = load_config(recipe, [f"{place}={LISTS.get(kind, '{}').format(form)}"])
    mine = at(config, place)
    assert type(mine).__name__ == "Mine" and mine.type == form
    (tmp_path / "config.yaml").write_text(dump(config))
    again = load_config("config.yaml")
    assert dump(again) == dump(config) and again == config
    made = type(mine).model_validate(mine.model_dump(exclude={"type"}))
    where = f"{file}:Mine" if form.startswith("mine.py") else form
    assert made.type == where and class_of(made.type, type(mine)) is type(mine)


def test_a_copy_of_what_ships_trains_under_the_name_that_its_config_says(tmp_path, monkeypatch, capsys):
    from flowgrpo.cli.main import main

    monkeypatch.chdir(tmp_path)
    shutil.copy(inspect.getfile(Gain), "mygain.py")
    small = ["updates=1", "rollout.prompts_per_update=2", "rollout.group_size=4", "evaluation=null", "calibration=null"]
    kernel = "rollout.plan.kernel=flow_sde"
    assert main(["train", "mini", "dense_grpo", "credit=mygain.py", *small, kernel]) == 0, capsys.readouterr().err
    (run,) = Path("runs").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["credit"] == {"type": "mygain.py", "baseline": 1.0}
    config = load_config(str(run / "config.yaml"))
    assert type(config.credit).__module__.startswith("flowgrpo_user_mygain") and load_config(str(run / "config.yaml")) == config


def test_complaints_of_a_copy_name_the_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, name in (("objective.credit", "turning_point"), ("objective.selection", "width"), ("sampling.plans", "comb")):
        source = importlib.import_module(f"flowgrpo.{kind}.{name}").__file__
        shutil.copy(source, f"my_{name}.py")
    for override, words in (
        ("credit=my_turning_point.py", "credit 'my_turning_point.py' needs the value"),
        ("selection=[my_width.py]", "selection 'my_width.py' prunes"),
        ("rollout.plan={type: my_comb.py, shared_start: true}", "plan 'my_comb.py' compares"),
    ):
        with pytest.raises(UserError, match=words):
            load_config("mini flow_grpo", [override])


CELLS = """
from pathlib import Path
from flowgrpo.config.run import dump, load_config

for kind, (cell, override, recipe) in CELLS.items():
    exec(cell)
    config = load_config(recipe, [override])
    Path(f"{kind}.yaml").write_text(dump(config))
    assert load_config(f"{kind}.yaml") == config and "__main__:Mine" in dump(config), kind
    fields = {"policy": config.policy.model_dump(exclude={"type"}), "transform": {"length": "strict"}}.get(kind, {})
    assert Mine(**fields).type == "__main__:Mine", kind
"""


def test_a_class_of_a_notebook_cell_is_found_while_it_runs_and_told_apart_afterwards(tmp_path):
    cells = {
        kind: (subclass(module, name), f"{place}={LISTS.get(kind, '{}').format('__main__:Mine')}", recipe)
        for kind, (module, name, place, recipe) in SUBCLASSES.items()
    }
    code = f"CELLS = {cells!r}\n{CELLS}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in SUBCLASSES:
        with pytest.raises(UserError, match="'__main__:Mine' was made in a notebook or script that does not run here"):
            load_config(str(tmp_path / f"{kind}.yaml"))


def test_an_object_keeps_its_class_through_a_config(tmp_path):
    class Local(Gain):
        pass

    config = load_config("mini dense_grpo")
    tree = config.model_dump()
    with pytest.raises(ValueError, match="can't be found again; define the class at the top level"):
        type(config).model_validate({**tree, "credit": Local()})
    file = tmp_path / "mine.py"
    file.write_text(subclass("objective.credit.gain", "Gain"))
    mine = load_file(file).Mine(baseline=0.5)
    changed = type(config).model_validate({**tree, "credit": mine})
    (tmp_path / "config.yaml").write_text(dump(changed))
    assert changed.credit.type == f"{file}:Mine" and load_config(str(tmp_path / "config.yaml")) == changed


TWO = """
from abc import abstractmethod
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.credit.gain import Gain

class Base(Credit):
    @abstractmethod
    def more(self): ...

class _Helper(Gain):
    pass

class One(_Helper):
    pass
"""


def test_helpers_beside_one_component_are_passed_over_and_of_two_one_must_be_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(TWO)
    assert class_of("parts.py", Credit).__name__ == "One"
    Path("parts.py").write_text(TWO + "\nclass Two(Gain):\n    pass\n")
    with pytest.raises(UserError, match=r"holds 2 components of the kind Credit; say which: 'parts.py:One' or 'parts.py:Two'"):
        class_of("parts.py", Credit)
    assert class_of("parts.py:Two", Credit).__name__ == "Two"
    Path("none.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"'none.py' holds no Credit; it must define a subclass of it"):
        class_of("none.py", Credit)
    with pytest.raises(UserError, match="'flow_sde' is not a UnmaskingKernel"):
        load_config("mini-mdlm trajectory", ["policy.sampler=flow_sde"])


NEW = {
    "objective/credit/last.py": (
        "from flowgrpo.objective import credit\n\n\nclass Last(credit.Credit):\n"
        "    def assign(self, tree):\n        return credit.Credited(tree.rewards * 1.0)\n"
    ),
    "sampling/kernels/strong.py": (
        "from flowgrpo.sampling.kernels.flow_sde import FlowSde\n\n\n"
        "class _Help(FlowSde):\n    pass\n\n\nclass Strong(_Help):\n    noise_level: float = 0.9\n"
    ),
}


def test_one_new_file_adds_a_component_and_two_of_one_name_are_told(tmp_path):
    root = tmp_path / "flowgrpo"
    shutil.copytree(Path(plans.__file__).parents[2], root, ignore=shutil.ignore_patterns("__pycache__", "tiny"))
    for name, code in NEW.items():
        (root / name).write_text(code)
    code = (
        "from flowgrpo.core.section import class_of; from flowgrpo.objective.credit import Credit;"
        "from flowgrpo.sampling.kernels import Kernel, Strong;"
        "assert class_of('last', Credit)().type == 'last' and class_of('strong', Kernel) is Strong and Strong().type == 'strong'"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.copy(root / "sampling/kernels/strong.py", root / "sampling/kernels/entropy.py")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "two components of flowgrpo.sampling.kernels are called 'entropy'" in done.stderr
