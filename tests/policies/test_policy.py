"""The tap: our loop is the pipeline's loop, on real pipelines with random weights."""

from itertools import chain

import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import CALLS, assert_replayed, trajectories
from flowgrpo.core.keys import Noise, torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.ddim import Ddim
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.branch import Branch
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.sampling.plans.sliding import SlidingWindow
from flowgrpo.training.on_policy import tolerance
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
NAMES = ["sd3", "flux", "wan", "sd15"]

SD3_LAST_BLOCK = {f"transformer.transformer_blocks.0.attn.add_q_proj.{part}" for part in ("weight", "bias")}
"""SD3 throws away what its last block computes for the text tokens, so their queries reach nothing."""


def build(pipelines, name, **options):
    config = DiffusersConfig(model=str(pipelines[name]), steps=4, call=CALLS[name], **options)
    return config.build(CPU, seed=0)


def nudge(policy):
    """Zero-initialised LoRA factors would make half of the gradients zero."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.trainable().values()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch_generator(("nudge", i)))


@pytest.mark.parametrize("name", ["sd3", "flux", "wan"])
def test_ode_rollout_equals_the_untouched_pipeline_exactly(pipelines, name):
    policy = build(pipelines, name)
    keys = [("key", prompt.index) for prompt in PROMPTS]
    with torch.no_grad():
        x = policy.start(PROMPTS, keys)
        for step in range(4):
            v = policy.predict(x, PROMPTS, step)
            x = policy.law([Move(Ode(), step, step + 1)] * 2, PROMPTS).sample(x, v, [Noise(key) for key in keys], [None, None])
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
    plain = DiffusionPipeline.from_pretrained(pipelines[name], **absent)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        [prompt.text for prompt in PROMPTS],
        num_inference_steps=4,
        generator=[torch_generator(key) for key in keys],
        output_type="latent",
        **CALLS[name],
    )[0]
    assert torch.equal(x, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [False, True])
def test_first_log_ratio_is_exactly_zero_and_gradients_reach_every_parameter(pipelines, name, full):
    lora = None if full else AttentionLora(rank=2, targets=("to_q", "to_k", "to_v"))
    policy = build(pipelines, name, lora=lora)
    nudge(policy)
    kernel = Ddim(eta=1.0) if name == "sd15" else FlowSde()
    shape = trajectories([kernel, kernel, kernel, Ode()], 2, False)
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 4, keep_predictions=False)
    assert [t.step for t in block.transitions] == [0, 1, 2]
    for t in block.transitions:
        v = policy.predict(t.states, t.prompts, t.step)
        log_prob = t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states)
        assert_replayed(log_prob, t.log_prob)
        log_prob.mean().backward()
    unreached = {n for n, p in policy.trainable().items() if p.grad is None or not p.grad.abs().any()}
    assert unreached == (SD3_LAST_BLOCK if full and name == "sd3" else set())


@pytest.mark.parametrize(("name", "shape"), [("flux", (16, 16)), ("wan", (16, 2, 2, 2)), ("sd15", (4, 8, 8))])
def test_the_own_sampler_tells_the_latents_that_its_samples_are_decoded_from(pipelines, name, shape):
    """Packed ones, those of clips, and those of a scheduler with another scale; in another number of steps than a rollout has."""
    policy = build(pipelines, name)
    samples = policy.generate(PROMPTS, [3, 4], 3, latents=True)
    assert samples.latents.states.shape == (2, *shape) == policy.start(PROMPTS, [("a",), ("b",)]).shape
    assert torch.equal(samples.decoded, policy.generate(PROMPTS, [3, 4], 3).decoded)
    torch.testing.assert_close(policy.decode(samples.latents.states, PROMPTS).decoded, samples.decoded)


def test_decode_is_the_pipelines_own(pipelines):
    policy = build(pipelines, "sd3")
    plain = policy.generate(PROMPTS, [3, 4], 4).images
    latents = policy.pipe(
        [p.text for p in PROMPTS],
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(s) for s in (3, 4)],
        output_type="latent",
        **CALLS["sd3"],
    )[0]
    assert torch.equal(policy.decode(latents, PROMPTS).images, plain)


def test_reference_is_the_policy_before_training(pipelines):
    for lora in (None, AttentionLora(rank=2)):
        policy = build(pipelines, "sd3", lora=lora)
        with torch.no_grad():
            x = policy.start(PROMPTS, [("a",), ("b",)])
            before = policy.predict(x, PROMPTS, 0)
            nudge(policy)
            after = policy.predict(x, PROMPTS, 0)
            with policy.reference():
                assert torch.equal(policy.predict(x, PROMPTS, 0), before)
            assert torch.equal(policy.predict(x, PROMPTS, 0), after)
        assert not torch.equal(before, after)


def test_the_copy_of_all_weights_is_as_they_are_stored(pipelines):
    """float32 holds 16 bits exactly, so the copy in 16 bits is the weights before training."""
    policy = build(pipelines, "sd3", lora=None, dtype="bf16")
    assert {copy.dtype for _, copy in policy.weights.initial.whole} == {torch.bfloat16}
    parameters = [*policy.trainable().values()]
    before = [p.detach().clone() for p in parameters]
    nudge(policy)
    trained = [p.detach().clone() for p in parameters]
    with policy.reference():
        assert all(torch.equal(p, weights) for p, weights in zip(parameters, before, strict=True))
    assert all(torch.equal(p, weights) for p, weights in zip(parameters, trained, strict=True))


def test_a_batch_of_prompts_is_encoded_once(pipelines):
    policy = build(pipelines, "sd3")
    calls = []
    with torch.no_grad():
        policy.start(PROMPTS[:1], [("a",)])
        policy.pipe.text_encoder.text_model.register_forward_hook(lambda *_: calls.append(1))
        x = policy.start(PROMPTS, [("a",), ("b",)])
        for step in range(4):
            policy.predict(x, PROMPTS, step)
    assert len(calls) == 2  # the prompts, and the empty ones of guidance


EXACT, ONE, FEW = Deterministic(), Deterministic(steps=1), Deterministic(steps=2, kernel=DpmPp2m())
PLANS = {
    "trajectories": AllSteps(),
    "shared start": FixedSteps(steps=(1, 2), shared_start=True),
    "flash": FixedSteps(steps=(0,), shared_start=True, tail={"fraction": 0.5}),
    "branch": Branch(forks=(0, 2)),
    "branch-mix": Branch(forks=(0, 1), window=SlidingWindow(size=1)),
    "comb": Comb(teeth=2),
    "dense": AllSteps(completion=EXACT),
    "dense, one step": AllSteps(completion=ONE),
    "dense, few steps": AllSteps(completion=FEW),
    "dense, some states": AllSteps(completion=Deterministic(every=2)),
}


@pytest.mark.parametrize("name", PLANS)
def test_one_evaluation_per_state_is_what_the_network_sees(pipelines, name):
    policy = build(pipelines, "sd3")
    states = policy.start(PROMPTS, [("a",), ("b",)])
    for _ in range(2):  # the second time, lines and pipeline are compared
        policy.predict(states, PROMPTS, 0)
    rows = []
    block = policy.pipe.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["hidden_states"])), with_kwargs=True)
    shape = PLANS[name].shape(Draw(4, 4))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    guided = 2
    assert sum(rows) == guided * block.network_evaluations == guided * len(PROMPTS) * shape.network_evaluations
    assert len(block.samples) == len(PROMPTS) * len(shape.leaves)
    trained = sorted(place for t in block.transitions for place in t.places)
    assert trained == [(g, i) for g in range(2) for i in shape.trained]
    for t in block.transitions:
        v = policy.predict(t.states, t.prompts, t.step)
        assert torch.equal(t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states).detach(), t.log_prob)


def test_siblings_are_on_density_and_correlate_as_stated(pipelines):
    """The published code multiplies sibling noise by 4 and scores it as if it had not; here every residual is standard normal."""
    policy = build(pipelines, "sd3")
    shape = Branch(forks=(0,), fan_out=8, split_scale=1.0).shape(Draw(4, 8))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 16, keep_predictions=True)
    fork = block.transitions[0]
    mean = fork.law.mean(fork.states[fork.parent], fork.prediction[fork.parent])
    residual = ((fork.next_states - mean) / fork.law.tau.view(-1, 1, 1, 1)).unflatten(0, (2, 8)).flatten(2)
    assert float(residual.var()) == pytest.approx(1.0, abs=0.1)
    gram = torch.einsum("gad,gbd->gab", residual, residual) / residual.shape[2]
    assert float(gram[:, ~torch.eye(8, dtype=torch.bool)].mean()) == pytest.approx(0.5, abs=0.1)


def leaf_images(block, shape, leaves):
    """[groups, leaves, ...]: the pictures of these leaves."""
    images = block.samples.images.unflatten(0, (len(block.prompts), len(shape.leaves)))
    return images[:, [shape.leaves.index(leaf) for leaf in leaves]]


def test_the_completion_of_the_start_is_the_ode_sample_of_the_same_noise(pipelines):
    policy = build(pipelines, "sd3")
    dense = AllSteps(completion=EXACT).shape(Draw(4, 2))
    block = rollout(policy, PROMPTS, [dense] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    twin = trajectories([Ode()] * 4, 2, False)
    plain = rollout(policy, PROMPTS, [twin] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    starts = [dense.completions[root] for root in (0, 1)]
    assert torch.allclose(leaf_images(block, dense, starts), leaf_images(plain, twin, twin.leaves), atol=1e-5)


def test_a_one_step_completion_is_the_predicted_clean_picture(pipelines):
    policy = build(pipelines, "sd3")
    shape = AllSteps(completion=ONE).shape(Draw(4, 2))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    (first,) = [t for t in block.transitions if t.step == 0]
    with torch.no_grad():
        v = policy.predict(first.states, first.prompts, 0)
    clean = policy.decode(first.states - policy.schedule(first.prompts).sigmas[0] * v, first.prompts).images
    found = leaf_images(block, shape, [shape.completions[root] for root in (0, 1)])
    assert torch.allclose(found.flatten(0, 1), clean, atol=1e-5)


def test_thinned_out_transitions_evaluate_only_their_states(pipelines):
    policy = build(pipelines, "sd3")
    shape = Branch(forks=(0, 1)).shape(Draw(4, 4))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 8, keep_predictions=True)
    last = block.transitions[-1]
    thin = last.take([1, 5])
    assert len(thin.states) == 2 == len(thin.prompts) and thin.places == [last.places[1], last.places[5]]
    v = policy.predict(thin.states, thin.prompts, thin.step)
    log_prob = thin.law.log_prob(thin.states[thin.parent], v[thin.parent], thin.next_states)
    allowed = tolerance(thin.law, thin.states[thin.parent], v[thin.parent], thin.next_states, policy.unit_roundoff)
    assert ((log_prob - thin.log_prob).abs() <= allowed).all()
    assert torch.equal(thin.prediction, last.prediction[last.parent[[1, 5]]])


def test_low_precision_replays_too(pipelines):
    for dtype in ("bf16", "fp16"):
        policy = build(pipelines, "sd3", dtype=dtype, lora=AttentionLora(rank=2))
        shape = trajectories([FlowSde(), FlowSde(), FlowSde(), Ode()], 2, False)
        block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 4, keep_predictions=False)
        assert all(p.dtype == torch.float32 for p in policy.trainable().values())
        for t in block.transitions:
            v = policy.predict(t.states, t.prompts, t.step)
            log_prob = t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states)
            assert_replayed(log_prob, t.log_prob)


def test_noise_belongs_to_the_prompt_not_to_its_place(pipelines):
    policy = build(pipelines, "sd3")
    shape = trajectories([FlowSde()] * 3 + [Ode()], 2, False)
    one = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 5), 4, keep_predictions=False).samples.images
    two = rollout(policy, PROMPTS[::-1], [shape] * len(PROMPTS[::-1]), (0, 5), 4, keep_predictions=False).samples.images
    assert torch.allclose(one, two.reshape(2, 2, *two.shape[1:])[[1, 0]].reshape(two.shape), atol=1e-5)
    assert len({image.numpy().tobytes() for image in chain(one)}) == 4
