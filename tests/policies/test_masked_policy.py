"""A masked-diffusion language model as a policy: replay, padding, the ends of texts, what is trained, and whole small runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers.modeling_outputs import MaskedLMOutput

from conftest import REPLAYED, assert_replayed, trajectories
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Noise
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import LoraAdapter, Work
from flowgrpo.policies.masked._adapter import Adapter
from flowgrpo.policies.tiny.mdlm import make_model, make_tokenizer, save
from flowgrpo.runs.provenance import Provenance, resumed
from flowgrpo.runs.run import Run
from flowgrpo.sampling.canvas import DRAWN, NOTHING, TOKENS
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.orders import Entropy, LowConfidence, Origin, RandomOrder
from flowgrpo.sampling.kernels.rcr import Rcr
from flowgrpo.sampling.kernels.threshold import Threshold
from flowgrpo.sampling.likelihood.coupled import Coupled
from flowgrpo.sampling.likelihood.elbo import Elbo
from flowgrpo.sampling.likelihood.left_to_right import LeftToRight as Chain
from flowgrpo.sampling.likelihood.one_step import OneStep
from flowgrpo.sampling.likelihood.quadrature import Quadrature
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.outcomes import Outcomes
from flowgrpo.training.rollout import rollout
from flowgrpo.training.run import train
from mdlm import CPU, PROMPTS, build, config_of, nudge

KERNELS = [LowConfidence(temperature=0.7), RandomOrder(), Origin(), Rcr(), Threshold(threshold=0.5), Entropy(block_length=2)]
LIKELIHOODS = [
    *(Elbo(draw=draw) for draw in ("uniform", "count", "stratified", "antithetic")),
    *(Quadrature(level="sum"), Chain(length=6), OneStep(prompt_mask=0.5), Coupled()),
]
LORA = LoraAdapter(rank=2, targets=("q_proj", "v_proj"))


def shape_of(plan, steps=3, group=2):
    return plan.shape(Draw(steps, group))


def roll(policy, plan=None, micro_batch=4, prompts=PROMPTS, keep=False, key=(0, 0)):
    plan = plan or AllSteps(kernel=LowConfidence())
    return rollout(policy, prompts, [shape_of(plan, policy.config.steps)] * len(prompts), key, micro_batch, keep_predictions=keep)


def replayed(policy, t):
    """[C, D], as the trainer does it."""
    logits = policy.predict(t.states, t.prompts, t.step)
    return t.law.log_prob(t.states[t.parent], logits[t.parent], t.next_states)


def finals(block):
    return block.samples.texts


def posed(mdlm, likelihood, **options):
    return build(mdlm, likelihood=likelihood, **options), Outcomes(kernel=LowConfidence())


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.type)
def test_a_trajectory_replays_bit_for_bit(mdlm, kernel):
    policy = build(mdlm)
    block = roll(policy, AllSteps(kernel=kernel))
    assert [t.step for t in block.transitions] == [0, 0, 1, 1, 2, 2]
    assert sum(float(t.decisions.sum()) for t in block.transitions) > 0
    for t in block.transitions:
        assert torch.equal(replayed(policy, t).detach(), t.log_prob)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda x: f"{x.type} {x.states}")
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_posed_outcome_replays_bit_for_bit_and_its_gradient_reaches_every_parameter(mdlm, likelihood, lora):
    policy, plan = posed(mdlm, likelihood, lora=lora)
    nudge(policy)
    block = roll(policy, plan, micro_batch=12)
    assert sum(len(t.places) for t in block.transitions) == 6
    assert block.network_evaluations == 3 * (2 * 3 + 2 * likelihood.states)
    for t in block.transitions:
        found = replayed(policy, t)
        assert torch.equal(found.detach(), t.log_prob)
        assert t.log_prob.shape[1] == (6 if likelihood.level == "decision" else 1)
        (found * t.decisions).sum().backward()
    seen = {name: bool(p.grad is not None and p.grad.abs().any()) for name, p in policy.trainable().items()}
    assert all(seen.values()), [name for name, found in seen.items() if not found]


@pytest.mark.parametrize("likelihood", [None, *LIKELIHOODS], ids=lambda x: f"{x.type} {x.states}" if x else "trajectory")
def test_shuffled_and_rebatched_rows_replay_up_to_rounding(mdlm, likelihood):
    policy, plan = posed(mdlm, likelihood) if likelihood else (build(mdlm), AllSteps(kernel=LowConfidence()))
    large, small = (roll(policy, plan, micro_batch) for micro_batch in (24, 3))
    assert finals(large) == finals(small)
    at_large, at_small = (
        {(p, t.step): row for t in block.transitions for p, row in zip(t.places, t.log_prob, strict=True)}
        for block in (large, small)
    )
    assert at_large.keys() == at_small.keys()
    assert all(torch.allclose(at_large[place], at_small[place], atol=1e-5) for place in at_large)
    for t in large.transitions:
        rows = [len(t.places) - 1, 0]
        thin = t.take(rows)
        assert torch.equal(thin.log_prob, t.log_prob[rows])
        assert torch.allclose(replayed(policy, thin).detach(), thin.log_prob, atol=1e-5)


def test_masks_stay_with_the_batch_and_change_with_the_update(mdlm):
    policy, plan = posed(mdlm, OneStep(prompt_mask=0.5))
    one, same, other = (roll(policy, plan, 24, key=key).transitions[0] for key in ((0, 0), (0, 0), (0, 1)))
    hidden = one.states[:, TOKENS, :5] == policy.vocabulary.mask
    assert torch.equal(one.states, same.states) and not torch.equal(one.states[:, TOKENS, :5], other.states[:, TOKENS, :5])
    assert hidden.any() and len({tuple(row) for row in hidden.tolist()}) > 1
    padding = torch.tensor([prompt.text == "7:" for prompt in one.prompts])
    assert not hidden[padding][:, :3].any()


def test_prompts_together_answer_as_they_do_alone(mdlm):
    policy = build(mdlm)
    together = roll(policy, micro_batch=24)
    alone = [text for prompt in PROMPTS for text in finals(roll(policy, prompts=[prompt], micro_batch=1))]
    assert finals(together) == alone and len(set(alone)) > 3
    answers = policy.generate(PROMPTS, [5, 6, 7], 3).texts
    assert answers == [policy.generate([p], [seed], 3).texts[0] for p, seed in zip(PROMPTS, (5, 6, 7), strict=True)]


class Recorder(torch.nn.Module):
    """What it was asked, and logits from a table [N, V] whose row is the position."""

    def __init__(self, table):
        super().__init__()
        self.table, self.seen = table, []

    def forward(self, ids):
        self.seen.append(ids)
        return MaskedLMOutput(logits=self.table[: ids.shape[1]].expand(len(ids), -1, -1))


def test_the_network_never_sees_padding_and_full_canvases_not_at_all(mdlm):
    policy = build(mdlm)
    model = Recorder(torch.zeros(11, policy.vocabulary.size))
    adapter = Adapter(policy.config, model, policy.vocabulary)
    ids = policy.start(PROMPTS, [])[:, TOKENS].long()
    adapter.logits(ids)
    assert sorted(seen.shape for seen in model.seen) == [(1, 8), (2, 11)]
    assert not any((seen == policy.vocabulary.pad).any() for seen in model.seen)
    model.seen.clear()
    ids[0, -6:] = 1
    adapter.logits(ids)
    assert sum(len(seen) for seen in model.seen) == 2


def test_a_model_with_shifted_rows_scores_as_its_twin_without(mdlm):
    policy = build(mdlm)
    table = torch.randn(11, policy.vocabulary.size, generator=torch.Generator().manual_seed(0))
    shifted = Adapter(policy.config.model_copy(update={"shift": True}), Recorder(table.roll(-1, 0)), policy.vocabulary)
    plain = Adapter(policy.config, Recorder(table), policy.vocabulary)
    ids = policy.start(PROMPTS[:1], [])[:, TOKENS].long()
    assert torch.equal(plain.logits(ids), shifted.logits(ids))
    allowed = ~plain.forbidden
    assert torch.equal(plain.logits(ids)[0][:, allowed], table[5:][:, allowed])


@pytest.mark.parametrize("shift", [False, True])
def test_greedy_ids_are_the_most_likely_of_the_rows_that_score_them(mdlm, shift):
    policy = build(mdlm, shift=shift)
    x = policy.start(PROMPTS, [])
    for step in range(3):
        with torch.no_grad():
            logits = policy.predict(x, PROMPTS, step)
        after = policy.law([Move(LowConfidence(temperature=0.0), step, step + 1)] * 3, PROMPTS).sample(
            x, logits, [Noise(("key", i)) for i in range(3)], [None] * 3
        )
        drawn = after[:, DRAWN, -6:] != NOTHING
        law = policy.law([Move(LowConfidence(), step, step + 1)] * 3, PROMPTS)
        assert torch.equal(logits.argmax(-1)[drawn], after[:, DRAWN, -6:].long()[drawn])
        best = logits.log_softmax(-1).max(-1).values
        assert torch.equal(law.log_prob(x, logits, after)[drawn], best[drawn])
        x = after


def test_mask_padding_and_ids_that_the_tokenizer_does_not_know_are_never_emitted(mdlm):
    policy = build(mdlm, forbidden=(3, 13))
    bad = [3, 13, 14, 15, 16, 17]
    assert policy.vocabulary.forbidden == (3, 13, 15, 16, 17) and policy.vocabulary.mask == 14
    with torch.no_grad():
        policy.model.lm_head.weight *= 0.0
    favour = torch.zeros(policy.vocabulary.size)
    favour[bad] = 50.0
    policy.model.lm_head.register_forward_hook(lambda module, inputs, out: out + favour)
    shape = trajectories([RandomOrder()] * 3, 60, False)
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 180, keep_predictions=False)
    ids = block.transitions[-1].next_states[:, TOKENS, -6:].long()
    assert set(ids.unique().tolist()) == set(range(13)) - {3}
    assert all(torch.isfinite(t.log_prob).all() for t in block.transitions)
    assert block.transitions[0].log_prob.min() == pytest.approx(-np.log(12), abs=1e-5)


def gradient_of_decisions(t, logits):
    """[C, (K,) L]: whether the counted log-probs depend on the logits at a position."""
    leaf = logits[t.parent].detach().requires_grad_()
    (t.law.log_prob(t.states[t.parent], leaf, t.next_states) * t.decisions).sum().backward()
    return leaf.grad.abs().sum(-1) > 0


@pytest.mark.parametrize("likelihood", [None, *LIKELIHOODS], ids=lambda x: f"{x.type} {x.states}" if x else "trajectory")
def test_what_lies_behind_the_end_of_the_text_weighs_nothing(mdlm, likelihood):
    policy, plan = posed(mdlm, likelihood) if likelihood else (build(mdlm), AllSteps(kernel=RandomOrder()))
    eos = policy.vocabulary.eos
    policy.model.lm_head.register_forward_hook(lambda module, inputs, out: out + 2.0 * (torch.arange(18) == eos))
    block = roll(policy, plan, 24)
    ends = {p: x[TOKENS, -6:].tolist() for t in block.transitions for p, x in zip(t.places, t.next_states, strict=True)}
    lengths = []
    for t in block.transitions:
        used = gradient_of_decisions(t, policy.predict(t.states, t.prompts, t.step))
        for row, (g, node) in enumerate(t.places):
            ids = ends[g, block.shapes[g].outcomes_below[node][0]]
            count = ids.index(eos) + 1 if eos in ids else 6
            assert not used[row][..., count:].any() and ids[count:] == [eos] * (6 - count)
            lengths.append(count)
        assert used.any()
    assert min(lengths) < 4


def test_outcomes_of_which_nothing_is_masked_still_have_a_graph(mdlm):
    policy = build(mdlm)
    x = policy.start(PROMPTS, [])
    x[:, TOKENS, -6:] = 1.0
    logits = policy.predict(x, PROMPTS, 0)
    assert logits.requires_grad and torch.isfinite(logits[..., 0]).all()


def test_decoded_texts_stop_at_the_end(mdlm):
    policy = build(mdlm)
    x = policy.start(PROMPTS[:1], [])
    x[0, TOKENS, -6:] = torch.tensor([1.0, 10.0, 2.0, 13.0, 5.0, 13.0])
    assert policy.decode(x, PROMPTS[:1]).texts == ["1+2"]


def test_guidance_replays_and_is_none_at_one(mdlm):
    plain, guided = build(mdlm), build(mdlm, guidance_scale=2.0)
    x = plain.start(PROMPTS, [])
    blank = x.clone()
    with torch.no_grad():
        z, w = plain.predict(x, PROMPTS, 0), guided.predict(x, PROMPTS, 0)
        prompt = blank[:, TOKENS, :5]
        prompt[prompt != plain.vocabulary.pad] = plain.vocabulary.mask
        without = plain.predict(blank, PROMPTS, 0)
    allowed = ~plain.adapter.forbidden
    assert torch.allclose(w[..., allowed], (2.0 * z - without)[..., allowed], atol=1e-5) and not torch.allclose(w, z)
    for t in roll(guided).transitions:
        assert torch.equal(replayed(guided, t).detach(), t.log_prob)
    assert finals(roll(build(mdlm, guidance_scale=1.0))) == finals(roll(plain))


@pytest.mark.parametrize("steps", [1, 2, None])
def test_completions_are_whole_texts(mdlm, steps):
    policy = build(mdlm)
    plan = AllSteps(kernel=LowConfidence(), completion=Deterministic(steps=steps))
    shape = shape_of(plan)
    block = roll(policy, plan)
    assert len(block.samples) == 3 * len(shape.leaves)
    assert block.network_evaluations == 3 * shape.network_evaluations
    assert sorted(p for t in block.transitions for p in t.places) == [(g, i) for g in range(3) for i in shape.trained]


def test_the_completion_of_the_start_is_the_greedy_answer(mdlm):
    policy = build(mdlm)
    shape = shape_of(AllSteps(kernel=LowConfidence(), completion=Deterministic()))
    block = roll(policy, AllSteps(kernel=LowConfidence(), completion=Deterministic()))
    place = shape.leaves.index(shape.completions[0])
    greedy = policy.generate(PROMPTS, [0, 0, 0], 3).texts
    assert finals(block)[place :: len(shape.leaves)] == greedy


def test_old_predictions_are_kept_when_asked_for(mdlm):
    for likelihood in (None, Quadrature()):
        policy, plan = posed(mdlm, likelihood) if likelihood else (build(mdlm), AllSteps(kernel=Rcr()))
        for t in roll(policy, plan, keep=True).transitions:
            logits = policy.predict(t.states, t.prompts, t.step)
            assert_replayed(logits, t.prediction)
            kl = t.law.kl(t.states[t.parent], logits[t.parent], t.prediction[t.parent], t.next_states)
            assert kl.abs().max() < REPLAYED and kl.shape == t.log_prob.shape


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_reference_is_the_policy_before_training_and_exports_load(mdlm, lora, tmp_path):
    policy = build(mdlm, lora=lora)
    x = policy.start(PROMPTS, [])
    with torch.no_grad():
        before = policy.predict(x, PROMPTS, 0)
        nudge(policy)
        after = policy.predict(x, PROMPTS, 0)
        with policy.reference():
            assert torch.equal(policy.predict(x, PROMPTS, 0), before)
        assert torch.equal(policy.predict(x, PROMPTS, 0), after) and not torch.equal(before, after)
        policy.export()(tmp_path)
        sampler = policy.config.build_sampler(CPU, tmp_path)
        assert torch.equal(sampler.predict(x, PROMPTS, 0), after)
        untrained = policy.config.build_sampler(CPU, None)
        assert torch.equal(untrained.predict(x, PROMPTS, 0), before)
    assert (tmp_path / ("adapter_model.safetensors" if lora else "model.safetensors")).is_file()
    assert (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_layers_that_are_computed_anew_give_the_same_gradients(mdlm, lora):
    gradients = []
    last = len(build(mdlm, lora=lora).model.layers) - 1
    for again, layer in ((False, 0), (True, 0), (True, last), (last, 0), (last + 1, last)):
        policy = build(mdlm, gradient_checkpointing=again, lora=lora)
        nudge(policy)
        calls = []
        policy.model.layers[layer].up_proj.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        t = roll(policy).transitions[0]
        calls.clear()
        log_prob = replayed(policy, t)
        assert_replayed(log_prob, t.log_prob)
        forward = len(calls)
        log_prob.sum().backward()
        assert len(calls) == forward * (2 if again and layer % again == 0 else 1)
        gradients.append([p.grad for p in policy.trainable().values()])
    assert all(torch.equal(first, other) for first, *others in zip(*gradients, strict=True) for other in others)


def test_low_precision_replays_too(mdlm):
    for dtype in ("bf16", "fp16"):
        policy = build(mdlm, dtype=dtype, lora=LORA)
        assert all(p.dtype == torch.float32 for p in policy.trainable().values())
        for t in roll(policy).transitions:
            assert torch.equal(replayed(policy, t).detach(), t.log_prob)


def test_prompts_that_do_not_fit_are_named(mdlm):
    policy = build(mdlm)
    with pytest.raises(UserError, match=r"row 8 has 6 ids, and policy\.prompt_length is 5"):
        policy.start([Prompt(7, "123456")], [])
    with pytest.raises(UserError, match="row 1 begins with the padding token"):
        policy.start([Prompt(0, "<pad>1")], [])


@pytest.mark.parametrize(("options", "special", "said"), [
    ({}, {"eos_token": "<eos>", "pad_token": "<pad>"}, "has no mask token; set policy.mask_id"),
    ({"mask_id": 99}, {}, "policy.mask_id = 99, but the model has only 18 ids"),
    ({"forbidden": (1, 18)}, {}, r"policy.forbidden holds \[18\], but the model has only 18 ids"),
    ({"mask_id": 15}, {}, "has no padding token of its own"),
    ({"length": 12}, {}, "has room for 16 ids, but policy.prompt_length \\+ policy.length = 17"),
    ({"chat": True}, {}, "has no chat template; set policy.chat to false"),
    ({"lora": LoraAdapter(targets=("nowhere",))}, {}, "no layer of 'model' matches lora.targets"),
])  # fmt: skip
def test_models_that_cannot_serve_are_refused_in_a_sentence(tmp_path, options, special, said):
    folder = save(tmp_path / "model", make_model(), make_tokenizer(**special))
    with pytest.raises(UserError, match=said):
        build(folder, **options)


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"model '{tmp_path}' can't be loaded"):
        build(tmp_path)


def test_steps_of_an_evaluation_that_do_not_fit_the_sampler_are_refused(mdlm):
    policy = build(mdlm, sampler=LowConfidence(block_length=2))
    with pytest.raises(UserError, match="4 steps must be a multiple of the 3 blocks of 2 positions"):
        policy.generate(PROMPTS, [0, 0, 0], 4)


def test_memory_is_estimated_from_files_alone(mdlm):
    work = Work(states=8, samples=8)
    full, small = config_of(mdlm).memory(work)["update"], config_of(mdlm, lora=LORA).memory(work)["update"]
    count = sum(p.numel() for p in make_model().parameters())
    adapters = sum(p.numel() for p in build(mdlm, lora=LORA).trainable().values())
    assert full["trained weights"] == full["gradients"] == 4 * count and full["weights"] == 0
    assert small["weights"] == 4 * count and small["trained weights"] == 4 * adapters
    with pytest.raises(UserError, match=r"not on this disk; give policy\.parameters"):
        config_of("nowhere/at-all").memory(work)


BASE = {
    "seed": 0,
    "updates": 2,
    "policy": {
        "type": "masked",
        "steps": 3,
        "prompt_length": 5,
        "length": 6,
        "sampler": {"type": "low_confidence", "temperature": 0.0},
    },
    "rollout": {
        "prompts": "prompts.txt",
        "prompts_per_update": 2,
        "group_size": 4,
        "micro_batch": 8,
        "plan": {"type": "all", "kernel": {"type": "low_confidence"}},
    },
    "rewards": {"digits": {"use": "digits.py:digits"}},
    "objective": {"clip": 0.2, "kl": {"coefficient": 0.01}},
    "optimizer": {"lr": 1e-3},
    "checkpoints": {"every": 1},
}
DIGITS = "def digits(samples):\n    return [sum(c.isdigit() for c in text) + len(text) / 100 for text in samples.texts]\n"


def written(folder: Path, mdlm: Path) -> str:
    tree = {**BASE, "policy": {**BASE["policy"], "model": str(mdlm)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "digits.py").write_text(DIGITS)
    (folder / "prompts.txt").write_text("1+2=:\n7:\n4+4=:\n")
    return str(folder / "config.yaml")


@pytest.mark.parametrize(("overrides", "said"), [
    (["policy.length=8", "rollout.plan.kernel.block_length=3"], "block_length = 3 must divide the policy's length = 8"),
    (["rollout.plan.kernel.block_length=3"], "3 steps must be a multiple of the 2 blocks of 3 positions"),
    (["policy.sampler.block_length=4"], "block_length = 4 must divide the policy's length = 6"),
    (["policy.likelihood=elbo"], "'elbo' scores outcomes as wholes: set rollout.plan.type to outcomes"),
    (["rollout.plan.type=outcomes"], "'trajectory' scores every step"),
    (["rollout.plan={type: outcomes, kernel: low_confidence, completion: {steps: 1}}", "policy.likelihood=elbo"],
     "completion must be null"),
    (["rollout.plan.type=outcomes", "policy.likelihood={type: left_to_right, length: 5}"],
     "likelihood.length = 5 must be the policy's length = 6"),
    (["rollout.plan.type=outcomes", "policy.likelihood={type: coupled, low: 0.9}"], "low = 0.9 must not be above"),
    (["objective.ratio=guard"], "objective.ratio: guard needs a Gaussian law"),
    (["objective.weight=noise"], "objective.weight: noise needs a Gaussian law"),
    (["objective.kl.unit=nats_dt"], "objective.kl.unit: nats_dt needs a Gaussian law"),
    (["rollout.plan={type: all, kernel: flow_sde}"], "kernel 'flow_sde' can't move the states of policy 'masked'"),
    (["rollout.plan.completion={kernel: ode}"], "kernel 'ode' can't move the states of policy 'masked'"),
    (["rollout.plan.kernel.temperature=0"], "is deterministic: there is nothing to train"),
    (["rollout.plan.tail={kernel: {type: low_confidence, temperature: 0}}"], "draws every step, so none is left"),
    (["policy.sampler.block_length=3", "policy.steps=4", "evaluation={prompts: prompts.txt, metric: digits, steps: 3}"],
     "evaluation.steps = 3: policy.sampler: 3 steps must be a multiple of the 2 blocks"),
])  # fmt: skip
def test_configs_that_cannot_work_are_refused_in_a_sentence(mdlm, tmp_path, overrides, said):
    source = written(tmp_path, mdlm)
    load_config(source)
    with pytest.raises(UserError) as error:
        load_config(source, overrides)
    assert said in str(error.value) and "\n" not in str(error.value)


RUNS = {
    "trajectory": [],
    "trajectory, decisions": ["objective.reduce=decision", "rollout.plan.kernel=rcr", "optimizer.epochs=2"],
    "elbo": ["rollout.plan.type=outcomes", "policy.likelihood=elbo", "policy.lora={rank: 2, alpha: 4, targets: [q_proj]}"],
    "gain": ["rollout.plan.completion={steps: 1}", "credit=gain", "advantage.mean=group_step", "advantage.std=group_step"],
}


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_trains_from_a_first_ratio_of_exactly_one_and_writes_its_report(mdlm, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation = "evaluation={prompts: prompts.txt, metric: digits, steps: 3}"
    config = load_config(written(tmp_path, mdlm), [*RUNS[name], evaluation])
    run = train(config, Provenance.of(str(tmp_path / "config.yaml"), config))
    assert run.summary["updates"] == 2 and (run.path / "report.html").is_file()
    found = rows(run.path)
    assert len(found) == 2
    assert found[0]["ratio/first_log_abs_max"] <= REPLAYED
    assert all(row["grad_norm"] > 0 for row in found)


@pytest.mark.parametrize("name", ["trajectory", "elbo"])
def test_one_update_and_then_another_are_two_updates(mdlm, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, mdlm)
    overrides = [*RUNS[name], "optimizer.decay_over=2"]
    configs = [load_config(source, [*overrides, f"updates={count}"]) for count in (2, 1)]
    whole, half = (train(config, Provenance.of(source, config)).path for config in configs)
    rest = resumed(str(half), source, ["updates=2"])
    train(rest.config, Provenance.load(half), rest)
    weights = [next(Run(run).checkpoints[-1].glob("*model.safetensors")).read_bytes() for run in (whole, half)]
    assert weights[0] == weights[1]
    assert [row["loss"] for row in rows(whole)] == [row["loss"] for row in rows(half)]
