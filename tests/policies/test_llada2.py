"""LLaDA2Pipeline of diffusers commits what our kernel commits; DiffusionGemmaPipeline is refused.

The model is a tiny random one with the interface that the pipeline asks for.
"""

import json

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.masked._policy import MaskedPolicy
from flowgrpo.policies.masked.transformer import MiniMdlm
from flowgrpo.policies.tiny.mdlm import make_model, make_tokenizer, save
from flowgrpo.sampling.canvas import DRAWN, TOKENS, canvas
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels._unmasking import Draft
from flowgrpo.sampling.kernels.block_refinement import BlockRefinement
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.rollout import rollout
from mdlm import CPU, config_of, nudge

BLOCK, BLOCKS, STEPS = 4, 2, 3
"""Steps of a block."""
PROMPT = "1+2="
THRESHOLDS = [0.2, 0.4, 1.5]


class NeverMasks(MiniMdlm):
    """The scheduler would draw masks and padding as well; the policy never does."""

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        output = super().forward(input_ids, attention_mask, position_ids)
        output.logits[..., EOS:] = -1e4
        return output


EOS = make_tokenizer().eos_token_id
"""Behind it come mask, padding and what the tokenizer does not know."""


@pytest.fixture(scope="module")
def pipe():
    random = make_model(layers=2, seed=3)
    model = NeverMasks(random.config)
    model.load_state_dict(random.state_dict())
    made = LLaDA2Pipeline(model, BlockRefinementScheduler(block_length=BLOCK), make_tokenizer())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("llada2")
    tokenizer = make_tokenizer()
    LLaDA2Pipeline(make_model(layers=2, seed=3), BlockRefinementScheduler(), tokenizer).save_pretrained(root)
    with pytest.raises(UserError, match="no folder 'tokenizer'"):
        build(root)
    tokenizer.save_pretrained(root / "tokenizer")
    return root


def build(folder, threshold=0.3, temperature=1.0, **options) -> MaskedPolicy:
    sampler = BlockRefinement(threshold=threshold, block_length=BLOCK, temperature=temperature)
    room = {"steps": STEPS * BLOCKS, "prompt_length": 4, "length": BLOCK * BLOCKS, "window": True, "forbidden": [EOS]}
    return config_of(folder, **{**room, "sampler": sampler, **options}).build(CPU, 0)


def run(pipe, threshold, temperature, seed=0):
    """(the pipeline's ids [1, L], what its callback saw step by step)."""
    seen = []

    def keep(_pipe, _step, _in_block, tensors):
        seen.append({name: value.clone() for name, value in tensors.items()})
        return {}

    result = pipe(
        prompt=PROMPT,
        use_chat_template=False,
        gen_length=BLOCK * BLOCKS,
        block_length=BLOCK,
        num_inference_steps=STEPS,
        temperature=temperature,
        sampling_method="auto",
        threshold=threshold,
        editing_threshold=None,
        eos_early_stop=False,
        output_type="seq",
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["block_x", "transfer_index", "sampled_tokens", "sampled_probs", "active_block"],
    )
    return result.sequences, [step for step in seen if step["active_block"].any()]


def before(step):
    """The ids that the model saw, from those after the step."""
    ids = step["block_x"].clone()
    ids[:, -BLOCK:][step["transfer_index"]] = make_tokenizer().mask_token_id
    return ids


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_kernel_commits_what_the_pipelines_scheduler_commits(pipe, folder, threshold, temperature):
    policy = build(folder, threshold, temperature)
    kernel, mask = policy.config.sampler, policy.vocabulary.mask
    for seed in range(4):
        _, steps = run(pipe, threshold, temperature, seed)
        counted, widths = 0, []
        for step in steps:
            widths.append(step["block_x"].shape[1])
            in_block = widths.count(widths[-1]) - 1
            logits = pipe.model(before(step)).logits[:, -BLOCK:].double()
            open_ = step["active_block"]
            shape = torch.zeros(1, BLOCK, dtype=torch.float64)
            draft = Draft(
                logits, logits / temperature, step["sampled_tokens"], shape, open_, ~open_, shape, 0.5, torch.zeros(1, 1)
            )
            quota = torch.tensor([[2, 1, 1][in_block]]).clamp(max=open_.sum(1))
            assert torch.equal(kernel.chosen(draft, quota), step["transfer_index"])
            counted += int(step["transfer_index"].sum())
        assert counted == BLOCK * BLOCKS and mask not in steps[-1]["block_x"]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_recorded_steps_are_the_logs_of_the_schedulers_probabilities(pipe, folder, temperature):
    policy = build(folder, temperature=temperature)
    _, steps = run(pipe, 0.3, temperature)
    for step in steps:
        ids, width = before(step), step["block_x"].shape[1]
        behind = 4 + BLOCK * BLOCKS - width
        hidden = torch.full((1, behind), policy.vocabulary.mask)
        x, x_next = canvas(torch.cat([ids, hidden], 1)), canvas(torch.cat([step["block_x"], hidden], 1))
        start = width - BLOCK
        drawn = torch.where(step["transfer_index"], step["sampled_tokens"], -1).double()
        x_next[:, DRAWN, start:width] = drawn
        law = policy.law([Move(policy.config.sampler, 0, 1)], [])
        found = law.log_prob(x, policy.predict(x, [Prompt(0, PROMPT)], 0), x_next)[:, start - 4 : width - 4]
        expected = torch.where(step["transfer_index"], step["sampled_probs"].log(), 0.0)
        assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_greedy_answers_are_the_pipelines(pipe, folder, threshold):
    policy = build(folder, threshold, temperature=0.0)
    sequences, _ = run(pipe, threshold, 0.0)
    assert policy.generate([Prompt(0, PROMPT)], [0], STEPS * BLOCKS).texts == make_tokenizer().batch_decode(sequences)


def test_nothing_behind_the_block_is_seen(folder):
    policy = build(folder)
    prompts = [Prompt(0, PROMPT)] * 2
    states = policy.start(prompts, [])
    states[1, TOKENS, -1] = 5.0
    logits = policy.predict(states, prompts, 0)
    assert torch.equal(logits[0, :BLOCK], logits[1, :BLOCK]) and (logits[:, BLOCK:, 0] == 0).all()
    open_sight = build(save(folder.parent / "plain", make_model(layers=2, seed=3)), window=False)
    seen = open_sight.predict(states, prompts, 0)
    assert not torch.equal(seen[0, :BLOCK], seen[1, :BLOCK])


def test_rollouts_replay_bit_for_bit_and_reach_every_weight(folder):
    policy = build(folder, lora={"rank": 2, "targets": ["q_proj", "v_proj"]})
    nudge(policy)
    prompts = [Prompt(0, PROMPT), Prompt(1, "7=")]
    shape = AllSteps(kernel=policy.config.sampler, shared_start=True).shape(Draw(STEPS * BLOCKS, 3))
    block = rollout(policy, prompts, [shape] * len(prompts), (0, 0), 16, keep_predictions=False)
    for t in block.transitions:
        found = t.law.log_prob(t.states[t.parent], policy.predict(t.states, t.prompts, t.step)[t.parent], t.next_states)
        assert torch.equal(found.detach(), t.log_prob)
        found.sum().backward()
    assert all(p.grad is not None and p.grad.abs().any() for p in policy.trainable().values())


def test_a_saved_pipeline_trains(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("1+2=\n7=\n4+4=\n3=\n")
    (tmp_path / "ones.py").write_text("def ones(samples):\n    return [t.count('1') + 0.1 * len(t) for t in samples.texts]\n")
    kernel = {"type": "block_refinement", "block_length": BLOCK}
    tree = {
        "updates": 2,
        "policy": {
            "type": "masked",
            "model": str(folder),
            "window": True,
            "steps": STEPS * BLOCKS,
            "prompt_length": 4,
            "length": BLOCK * BLOCKS,
            "sampler": kernel,
        },
        "rollout": {
            "prompts": "prompts.txt",
            "prompts_per_update": 4,
            "group_size": 4,
            "plan": {"type": "all", "shared_start": True, "kernel": kernel},
        },
        "rewards": {"ones": {"use": "ones.py:ones"}},
        "objective": {"clip": 0.2, "reduce": "decision"},
        "optimizer": {"lr": 1e-3},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(tree))
    assert main(["train", "run.yaml"]) == 0
    capsys.readouterr()
    for change, said in [
        ("policy.window=false", "set policy.window to true"),
        ("policy.likelihood=one_step", "use likelihood trajectory"),
        ("policy.sampler.block_length=8", "one kernel.block_length"),
    ]:
        assert main(["train", "run.yaml", change]) == 2
        assert said in capsys.readouterr().err


def test_uniform_corruption_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DiffusionGemmaPipeline"}))
    with pytest.raises(UserError, match="DiffusionGemmaPipeline has no mask"):
        build(tmp_path)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "diffusion_gemma"}))
    save(tmp_path / "words")
    for file in (tmp_path / "words").glob("token*"):
        file.rename(tmp_path / "bare" / file.name)
    with pytest.raises(UserError, match="diffusion_gemma has no mask"):
        build(tmp_path / "bare")


def test_other_pipelines_are_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(UserError, match="StableDiffusion3Pipeline"):
        build(tmp_path)
