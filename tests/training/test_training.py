"""Whole runs on mini-sd3: recipes, resume, processes, bad rewards, checkpoints that die, LoRAs that load."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from conftest import REPLAYED
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import METHODS, fitting
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.runs.checkpoint import write_checkpoint
from flowgrpo.runs.run import Run

SMALL = [
    "rewards.bright={use: 'brightness.py:brightness'}",
    "rollout.prompts_per_update=2",
    "rollout.group_size=4",
    "rollout.micro_batch=4",
    "evaluation.limit=4",
    "evaluation.pictures=2",
]
"""Few samples, and a reward that no two of them share."""

GEOMETRY = {
    "branch_grpo": ["rollout.plan.forks=[0, 1]"],
    "branch_grpo_mix": ["rollout.plan.forks=[0, 1]"],
    "tempflow_grpo": ["rollout.plan.teeth=2"],
    "early_comb": ["rollout.plan.teeth=2"],
    "adaptive_comb": ["rollout.plan.teeth=2"],
    "dense_grpo": ["calibration={rounds: 1, prompts: 2}"],
    "draft": ["rewards.bright.weight=0"],
    "refl": ["rewards.bright.weight=0"],
}
"""What some methods need besides, for groups of four and a reward without a gradient."""
SIX_STEPS = ["policy.steps=6", "policy.spacing=pipeline", "evaluation=null", "updates=1", "optimizer.steps_per_update=1"]


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["train", *arguments]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text("def brightness(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        ["credit={type: gain, baseline: fitted}", "rollout.plan={type: random, size: 1, per: prompt, completion: {steps: null}}"],
        ["credit=blend", "rollout.plan={type: branch, forks: [0, 2], completion: {steps: 1}}"],
        ["credit={type: gain, baseline: fitted}", "rollout.plan.completion={steps: 2}", "selection=[turning_point]"],
    ],
    ids=["fitted, a step a prompt", "blend on a tree", "turning points alone"],
)
def test_credit_from_the_others_trains_on_any_shape(parts, capsys):
    run = Path(train(capsys, "mini/flow_grpo", *SMALL, *SIX_STEPS, *parts, "advantage={mean: none, std: group}")["run"])
    (row,) = metrics(run)
    assert row["grad_norm"] > 0 and row["ratio/first_log_abs_max"] <= REPLAYED
    assert (row["advantage/trained_share"] < 0.9) == (parts[-1] == "selection=[turning_point]")


@pytest.mark.parametrize("recipe", [*(f"mini/{method}" for method in fitting("mini", METHODS)), "two_rewards", "quickstart"])
def test_every_miniature_recipe_trains_and_the_plan_counts_right(recipe, capsys):
    overrides = [*SMALL, *GEOMETRY.get(recipe.removeprefix("mini/"), []), "updates=2", "optimizer.steps_per_update=1"]
    summary = train(capsys, recipe, *overrides)
    run = Path(summary["run"])
    assert summary["updates"] == 2 and summary["held_out"]["metric"] == "strict"
    bill = bill_of(load_config(recipe, overrides))
    rows = metrics(run)
    assert [row["network_evaluations"] for row in rows] == [bill["network_evaluations_per_update"]] * 2
    assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED
    assert rows[0]["grad_norm"] > 0
    for part in ("config.yaml", "report.html", "tree.json", "samples/before/scores.jsonl", "checkpoint-000002/README.md"):
        assert (run / part).is_file()


def test_options_of_the_core_work_together(capsys):
    summary = train(
        capsys,
        "mini/flow_grpo",
        *SMALL,
        "updates=2",
        "evaluation=null",
        "ema={decay: 0.5}",
        "optimizer.steps_per_update=2",
        "optimizer.epochs=2",
        "optimizer.warmup=2",
        "objective={clip: [1.0e-5, 2.0e-5], weight: noise, kl: {coefficient: 0.1, unit: velocity}}",
        "advantage={std: group, aggregate: advantages}",
        "policy.lora=null",
        "policy.runtime.gradient_checkpointing=true",
        "rollout.plan={type: sliding, size: 2, every: 1, kernel: {type: ddim, eta: 0.9}, shared_start: true}",
    )
    rows = metrics(Path(summary["run"]))
    assert rows[0]["optimizer_steps"] == 4 and rows[1]["kl"] > 0
    assert (Path(summary["run"]) / "checkpoint-000002" / "transformer" / "config.json").is_file()


def test_two_plus_resume_plus_two_equals_four_bit_for_bit(capsys):
    options = [*SMALL, "ema={decay: 0.9}", "checkpoints.every=2", "evaluation=null"]
    four = Path(train(capsys, "mini/flow_grpo", *options, "updates=4")["run"])
    two = Path(train(capsys, "mini/flow_grpo", *options, "updates=2", "output=half")["run"])
    (two / ".checkpoint-000003.partial").mkdir()
    resumed = train(capsys, "mini/flow_grpo", "updates=4", "--resume", str(two))
    assert resumed["run"] == str(two) and not list(two.glob(".checkpoint*"))
    for file in sorted((four / "checkpoint-000004").rglob("*.safetensors")):
        a, b = load_file(file), load_file(two / file.relative_to(four))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), file.name
    quiet = [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics(four)]
    assert quiet == [{k: v for k, v in row.items() if "seconds" not in k} for row in metrics(two)]


def test_the_lora_loads_with_plain_diffusers_and_gives_the_images_of_sample(capsys, tmp_path):
    run = Path(train(capsys, "mini/flow_grpo", *SMALL, "updates=2", "evaluation=null", "optimizer.lr=1e-2")["run"])
    lora = run / "checkpoint-000002"
    (tmp_path / "p.txt").write_text("a red circle\ntwo squares\n")
    call = load_config("mini/flow_grpo").policy.call
    pictures = {}
    for out, options in {"with": ["--lora", str(lora)], "without": []}.items():
        assert main(["sample", "mini/flow_grpo", "--prompts", "p.txt", "--seed", "5", "--out", out, *options]) == 0
        pictures[out] = np.stack([np.asarray(Image.open(tmp_path / out / f"{i:05d}.png")) for i in range(2)])
    pipe = DiffusionPipeline.from_pretrained(locate("asset:mini-sd3"), text_encoder_3=None, tokenizer_3=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(lora))
    generators = [torch.Generator().manual_seed(5 + i) for i in range(2)]
    steps = load_config("mini/flow_grpo").evaluation.steps
    sigmas = [1 - i / steps for i in range(steps)]
    plain = pipe(["a red circle", "two squares"], sigmas=sigmas, generator=generators, **call).images
    plain = np.stack([np.asarray(image) for image in plain]).astype(int)
    assert np.abs(plain - pictures["with"]).max() <= 1
    assert np.abs(plain - pictures["without"]).max() > 1


REWARDS = {
    "raises": ("raise RuntimeError('no server')", "raised RuntimeError: no server"),
    "nan": ("return [float('nan')] * len(samples)", "returned nan"),
    "short": ("return [1.0]", "returned 1 scores for 96 samples"),
    "constant": ("return [0.0] * len(samples)", "constant reward trains nothing"),
}


@pytest.mark.parametrize("kind", REWARDS)
def test_a_bad_reward_stops_the_run_before_it_starts(kind, capsys, tmp_path):
    body, words = REWARDS[kind]
    (tmp_path / "bad.py").write_text(f"def judge(samples):\n    {body}\n")
    assert main(["train", "mini/flow_grpo", *SMALL, "rewards.soft.use=bad.py:judge"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and "soft" in error
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_bad_prompt_file_is_named(capsys, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "blank.jsonl").write_text('{"prompt": ""}\n')
    for file, words in (("empty.txt", "holds no prompts"), ("blank.jsonl", "row 1: the prompt is missing or empty")):
        assert main(["train", "mini/flow_grpo", f"rollout.prompts={file}"]) == 2
        assert words in capsys.readouterr().err


def test_a_user_reward_gets_images_prompts_and_metadata_untouched(capsys, tmp_path):
    rows = [
        {"prompt": f"a {color} circle", "answer": [color, {"n": i}]} for i, color in enumerate(["red", "blue", "green", "cyan"])
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "import json\n\n\ndef bright(samples):\n"
        "    assert samples.images.shape[1:] == (3, 32, 32) and 0 <= samples.images.min() and samples.images.max() <= 1\n"
        f"    known = json.loads({json.dumps(json.dumps(rows))})\n"
        "    assert all(row in known and row['prompt'] == text for row, text in zip(samples.metadata, samples.prompts))\n"
        "    return samples.images.mean((1, 2, 3)).tolist()\n"
    )
    train(
        capsys,
        "mini/flow_grpo",
        *SMALL,
        "updates=1",
        "evaluation=null",
        "rollout.prompts=p.jsonl",
        "rewards={mine: {use: 'mine.py:bright'}}",
    )


def test_a_nan_loss_stops_before_any_weight_changes(capsys, tmp_path, monkeypatch):
    def poison(self, x, prediction, x_next):
        return original(self, x, prediction, x_next) * (float("nan") if prediction.requires_grad else 1.0)

    from flowgrpo.sampling.laws.gaussian import GaussianLaw

    original = GaussianLaw.log_prob
    monkeypatch.setattr(GaussianLaw, "log_prob", poison)
    assert main(["train", "mini/flow_grpo", *SMALL, "updates=1", "evaluation=null"]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_the_step_0_gate_names_the_step(capsys, monkeypatch):
    from flowgrpo.policies.diffusers._policy import DiffusersPolicy

    original = DiffusersPolicy.predict

    def drift(self, states, prompts, step):
        v = original(self, states, prompts, step)
        return v * 1.05 if torch.is_grad_enabled() and step == 1 else v

    monkeypatch.setattr(DiffusersPolicy, "predict", drift)
    assert main(["train", "mini/flow_grpo", *SMALL, "updates=1", "evaluation=null"]) == 2
    error = capsys.readouterr().err
    assert "on-policy check" in error and "at step 1" in error


COMMON = ["mini/flow_grpo", *SMALL, "evaluation=null"]


def launch(processes: int, *arguments: str) -> Path:
    """Train in real processes, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command += ["-m", "flowgrpo", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Path(json.loads(line)["run"])


def test_two_processes_give_the_same_rollouts_and_the_same_update(capsys):
    learned = ["rollout.plan.completion={type: learned}", "advantage.baseline={type: tracker, high: 2.0}"]
    options = [*COMMON, "rollout.prompts_per_update=4", "updates=1", *learned]
    one, two = Path(train(capsys, *options, "output=on1")["run"]), launch(2, *options, "output=on2")
    told = [{name: value for name, value in metrics(run)[0].items() if "seconds" not in name} for run in (one, two)]
    assert told[0] == told[1]
    tree = json.loads((one / "tree.json").read_text())
    assert tree == json.loads((two / "tree.json").read_text())
    for node in tree["nodes"]:
        assert not node["image"] or (one / node["image"]).read_bytes() == (two / node["image"]).read_bytes()
    name = Path("checkpoint-000001/state/trainable.safetensors")
    a, b = load_file(one / name), load_file(two / name)
    assert all(torch.equal(a[k], b[k]) for k in a)
    memories = [json.loads((run / "checkpoint-000001/state/trainer.json").read_text())["memory"] for run in (one, two)]
    assert memories[0] == memories[1] and len(memories[0]["records"]["total"]) == 4
    critics = [load_file(run / "checkpoint-000001/state/critic.safetensors") for run in (one, two)]
    assert all(torch.equal(*pair) for pair in zip(*(critic.values() for critic in critics), strict=True)) and critics[0]


def test_a_rehearsal_of_two_processes_is_made_by_one():
    run = launch(2, "llada-8b", "gdpo", "countdown", "--tiny")
    assert [row["update"] for row in metrics(run)] == [0, 1] and metrics(run)[0]["ratio/first_log_abs_max"] <= REPLAYED


def test_kill_9_in_the_middle_of_a_checkpoint_leaves_the_last_good_one(capsys, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time\nfrom flowgrpo.runs import checkpoint\nfrom flowgrpo.cli.main import main\n"
        "sync = checkpoint._sync\n\n\ndef slow_sync(path):\n    sync(path)\n"
        "    if '000002.partial' in str(path):\n        open('in_the_middle', 'w').close()\n        time.sleep(60)\n\n\n"
        "checkpoint._sync = slow_sync\nsys.exit(main(sys.argv[1:]))\n"
    )
    options = [*COMMON, "updates=3", "checkpoints.every=1"]
    process = subprocess.Popen([sys.executable, str(slow), "train", *options], stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (tmp_path / "in_the_middle").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run,) = (tmp_path / "runs").iterdir()
    assert [c.name for c in Run(run).checkpoints] == ["checkpoint-000001"] and list(run.glob(".checkpoint-*.partial"))
    summary = train(capsys, "mini/flow_grpo", "--resume")
    assert summary["run"] == str(run.relative_to(tmp_path)) and summary["updates"] == 3
    assert [row["update"] for row in metrics(run)] == [0, 1, 2]


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path):
    def good(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")

    def full(folder: Path) -> None:
        (folder / "weights").write_bytes(b"1")
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(b"2")

    write_checkpoint(tmp_path, 1, good)
    with pytest.raises(UserError, match=r"000002 could not be written .*No space left.*checkpoint-000001.*--resume"):
        write_checkpoint(tmp_path, 2, full)
    assert [c.name for c in Run(tmp_path).checkpoints] == ["checkpoint-000001"]
    assert not list(tmp_path.glob(".*partial"))


def test_resuming_what_is_not_a_run(capsys, tmp_path):
    assert main(["train", "mini/flow_grpo", "--resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["train", "mini/flow_grpo", "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_a_metric_that_compares_samples_is_refused_before_training(capsys):
    win = "rewards.win={use: win_rate, arguments: {judge: 'scene:soft', margin: 0.0}}"
    assert main(["train", "mini/flow_grpo", *SMALL, win, "evaluation.metric=win"]) == 2
    assert "'win' compares samples" in capsys.readouterr().err
    alone = ["rollout.group_size=1", "advantage.baseline=tracker", win]
    assert main(["train", "mini/flow_grpo", *SMALL, *alone]) == 2
    assert "'win' compares samples, and with rollout.group_size = 1" in capsys.readouterr().err
    assert not Path("runs").exists()
