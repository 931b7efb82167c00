"""Features of the states that a network evaluates: the prediction stays what it is, and each state has its own."""

import pytest
import torch

from conftest import CALLS
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._pooled import MOST, LastBlock, narrowed, pooled
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._features import by_state
from flowgrpo.sampling.canvas import TOKENS
from mdlm import build as build_mdlm

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square"), Prompt(2, "a red circle")]


def watched(policy, prompts=PROMPTS, step=1):
    states = policy.start(prompts, [("key", p.index) for p in prompts])
    policy.require_watchable()
    prediction, features = policy.watch(states, prompts, step)
    with torch.no_grad():
        assert torch.equal(prediction, policy.predict(states, prompts, step))
    assert features.dtype == torch.float64 and 0 < features.shape[1] <= MOST and torch.isfinite(features).all()
    alone = torch.cat([policy.watch(states[i : i + 1], prompts[i : i + 1], step)[1] for i in range(len(prompts))])
    torch.testing.assert_close(features, alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(features[0], features[1], rtol=1e-4)
    return features


@pytest.mark.parametrize("name", ["sd3", "flux", "wan", "sd15"])
def test_watching_changes_no_prediction_and_tells_states_apart(pipelines, name):
    watched(DiffusersConfig(model=str(pipelines[name]), steps=4, call=CALLS[name]).build(CPU, seed=0))


def test_both_rows_of_a_guided_state_are_its_features(pipelines):
    widths = []
    for scale in (1.0, 3.0):
        config = DiffusersConfig(model=str(pipelines["sd3"]), steps=4, call={**CALLS["sd3"], "guidance_scale": scale})
        widths.append(watched(config.build(CPU, seed=0)).shape[1])
    assert widths[1] == min(MOST, 2 * widths[0])


def test_a_guided_state_without_a_graph_for_its_second_row_has_features_too(pipelines):
    call = {**CALLS["sd3"], "guidance_scale": 3.0}
    watched(DiffusersConfig(model=str(pipelines["sd3"]), steps=4, call=call, guidance_gradient="conditional").build(CPU, 0))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_language_model_is_watched_where_it_answers(mdlm, scale):
    policy = build_mdlm(mdlm, guidance_scale=scale)
    prompts = [Prompt(0, "1+2=:"), Prompt(1, "7:"), Prompt(2, "4+4=:")]
    features = watched(policy, prompts, step=0)
    states = policy.start(prompts, [])
    states[1, TOKENS, -policy.config.length :] = 5
    _, done = policy.watch(states, prompts, 0)
    assert not done[1].any() and torch.allclose(done[2], features[2])


def test_masked_pictures_are_watched():
    call = {"height": 32, "width": 32, "guidance_scale": 2.0}
    policy = AmusedConfig(model="asset:mini-amused", steps=3, length=64, call=call).build(CPU, 0)
    prompts = PROMPTS[:2]
    states = policy.start(prompts, [])
    policy.require_watchable()
    prediction, features = policy.watch(states, prompts, 0)
    with torch.no_grad():
        assert torch.equal(prediction, policy.predict(states, prompts, 0))
    assert len(features) == 2 and not torch.allclose(features[0], features[1])


def test_the_block_that_runs_last_is_watched_and_lists_inside_blocks_are_not():
    class Block(torch.nn.Module):
        def __init__(self, add):
            super().__init__()
            self.add, self.parts = add, torch.nn.ModuleList([torch.nn.Identity()])

        def forward(self, x):
            return self.parts[0](x) + self.add

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = (torch.nn.ModuleList(map(Block, adds)) for adds in ((10.0, 20.0), (1.0, 2.0)))

        def forward(self, x):
            for block in (*self.first, *self.second):
                x = block(x)
            return 0.0 * x

    net = Net()
    last = LastBlock([net])
    with last():
        net(torch.zeros(1, 2, 3))
        assert (last.taken() == 33.0).all()
        with pytest.raises(UserError, match="does not run its blocks"):
            last.taken()
    net(torch.zeros(1, 2, 3))
    assert last.output is None and not net.second[1]._forward_hooks


def test_pooling_knows_tokens_planes_and_folded_frames():
    tokens, planes = torch.randn(4, 5, 6), torch.randn(4, 6, 3, 2)
    assert torch.allclose(pooled((None, tokens), 4)[:, :6], tokens.double().mean(1))
    assert torch.allclose(pooled(planes, 4)[:, :6], planes.double().mean((2, 3)))
    assert torch.allclose(pooled(tokens, 2)[:, :6], tokens.double().view(2, 10, 6).mean(1))
    assert pooled((tokens, tokens), 4).shape == (4, 24)
    assert torch.equal(pooled(tokens.transpose(0, 1), 4), pooled(tokens, 4))
    with pytest.raises(UserError, match="which rows"):
        pooled(tokens, 3)


def test_the_rows_of_a_state_lie_a_batch_apart_in_one_evaluation_or_in_several():
    rows = torch.arange(12.0, dtype=torch.float64)[:, None]
    together = by_state([rows[:8], rows[8:]], [4, 2])
    assert together.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7], [8, 10], [9, 11]]
    assert torch.equal(by_state([rows[:4], rows[4:8]], [4]), together[:4])
    for evaluations, calls in (([rows[:7]], [4]), ([rows[:4]], [2, 2]), ([rows[:4]] * 3, [4, 4])):
        with pytest.raises(UserError, match="which evaluations"):
            by_state(evaluations, calls)


def test_many_features_are_projected_and_keep_their_distances():
    wide = torch.randn(6, 40_000, dtype=torch.float64)
    narrow = narrowed(wide)
    assert narrow.shape == (6, MOST) and torch.equal(narrow, narrowed(wide))
    ratio = torch.pdist(narrow) / torch.pdist(wide) * (40_000 / MOST) ** 0.5
    assert ((ratio > 0.8) & (ratio < 1.2)).all()


def test_what_can_not_be_watched_is_refused():
    with pytest.raises(UserError, match="Linear has no list of blocks"):
        LastBlock([torch.nn.Linear(2, 2)])
