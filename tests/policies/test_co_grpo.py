"""The example of a policy of one's own: a schedule that is drawn and learned (Co-GRPO)."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from conftest import REPLAYED, assert_replayed
from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Noise
from flowgrpo.core.plugins import load_file as load_module
from flowgrpo.data.prompts import Prompt
from flowgrpo.sampling.canvas import DRAWN, TOKENS
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.entropy_bound import EntropyBound
from flowgrpo.sampling.kernels.orders import LeftToRight, LowConfidence, Maskgit, Origin, RandomOrder
from flowgrpo.sampling.kernels.threshold import Threshold
from flowgrpo.sampling.laws.unmasking import UnmaskingLaw
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.rollout import rollout
from mdlm import BARE, CPU, empty, masks_of, some_logits

EXAMPLES = Path(__file__).parents[2] / "examples"
co_grpo = load_module(EXAMPLES / "co_grpo.py")
NAMES, SETTINGS = co_grpo.NAMES, co_grpo.SETTINGS

TEXT = ("mask_ratio", "temperature")
KERNELS = [Maskgit, LowConfidence, RandomOrder, LeftToRight]


def schedule_of(kernel, steps, length, learn=TEXT, std=0.1, guidance_scale=1.0):
    return co_grpo.LearnedSchedule(learn, std, 1.0, kernel, steps, length).begin(guidance_scale)


def walk(kernel, schedule, logits, length, explore, key=0):
    """States of a rollout over no model: `logits[s]` [C, H, L, V] at step s. Without a schedule the kernel decides alone."""
    states = [co_grpo.with_settings(empty(len(logits[0]), length))]
    for step, at in enumerate(logits):
        base = UnmaskingLaw((Move(kernel, step, step + 1),) * len(at), len(logits), length, BARE, CPU)
        law = schedule.law(base, explore) if schedule else base
        prediction = schedule.predict(at, step) if schedule else at[:, 0]
        noises = [Noise((key, step, i)) for i in range(len(at))]
        states.append(law.sample(states[-1], prediction.detach(), noises, [None] * len(at)))
    return states


@settings(max_examples=40)
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
    table = co_grpo.hand_made(Maskgit(), 4, 16, 3.0)
    stay = [math.floor(16 * math.cos(math.pi * (s + 1) / 8)) for s in range(3)]
    assert (16 * table[:3, 0]).floor().tolist() == stay and table[3, 0] == 0.0
    assert table[:, 1].tolist() == [1.0] * 4 and table[:, 3].tolist() == [3.0] * 4
    assert table[:, 2].tolist() == pytest.approx([2.0, 4 / 3, 2 / 3, 0.0])


def test_only_what_changes_something_is_drawn():
    used = co_grpo.effective(co_grpo.hand_made(Maskgit(), 3, 9, 1.0))
    assert used.tolist() == [[True, True, True, False], [True, True, True, False], [False, True, False, False]]


@pytest.mark.parametrize("kernel", [Origin, Threshold, EntropyBound])
def test_a_mask_ratio_that_the_kernel_does_not_ask_for_is_refused(kernel):
    with pytest.raises(UserError, match="'mask_ratio'] changes nothing"):
        schedule_of(kernel(), 2, 6)
    assert schedule_of(kernel(), 2, 6, ("temperature",)).learned.tolist() == [[False, True, False, False]] * 2


def test_offsets_move_settings_on_their_own_scales():
    values = torch.tensor([0.25, 2.0, 0.5, 3.0], dtype=torch.float64)
    found = co_grpo.moved(values, torch.full((4,), math.log(2.0), dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.4, 4.0, 1.0, 5.0])
    assert torch.allclose(co_grpo.moved(values, torch.zeros(4, dtype=torch.float64)), values)


def test_settings_are_drawn_from_their_gaussian_and_kept_in_the_state():
    schedule = schedule_of(Maskgit(), 2, 8, ("mask_ratio", "order_temperature"), std=0.3)
    with torch.no_grad():
        schedule.offset[0] = torch.tensor([0.5, 9.0, -0.5, 9.0])
    first = walk(Maskgit(), schedule, [some_logits(4000, 8, 1)[:, None]] * 2, 8, explore=True)[1][:, SETTINGS, :4]
    assert first.mean(0).tolist() == pytest.approx([0.5, 0.0, -0.5, 0.0], abs=0.02)
    assert first.std(0).tolist() == pytest.approx([0.3, 0.0, 0.3, 0.0], abs=0.02)


def test_a_larger_mask_ratio_leaves_more_masked():
    schedule = schedule_of(RandomOrder(), 2, 8)
    logits = [some_logits(2, 8, s)[:, None] for s in range(2)]
    with torch.no_grad():
        schedule.offset[0, 0] = 1.5
    states = walk(RandomOrder(), schedule, logits, 8, explore=False)
    share = float(co_grpo.moved(schedule.values, schedule.mean.detach().double())[0, 0])
    assert [masks_of(x, 8).sum(1).tolist() for x in states] == [[8, 8], [math.floor(8 * share)] * 2, [0, 0]]


def one_step(learn, guidance_scale=1.0, heads=1):
    kernel = Maskgit()
    schedule = schedule_of(kernel, 2, 6, learn, 0.2, guidance_scale)
    with torch.no_grad():
        schedule.offset += torch.linspace(-0.3, 0.3, 8).view(2, 4)
    base = UnmaskingLaw((Move(kernel, 0, 1),) * 3, 2, 6, BARE, CPU)
    law = schedule.law(base)
    logits = torch.stack([some_logits(3, 6, h) for h in range(heads)], 1)
    if heads == 2:
        logits[:, 1] = logits[:, 1].nan_to_num(neginf=0.5)
    x = co_grpo.with_settings(empty(3, 6))
    x_next = law.sample(x, schedule.predict(logits, 0).detach(), [Noise((i,)) for i in range(3)], [None] * 3)
    return schedule, law, logits, x, x_next


def test_log_probs_are_those_of_ids_under_what_was_drawn_and_of_the_draw():
    schedule, law, logits, x, x_next = one_step(NAMES, guidance_scale=3.0, heads=2)
    found = law.log_prob(x, schedule.predict(logits, 0), x_next)
    assert found.shape == (3, 6 + 4)
    offsets = x_next[:, SETTINGS, :4]
    _, temperature, _, scale = co_grpo.moved(schedule.values[0].expand(3, 4), offsets).unbind(1)
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
    assert logits.grad.abs().sum() > 0 and schedule.offset.grad.abs().sum() == 0
    logits.grad = None
    found[:, 6:].sum().backward()
    assert logits.grad.abs().sum() == 0
    expected = ((x_next[:, SETTINGS, :4] - schedule.mean[0].detach()) / 0.2**2 * schedule.learned[0]).sum(0)
    assert torch.allclose(schedule.offset.grad[0].double(), expected, atol=1e-4) and (schedule.offset.grad[1] == 0).all()


def test_kl_of_the_settings_is_the_gaussians():
    schedule, law, logits, x, x_next = one_step(TEXT)
    prediction = schedule.predict(logits, 0)
    with schedule.reference():
        other = schedule.predict(logits, 0)
    mean = schedule.mean[0].detach()
    kl = law.kl(x, prediction, other, x_next)
    assert torch.allclose(kl[:, 6:], 0.5 * (mean / 0.2).square() * schedule.learned[0]) and (kl[:, :6].abs() < 1e-6).all()
    assert (law.decisions(x_next, x_next)[:, 6:] == schedule.learned[0].float()).all()


SETTING = ["mask_ratio", "temperature", "order_temperature", "guidance_scale"]
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
SMALL = ["updates=2", "rollout.prompts_per_update=2", "rollout.group_size=4", "evaluation=null", "checkpoints.every=1"]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The sentence that trains the example, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "co_grpo.yaml").read_text()
    (tmp_path / "co_grpo.yaml").write_text(text.replace("examples/co_grpo.py", "co_grpo.py"))
    (tmp_path / "co_grpo.py").write_text((EXAMPLES / "co_grpo.py").read_text())
    return "co_grpo.yaml"


def built(example, *overrides):
    return load_config(example, overrides).policy.build(CPU, 0)


def test_at_its_means_the_schedule_guides_like_the_pipeline(example):
    plain, learned = load_config("mini-amused trajectory").policy.build(CPU, 0), built(example)
    moves, noises = [Move(Maskgit(), 0, 1)] * 2, [Noise((i,)) for i in range(2)]
    after = []
    for policy, law in ((plain, plain.law(moves, [])), (learned, learned.learned.law(learned.unmasking(moves), explore=False))):
        states = policy.start(PROMPTS, [])
        after.append(law.sample(states, policy.predict(states, PROMPTS, 0).detach(), noises, [None] * 2)[:, TOKENS])
    assert torch.equal(*after)


def test_a_rollout_replays_and_the_reference_has_the_kernels_means(example):
    policy = built(example)
    with torch.no_grad():
        policy.learned.offset.fill_(0.25)
    shape = AllSteps(kernel=Maskgit(), shared_start=True).shape(Draw(5, 2))
    block = rollout(policy, PROMPTS, [shape] * 2, (0, 0), 64, keep_predictions=False)
    for t in block.transitions:
        found = t.law.log_prob(t.states[t.parent], policy.predict(t.states, t.prompts, t.step)[t.parent], t.next_states)
        assert_replayed(found, t.log_prob)
        assert torch.equal(t.decisions[:, -4:], policy.learned.learned[t.step].float().expand(len(t.places), -1))
    with policy.reference():
        assert (policy.predict(block.transitions[0].states, block.transitions[0].prompts, 0)[:, -4:] == 0.0).all()
    assert (policy.learned.offset == 0.25).all()


@pytest.mark.parametrize("alone", [False, True])
def test_it_trains_and_samples_follow_the_schedule(example, alone, capsys):
    assert main(["train", example, *SMALL, f"policy.alone={alone}".lower()]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED and all(row["grad_norm"] > 0 for row in rows)
    first, last = (load_file(run / f"checkpoint-{k:06d}" / "state" / "trainable.safetensors") for k in (1, 2))
    changed = {name.partition(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == ({"schedule"} if alone else {"transformer", "schedule"})
    trained = run / "checkpoint-000002"
    table = json.loads((trained / "schedule.json").read_text())
    assert list(table) == SETTING and all(row["learned"] != row["hand_made"] for row in table.values())
    Path("prompts.txt").write_text("a red circle\na blue square\n")
    arguments = ["sample", str(run / "config.yaml"), "--prompts", "prompts.txt", "--lora", str(trained)]
    assert main([*arguments, "--out", "pictures"]) == 0
    assert Path("pictures/00001.png").is_file()
    assert main([*arguments, "--steps", "2", "--out", "other"]) == 2
    assert "policy.steps = 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("policy.learn=[]", "policy.learn"),
        ("policy.call={guidance_scale: 1.0}", "policy.learn has guidance_scale"),
        ("policy.call={guidance_scale: 2.0, temperature: 4}", "policy.call.temperature"),
        ("rollout.plan.kernel={type: maskgit, temperature: 0.5}", "starts from kernel 'maskgit' as it is"),
        ("evaluation.steps=3", "samples can't have 3"),
    ],
)
def test_what_can_not_be_is_said(change, said, example, capsys):
    assert main(["train", example, change]) == 2
    assert said in capsys.readouterr().err


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
