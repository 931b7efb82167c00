"""Training by the gradient of differentiable rewards: through which steps it goes, what it is, and where there is none."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from conftest import CALLS
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold_code
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Latents, Samples
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.surrogate.reward import Reward
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.sampling.levels import Schedule
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.backward import Backward
from flowgrpo.scoring.card import card
from flowgrpo.scoring.scorer import Scorer, require_slope
from flowgrpo.scoring.twins import twin
from flowgrpo.training.gradient import RewardGradient
from flowgrpo.training.rollout import Transitions
from flowgrpo.training.trainer import Trainer
from trainers import PICTURES, PLAIN, gradient

CPU = torch.device("cpu")
FLOW = Schedule((0.0, 0.3, 0.6, 1.0), (1.0, 0.7, 0.4, 0.0), (1000.0, 700.0, 400.0), "velocity")
TARGET = 0.5
STATED = {"range": (-1e6, 1e6), "better": "so", "licence": "none", "source": "here"}
SMALL = ["rollout.prompts_per_update=2", "rollout.group_size=2", "optimizer.lr=1e-3", "objective.kl.coefficient=0"]
PLANS = {
    "draft": "rollout.plan={type: backward, least: 1, most: 1}",
    "draft of all steps": "rollout.plan={type: backward, least: 3, most: 3}",
    "alignprop": "rollout.plan={type: backward, least: 1, most: null}",
    "refl": "rollout.plan={type: backward, through: jump, least: 1, most: 3}",
}


@card(reads="latents", differentiable=True, **STATED)
def near(samples):
    return -(samples.latents.states - TARGET).square().flatten(1).mean(1)


@card(reads="images", differentiable=True, **STATED)
def brightness(samples):
    return samples.images.mean((1, 2, 3))


@card(reads="images", differentiable=True, **STATED)
def listed(samples):
    return samples.images.mean((1, 2, 3)).tolist()


@card(reads="images", differentiable=True, **STATED)
def detached(samples):
    return samples.images.detach().mean((1, 2, 3))


@card(reads="images", differentiable=True, **STATED)
def rounded(samples):
    return (255.0 * samples.images).round().mean((1, 2, 3))


def held(reward):
    return hold_code(reward, reward.__name__)


def scorer_of(*rewards):
    return Scorer({reward.__name__: RewardConfig(use=held(reward)) for reward in rewards})


class Linear:
    """A network of one number w: it predicts w x."""

    device = CPU

    def __init__(self, w):
        self.w = torch.nn.Parameter(torch.tensor(w))

    def predict(self, states, prompts, step):
        return self.w * states

    def law(self, moves, prompts):
        return GaussianLaw.of(moves, FLOW, CPU)

    def latents(self, states, prompts, levels):
        return Latents(states, torch.ones(len(states)), torch.zeros(len(states)))


def gone_back(policy, x, plan, reference=None):
    """What the objective sees of states [C, ...] that a trajectory of the plan leaves where it is trained."""
    shape = plan.shape(Draw(3, len(x)))
    moves = [shape.move(i) for i in shape.trained]
    zeros = torch.zeros(len(x), 1)
    prompts = [Prompt(0, "a")] * len(x)
    tails = [shape.tail(i) for i in shape.trained]
    rows = torch.arange(len(x))
    places = [(0, i) for i in shape.trained]
    law = policy.law(moves, prompts)
    t = Transitions(moves[0].source, prompts, x, rows, places, law, x, zeros, zeros + 1.0, tails=tails)
    return RewardGradient(policy, scorer_of(near), {"near": RewardConfig(use="near", weight=2.0)})(t, reference)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("through", ["steps", "jump"])
def test_the_gradient_of_a_linear_network_and_a_quadratic_reward_is_that_by_hand(steps, through):
    """With v = w x a step from sigma to sigma' multiplies x by 1 - (sigma - sigma') w: so x0 = f(w) x, and the slope of
    -2 (x0 - c)^2 is -4 (x0 - c) f'(w) x."""
    w, x = 0.8, torch.tensor([[0.7], [-1.3]])
    policy = Linear(w)
    reward_C1 = gone_back(policy, x, Backward(least=steps, most=steps, through=through)).reward_C1
    reward_C1.sum().backward()
    sigmas = FLOW.sigmas[3 - steps :]
    falls = [sigmas[0]] if through == "jump" else [a - b for a, b in pairwise(sigmas)]
    f = math.prod(1.0 - fall * w for fall in falls)
    slope = sum(-fall * f / (1.0 - fall * w) for fall in falls)
    x0 = f * x
    torch.testing.assert_close(reward_C1.detach(), -2.0 * (x0 - TARGET) ** 2, rtol=1e-5, atol=1e-6)
    assert policy.w.grad.item() == pytest.approx((-4.0 * (x0 - TARGET) * slope * x).sum().item(), rel=1e-5)


def test_what_holds_the_policy_back_is_how_far_its_first_prediction_is_from_the_reference():
    """mean((w x - w' x)^2), in the unit of velocities."""
    x, policy = torch.tensor([[0.7, 0.1], [-1.3, 0.4]]), Linear(0.8)
    inputs = gone_back(policy, x, Backward(least=2, most=2), reference=0.5 * x)
    inputs.in_unit(inputs.kl_reference_CD, "velocity").sum().backward()
    assert policy.w.grad.item() == pytest.approx((2 * 0.3 * x**2).mean(1).sum().item(), rel=1e-5)


@pytest.mark.parametrize(("enough", "losses", "slopes"), [(None, [-0.2, -0.9], [-1.0, -1.0]), (0.5, [0.3, 0.0], [-1.0, 0.0])])
def test_what_earns_enough_pulls_no_more(enough, losses, slopes):
    reward_C1, ones = torch.tensor([[0.2], [0.9]], requires_grad=True), torch.ones(2, 1)
    of = LossInputs(*[ones] * 8, reward_C1=reward_C1)
    loss, held_back = Reward(enough=enough).loss(of.log_ratio_CD, of, Constant(low=0.9, high=0.9))
    loss.sum().backward()
    assert loss.flatten().tolist() == pytest.approx(losses) and reward_C1.grad.flatten().tolist() == slopes
    assert held_back.flatten().tolist() == [slope == 0.0 for slope in slopes]


def test_a_plan_draws_how_many_steps_are_left_for_each_prompt():
    config = load_config(["mini", "draft"], [PLANS["alignprop"]])
    shapes = config.shapes(0, dict.fromkeys(range(40), 2))
    assert {len(shape.tail(shape.trained[0])) for shape in shapes} == {1, 2, 3}
    assert all(len({len(shape.tail(i)) for i in shape.trained}) == 1 for shape in shapes)
    assert shapes == config.shapes(0, dict.fromkeys(range(40), 2))
    jump = load_config(["mini", "refl"], [PLANS["refl"]]).shapes(0, dict.fromkeys(range(40), 2))
    tails = [shape.tail(shape.trained[0]) for shape in jump]
    assert {(len(tail), tail[0].target) for tail in tails} == {(1, 3)} and {tail[0].source for tail in tails} == {0, 1, 2}


def test_a_bill_counts_the_steps_that_are_gone_through_with_a_gradient():
    bills = [bill_of(load_config(["mini", "draft"], [PLANS[name]])) for name in ("draft", "draft of all steps")]
    assert [bill["trained_transitions_per_sample"] for bill in bills] == [1, 3]
    assert {bill["network_evaluations_per_sample"] for bill in bills} == {3}


def trainer(pipelines, *more, reward=brightness, processes=None):
    call = ",".join(f"{key}: {value}" for key, value in CALLS["sd3"].items())
    model = [f"policy.model={pipelines['sd3']}", f"policy.call={{{call}}}", f"rewards={{it: {{use: '{held(reward)}'}}}}"]
    config = load_config(["mini", "draft"], [*PLAIN, *PICTURES, *model, *SMALL, *more])
    policy = config.policy.build(CPU, config.seed)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    prompts = [Prompt(i, text) for i, text in enumerate(("1+2=:", "7:"))]
    return Trainer(config, policy, prompts, Scorer(config.rewards), processes or Processes.alone())


def by_hand(one, t, reward):
    """[C]: the rewards, with a graph that holds everything."""
    policy, x = one.policy, t.states
    moves = t.tails[0]
    sigmas = policy.schedule(t.prompts).sigmas
    for move in moves:
        x = x - (sigmas[move.source] - sigmas[move.target]) * policy.predict(x, t.prompts, move.source)
    pixels = policy.decode(x, t.prompts).decoded
    ones = torch.ones(len(x))
    return reward(Samples([""] * len(x), [{}] * len(x), [0] * len(x), pixels, Latents(x, ones, 0.0 * ones)))


@pytest.mark.parametrize("reward", [brightness, near])
@pytest.mark.parametrize("plan", [*PLANS])
def test_the_gradient_is_that_of_the_reported_reward_through_the_steps_of_the_sampler(pipelines, plan, reward):
    one = trainer(pipelines, PLANS[plan], reward=reward)
    blocks, scored = one.collect(one.clock())
    found, loss = gradient(one, blocks, scored)
    total = torch.zeros(())
    for block in blocks:
        for t in block.rollout.transitions:
            rewards = by_hand(one, t, reward)
            total = total - rewards.sum() / 4
            if plan != "refl":
                told = [scored.total[block.slots[g], leaf] for g, node in t.places for leaf in t_outcomes(block, g, node)]
                np.testing.assert_allclose(rewards.detach(), told, rtol=1e-4, atol=1e-5)
    total.backward()
    expected = one.weights.taken_gradient()
    assert loss == pytest.approx(total.item(), rel=1e-4)
    assert expected.norm() > 0 and (found - expected).norm() < 1e-3 * expected.norm()


def t_outcomes(block, group, node):
    return block.rollout.shapes[group].outcomes_below[node]


def kept(one):
    """Bytes that the graph of an update's loss holds, but for weights."""
    blocks, _ = one.collect(one.clock())
    weights = {p.untyped_storage().data_ptr() for module in one.policy.modules.values() for p in module.parameters()}
    sizes = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    (t,) = (t for block in blocks for t in block.rollout.transitions)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        reward = one.learner.gradient(t).reward_C1
    return sum(sizes.values()), t.states.nbytes, reward


def test_more_steps_keep_no_more_than_a_state_for_each(pipelines):
    """Of what the network computes in a step nothing is kept."""
    (few, state, _), (many, _, _) = (kept(trainer(pipelines, PLANS[plan])) for plan in ("draft", "draft of all steps"))
    assert many - few <= 2 * 4 * state


@pytest.mark.parametrize("plan", ["alignprop", "refl"])
def test_the_first_update_is_the_sum_of_what_two_processes_have_and_it_resumes_exactly(pipelines, plan):
    held = ["objective.kl={coefficient: 0.1, unit: velocity}"] if plan == "refl" else []
    whole, first, second = (trainer(pipelines, PLANS[plan], "rollout.micro_batch=2", *held) for _ in range(3))
    blocks, scored = whole.collect(whole.clock())
    assert [len(block.slots) for block in blocks] == [1, 1]
    both, loss = gradient(whole, blocks, scored)
    parts = [gradient(whole, [block], scored) for block in blocks]
    assert torch.equal(both, parts[0][0] + parts[1][0]) and both.any() and loss == parts[0][1] + parts[1][1]
    for _ in range(2):
        metrics, _, _ = whole.update()
        assert metrics["grad_norm"] > 0 and metrics["optimizer_steps"] == 1
    first.update()
    second.load(*copy.deepcopy(first.state()))
    second.update()
    for name, parameter in whole.weights.parameters.items():
        assert torch.equal(parameter, second.weights.parameters[name]), name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scenes"], "by the gradient of the rewards, and reward 'strict' has none"),
        (["rewards={it: {use: 'jpeg:compressibility'}}", "evaluation=null"], "reward 'it' has none"),
    ],
)
def test_a_reward_without_a_gradient_is_refused_before_anything_is_loaded(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mini", "draft", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and len(said.splitlines()) == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (listed, r"returned a value of type list; it must return a tensor"),
        (detached, "returned a tensor .* without a gradient"),
        (rounded, "has the gradient 0 on all of 2 probe samples"),
    ],
)
def test_a_reward_that_only_says_that_it_is_differentiable_is_found_out_before_training(reward, says):
    samples = Samples(["a", "b"], [{}, {}], [0, 1], torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    require_slope(scorer_of(brightness), samples)
    with pytest.raises(UserError, match=says):
        require_slope(scorer_of(reward), samples)


def test_a_card_can_not_be_differentiable_of_texts_or_of_comparisons():
    for wrong in ({"reads": "texts"}, {"reads": None}, {"reads": "images", "compares": True}):
        with pytest.raises(UserError, match="differentiable=True"):
            card(differentiable=True, **wrong, **STATED)


@pytest.mark.parametrize(
    ("words", "override", "says"),
    [
        (["mini", "flow_grpo"], "objective.surrogate=reward", "set rollout.plan.type to backward"),
        (["mini", "flow_grpo"], "rollout.plan=backward", "set objective.surrogate to reward"),
        (["mini", "nft"], "objective.surrogate=reward", "no policy.matching"),
        (["mini-mdlm", "trajectory"], "objective.surrogate=reward", "an id that was drawn lets no gradient through"),
        (["mini", "draft"], "advantage.zero_variance=drop", "there can be no advantage.zero_variance: drop"),
        (["mini", "draft"], "objective.kl={coefficient: 0.1, unit: nats}", "there can be no objective.kl.unit: nats"),
        (["mini", "draft"], "old={rate: 0.1}", "there can be no old"),
        (["mini", "draft"], "selection=[{type: step_fraction, fraction: 0.5}]", "there can be no selection; leave it out"),
        (["mini", "draft"], "objective.ratio=guard", "there can be no objective.ratio: guard"),
        (["mini", "draft"], "rewards.latent_soft.normalise=group", "there can be no rewards.latent_soft.normalise"),
        (["mini", "draft"], "rollout.plan.most=4", "must be a range in 1 .. policy.steps = 3"),
        (["mini", "draft"], "rollout.plan.most=2", "least = 3 .. most = 2 must be a range"),
        (["mini", "draft"], "rollout.plan.kernel=flow_sde", "'flow_sde' adds noise"),
        (["mini", "draft"], "rollout.plan.kernel=dpmpp_2m", "'dpmpp_2m' looks back at the state before"),
        (["mini", "draft"], "rollout.plan.shared_start=true", "set shared_start to false"),
    ],
)
def test_what_does_not_fit_is_said(words, override, says):
    with pytest.raises(UserError, match=says):
        load_config(words, [override])


@pytest.mark.parametrize("use", ["aesthetic", "clip_score", "image_reward", "pickscore", "hps"])
def test_rewards_of_preference_have_the_gradient_of_what_they_say(use, tmp_path):
    reward = RewardConfig(use=use, arguments=twin(use, {}, tmp_path))
    scorer = Scorer({"it": reward})
    pictures = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    samples = Samples(["a red circle", "two blue squares"], [{}, {}], [0, 1], pictures)
    scorer.require_differentiable()
    require_slope(scorer, samples)
    plain = scorer(samples)["it"]
    leaf = pictures.clone().requires_grad_()
    scores = scorer.with_gradient(replace(samples, outputs=leaf))["it"]
    np.testing.assert_allclose(plain, scores.detach().numpy(), rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad(scores[0], leaf)
    assert slope[0].any() and not slope[1].any()


@pytest.mark.parametrize("statistic", ["mean", "min"])
def test_a_reward_of_frames_has_the_gradient_of_its_reward(statistic):
    arguments = {"reward": held(brightness), "frames": 2, "statistic": statistic}
    clips = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = Samples(["a", "b"], [{}, {}], [0, 1], clips)
    scorer = Scorer({"it": RewardConfig(use="video:FrameWise", arguments=arguments)})
    leaf = clips.clone().requires_grad_()
    scores = scorer.with_gradient(replace(samples, outputs=leaf))["it"]
    np.testing.assert_allclose(scorer(samples)["it"], scores.detach().numpy(), rtol=1e-5)
    (slope,) = torch.autograd.grad(scores.sum(), leaf)
    means = clips.mean((2, 3, 4))[:, [1, 3]]
    judged = [{1, 3} if statistic == "mean" else {1 + 2 * int(means[i].argmin())} for i in range(2)]
    assert [{t for t in range(4) if slope[i, t].any()} for i in range(2)] == judged


def test_of_several_samples_the_ode_kernel_moves_each_by_its_own_tail():
    shape = Backward(kernel=Ode(), least=2, most=2).shape(Draw(3, 2))
    assert [[(move.source, move.target) for move in shape.tail(i)] for i in shape.trained] == [[(1, 2), (2, 3)]] * 2
