"""On-policy distillation: the steps of a teacher at the policy's own states, alone or beside a reward."""

import pytest
import torch

from flowgrpo.config.run import Config, dump, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.objective import ObjectiveConfig
from flowgrpo.objective.auxiliary.distillation import Distillation
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.loss import terms
from flowgrpo.runs.checkpoint import save_state
from trainers import picture_trainer, text_trainer

ITSELF = "teacher.policy={dtype: fp32}"
"""The model before training: what the adapters of `trainers` have left."""
GUIDED = {"text": "teacher.policy={guidance_scale: 2.0}", "pictures": "teacher.policy={call: {guidance_scale: 4.0}}"}
OTHER_STATES = {"text": "teacher.policy={length: 5}", "pictures": "teacher.policy={call: {height: 4, width: 4}}"}
OTHER_LAW = {"text": "teacher.policy={forbidden: [3]}", "pictures": "teacher.policy={spacing: uniform}"}


@pytest.fixture(params=["text", "pictures"])
def kind(request):
    return request.param


@pytest.fixture
def trainer(kind, mdlm, pipelines):
    """Makes one of a kind, with more overrides."""

    def make(*more):
        return text_trainer(mdlm, *more, rule="distil") if kind == "text" else picture_trainer(pipelines, *more, rule="distil")

    return make


def test_the_term_is_the_kl_times_its_coefficient_in_its_unit_and_knows_no_advantage():
    """nats_dt: KL dt; velocity: KL 2 tau^2 / g^2."""
    kl = torch.tensor([[0.3], [0.5]], requires_grad=True)
    columns = {name: torch.zeros(2, 1) for name in ("log_prob_CD", "log_prob_old_CD", "advantage_C1")}
    scales = {"tau_C1": torch.full((2, 1), 0.5), "dt_C1": torch.full((2, 1), 0.1), "g_C1": torch.full((2, 1), 0.2)}
    ones = {name: torch.ones(2, 1) for name in ("weight_CD", "decisions_CD")}
    batch = LossInputs(**columns, **scales, **ones, kl_teacher_CD=kl)
    for unit, factor in (("nats", 1.0), ("nats_dt", 0.1), ("velocity", 2 * 0.25 / 0.04)):
        found = terms(batch, ObjectiveConfig(auxiliary=(Distillation(coefficient=2.0, unit=unit),)))
        (gradient,) = torch.autograd.grad(found.loss.sum(), kl)
        assert found.auxiliary.flatten().tolist() == pytest.approx([2 * factor * 0.3, 2 * factor * 0.5])
        assert gradient.flatten().tolist() == pytest.approx([2 * factor] * 2)


def test_the_kl_to_a_teacher_that_is_the_model_before_training_is_the_kl_to_the_reference(trainer):
    metrics = trainer(ITSELF, "objective.kl={coefficient: 0.5, unit: nats}", "optimizer.lr=1e-3").update()[0]
    assert metrics["auxiliary"] == pytest.approx(metrics["kl"], rel=1e-5) and metrics["kl"] > 0


def test_without_any_reward_the_policy_comes_closer_to_its_teacher(trainer, kind):
    """Advantages are 0, so the gradient is the distillation's alone."""
    made = trainer(GUIDED[kind], "rewards.it.weight=0", "optimizer.lr=1e-2", "optimizer.max_grad_norm=1", "optimizer.eps=1e-8")
    rows = [made.update() for _ in range(6)]
    assert all(not scored.advantage.any() and scored.in_loss.any() for _, _, scored in rows)
    assert rows[0][0]["ratio/first_log_abs_max"] == 0.0 and rows[0][0]["grad_norm"] > 0
    assert rows[-1][0]["auxiliary"] < 0.7 * rows[0][0]["auxiliary"]


def test_a_checkpoint_teaches_with_its_average_where_it_keeps_one(trainer, tmp_path):
    """The student that it was made of is already where its teacher is."""
    made = trainer(ITSELF)
    known, other = dict(made.weights.parameters), {name: value + 1.0 for name, value in made.weights.parameters.items()}
    averaged = Config.model_validate({**made.config.model_dump(mode="json"), "ema": {"decay": 0.5}})
    cases = {"last": (made.config, {"trainable": known}), "average": (averaged, {"trainable": other, "ema": known})}
    for name, (config, tensors) in cases.items():
        save_state(tmp_path / name / "state", tensors, {})
        (tmp_path / name / "config.yaml").write_text(dump(config))
        assert trainer(f"teacher.checkpoint={tmp_path / name}").update()[0]["auxiliary"] == pytest.approx(0.0, abs=1e-9)


def test_a_checkpoint_of_other_weights_or_none_is_refused(trainer, tmp_path):
    with pytest.raises(UserError, match="is no checkpoint of a run"):
        trainer(f"teacher.checkpoint={tmp_path}")
    (tmp_path / "config.yaml").write_text(dump(trainer(ITSELF).config))
    save_state(tmp_path / "state", {"trainable": {"w": torch.ones(1)}}, {})
    with pytest.raises(UserError, match=r"has trained other weights than those of teacher\.policy"):
        trainer(f"teacher.checkpoint={tmp_path}")


def test_a_teacher_with_other_states_or_other_noise_levels_is_refused(trainer, kind):
    with pytest.raises(UserError, match="teacher: its states are not those of the policy"):
        trainer(OTHER_STATES[kind])
    with pytest.raises(UserError, match="teacher: what it predicts does not mean the same"):
        trainer(OTHER_LAW[kind])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "objective.auxiliary 'distillation' needs a teacher; set teacher.checkpoint"),
        (["teacher={}"], "teacher: a teacher is a 'checkpoint' of a run, or differs"),
        ([ITSELF, "objective.auxiliary=[]"], "nothing asks the teacher; set objective.auxiliary"),
        (
            [ITSELF, "advantage.zero_variance=drop"],
            "zero_variance: drop leaves out those whose rewards are equal; set it to keep",
        ),
        ([ITSELF, "objective.auxiliary=[{type: distillation, unit: velocity}]"], "distillation in velocity needs a Gaussian law"),
    ],
)
def test_what_does_not_fit_is_said_when_the_config_is_read(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config("mini-mdlm trajectory distil", overrides)


def test_a_run_needs_no_reward_with_a_weight_beside_a_distillation():
    load_config("mini-mdlm trajectory distil", [ITSELF, "rewards.countdown.weight=0"])
    with pytest.raises(UserError, match="there is nothing to train on"):
        load_config("mini-mdlm trajectory", ["rewards.countdown.weight=0"])
