"""Pairs of pictures from files are trained without a sample and without a reward."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import CALLS
from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.data.media import size_of
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.pairs import judged_by_files, require_pictures, with_pictures
from flowgrpo.training.trainer import Trainer
from trainers import PICTURES, PLAIN, gradient

CPU = torch.device("cpu")
PAIRS = [*PLAIN, *PICTURES, "rollout.plan=pairs", "rollout.group_size=2", "rollout.micro_batch=8", "optimizer.lr=1e-3"]


def build(pipelines, name):
    lora = AttentionLora(rank=2, targets=("to_q", "to_k", "to_v"))
    return DiffusersConfig(model=str(pipelines[name]), steps=3, call=CALLS[name], lora=lora).build(CPU, seed=0)


def pictures(count, size):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["sd3", "flux", "sd15"])
def test_a_picture_comes_back_from_its_latents_as_from_the_vae_alone(pipelines, name):
    policy = build(pipelines, name)
    prompts = [Prompt(0, "a"), Prompt(1, "b")]
    given = pictures(2, policy.picture_size(prompts))
    with torch.no_grad():
        alone = policy.pipe.vae.decode(policy.pipe.vae.encode(2 * given - 1).latent_dist.mode())[0]
    states = policy.encode(given, prompts)
    assert states.shape[1:] == policy.start(prompts[:1], [(0,)]).shape[1:]
    torch.testing.assert_close(policy.decode(states, prompts).images, ((alone + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_flux_packs_the_latents_of_a_picture_as_its_pipeline_does(pipelines):
    policy, prompts = build(pipelines, "flux"), [Prompt(0, "a")]
    given, vae = pictures(1, policy.picture_size(prompts)), policy.pipe.vae
    with torch.no_grad():
        z = (vae.encode(2 * given - 1).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    packed = policy.pipe._pack_latents(z, *z.shape)
    torch.testing.assert_close(policy.encode(given, prompts), packed, rtol=1e-4, atol=1e-4)


def test_clips_and_pictures_of_another_size_are_refused(pipelines):
    with pytest.raises(UserError, match="of a picture, and decodes"):
        build(pipelines, "wan").picture_size([Prompt(0, "a")])
    policy = build(pipelines, "sd3")
    height, width = policy.picture_size([Prompt(0, "a")])
    with pytest.raises(UserError, match="resize it"):
        policy.encode(pictures(1, (height, width + 8)), [Prompt(0, "a")])


def write(folder, size, rows=3):
    rng, lines = np.random.default_rng(0), []
    for i in range(rows):
        names = {side: f"{side}{i}.png" for side in ("chosen", "rejected")}
        for name in names.values():
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
        lines.append({"prompt": f"picture {i}", **names})
    return listed(folder, lines)


def listed(folder, lines):
    (folder / "prefs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "prefs.jsonl"


@pytest.fixture(scope="module")
def pairs(pipelines, tmp_path_factory):
    policy = build(pipelines, "sd3")
    return write(tmp_path_factory.mktemp("pairs"), policy.picture_size([Prompt(0, "a")]))


def trainer(pipelines, file, *more, method="dpo", processes=None):
    call = ",".join(f"{key}: {value}" for key, value in CALLS["sd3"].items())
    model = [f"policy.model={pipelines['sd3']}", f"policy.call={{{call}}}", "policy.lora={rank: 2, alpha: 4}"]
    config = judged_by_files(load_config(["mini", method], [*PAIRS, *model, f"rollout.prompts={file}", *more]))
    policy = config.policy.build(CPU, config.seed)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    prompts, _ = with_pictures(load_prompts(str(file)), str(file))
    require_pictures(policy, prompts)
    return Trainer(config, policy, prompts, Scorer(config.rewards), processes or Processes.alone())


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.weights.parameters.items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("method", "more"), [("dpo", []), ("dpo", ["objective.surrogate.form=kto"]), ("raft", [])])
def test_pairs_train_at_the_cost_of_their_levels_and_resume_exactly(pipelines, pairs, method, more):
    whole, first, second = (trainer(pipelines, pairs, *more, method=method) for _ in range(3))
    before = weights(whole)
    metrics, _, scored = whole.update()
    assert metrics["network_evaluations"] == 2 * 2 * 2 and all(math.isfinite(value) for value in metrics.values())
    assert (scored.total == [[1.0, 0.0]] * 2).all() and (scored.advantage[:, 0] > 0).all() and (scored.advantage[:, 1] < 0).all()
    assert not same(before, weights(whole))
    whole.update()
    first.update()
    second.load(*copy.deepcopy(first.state()))
    second.update()
    assert same(weights(whole), weights(second))


def test_two_processes_share_the_blocks_of_one(pipelines, pairs):
    def posed(processes):
        one = trainer(pipelines, pairs, "rollout.micro_batch=2", processes=processes)
        prompts = one.order(0)
        shapes = one.allocation.shapes(0, [prompt.index for prompt in prompts])
        blocks = one.collector.roll_out(one.collector.begin(prompts, shapes, 0, [[0, 1]]))
        return [(block.slots, t.step, t.states, t.next_states) for block in blocks for t in block.rollout.transitions]

    alone, first, second = (posed(processes) for processes in (Processes.alone(), Processes(0, 2, CPU), Processes(1, 2, CPU)))
    assert first and second and len(alone) == len(first) + len(second)
    found = sorted([*first, *second], key=lambda row: row[0])
    for one, other in zip(alone, found, strict=True):
        assert one[:2] == other[:2] and torch.equal(one[2], other[2]) and torch.equal(one[3], other[3])


def test_the_gradient_of_a_pair_is_that_of_diffusion_dpo_written_out(pipelines, pairs):
    """-(2 / b) log s(b d), d what the policy prefers the chosen picture by, above the policy before training."""
    one = trainer(pipelines, pairs, "rollout.prompts_per_update=1", "policy.matching.levels.count=1")
    blocks, scored = one.collect(one.clock())
    found, _ = gradient(one, blocks, scored)
    (t,) = blocks[0].rollout.transitions
    policy = one.policy
    sigma = policy.schedule(t.prompts).sigmas[t.step]
    v_star = (t.states - t.next_states) / sigma

    def log_p():
        return -((policy.predict(t.states, t.prompts, t.step) - v_star) ** 2).flatten(1).mean(1)

    with torch.no_grad(), policy.reference():
        before = log_p()
    p = log_p() - before
    assert [place for _, place in t.places] == [0, 1]
    b = 0.1 / 1e-2
    (-(2 / b) * torch.nn.functional.logsigmoid(b * (p[0] - p[1]))).backward()
    expected = one.weights.taken_gradient()
    assert expected.norm() > 0
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_broken_pictures_are_named_and_counted(pairs, tmp_path):
    size = size_of(pairs.parent / "chosen0.png")
    write(tmp_path, size)
    (tmp_path / "chosen1.png").write_bytes(b"no picture")
    (tmp_path / "rejected2.png").unlink()
    file = str(tmp_path / "prefs.jsonl")
    whole, notes = with_pictures(load_prompts(file), file)
    assert [prompt.index for prompt in whole] == [0]
    assert notes[0] == "2 of 3 pairs are left out" and "chosen1.png" in notes[1] and "rejected2.png" in notes[2]
    (tmp_path / "rejected0.png").unlink()
    with pytest.raises(UserError, match="none of its 3 pairs can be read"):
        with_pictures(load_prompts(file), file)


@pytest.mark.parametrize("row", [{"chosen": "a.png"}, {"chosen": 3, "rejected": "a.png"}, {"rejected": "a.png"}])
def test_a_row_that_names_no_pair_is_refused(tmp_path, row):
    file = listed(tmp_path, [{"prompt": "x", **row}])
    with pytest.raises(UserError, match=r"row 1: '(chosen|rejected)' must name a picture"):
        with_pictures(load_prompts(str(file)), str(file))


@pytest.mark.parametrize(
    ("method", "override", "says"),
    [
        ("dpo", "rollout.group_size=4", "set rollout.group_size to 2"),
        ("flow_grpo", "seed=0", "take dpo, raft or another"),
        ("dpo", "old={rate: 0.1}", "old has nothing to work on"),
        ("dpo", "rollout.plan={type: pairs, shared_start: true}", "set shared_start to false"),
    ],
)
def test_what_does_not_fit_pairs_is_said(method, override, says):
    with pytest.raises(UserError, match=says):
        load_config(["mini", method], ["rollout.plan=pairs", "rollout.group_size=2", override])


def test_a_picture_that_was_changed_since_is_noticed_when_a_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, (32, 32))
    words = ["mini", "dpo", "rollout.plan=pairs", "rollout.group_size=2", "rollout.prompts=prefs.jsonl", "evaluation=null"]
    assert main(["train", *words, "rollout.prompts_per_update=2", "updates=1"]) == 0
    run = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"]
    Image.new("RGB", (32, 32), "red").save(tmp_path / "chosen0.png")
    assert main(["train", *words, "rollout.prompts_per_update=2", "updates=2", "--resume", run]) == 2
    assert "prefs.jsonl" in capsys.readouterr().err
