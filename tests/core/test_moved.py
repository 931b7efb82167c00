"""Names that people already use keep working for a version."""

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from flowgrpo.core import plugins
from flowgrpo.core.moved import MOVED
from flowgrpo.core.plugins import component_class, resolve
from flowgrpo.objective.credit import Credit
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.kernels.ode import Ode

OLD = """
import flowgrpo.credit.gain, flowgrpo.objective.credit.gain as gain
from flowgrpo.benchmarks.benchmark import Benchmark
from flowgrpo.config import Config, load_config
from flowgrpo.sampling import gaussian
from flowgrpo.scoring.card import card
assert flowgrpo.credit.gain is gain and flowgrpo.credit.gain.Gain is gain.Gain
assert gain.__name__ == gain.__spec__.name == "flowgrpo.objective.credit.gain"
assert load_config("quickstart").__class__ is Config
"""


def test_old_names_import_what_has_moved_with_a_line_each():
    done = subprocess.run([sys.executable, "-c", OLD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line.split("FutureWarning: ")[1].split(";")[0] for line in done.stderr.splitlines()]
    assert said == [
        "flowgrpo.credit is now flowgrpo.objective.credit",
        "flowgrpo.benchmarks is now flowgrpo.evaluation.benchmarks",
        "flowgrpo.config.Config is now flowgrpo.config.run.Config",
        "flowgrpo.config.load_config is now flowgrpo.config.run.load_config",
        "flowgrpo.sampling.gaussian is now flowgrpo.sampling.laws.gaussian",
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("old", MOVED)
def test_every_old_name_is_its_new_one(old):
    assert importlib.import_module(old) is importlib.import_module(MOVED[old])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_specs_of_shipped_parts_by_their_old_module():
    assert component_class("flowgrpo.credit.gain:Gain", Credit, "flowgrpo.objective.credit") is Gain


@pytest.mark.parametrize("group", ["flowgrpo.kernels", "flowgrpo.sampling.kernels"])
def test_entry_points_have_short_groups_and_the_packages_own(group, monkeypatch):
    mine = EntryPoint("mine", "flowgrpo.sampling.kernels.ode:Ode", group)
    monkeypatch.setattr(plugins, "entry_points", lambda group, name: [mine] if (mine.group, mine.name) == (group, name) else [])
    assert component_class("mine", Kernel, "flowgrpo.sampling.kernels") is Ode


def test_a_group_of_a_package_that_moved_keeps_its_name(monkeypatch):
    mine = EntryPoint("mine", "flowgrpo.objective.credit.gain:Gain", "flowgrpo.credit")
    monkeypatch.setattr(plugins, "entry_points", lambda group, name: [mine] if (mine.group, mine.name) == (group, name) else [])
    assert resolve("mine", "flowgrpo.objective.credit")[1] == "Gain"
