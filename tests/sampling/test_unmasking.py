"""Unmasking kernels: what they draw, what they set, what they say of it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgrpo.core.keys import Noise
from flowgrpo.sampling.canvas import CONFIDENCE, DRAWN, TOKENS, answer_length, in_answer
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Draft, highest
from flowgrpo.sampling.kernels.entropy_bound import EntropyBound
from flowgrpo.sampling.kernels.orders import (
    Entropy,
    LeftToRight,
    LowConfidence,
    Margin,
    Maskgit,
    MaskgitPlus,
    Origin,
    RandomOrder,
)
from flowgrpo.sampling.kernels.rcr import Rcr
from flowgrpo.sampling.kernels.threshold import Threshold
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw, categorical_kl
from mdlm import BARE, CPU, ENDING, drawn_of, empty, law_of, masks_of, move, some_logits, tokens_of, unmask

RANKED = [LowConfidence, MaskgitPlus, Entropy, Margin, RandomOrder, LeftToRight, Maskgit]
"""They set as many as the schedule says."""
FREE = [Origin, Threshold, EntropyBound]
"""They set as many as they like, until the last step."""
ONCE = [*RANKED, *FREE]
ALL = [*ONCE, Rcr]


def chi_square(ids, probabilities):
    """Pearson's statistic over the ids that can be drawn, in standard deviations from its mean."""
    counts = torch.bincount(ids.flatten(), minlength=len(probabilities)).double()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * counts.sum()
    freedom = int(possible.sum()) - 1
    return float((((counts[possible] - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_ids_are_drawn_from_the_softmax_of_logits_over_temperature(temperature):
    logits = some_logits(1, 1).expand(3000, 5, -1)
    out = move(RandomOrder(temperature=temperature), empty(3000, 5), logits, 0, 1, 1)
    assert chi_square(tokens_of(out, 5), (logits[0, 0].double() / temperature).softmax(-1)) < 4.0


def test_correlated_siblings_each_draw_from_the_right_law_and_agree_more_often():
    logits = some_logits(1, 1).expand(6000, 3, -1)
    law = law_of(RandomOrder(), 0, 1, 1, logits, BARE)
    noises = [Noise(("own", i), ("common", i // 2), 0.8) for i in range(6000)]
    ids = tokens_of(law.sample(empty(6000, 3), logits, noises, [None] * 6000), 3)
    p = logits[0, 0].double().softmax(-1)
    assert chi_square(ids[::2], p) < 4.0 and chi_square(ids[1::2], p) < 4.0
    assert float((ids[::2] == ids[1::2]).double().mean()) > float((p**2).sum()) + 0.1


def test_ties_go_to_the_left():
    score = torch.tensor([[1.0, 1.0, 2.0, 1.0, 1.0]] * 2)
    among = torch.tensor([[True] * 5, [False, True, True, True, True]])
    assert highest(score, among, torch.tensor([3, 2])).int().tolist() == [[1, 1, 1, 0, 0], [0, 1, 1, 0, 0]]


def test_scores_of_minus_infinity_still_fill_the_quota():
    score = torch.full((1, 4), -torch.inf)
    among = torch.tensor([[False, True, True, True]])
    assert highest(score, among, torch.tensor([2])).int().tolist() == [[0, 1, 1, 0]]


def even(count, steps):
    """Ceil first: what is left over goes to the first steps."""
    return [count // steps + (step < count % steps) for step in range(steps)]


@st.composite
def rollouts(draw, kernels):
    """(kernel, blocks, steps per block, positions per block, key): at least one position for every step."""
    count, size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kernel = draw(st.sampled_from(kernels))
    temperature = draw(st.sampled_from([0.0, 0.7, 1.0]))
    made = kernel(block_length=size, temperature=temperature, schedule="even")
    return made, count, draw(st.integers(1, size)), size, draw(st.integers(0, 99))


def run(case):
    kernel, count, per_block, size, key = case
    assert kernel.needs(count * per_block, count * size) is None
    logits = [some_logits(2, count * size, f"{key} {step}") for step in range(count * per_block)]
    return unmask(kernel, logits, count * size, key)


@settings(max_examples=30)
@given(rollouts(RANKED))
def test_every_step_sets_its_quota_and_the_last_one_what_is_left(case):
    _, count, per_block, size, _ = case
    states = run(case)
    left = torch.stack([masks_of(x, count * size).sum(1) for x in states])
    set_ = (left[:-1] - left[1:]).T.tolist()
    assert set_ == [even(size, per_block) * count] * 2
    assert left[-1].tolist() == [0, 0] and (left[:-1] > 0).all()


@settings(max_examples=30)
@given(rollouts(ONCE))
def test_every_position_is_drawn_once_and_keeps_its_id(case):
    _, count, _, size, _ = case
    length, states = count * size, run(case)
    assert (torch.stack([drawn_of(x, length) for x in states]).sum(0) == 1).all()
    for before, after in pairwise(states):
        kept = ~masks_of(before, length)
        assert torch.equal(tokens_of(before, length)[kept], tokens_of(after, length)[kept])
        assert torch.equal(drawn_of(after, length), masks_of(before, length) & ~masks_of(after, length))
        drawn = drawn_of(after, length)
        assert torch.equal(after[:, DRAWN, -length:][drawn], after[:, TOKENS, -length:][drawn])


@settings(max_examples=30)
@given(rollouts(ALL))
def test_prompts_stay_and_later_blocks_wait(case):
    kernel, count, per_block, size, _ = case
    for step, x in enumerate(run(case)):
        assert x[:, TOKENS, :2].tolist() == [[0, 1]] * 2
        later = size * (-(-step // per_block))
        assert masks_of(x, count * size)[:, later:].all()
        done = size * (step // per_block)
        between = kernel.type == "rcr" and step % per_block
        assert between or not masks_of(x, count * size)[:, :done].any()


@settings(max_examples=25)
@given(rollouts([Rcr]))
def test_rcr_keeps_as_many_as_the_schedule_and_draws_at_every_masked_position(case):
    _, count, per_block, size, _ = case
    length, states = count * size, run(case)
    left = torch.stack([masks_of(x, length).sum(1) for x in states])
    assert (left[:-1] - left[1:]).T.tolist() == [even(size, per_block) * count] * 2
    reached = torch.arange(length) // size
    for step, (before, after) in enumerate(pairwise(states)):
        assert torch.equal(drawn_of(after, length), masks_of(before, length) & (reached <= step // per_block))


def test_rcr_revokes_an_old_id_when_newer_ones_are_more_confident():
    """Position 0 wins the first step with p = 0.5; then all others are sure, and it goes."""
    sure, half, even_ = torch.full((5,), -torch.inf), torch.zeros(5), torch.zeros(5)
    sure[2] = 0.0
    half[1] = torch.tensor(4.0).log()
    pad = torch.full((2,), -torch.inf)
    first = torch.stack([torch.cat([half, pad]), *[torch.cat([even_, pad])] * 3])[None]
    then = torch.stack([torch.cat([sure, pad])] * 4)[None]
    a, b, c, _ = unmask(Rcr(temperature=0.0), [first, then, then], 4)
    assert tokens_of(b, 4).tolist() == [[1, 0, 5, 5]] and b[0, CONFIDENCE, -4:].tolist() == pytest.approx([0.5, 0.2, 0.2, 0.2])
    assert tokens_of(c, 4).tolist() == [[1, 5, 2, 2]] and drawn_of(c, 4).tolist() == [[False, False, True, True]]
    law = law_of(Rcr(), 0, 1, 3, first, BARE)
    assert law.confidence(b)[0].tolist() == pytest.approx([0.5, 0.2, 0.2, 0.2])
    log_prob = law.log_prob(a, first, b)
    assert log_prob.exp().tolist()[0] == pytest.approx([0.5, 0.2, 0.2, 0.2])


def test_a_cosine_schedule_leaves_what_maskgit_leaves():
    states = unmask(Maskgit(), [some_logits(1, 16, step) for step in range(6)], 16)
    left = [int(masks_of(x, 16).sum()) for x in states]
    assert left == [16, 15, 13, 11, 8, 4, 0]


def test_a_cosine_schedule_runs_within_blocks_and_spares_one_mask_until_the_end():
    states = unmask(Maskgit(block_length=4), [some_logits(1, 8, step) for step in range(8)], 8)
    left = [int(masks_of(x, 8).sum()) for x in states]
    assert left == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    states = unmask(Maskgit(), [some_logits(1, 2, step) for step in range(4)], 2)
    assert [int(masks_of(x, 2).sum()) for x in states] == [2, 1, 1, 1, 0]


@pytest.mark.parametrize("kernel", [Threshold(threshold=0.999999), EntropyBound(bound=0.0)])
def test_cautious_kernels_set_at_least_one(kernel):
    states = unmask(kernel, [some_logits(4, 6, step) for step in range(6)], 6)
    left = torch.stack([masks_of(x, 6).sum(1) for x in states])
    assert left.T.tolist() == [[6, 5, 4, 3, 2, 1, 0]] * 4


def draft_of(probabilities, masked=None, drawn=None, share=0.5, hot=0.0):
    """One row of positions whose first ids have these probabilities; the rest is spread over three others."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    logits = torch.stack([p, *[(1 - p) / 3] * 3], -1)[None].log()
    shape = (1, len(p))
    masked = torch.ones(shape, dtype=torch.bool) if masked is None else torch.tensor([masked])
    drawn = torch.zeros(shape, dtype=torch.long) if drawn is None else torch.tensor([drawn])
    uniform = torch.linspace(0.05, 0.95, len(p), dtype=torch.float64)[None]
    return Draft(logits, logits / 0.5, drawn, uniform, masked, ~masked, torch.zeros(shape), share, torch.tensor([[hot]]))


QUOTA = torch.tensor([1])


def test_a_threshold_sets_all_that_are_above_it():
    draft = draft_of([0.95, 0.5, 0.91, 0.89], masked=[True, True, True, True])
    assert Threshold(threshold=0.9).chosen(draft, QUOTA).int().tolist() == [[1, 0, 1, 0]]
    draft = draft_of([0.95, 0.5, 0.91, 0.89], masked=[False, True, False, True])
    assert Threshold(threshold=0.9).chosen(draft, QUOTA).int().tolist() == [[0, 0, 0, 1]]


def test_an_entropy_bound_holds_for_all_but_the_largest():
    draft = draft_of([0.6, 0.99, 0.9, 0.8])
    h = -EntropyBound().score(draft)[0]
    for count, bound in enumerate([h[1] * 0.9, h[1] * 1.1, (h[1] + h[2]) * 1.1, (h[1] + h[2] + h[3]) * 1.1], 1):
        chosen = EntropyBound(bound=float(bound)).chosen(draft, QUOTA)[0]
        assert chosen.nonzero().flatten().tolist() == sorted([1, 2, 3, 0][:count])


def test_scores_are_what_their_names_say():
    """Tempered by 1/2, probabilities p become p^2 over their sum."""
    draft = draft_of([0.4, 0.7], drawn=[1, 0])
    p = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)
    q = p**2 / (p**2).sum(-1, keepdim=True)
    expected = {
        LowConfidence: [0.2, 0.7],
        MaskgitPlus: [q[0, 1], q[1, 0]],
        Entropy: (q * q.log()).sum(-1).tolist(),
        Margin: (q[:, 0] - q[:, 1]).tolist(),
        RandomOrder: [0.05, 0.95],
        LeftToRight: [0.0, -1.0],
        Rcr: [0.2, 0.7],
    }
    for kernel, scores in expected.items():
        assert kernel().score(draft)[0].tolist() == pytest.approx([float(s) for s in scores])
    plain = Maskgit().score(draft)
    assert plain.exp()[0].tolist() == pytest.approx([0.2, 0.7])
    hot, gumbel = draft_of([0.4, 0.7], drawn=[1, 0], hot=3.0), -(-draft.uniform.log()).log()
    for kernel in (Maskgit, MaskgitPlus, Entropy, Margin):
        noise = kernel().score(hot) - kernel().score(draft)
        assert noise[0].tolist() == pytest.approx((3.0 * gumbel)[0].tolist())


@pytest.mark.parametrize("kernel", [Entropy, Margin])
def test_a_tempered_order_is_drawn_without_replacement_from_the_softmax_of_the_scores(kernel):
    """Position i is first with probability exp(s_i / T) over their sum; at 0 the order is that of the scores."""
    logits = torch.log(torch.tensor([0.9, 0.6, 0.4]))[:, None] * torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    logits = torch.cat([logits, torch.full((3, 2), -torch.inf)], 1).expand(6000, -1, -1)
    scores = kernel().score(draft_of_logits(logits[:1]))[0]
    out = move(kernel(order_temperature=0.1), empty(6000, 3), logits, 0, 1, 3)
    first = drawn_of(out, 3).long().argmax(1)
    assert chi_square(first, (scores / 0.1).softmax(-1)) < 4.0
    assert kernel().order_temperature_at(0.5) == 0.0 and kernel(order_temperature=0.3).order_temperature_at(0.5) == 0.3


def draft_of_logits(logits):
    logits, shape = logits.double(), logits.shape[:2]
    ones = torch.ones(shape, dtype=torch.bool)
    drawn, uniform = torch.zeros(shape, dtype=torch.long), torch.full(shape, 0.5, dtype=torch.float64)
    return Draft(logits, logits, drawn, uniform, ones, ~ones, torch.zeros(shape), 0.5, torch.zeros(1, 1))


def test_dreams_schedule_sets_the_share_by_which_time_falls_and_the_rest_at_the_end():
    """floor(m (1 - s / t)) of the m that are masked, on a grid of times from 1 to 1e-3."""
    states = unmask(Entropy(schedule="dream"), [some_logits(1, 8, step) for step in range(8)], 8)
    assert [int(masks_of(x, 8).sum()) for x in states] == [8, 8, 7, 6, 5, 4, 3, 2, 0]
    states = unmask(Entropy(schedule="dream"), [some_logits(1, 16, step) for step in range(4)], 16)
    assert [int(masks_of(x, 16).sum()) for x in states] == [16, 13, 9, 5, 0]


def test_the_temperature_of_maskgits_order_falls_to_zero():
    assert [Maskgit(order_temperature=2.0).order_temperature_at(p) for p in (0.0, 0.5, 1.0)] == [2.0, 1.0, 0.0]


def test_origin_sets_each_position_with_the_share_of_an_even_schedule():
    """Step s of S: 1 / (S - s) of what is masked, each position for itself; all positions end equally likely at every step."""
    states = unmask(Origin(), [some_logits(1, 1).expand(800, 5, -1)] * 4, 5)
    at = torch.stack([drawn_of(x, 5) for x in states[1:]]).double().mean((1, 2))
    assert at.tolist() == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_the_greedy_kernel_knows_no_chance_and_sets_the_most_confident_ids_first():
    logits = [some_logits(2, 6, step) for step in range(3)]
    one, two = (unmask(LowConfidence(temperature=0.0), logits, 6, key) for key in ("a", "b"))
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    best = logits[0].double().softmax(-1).max(-1)
    top = best.values.argsort(1, descending=True)[:, :2]
    assert torch.equal(drawn_of(one[1], 6).nonzero()[:, 1].view(2, 2), top.sort(1).values)
    assert torch.equal(tokens_of(one[1], 6).gather(1, top), best.indices.gather(1, top))


@pytest.mark.parametrize("kernel", ALL)
def test_the_twin_without_chance_draws_the_most_likely_ids(kernel):
    twin = kernel(block_length=2).deterministic()
    assert type(twin) is kernel and twin.block_length == 2 and not twin.stochastic and kernel().stochastic
    logits = some_logits(3, 4)
    out = move(twin, empty(3, 4), logits, 0, 4, 4)
    assert torch.equal(tokens_of(out, 4), logits.argmax(-1))


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize("block_length", [None, 2])
def test_a_jump_to_the_end_fills_everything(kernel, block_length):
    made = kernel(block_length=block_length)
    states = unmask(made, [some_logits(2, 6, step) for step in range(6)], 6)
    for level, x in enumerate(states[:-1]):
        out = move(made.deterministic(), x, some_logits(2, 6, level), level, 6, 6)
        assert not masks_of(out, 6).any()


def test_a_jump_over_the_end_of_a_block_fills_it_and_a_share_of_the_next():
    kernel = LeftToRight(block_length=4)
    out = move(kernel, empty(1, 8), some_logits(1, 8), 1, 6, 8)
    assert masks_of(out, 8).int().tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]
    assert drawn_of(out, 8).int().tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]
    within = move(kernel, empty(1, 8), some_logits(1, 8), 0, 3, 8)
    assert int(masks_of(within, 8).sum()) == 8 - 3


@pytest.mark.parametrize(("kernel", "steps", "length", "said"), [
    (LowConfidence(block_length=3), 4, 8, "block_length = 3 must divide the policy's length = 8"),
    (LowConfidence(block_length=2), 6, 8, "6 steps must be a multiple of the 4 blocks of 2 positions"),
])  # fmt: skip
def test_blocks_that_do_not_divide_are_named(kernel, steps, length, said):
    assert said in kernel.needs(steps, length)


def test_what_lies_behind_the_end_of_a_text_is_filled_and_decides_nothing():
    """The first step sets ids 1, 4 (the end) and 2 at places 0, 1 and 3."""
    logits = torch.full((1, 4, 7), -30.0)
    logits[..., [5, 6]] = -torch.inf
    for place, (best, size) in enumerate([(1, 5.0), (4, 5.0), (3, 0.0), (2, 5.0)]):
        logits[0, place, best] = size
    logits[0, 2, 0] = 0.0
    kernel = LowConfidence(temperature=0.0)
    x = move(kernel, empty(1, 4), logits, 0, 3, 4, vocabulary=ENDING)
    assert tokens_of(x, 4).tolist() == [[1, 4, 4, 4]]
    law = law_of(LowConfidence(), 0, 3, 4, logits, ENDING)
    assert drawn_of(x, 4).int().tolist() == [[1, 1, 0, 1]]
    assert law.decisions(x, x).tolist() == [[1.0, 1.0, 0.0, 0.0]]
    after = move(kernel, x, logits, 3, 4, 4, vocabulary=ENDING)
    assert torch.equal(after[:, TOKENS], x[:, TOKENS]) and not drawn_of(after, 4).any()


def test_an_end_of_text_with_masks_before_it_ends_nothing_yet():
    logits = torch.zeros(1, 3, 7)
    logits[..., [5, 6]] = -torch.inf
    logits[0, 1, 4] = 9.0
    x = move(LowConfidence(temperature=0.0), empty(1, 3), logits, 0, 1, 3, vocabulary=ENDING)
    assert tokens_of(x, 3).tolist() == [[5, 4, 5]]


def test_a_text_counts_up_to_and_with_its_first_end():
    tokens = torch.tensor([[1, 4, 2, 4], [1, 2, 3, 0], [4, 4, 4, 4]])
    assert answer_length(tokens, 4).tolist() == [2, 4, 1]
    assert in_answer(tokens, 4).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert in_answer(tokens, None).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_drawn_ids_under_the_temperature(temperature):
    kernel, logits = LowConfidence(temperature=temperature), some_logits(5, 6)
    x = empty(5, 6)
    after = move(kernel, x, logits, 0, 1, 3)
    law = law_of(kernel, 0, 1, 3, logits, BARE)
    drawn = drawn_of(after, 6)
    expected = (logits.double() / temperature).log_softmax(-1).gather(-1, tokens_of(after, 6).clamp(max=4)[..., None])[..., 0]
    assert torch.allclose(law.log_prob(x, logits, after).double(), torch.where(drawn, expected, 0.0), atol=1e-5)
    assert law.tau.tolist() == [1.0] * 5


def test_kl_is_the_categoricals_where_ids_were_drawn_and_ids_that_cannot_be_drawn_cost_no_gradient():
    p, q = some_logits(3, 4, "p").requires_grad_(), some_logits(3, 4, "q")
    x = empty(3, 4)
    after = move(LowConfidence(), x, p.detach(), 0, 1, 2)
    kl = law_of(LowConfidence(), 0, 1, 2, q, BARE).kl(x, p, q, after)
    a, b = p[..., :5].log_softmax(-1), q[..., :5].log_softmax(-1)
    expected = (a.exp() * (a - b)).sum(-1)
    assert torch.allclose(kl, torch.where(drawn_of(after, 4), expected, 0.0), atol=1e-5)
    kl.sum().backward()
    assert torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0
    assert categorical_kl(a, a).abs().max() == 0.0


def test_a_law_of_mixed_moves_does_with_each_row_what_its_own_law_does():
    kernels, logits = [LowConfidence(temperature=0.7), Rcr(), Origin()], some_logits(3, 6)
    moves = tuple(Move(kernel, 0, level) for kernel, level in zip(kernels, (1, 2, 3), strict=True))
    law = UnmaskingLaw(moves, 3, 6, BARE, CPU)
    noises = [Noise(("row", i)) for i in range(3)]
    together = law.sample(empty(3, 6), logits, noises, [None] * 3)
    for i in range(3):
        alone = law.select(torch.tensor([i]))
        out = alone.sample(empty(1, 6), logits[i : i + 1], noises[i : i + 1], [None])
        assert torch.equal(out, together[i : i + 1])
        log_prob = alone.log_prob(empty(1, 6), logits[i : i + 1], out)
        assert torch.equal(log_prob, law.log_prob(empty(3, 6), logits, together)[i : i + 1])
