"""A schedule that is drawn and learned (Co-GRPO)."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Noise
from flowgrpo.policies import ScheduleConfig
from flowgrpo.policies._schedule import LearnedSchedule
from flowgrpo.policies.tiny.mdlm import save
from flowgrpo.sampling.canvas import DRAWN, SETTINGS
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.entropy_bound import EntropyBound
from flowgrpo.sampling.kernels.orders import LeftToRight, LowConfidence, Maskgit, Origin, RandomOrder
from flowgrpo.sampling.kernels.threshold import Threshold
from flowgrpo.sampling.laws.scheduled import NAMES, effective, hand_made, moved
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.rollout import rollout
from mdlm import BARE, CPU, PROMPTS, build, empty, masks_of, some_logits

TEXT = ("mask_ratio", "temperature")
KERNELS = [Maskgit, LowConfidence, RandomOrder, LeftToRight]


def schedule_of(kernel, steps, length, learn=TEXT, std=0.1, guidance_scale=1.0):
    return LearnedSchedule(ScheduleConfig(learn=learn, std=std), kernel, steps, length, guidance_scale)


def walk(kernel, schedule, logits, length, explore, key=0):
    """States of a rollout over no model: `logits[s]` [C, H, L, V] at step s. Without a schedule the kernel decides alone."""
    states = [empty(len(logits[0]), length)]
    for step, at in enumerate(logits):
        base = UnmaskingLaw((Move(kernel, step, step + 1),) * len(at), len(logits), length, BARE, CPU)
        law = schedule.law(base, explore) if schedule else base
        prediction = schedule.predict(at, step) if schedule else at[:, 0]
        noises = [Noise((key, step, i)) for i in range(len(at))]
        states.append(law.sample(states[-1], prediction.detach(), noises, [None] * len(at)))
    return states


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KERNELS),
    st.sampled_from(["even", "cosine"]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 99),
)
def test_untrained_means_are_the_kernel_to_the_last_id(kernel, rule, blocks, per_block, more, key):
    size = per_block + more
    made = kernel(schedule=rule, block_length=size, temperature=0.8)
    steps, length = blocks * per_block, blocks * size
    assume(length >= 4)
    learn = TEXT if per_block > 1 else ("temperature",)
    logits = [some_logits(3, length, f"{key} {s}")[:, None] for s in range(steps)]
    plain = walk(made, None, logits, length, explore=False, key=key)
    learned = walk(made, schedule_of(made, steps, length, learn), logits, length, explore=False, key=key)
    for a, b in zip(plain, learned, strict=True):
        assert torch.equal(a[:, :SETTINGS], b[:, :SETTINGS])


def test_hand_made_settings_are_those_of_maskgit():
    table = hand_made(Maskgit(), 4, 16, 3.0)
    stay = [math.floor(16 * math.cos(math.pi * (s + 1) / 8)) for s in range(3)]
    assert (16 * table[:3, 0]).floor().tolist() == stay and table[3, 0] == 0.0
    assert table[:, 1].tolist() == [1.0] * 4 and table[:, 3].tolist() == [3.0] * 4
    assert table[:, 2].tolist() == pytest.approx([2.0, 4 / 3, 2 / 3, 0.0])


def test_only_what_changes_something_is_drawn():
    used = effective(hand_made(Maskgit(), 3, 9, 1.0))
    assert used.tolist() == [[True, True, True, False], [True, True, True, False], [False, True, False, False]]


@pytest.mark.parametrize("kernel", [Origin, Threshold, EntropyBound])
def test_a_mask_ratio_that_the_kernel_does_not_ask_for_is_refused(kernel):
    with pytest.raises(UserError, match="'mask_ratio'] changes nothing"):
        schedule_of(kernel(), 2, 6)
    assert schedule_of(kernel(), 2, 6, ("temperature",)).learned.tolist() == [[False, True, False, False]] * 2


def test_offsets_move_settings_on_their_own_scales():
    values = torch.tensor([0.25, 2.0, 0.5, 3.0], dtype=torch.float64)
    found = moved(values, torch.full((4,), math.log(2.0), dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.4, 4.0, 1.0, 5.0])
    assert torch.allclose(moved(values, torch.zeros(4, dtype=torch.float64)), values)


def test_settings_are_drawn_from_their_gaussian_and_kept_in_the_state():
    schedule = schedule_of(Maskgit(), 2, 8, ("mask_ratio", "order_temperature"), std=0.3)
    with torch.no_grad():
        schedule.mean[0] = torch.tensor([0.5, 9.0, -0.5, 9.0])
    first = walk(Maskgit(), schedule, [some_logits(4000, 8, 1)[:, None]] * 2, 8, explore=True)[1][:, SETTINGS, :4]
    assert first.mean(0).tolist() == pytest.approx([0.5, 0.0, -0.5, 0.0], abs=0.02)
    assert first.std(0).tolist() == pytest.approx([0.3, 0.0, 0.3, 0.0], abs=0.02)


def test_a_larger_mask_ratio_leaves_more_masked():
    schedule = schedule_of(RandomOrder(), 2, 8)
    logits = [some_logits(2, 8, s)[:, None] for s in range(2)]
    with torch.no_grad():
        schedule.mean[0, 0] = 1.5
    states = walk(RandomOrder(), schedule, logits, 8, explore=False)
    share = float(moved(schedule.values, schedule.mean.detach().double())[0, 0])
    assert [masks_of(x, 8).sum(1).tolist() for x in states] == [[8, 8], [math.floor(8 * share)] * 2, [0, 0]]


def one_step(learn, guidance_scale=1.0, heads=1):
    kernel = Maskgit()
    schedule = schedule_of(kernel, 2, 6, learn, 0.2, guidance_scale)
    with torch.no_grad():
        schedule.mean += torch.linspace(-0.3, 0.3, 8).view(2, 4)
    base = UnmaskingLaw((Move(kernel, 0, 1),) * 3, 2, 6, BARE, CPU)
    law = schedule.law(base)
    logits = torch.stack([some_logits(3, 6, h) for h in range(heads)], 1)
    if heads == 2:
        logits[:, 1] = logits[:, 1].nan_to_num(neginf=0.5)
    x = empty(3, 6)
    x_next = law.sample(x, schedule.predict(logits, 0).detach(), [Noise((i,)) for i in range(3)], [None] * 3)
    return schedule, law, logits, x, x_next


def test_log_probs_are_those_of_ids_under_what_was_drawn_and_of_the_draw():
    schedule, law, logits, x, x_next = one_step(NAMES, guidance_scale=3.0, heads=2)
    found = law.log_prob(x, schedule.predict(logits, 0), x_next)
    assert found.shape == (3, 6 + 4)
    offsets = x_next[:, SETTINGS, :4]
    _, temperature, _, scale = moved(schedule.values[0].expand(3, 4), offsets).unbind(1)
    guided = logits[:, 1] + scale[:, None, None] * (logits[:, 0] - logits[:, 1])
    log_p = (guided / temperature[:, None, None]).log_softmax(-1)
    for row in range(3):
        for place in range(6):
            drawn = int(x_next[row, DRAWN, 2 + place])
            expected = 0.0 if drawn < 0 else float(log_p[row, place, drawn])
            assert found[row, place].item() == pytest.approx(expected, abs=1e-5)
    gauss = torch.distributions.Normal(schedule.mean[0].double(), 0.2).log_prob(offsets)
    assert torch.allclose(found[:, 6:].double(), gauss, atol=1e-5)


def test_gradients_of_ids_and_of_settings_are_apart():
    schedule, law, logits, x, x_next = one_step(TEXT)
    logits.requires_grad_(True)
    found = law.log_prob(x, schedule.predict(logits, 0), x_next)
    found[:, :6].sum().backward(retain_graph=True)
    assert logits.grad.abs().sum() > 0 and schedule.mean.grad.abs().sum() == 0
    logits.grad = None
    found[:, 6:].sum().backward()
    assert logits.grad.abs().sum() == 0
    expected = ((x_next[:, SETTINGS, :4] - schedule.mean[0].detach()) / 0.2**2 * schedule.learned[0]).sum(0)
    assert torch.allclose(schedule.mean.grad[0].double(), expected, atol=1e-4) and (schedule.mean.grad[1] == 0).all()


def test_kl_of_the_settings_is_the_gaussians():
    schedule, law, logits, x, x_next = one_step(TEXT)
    prediction = schedule.predict(logits, 0)
    with schedule.reference():
        other = schedule.predict(logits, 0)
    mean = schedule.mean[0].detach()
    kl = law.kl(x, prediction, other, x_next)
    assert torch.allclose(kl[:, 6:], 0.5 * (mean / 0.2).square() * schedule.learned[0]) and (kl[:, :6].abs() < 1e-6).all()
    assert (law.decisions(x_next, x_next)[:, 6:] == schedule.learned[0].float()).all()


def test_guidance_that_is_drawn_is_the_guidance_of_the_config(tmp_path):
    """At the means, text logits with and without the prompt mix to what `guidance_scale` alone gives."""
    folder = save(tmp_path / "model")
    plain = build(folder, guidance_scale=2.5, sampler=RandomOrder())
    learned = build(folder, guidance_scale=2.5, sampler=RandomOrder(), schedule={"learn": NAMES[:2] + NAMES[3:]})
    texts = [policy.generate(PROMPTS, [1, 2, 3], 3).texts for policy in (plain, learned)]
    assert texts[0] == texts[1]
    states = plain.start(PROMPTS, [])
    law = learned.learned.law(UnmaskingLaw((Move(RandomOrder(), 0, 1),) * 3, 3, 6, plain.vocabulary, CPU), explore=False)
    guided = law._guided(learned.predict(states, PROMPTS, 0), torch.zeros(3, 4, dtype=torch.float64))
    assert torch.allclose(guided, plain.predict(states, PROMPTS, 0), atol=1e-5)


def test_a_rollout_replays_bit_for_bit_and_the_reference_has_the_kernels_means(tmp_path):
    policy = build(save(tmp_path / "model"), sampler=RandomOrder(), schedule={"learn": TEXT, "std": 0.5})
    with torch.no_grad():
        policy.learned.mean.fill_(0.25)
    shape = AllSteps(kernel=RandomOrder(), shared_start=True).shape(Draw(3, 4))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 64, keep_predictions=False)
    for t in block.transitions:
        found = t.law.log_prob(t.states[t.parent], policy.predict(t.states, t.prompts, t.step)[t.parent], t.next_states)
        assert torch.equal(found, t.log_prob)
        assert torch.equal(t.decisions[:, 6:], policy.learned.learned[t.step].float().expand(len(t.places), -1))
    with policy.reference():
        assert (policy.predict(block.transitions[0].states, block.transitions[0].prompts, 0)[:, -4:] == 0.0).all()
    assert (policy.learned.mean == 0.25).all()


def text_run(folder: Path, tmp_path: Path, **more) -> list[str]:
    (tmp_path / "prompts.txt").write_text("1+2=:\n7:\n4+4=:\n3=:\n")
    (tmp_path / "short.py").write_text("def ones(samples):\n    return [t.count('1') + 0.1 * len(t) for t in samples.texts]\n")
    tree = {
        "updates": 4,
        "policy": {
            "type": "masked",
            "model": str(folder),
            "steps": 3,
            "prompt_length": 5,
            "length": 6,
            "sampler": "random_order",
            "schedule": {"learn": list(TEXT), "std": 0.5},
        },
        "rollout": {
            "prompts": "prompts.txt",
            "prompts_per_update": 4,
            "group_size": 4,
            "plan": {"type": "all", "shared_start": True, "kernel": "random_order"},
        },
        "rewards": {"ones": {"use": "short.py:ones"}},
        "objective": {"clip": 0.2, "reduce": "decision"},
        "optimizer": {"lr": 1e-3, "rates": {"schedule": 0.05}, "turns": ["model", "schedule"]},
        "checkpoints": {"every": 1, "keep_last": 9},
    }
    (tmp_path / "run.yaml").write_text(json.dumps({**tree, **more}))
    return ["train", "run.yaml"]


def test_model_and_schedule_take_turns_and_a_checkpoint_holds_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "model")
    assert main(text_run(folder, tmp_path)) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    states = [load_file(run / f"checkpoint-{k:06d}" / "state" / "trainable.safetensors") for k in (1, 2, 3, 4)]
    for k, (before, after) in enumerate(pairwise(states), 1):
        moved_ = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved_ == {"schedule" if k % 2 else "model"}
    last = run / "checkpoint-000004"
    table = json.loads((last / "schedule.json").read_text())
    assert set(table) == set(TEXT) and table["temperature"]["hand_made"] == [1.0] * 3
    assert table["temperature"]["learned"] != table["temperature"]["hand_made"]
    assert "Learned schedule" in (run / "report.html").read_text()
    assert main(["sample", "run.yaml", "--prompts", "prompts.txt", "--lora", str(last), "--out", "texts"]) == 0
    assert len((tmp_path / "texts" / "samples.jsonl").read_text().splitlines()) == 4


def test_only_the_schedule_can_be_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "model")
    arguments = text_run(folder, tmp_path)
    assert main([*arguments, "optimizer.turns=[schedule]", "checkpoints.every=1"]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    first, last = (load_file(run / f"checkpoint-{k:06d}" / "state" / "trainable.safetensors") for k in (1, 4))
    assert {n.partition(".")[0] for n in first if not torch.equal(first[n], last[n])} == {"schedule"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.turns=[nobody]", "'nobody'"),
        ("optimizer.rates={modle: 0.1}", "'modle'"),
        ("policy.schedule.learn=[order_temperature]", "order_temperature"),
        ("policy.schedule.learn=[guidance_scale]", "guidance_scale"),
        ("policy.schedule.learn=[]", "policy.schedule.learn"),
        ("policy.sampler.temperature=0.5", "kernel of held-out samples"),
        ("policy.likelihood=one_step", "trajectory"),
    ],
)
def test_what_can_not_be_is_said(change, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = text_run(save(tmp_path / "model"), tmp_path)
    assert main([*arguments, "policy.sampler={type: random_order}", change]) == 2
    assert said in capsys.readouterr().err


def test_other_numbers_of_steps_are_refused(tmp_path):
    policy = build(save(tmp_path / "model"), sampler=RandomOrder(), schedule={"learn": TEXT})
    with pytest.raises(UserError, match=r"policy\.steps = 3"):
        policy.generate(PROMPTS, [1, 2, 3], 2)


def test_a_schedule_is_loaded_whole_or_refused(tmp_path):
    made = schedule_of(RandomOrder(), 3, 6)
    made.save(tmp_path)
    file = tmp_path / "schedule.safetensors"
    mean = load_file(file)["mean"]
    for state, words in (
        ({"average": mean}, "none of the model's"),
        ({"mean": mean, "more": mean.clone()}, "none of the model's"),
        ({"mean": mean + torch.nan}, "is not finite"),
        ({"mean": torch.cat([mean, mean])}, "is a schedule of"),
    ):
        save_file(state, file)
        with pytest.raises(UserError, match=words):
            made.load(tmp_path)
