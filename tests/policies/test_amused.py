"""A masked image model: diffusers' aMUSEd with a tiny random configuration."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel

from conftest import REPLAYED, assert_replayed
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import METHODS, fitting
from flowgrpo.config.run import load_config
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.tiny.parts import clip_tokenizer, clip_with_projection
from flowgrpo.sampling.canvas import TOKENS
from flowgrpo.sampling.kernels.orders import Maskgit
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
STEPS, SIDE = 4, 4


def tiny_amused() -> AmusedPipeline:
    torch.manual_seed(0)
    return AmusedPipeline(
        transformer=UVit2DModel(
            hidden_size=16,
            block_num_heads=2,
            num_attention_heads=2,
            num_hidden_layers=1,
            cond_embed_dim=32,
            encoder_hidden_size=32,
            micro_cond_encode_dim=4,
            micro_cond_embed_dim=4 * 5,
            block_out_channels=16,
            in_channels=16,
            codebook_size=12,
            vocab_size=13,
            intermediate_size=16,
            sample_size=SIDE,
        ),
        vqvae=VQModel(
            act_fn="silu",
            block_out_channels=[8],
            down_block_types=["DownEncoderBlock2D"],
            in_channels=3,
            latent_channels=8,
            layers_per_block=1,
            norm_num_groups=4,
            num_vq_embeddings=12,
            out_channels=3,
            sample_size=SIDE,
            up_block_types=["UpDecoderBlock2D"],
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        ),
        text_encoder=clip_with_projection(),
        tokenizer=clip_tokenizer(),
        scheduler=AmusedScheduler(mask_token_id=12),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("amused")
    tiny_amused().save_pretrained(root / "pipeline")
    return root / "pipeline"


def build(folder, **options):
    call = {"guidance_scale": 3.0}
    return AmusedConfig(model=str(folder), steps=STEPS, length=SIDE**2, call=call, **options).build(CPU, 0)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_replayed_log_probs_equal_the_rollouts_and_gradients_flow(folder, lora):
    policy = build(folder, lora=lora)
    shape = AllSteps(kernel=Maskgit(), shared_start=True).shape(Draw(STEPS, 3))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    assert block.samples.images.shape == (6, 3, SIDE, SIDE)
    total = torch.zeros(6)
    for t in block.transitions:
        logits = policy.predict(t.states, t.prompts, t.step)
        log_prob = t.law.log_prob(t.states[t.parent], logits[t.parent], t.next_states)
        assert_replayed(log_prob, t.log_prob)
        log_prob.sum().backward()
        total += t.log_prob.sum(1)
    assert (total < 0).all() and any(p.grad is not None and p.grad.abs().any() for p in policy.trainable().values())


def test_as_many_ids_stay_masked_as_under_the_pipelines_own_scheduler(folder):
    policy = build(folder)
    scheduler = AmusedScheduler(mask_token_id=12)
    scheduler.set_timesteps(STEPS)
    shape = AllSteps(kernel=Maskgit()).shape(Draw(STEPS, 2))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 8, keep_predictions=False)
    ids = torch.full((1, SIDE, SIDE), 12)
    for t, timestep in zip(block.transitions, scheduler.timesteps, strict=True):
        ids = scheduler.step(
            torch.zeros(1, 12, SIDE, SIDE), timestep, ids, generator=torch.Generator().manual_seed(0)
        ).prev_sample
        masks = (t.next_states[:, TOKENS] == 12).sum(1)
        assert masks.tolist() == [int((ids == 12).sum())] * 4


def test_generate_is_the_untouched_pipeline(folder):
    policy = build(folder)
    images = policy.generate(PROMPTS, [3, 4], STEPS).images
    pipe = AmusedPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for prompt, seed, image in zip(PROMPTS, (3, 4), images, strict=True):
        generator = torch.Generator().manual_seed(seed)
        plain = pipe(prompt.text, num_inference_steps=STEPS, generator=generator, guidance_scale=3.0, output_type="pt")[0]
        assert torch.equal(plain[0], image)


def run_config(folder, tmp_path):
    (tmp_path / "bright.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    return {
        "updates": 2,
        "policy": {"type": "amused", "model": str(folder), "steps": STEPS, "length": SIDE**2, "lora": {"rank": 2}},
        "rollout": {
            "prompts": "prompts.txt",
            "prompts_per_update": 2,
            "group_size": 4,
            "plan": {"type": "all", "shared_start": True, "kernel": "maskgit"},
        },
        "rewards": {"bright": {"use": "bright.py:bright"}},
        "objective": {"clip": 0.2, "reduce": "decision"},
        "optimizer": {"lr": 1e-3},
    }


def test_a_whole_run_and_its_lora(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(json.dumps(run_config(folder, tmp_path)))
    assert main(["train", "run.yaml"]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED and rows[0]["grad_norm"] > 0
    lora = run / "checkpoint-000002"
    assert main(["sample", "run.yaml", "--prompts", "prompts.txt", "--lora", str(lora), "--out", "pictures"]) == 0
    assert (tmp_path / "pictures" / "00001.png").is_file()


def test_a_length_that_is_not_the_pictures_is_said(folder):
    with pytest.raises(Exception, match="these pictures have 4 x 4 ids"):
        AmusedConfig(model=str(folder), steps=STEPS, length=9).build(CPU, 0)


@pytest.mark.parametrize("recipe", [f"mini-amused/{method}" for method in fitting("mini-amused", METHODS)])
def test_every_miniature_recipe_trains_and_the_plan_counts_right(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["updates=2", "rollout.prompts_per_update=2", "rollout.group_size=2", "evaluation.limit=2", "checkpoints.every=2"]
    assert main(["train", recipe, *options]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = [json.loads(line) for line in (Path(summary["run"]) / "metrics.jsonl").read_text().splitlines()]
    bill = bill_of(load_config(recipe, options))
    assert [row["network_evaluations"] for row in rows] == [bill["network_evaluations_per_update"]] * 2
    assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED and all(row["grad_norm"] > 0 for row in rows)
