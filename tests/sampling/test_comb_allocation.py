"""An adaptive comb puts its teeth where rewards differ, for exactly the evaluations of the comb over all steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.sampling.plans import Draw, Spread
from flowgrpo.sampling.plans._teeth import wanted
from flowgrpo.sampling.plans.comb import Comb

ADAPTIVE = Comb(teeth=6, allocate="adaptive")


def draw(deviations, group_size=12, seed=0):
    known = None if deviations is None else Spread(np.array([*deviations, np.nan]))
    return Draw(6 if deviations is None else len(deviations) + 1, group_size, 0, np.random.default_rng(seed), known)


def teeth(shape):
    """{(start, step): teeth}"""
    counts = {}
    for i in shape.trained:
        counts[shape.roots[i], shape.nodes[i].step - 1] = counts.get((shape.roots[i], shape.nodes[i].step - 1), 0) + 1
    return counts


def by_step(shapes, steps):
    totals = np.zeros(steps - 1)
    for shape in shapes:
        for (_, step), count in teeth(shape).items():
            totals[step] += count
    return totals / len(shapes)


def test_before_any_reward_is_known_it_is_the_comb_over_all_steps():
    assert ADAPTIVE.shape(draw(None)) == Comb(teeth=6).shape(draw(None))


deviations = st.lists(st.floats(0.0, 10.0) | st.just(np.nan), min_size=1, max_size=9)


@given(deviations, st.integers(1, 4), st.integers(0, 99))
def test_it_costs_what_the_comb_over_all_steps_costs_and_no_tooth_is_alone(sigma, starts, seed):
    drawn = draw(sigma, 6 * starts, seed)
    shape = ADAPTIVE.shape(drawn)
    assert shape.network_evaluations == Comb(teeth=6).shape(drawn).network_evaluations
    assert min(teeth(shape).values()) >= 2


def test_teeth_are_in_proportion_to_the_deviation_over_the_root_of_their_cost():
    assert wanted(np.array([2.0, 1.0, 1.0]), 0.01) == pytest.approx([1.0, np.sqrt(3 / 2) / 2, np.sqrt(3) / 2])
    assert wanted(np.array([2.0, np.nan, 0.0]), 0.01) == pytest.approx([np.sqrt(2 / 3), 1.0, 0.01])
    assert wanted(np.zeros(3), 0.01).tolist() == wanted(np.full(3, np.nan), 0.01).tolist() == [1.0, 1.0, 1.0]


def test_it_finds_the_step_that_decides_and_never_forgets_the_others():
    shapes = [ADAPTIVE.shape(draw([1.0, 0.0, 0.0, 0.0, 0.0], seed=seed)) for seed in range(200)]
    counts = by_step(shapes, 6)
    assert counts[0] > 8 * counts[1:4].max() and counts[1:].min() > 0.3
    starts = np.mean([len({start for start, _ in teeth(shape)}) for shape in shapes])
    assert starts > 4  # two, where teeth stand at every step


def test_what_can_not_be_allocated_is_refused():
    assert "leave at = [0] out" in Comb(at=(0,), allocate="adaptive").complaint(6, 12)
