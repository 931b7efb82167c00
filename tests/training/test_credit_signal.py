"""How much of a scheme's gradient points the right way: the numbers are those of cases whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import t_interval
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.credit import estimate
from flowgrpo.training.credit.estimate import figures, moments, needed, percentiles_of, products_of, ratio, reliability, resampled
from flowgrpo.training.credit.gradients import Gradients, batches_of, parts_by_slot
from flowgrpo.training.credit.sketch import Sketch
from flowgrpo.training.credit.slope import Check, Pull, factor, scaled
from flowgrpo.training.trainer import Clock, Trainer

LENGTH, UPDATES, GROUPS = 300, 16, 6


def scheme(seed: int, signal: float, noise: float = 1.0, cost: int = 100, direction: int = 0) -> Gradients:
    """Gradients of groups: `signal` along an axis, noise of length `noise`, and an effect of the prompt."""
    rng = np.random.default_rng((1, seed))
    found = Gradients(GROUPS)
    for update in range(UPDATES):
        for group in range(GROUPS):
            prompt = update * GROUPS + group
            own = np.random.default_rng((2, prompt)).normal(size=LENGTH) * 0.5
            vector = noise * (rng.normal(size=LENGTH) + own) / LENGTH**0.5
            vector[direction] += signal
            found.vectors.append(torch.tensor(vector, dtype=torch.float32))
            for name, value in (("prompt", prompt), ("fold", update), ("step", update)):
                getattr(found, name).append(value)
    found.steps, found.evaluations = UPDATES, cost * UPDATES
    return found


def squared(signal: float, noise: float = 1.0, share: float = 1.0) -> float:
    """cos^2 of the mean of so many groups; `share` of the evaluations."""
    return signal**2 / (signal**2 + 1.25 * noise**2 / GROUPS / share)


def test_cosines_without_noise_of_their_own_are_those_of_signal_and_noise(monkeypatch):
    """Averaged over worlds they are right, the intervals hold the truth nearly always, and a copy is worth as much."""
    monkeypatch.setattr(estimate, "RESAMPLES", 100)
    truth = np.array([squared(0.1), squared(0.2), squared(0.1), squared(0.1, share=2.0)])
    seen, inside, factors = [], [], []
    for world in range(12):
        one = scheme(4 * world, 0.1)
        products = products_of([one, scheme(4 * world + 1, 0.2), one, scheme(4 * world + 2, 0.1, cost=50)])
        weights = reliability(products, moments(products, np.ones(len(products.scheme))))
        result = resampled(products, weights, 100.0, 0)
        low, high = np.quantile(result.squared, (0.025, 0.975), axis=0)
        seen.append(result.figures.squared)
        inside.append((low <= truth) & (truth <= high))
        factors.append(result.ratio(2, 0))
    error = np.std(seen, axis=0) / len(seen) ** 0.5
    assert np.all(np.abs(np.mean(seen, axis=0) - truth) < 4 * error + 0.05 * truth)
    assert np.mean(inside) > 0.85
    assert all(value == pytest.approx(1.0) and interval == pytest.approx((1.0, 1.0)) for value, interval in factors)


def test_noise_alone_has_no_cosine_and_a_scheme_that_goes_backwards_a_negative_one():
    schemes = [scheme(0, 0.3), scheme(1, 0.0), scheme(2, -0.3)]
    products = products_of(schemes)
    found = figures(products, moments(products, np.ones(len(products.scheme))), np.array([1.0, 0.0, 0.0]), 100.0)
    assert abs(found.squared[1]) < 0.05 * found.squared[0]
    assert found.squared[2] < -0.8 * found.squared[0]
    assert found.agreement[2] == pytest.approx(-1.0, abs=0.2)


def test_a_signal_in_another_direction_does_not_count():
    products = products_of([scheme(0, 0.3), scheme(1, 0.3, direction=1)])
    found = figures(products, moments(products, np.ones(len(products.scheme))), np.array([1.0, 0.0]), 100.0)
    assert abs(found.agreement[1]) < 0.2 and abs(found.squared[1]) < 0.1 * found.squared[0]


def test_the_error_is_that_of_the_noise():
    products = products_of([scheme(0, 0.3)])
    now = moments(products, np.ones(len(products.scheme)))
    noise = (1.25 / GROUPS) ** 0.5
    assert figures(products, now, np.ones(1), 100.0).error[0] == pytest.approx(noise / 0.3, rel=0.15)


def test_factors_over_nothing_have_no_limit():
    assert ratio(2.0, 0.5) == 4.0 and ratio(1.0, 0.0) == np.inf and np.isnan(ratio(-1.0, 0.0))
    draws = np.linspace(0.0, 1.0, 101)
    assert percentiles_of(draws) == pytest.approx((0.025, 0.975))
    draws[:5] = np.nan
    assert percentiles_of(draws) == (-np.inf, np.inf)
    draws[:5] = np.inf
    assert percentiles_of(draws) == (pytest.approx(0.07), np.inf)


def test_more_updates_are_needed_the_less_is_seen():
    draws = np.random.default_rng(0).normal(1.0, 1.0, 100_000)
    assert needed(draws) == pytest.approx(1.96**2, rel=0.05)
    assert needed(np.zeros(5)) == np.inf


def test_nothing_has_a_gradient():
    silent = scheme(0, 0.0, noise=0.0)
    with pytest.raises(UserError, match="no scheme has a gradient"):
        products_of([silent])


def test_sketches_keep_inner_products_as_far_as_they_say():
    one, other = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    other += one
    sketch = Sketch(50_000, torch.device("cpu"), size=4096)
    kept = float(sketch(one) @ sketch(other)) / float(one.norm() * other.norm())
    truth = float(one @ other) / float(one.norm() * other.norm())
    assert sketch.error == 1 / 64 and abs(kept - truth) < 4 * sketch.error * 1.3
    short = Sketch(50_000, torch.device("cpu"), size=50_000)
    assert short.error == 0.0 and torch.equal(short(one), one)


def test_no_prompt_is_in_two_folds_and_none_twice_in_an_update():
    prompts = [Prompt(i, "p") for i in range(30)]
    batches = batches_of(prompts, 7, 6, ("k",))
    assert len(batches) == 7 and {len({p.index for p in batch.prompts}) for batch in batches} == {6}
    folds = {fold: {p.index for b in batches if b.fold == fold for p in b.prompts} for fold in range(5)}
    assert sum(map(len, folds.values())) == len(set.union(*folds.values()))
    with pytest.raises(UserError, match="give at least 12"):
        batches_of(prompts[:11], 2, 6, ("k",))


SMALL = ["rollout.group_size=4", "rollout.prompts_per_update=4", "policy.steps=3"]
RECIPES = [
    ("mini flow_grpo", [*SMALL, "rollout.micro_batch=16"]),
    ("mini tempflow_grpo", [*SMALL, "rollout.plan.teeth=4", "rollout.keep=host"]),
    ("mini branch_grpo", [*SMALL, "rollout.plan.forks=[0]"]),
    ("mini-mdlm mdpo", ["rollout.prompts_per_update=4", "rollout.group_size=4", "objective.kl.coefficient=0"]),
]


def trainer_of(words: str, overrides: list[str]) -> Trainer:
    config = load_config(words.split(), [*overrides, "optimizer.max_grad_norm=1e9"])
    policy = config.policy.build(torch.device("cpu"), 0)
    return Trainer(config, policy, load_prompts(config.rollout.prompts)[:8], Scorer(config.rewards), Processes.alone())


@pytest.mark.parametrize(("words", "overrides"), RECIPES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_parts_of_the_groups_are_what_the_trainer_applies(words, overrides, monkeypatch):
    trainer = trainer_of(words, overrides)
    parts = parts_by_slot(trainer, *trainer.collect(Clock()))
    applied = []

    def step(update):
        applied.append(torch.cat([p.grad.flatten() for p in trainer.weights.parameters.values()]))
        trainer.weights.optimizer.zero_grad()
        return True

    monkeypatch.setattr(trainer.weights, "step", step)
    trainer.update()
    taken = [slots for slots in trainer.minibatches if parts.keys() & {*slots}]
    assert taken
    for slots, gradient in zip(taken, applied, strict=True):
        whole = sum(parts[slot] for slot in slots if slot in parts)
        assert float((whole - gradient).norm()) < 1e-4 * float(gradient.norm())


def test_a_part_is_the_gradient_of_its_log_probs_weighed_by_advantage():
    """By autograd alone: at ratio 1 the loss is -A log p, averaged over the transitions of the optimizer step."""
    trainer = trainer_of(*RECIPES[0])
    blocks, scored = trainer.collect(Clock())
    parts = parts_by_slot(trainer, blocks, scored)
    parameters = list(trainer.weights.parameters.values())
    slot, slots = next(iter(parts)), trainer.minibatches[0]
    assert slot in slots
    terms = []
    for block in blocks:
        for t in block.rollout.transitions:
            prediction = trainer.policy.predict(t.states, t.prompts, t.step)[t.parent]
            log_prob = t.law.log_prob(t.states[t.parent], prediction, t.next_states)[:, 0]
            for row, (group, node) in enumerate(t.places):
                if block.slots[group] == slot and scored.in_loss[slot, node]:
                    terms.append(-float(scored.advantage[slot, node]) * log_prob[row])
    loss = sum(terms) / scored.in_loss[list(slots)].sum()
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert float((parts[slot] - by_hand).norm()) < 1e-4 * float(by_hand.norm())


def test_steps_are_the_means_of_their_groups():
    found, sketch = Gradients(2), Sketch(3, torch.device("cpu"))
    prompts = [SimpleNamespace(index=0), SimpleNamespace(index=1)]
    found.add(sketch, [torch.tensor([1.0, 0.0, 2.0]), None], prompts, 0)
    found.add(sketch, [torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])], prompts, 1)
    assert torch.stack(found.vectors[:2]).mean(0).tolist() == [-1.0, 0.0, -2.0]
    assert [mean.tolist() for mean in found.directions()] == [[-1.0, 0.0, -2.0], [-2.0, -2.0, 0.0]]
    assert found.square.tolist() == [2.5, 2.0, 2.0]
    assert (found.silent, found.steps, found.fold, found.step) == (1, 2, [0, 0, 1, 1], [0, 0, 1, 1])


def test_a_slope_turns_round_with_its_direction_and_leaves_the_weights_alone():
    config = load_config(["mini", "flow_grpo"], ["rewards={soft: {use: 'scene:soft'}}", "evaluation.metric=soft"])
    policy = config.policy.build(torch.device("cpu"), 0)
    before = [p.detach().clone() for p in policy.trainable().values()]
    check = Check(config, policy, Scorer(config.rewards), load_prompts(config.rollout.prompts)[:6])
    directions = [torch.randn(sum(p.numel() for p in before), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    there, back = check(directions, 20.0), check([-d for d in directions], 20.0)
    assert there.change == pytest.approx(-back.change) and there.bend == pytest.approx(back.bend) and there.change != 0
    assert (
        there.change_interval[0] <= there.change <= there.change_interval[1] and check(directions[:1], 1.0).bend_interval is None
    )
    assert check.length(directions[0], 1e-3) == 1e-3 and 0 < check.length(directions[0], 1e3) < 1e3
    assert all(torch.equal(p, was) for p, was in zip(policy.trainable().values(), before, strict=True))


def test_factors_by_slopes_are_those_of_pulls_length_and_cost():
    """Twice the pull is four times the worth; twice the square or the cost is half of it."""
    pulls = np.array([1.0, 1.2, 0.9, 1.1])
    plain = Pull(pulls, 1.0, 10.0)
    assert factor(plain, plain) == (1.0, (1.0, 1.0))
    assert factor(Pull(2 * pulls, 1.0, 10.0), plain)[0] == pytest.approx(4.0)
    assert factor(Pull(pulls, 2.0, 10.0), plain)[0] == factor(Pull(pulls, 1.0, 20.0), plain)[0] == pytest.approx(0.5)
    assert factor(Pull(-pulls, 1.0, 10.0), plain)[0] == pytest.approx(-1.0)
    low, high = factor(Pull(np.array([0.5, 2.0, 1.0, 1.5]), 1.0, 10.0), plain)[1]
    assert low < 1.0 < high
    wide = Pull(pulls, 1.0, 1.0).spread().pulls
    assert wide.mean() == pytest.approx(pulls.mean())
    assert 1.96 * wide.std() / 2.0 == pytest.approx(t_interval(pulls)[1] - pulls.mean(), rel=1e-3)


def test_a_scaled_gradient_is_what_adamw_makes_of_it():
    assert scaled(torch.tensor([2.0, -3.0, 0.0]), torch.tensor([4.0, 9.0, 0.0])).tolist() == [1.0, -1.0, 0.0]
