"""Credit rules, kernels, plans, selections and likelihoods of a user get the care that rewards get: a sentence, file and line."""

import numpy as np
import pytest

from flowgrpo.cli.main import main
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.objective.credit import Credit, Credited, ScoredTree
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.likelihood import Likelihood, Masks
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps

HEAD = """
import numpy as np
from flowgrpo.objective.credit import Credit, Credited
from flowgrpo.objective.selection import Selection
from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.plans.all import AllSteps
"""
CREDIT = "class Mine(Credit):\n    def assign(self, tree):\n        {}\n"
SELECTION = "class Mine(Selection):\n    def choose(self, tree, advantage, update, rng):\n        {}\n"
KERNEL = "class Mine(GaussianKernel):\n    def coefficients(self, step):\n        {}\n"
PLAN = "class Mine(AllSteps):\n    def grow(self, draw):\n        {}\n"
SMALL = ["updates=2", "rollout.prompts_per_update=2", "rollout.group_size=4", "evaluation=null", "checkpoints.every=9"]
AT = {CREDIT: "credit", SELECTION: "selection", KERNEL: "rollout.plan.kernel", PLAN: "rollout.plan"}


@pytest.mark.parametrize(
    ("template", "body", "words"),
    [
        (CREDIT, "return np.zeros(3)", "returned a ndarray, and must return a Credited"),
        (CREDIT, "return Credited(np.zeros(3))", "must return value as an array of"),
        (CREDIT, "return Credited(list(tree.rewards))", "must return value as an array of"),
        (CREDIT, "return Credited(np.full(len(tree.rewards), np.nan))", "gave nan as the value of a trained transition"),
        (
            CREDIT,
            "return Credited(np.zeros(len(tree.rewards)), scale=np.full(len(tree.rewards), np.inf))",
            "gave inf as the scale",
        ),
        (
            CREDIT,
            "return tree.nothing",
            "raised AttributeError: 'ScoredTree' object has no attribute 'nothing' (mine.py, line 10)",
        ),
        (CREDIT, "raise SystemExit(0)", "raised SystemExit: 0 (mine.py, line 10)"),
        (SELECTION, "return np.ones(3, bool)", "must return an array of"),
        (SELECTION, "return advantage", "must return an array of"),
        (SELECTION, "return 1 // 0", "raised ZeroDivisionError: integer division or modulo by zero (mine.py, line 10)"),
        (KERNEL, "return float('nan'), 0.5", "gave c = nan, tau = 0.5 from noise level 1 to"),
        (KERNEL, "return 0.5, -1.0", "gave c = 0.5, tau = -1"),
        (KERNEL, "return 0.5", "must return (c, tau)"),
        (KERNEL, "return {}['x']", "raised KeyError: 'x' (mine.py, line 10)"),
        (PLAN, "return None", "returned a NoneType, and must return a Shape"),
        (PLAN, "return [][1]", "raised IndexError: list index out of range (mine.py, line 10)"),
    ],
)
def test_a_part_that_misbehaves_is_one_sentence(template, body, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + "\n" + template.format(body))
    value = "[{type: 'mine.py:Mine'}]" if template is SELECTION else "{type: 'mine.py:Mine'}"
    assert main(["train", "mini/flow_grpo", *SMALL, f"{AT[template]}={value}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1] and lines[-1].startswith("flowgrpo: ")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Mine(Credit):\n    pass\n", "'mine.py:Mine': class Mine lacks assign(...)"),
        (
            "class Mine(Credit):\n    scale: float\n    def assign(self, tree):\n        return 1\n",
            "credit.scale: Field required",
        ),
        ("class Mine:\n    pass\n", "'mine.py:Mine' is not a Credit"),
        (
            "class Mine(Credit):\n    def assign(self, tree):\n        return 1\n"
            "    def complaint(self, shape):\n        return shape.x\n",
            "raised AttributeError: 'Shape' object has no attribute 'x' (mine.py, line 12)",
        ),
    ],
)
def test_a_part_that_is_not_whole_is_refused_when_the_config_is_read(code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + "\n" + code)
    assert main(["plan", "mini/flow_grpo", "credit={type: 'mine.py:Mine'}"]) == 2
    assert words in capsys.readouterr().err


class Late(Credit):
    """A number for every node but the last."""

    def assign(self, tree: ScoredTree) -> Credited:
        value = np.arange(len(tree.rewards), dtype=float)
        value[-1] = np.nan
        return Credited(value)


def test_only_trained_transitions_need_a_number():
    shape = AllSteps(kernel=FlowSde()).shape(Draw(2, 2))
    last = len(shape.nodes) - 1
    tree = ScoredTree(shape, np.zeros(len(shape.nodes)))
    if last in shape.trained:
        with pytest.raises(NotFinite, match="gave nan as the value"):
            Late(type="late").credited(tree)
    root = next(i for i, node in enumerate(shape.nodes) if node.parent is None)
    assert root not in shape.trained


class Loose(Likelihood):
    """A likelihood that returns what it is told to."""

    type: str = "loose"
    found: object = None

    @property
    def states(self) -> int:
        return 2

    def masks(self, answer, prompt, rng):
        return self.found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "returned a NoneType, and must return Masks"),
        (Masks(np.zeros((2, 4), bool), np.zeros((2, 4)), np.zeros((1, 3), bool)), "prompt as an array of 2 x 3 booleans"),
        (Masks(np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 3), bool)), "masked as an array of 2 x 4 booleans"),
        (Masks(np.zeros((2, 4), bool), np.full((2, 4), np.nan), np.zeros((2, 3), bool)), "a weight that is no number"),
    ],
)
def test_masks_of_a_likelihood_are_checked(found, words):
    answer, prompt = np.ones(4, bool), np.ones(3, bool)
    with pytest.raises(UserError, match=words):
        Loose(found=found).checked(answer, prompt, np.random.default_rng(0))
