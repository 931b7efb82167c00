"""A resumed run is the undisturbed one, or it is refused; nothing that was trained is lost. Runs of milliseconds on mini-sd3."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowgrpo.cli.main import main
from flowgrpo.core.paths import locate
from flowgrpo.core.whole import write_text
from flowgrpo.runs.run import Run
from flowgrpo.training.run import Training

RECIPE = """
base: mini/flow_grpo
updates: 4
rollout: {prompts: p.jsonl, prompts_per_update: 2, group_size: 4, prompt_sampler: priority,
  plan: {type: comb, teeth: 2, allocate: adaptive}}
advantage: {baseline: tracker}
optimizer: {lr: 1.0e-4, steps_per_update: 1, decay_over: 8}
evaluation: {limit: 4, every: 2, limit_between: 2, pictures: 2}
checkpoints: {every: 1, keep_last: 9}
rewards:
  strict: {use: "scene:strict", weight: 0}
  soft: {use: "scene:soft", weight: 0}
  bright: {use: "bright.py:bright"}
"""
BRIGHT = """
import os, signal

CALLS = []


def bright(samples):
    CALLS.append(len(samples))
    if os.environ.get("AT") == str(len(CALLS)):
        exec(os.environ["DO"])
    return samples.images.mean((1, 2, 3)).tolist()
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and a finished run of it, `run`."""
    home = tmp_path_factory.mktemp("begun")
    (home / "e.yaml").write_text(RECIPE)
    (home / "bright.py").write_text(BRIGHT)
    packed = locate("asset:mini-sd3/prompts/train.jsonl.gz").read_bytes()
    (home / "p.jsonl").write_bytes(b"".join(gzip.decompress(packed).splitlines(keepends=True)[:40]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", "e.yaml"]) == 0
    (run,) = (home / "runs").iterdir()
    return run


@pytest.fixture
def run(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(begun.parents[1], tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return Path("runs", begun.name)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def quiet(run: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows(run)]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["train", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if line.startswith("flowgrpo: ")]) == 1
    return lines[-1]


def cut_back(run: Path, updates: int) -> None:
    """As if the run had been killed right after this checkpoint."""
    for checkpoint in Run(run).checkpoints[updates:]:
        shutil.rmtree(checkpoint)
    for name in ("report.html", "held_out.json", "tree.json"):
        (run / name).unlink()
    shutil.rmtree(run / "samples" / "after")
    write_text(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows(run) if row["update"] < updates))


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(Run(path).checkpoints[-1] / "state" / "trainable.safetensors") for path in (one, other))
    return quiet(one) == quiet(other) and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("policy.lora.alpha=8", "policy.lora.alpha = 64, and here it is 8"),
        ("policy.lora.rank=8", "policy.lora.rank = 32"),
        ("policy.lora.targets=[to_q]", "policy.lora.targets"),
        ("policy.lora=null", "policy.lora"),
        ("policy.steps=4", "policy.steps"),
        ("ema=null", "ema"),
        ("seed=5", "seed = 0"),
        ("rollout.plan.kernel.noise_level=0.5", "rollout.plan.kernel.noise_level"),
        ("rewards.bright.weight=2.0", "rewards.bright.weight"),
        ("evaluation.seed=7", "evaluation.seed"),
    ],
)
def test_what_may_not_change_is_refused_by_name(override, names, run, capsys):
    assert f"began with {names}" in refused(capsys, "e.yaml", "updates=6", override, "--resume", str(run))


def test_a_size_that_is_counted_anew_is_no_other_run(run):
    """It is for the plan only."""
    parts = "encoders: {parameters: 9, width: 8, tokens: 1}, vae: {parameters: 9, width: 8}"
    size = f"policy.size={{denoiser: {{parameters: 1000, layers: 2, width: 8, tokens: 16}}, {parts}}}"
    assert main(["train", "e.yaml", "updates=6", size, "--resume", str(run)]) == 0
    assert Run(run).config.policy.size.denoiser.parameters == 1000
    assert max(row["update"] for row in rows(run) if "loss" in row) == 5


def test_another_recipe_is_refused(run, capsys):
    assert "is a run of 'e', not of 'mini-cps'" in refused(capsys, "mini/cps", "--resume", str(run))


def test_a_run_of_a_recipe_whose_name_begins_alike_is_another(run, capsys):
    Path("exp-2.yaml").write_text("base: e.yaml\n")
    Path("exp.yaml").write_text("base: e.yaml\n")
    assert main(["train", "exp-2.yaml", "updates=1"]) == 0
    assert "no run of 'exp' in runs" in refused(capsys, "exp.yaml", "--resume")


def test_an_edited_recipe_counts_where_it_may(run, capsys):
    Path("e.yaml").write_text(RECIPE.replace("updates: 4", "updates: 5"))
    assert main(["train", "e.yaml", "--resume", str(run)]) == 0
    assert rows(run)[-1]["update"] == 4 and rows(run)[-2]["update"] == 3
    Path("e.yaml").write_text(RECIPE.replace("group_size: 4", "group_size: 2"))
    assert "began with rollout.group_size = 4, and in e.yaml it is 2" in refused(capsys, "e.yaml", "--resume", str(run))


def test_an_override_may_follow_resume(run):
    assert main(["train", "e.yaml", "--resume", "updates=5"]) == 0
    assert len([row for row in rows(run) if "reward" in row]) == 5


def test_other_prompts_are_refused(run, capsys):
    prompts = Path("p.jsonl").read_text()
    Path("p.jsonl").write_text("".join(reversed(prompts.splitlines(keepends=True))))
    assert "p.jsonl is not what it was" in refused(capsys, "e.yaml", "updates=6", "--resume", str(run))
    Path("p.jsonl").unlink()
    assert "p.jsonl does not exist" in refused(capsys, "e.yaml", "updates=6", "--resume", str(run))


def test_a_mended_reward_goes_on_with_a_word(run, capsys):
    Path("bright.py").write_text(BRIGHT + "\n")
    assert main(["train", "e.yaml", "updates=5", "--resume", str(run)]) == 0
    assert f"reward 'bright' is not what it was when {run} began" in capsys.readouterr().err


def test_fewer_updates_than_there_are_are_refused(run, capsys):
    assert "has 4 updates already, and updates = 3" in refused(capsys, "e.yaml", "updates=3", "--resume", str(run))


@pytest.mark.parametrize("updates", [0, 2, 3])
def test_a_run_goes_on_from_any_checkpoint_to_the_same_end(updates, begun, run):
    cut_back(run, updates)
    assert main(["train", "e.yaml", "--resume"]) == 0
    assert same(run, begun)
    for name in ("held_out.json", "tree.json", "samples/before/scores.jsonl", "samples/after/scores.jsonl"):
        assert (run / name).read_bytes() == (begun / name).read_bytes()


def test_a_lost_evaluation_between_updates_is_made_again(begun, run):
    cut_back(run, 2)
    kept = [row for row in rows(run) if "reward" in row]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert main(["train", "e.yaml", "--resume"]) == 0
    assert same(run, begun)


def test_a_half_line_of_an_update_that_is_done_again_is_no_loss(begun, run):
    cut_back(run, 3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "rew')
    assert main(["train", "e.yaml", "--resume"]) == 0
    assert same(run, begun)


def test_a_damaged_line_and_a_lost_row_are_named(run, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([lines[0], '{"upd\n', *lines[2:]]))
    assert "metrics.jsonl, line 2 is damaged" in refused(capsys, "e.yaml", "updates=6", "--resume", str(run))
    (run / "metrics.jsonl").write_text("".join([lines[0], *lines[2:]]))
    assert "has no row of update 1" in refused(capsys, "e.yaml", "updates=6", "--resume", str(run))


@pytest.mark.parametrize(
    ("harm", "name"),
    [("cut", "trainable.safetensors"), ("gone", "optimizer.safetensors"), ("cut", "ema.safetensors"), ("cut", "trainer.json")],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_the_way_on(harm, name, run, begun, capsys):
    last = Run(run).checkpoints[-1]
    file = last / "state" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]) if harm == "cut" else file.unlink()
    said = refused(capsys, "e.yaml", "--resume", str(run))
    assert f"{file} is {'damaged' if harm == 'cut' else 'missing'}" in said
    assert f"--resume {run}/checkpoint-000003" in said
    if name == "trainer.json":
        assert main(["train", "e.yaml", "--resume", f"{run}/checkpoint-000003"]) == 0
        assert same(run, begun)


def test_weights_of_another_model_and_a_lost_optimizer_are_refused(run, capsys):
    file = Run(run).checkpoints[-1] / "state" / "trainable.safetensors"
    tensors = load_file(file)
    save_file({name: value[..., :1].contiguous() for name, value in tensors.items()}, file)
    assert "trainable tensors are not those of this model" in refused(capsys, "e.yaml", "--resume", str(run))
    save_file(tensors, file)
    save_file({}, file.with_name("optimizer.safetensors"))
    assert "no state of the optimizer" in refused(capsys, "e.yaml", "--resume", str(run))


def test_folders_that_are_no_runs_are_refused(run, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in refused(capsys, "e.yaml", "--resume", str(tmp_path / "empty"))
    assert "is not a run folder" in refused(capsys, "e.yaml", "--resume", "nowhere")
    assert "no such checkpoint" in refused(capsys, "e.yaml", "--resume", f"{run}/checkpoint-000099")
    (run / "run.json").write_text('{"recipe": "e"')
    assert "run.json is damaged" in refused(capsys, "e.yaml", "--resume", str(run))
    assert "no run of 'e' in elsewhere" in refused(capsys, "e.yaml", "output=elsewhere", "--resume")


def test_a_run_belongs_to_one_process(run, capsys):
    with Run(run).locked():
        assert "is being trained by another process" in refused(capsys, "e.yaml", "updates=5", "--resume", str(run))
    assert main(["train", "e.yaml", "updates=5", "--resume", str(run)]) == 0


PHASES = {"probe": 1, "before": 2, "first update": 3, "second update": 4, "between": 5, "third update": 6, "after": 8}
"""Which call of the reward is in which phase of a run."""
HARMS = {
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGUSR1": "os.kill(os.getpid(), signal.SIGUSR1)",
    "SIGHUP": "os.kill(os.getpid(), signal.SIGHUP)",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT)",
    "error": "raise RuntimeError('the server is gone')",
}
DONE = {"first update": 1, "second update": 2, "between": 2, "third update": 3, "after": 4}
"""How many updates are kept after a signal that an update ends before."""


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code, and the last line that was said."""
    capsys.readouterr()
    return main(["train", *arguments]), capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize(
    ("harm", "phase"),
    [*(("SIGTERM", phase) for phase in PHASES), ("SIGUSR1", "between"), ("SIGUSR1", "third update"), ("SIGHUP", "third update")],
)
def test_a_batch_systems_signal_lets_the_update_end_and_the_run_goes_on_to_the_same_end(
    harm, phase, begun, run, capsys, monkeypatch
):
    shutil.rmtree("runs")
    monkeypatch.setenv("AT", str(PHASES[phase]))
    monkeypatch.setenv("DO", HARMS[harm])
    code, said = ended(capsys, "e.yaml", "checkpoints={every: 99}")
    assert code == 0 and said.startswith(f"flowgrpo: {harm} ended the run; ")
    monkeypatch.delenv("AT")
    if phase == "probe":
        assert said.endswith("begin it again") and not Path("runs").exists()
        return
    (stopped,) = Path("runs").iterdir()
    done = DONE.get(phase, 0)
    assert len([row for row in rows(stopped) if "reward" in row] if done else []) == done
    assert [checkpoint.name for checkpoint in Run(stopped).checkpoints] == ([f"checkpoint-{done:06d}"] if done else [])
    assert said.endswith(f"{f'checkpoint-{done:06d} is kept' if done else 'no update was kept'}; go on with --resume {stopped}")
    assert main(["train", "e.yaml", "--resume", "auto"]) == 0
    assert same(stopped, begun)


@pytest.mark.parametrize(("harm", "phase"), [("SIGINT", "third update"), ("error", "between"), ("error", "third update")])
def test_an_interrupt_or_an_error_keeps_what_is_done_and_goes_on_to_the_same_end(harm, phase, begun, run, capsys, monkeypatch):
    shutil.rmtree("runs")
    monkeypatch.setenv("AT", str(PHASES[phase]))
    monkeypatch.setenv("DO", HARMS[harm])
    said = refused(capsys, "e.yaml", "checkpoints={every: 99}")
    assert (harm in said) or "the server is gone" in said
    monkeypatch.delenv("AT")
    (stopped,) = Path("runs").iterdir()
    assert [checkpoint.name for checkpoint in Run(stopped).checkpoints] == ["checkpoint-000002"]
    assert said.endswith(f"go on with --resume {stopped}")
    assert main(["train", "e.yaml", "--resume"]) == 0
    assert same(stopped, begun)


def test_a_signal_whose_checkpoint_can_not_be_written_is_an_error(run, capsys, monkeypatch):
    shutil.rmtree("runs")
    monkeypatch.setenv("AT", str(PHASES["second update"]))
    monkeypatch.setenv("DO", HARMS["SIGTERM"])
    monkeypatch.setattr("flowgrpo.runs.checkpoint._sync", lambda path: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert "SIGTERM ended the run; " in (said := refused(capsys, "e.yaml", "checkpoints={every: 99}"))
    assert "could not be written" in said


def test_resume_auto_begins_anew_where_no_run_has_this_config(run, capsys):
    assert main(["train", "e.yaml", "seed=5", "updates=1", "evaluation=null", "--resume", "auto"]) == 0
    assert "begins anew: no run of 'e' in runs has this config" in capsys.readouterr().err
    runs = sorted(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert len(runs) == 2 and len(rows(runs[-1])) == 1
    capsys.readouterr()
    assert main(["train", "e.yaml", "--resume", "auto", "updates=5"]) == 0
    assert f"--resume auto goes on with {run}" in capsys.readouterr().err
    ended_with = rows(run)
    assert len([*Path("runs").iterdir()]) == 2 and ended_with[-1]["update"] == 4
    assert main(["train", "e.yaml", "--resume", "auto", "updates=5"]) == 0
    assert rows(run) == ended_with and len([*Path("runs").iterdir()]) == 2
    assert "without --resume" in refused(capsys, "e.yaml", "--tiny", "--resume", "auto")
    Path("p.jsonl").write_text("".join(Path("p.jsonl").read_text().splitlines(keepends=True)[1:]))
    code, said = ended(capsys, "e.yaml", "updates=5", "--resume", "auto")
    assert code == 2 and "p.jsonl is not what it was" in said


def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_update(run, capsys):
    shutil.rmtree("runs")
    options = ["e.yaml", "evaluation=null", "rollout.micro_batch=4", "checkpoints={every: 99}"]
    assert main(["train", *options]) == 0
    (undisturbed,) = Path("runs").iterdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "flowgrpo", "train"]
    ask = "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGUSR1)"
    command += [*options, "output=two", "--resume", "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "AT": "3", "DO": ask}
    both = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert both.returncode == 0, both.stderr[-2000:]
    (stopped,) = Path("two").iterdir()
    assert both.stderr.count("flowgrpo: ") == 2 and both.stderr.count("begins anew") == 1
    assert all(line.startswith("[Gloo] ") for line in both.stdout.splitlines()), "torch before 2.15 says there who is connected"
    assert f"SIGUSR1 ended the run; checkpoint-000002 is kept; go on with --resume {stopped}" in both.stderr
    assert main(["train", *options, "output=two", "--resume", "auto"]) == 0
    assert same(stopped, undisturbed)


@pytest.mark.parametrize("damaged", [1, 4])
def test_resume_auto_passes_over_damaged_checkpoints(damaged, run, begun, capsys):
    for checkpoint in Run(run).checkpoints[-damaged:]:
        file = checkpoint / "state" / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["train", "e.yaml", "--resume", "auto"]) == 0
    assert "checkpoint-000004 is passed over: " in capsys.readouterr().err
    assert same(run, begun) and len(Run(run).checkpoints) == 4


def test_a_run_folder_that_vanishes_is_one_sentence(run, capsys, monkeypatch):
    shutil.rmtree("runs")
    monkeypatch.setenv("AT", str(PHASES["second update"]))
    monkeypatch.setenv("DO", "import shutil; shutil.rmtree('runs')")
    said = refused(capsys, "e.yaml", "evaluation=null", "rewards={bright: {use: 'bright.py:bright'}}")
    assert said.endswith("metrics.jsonl: No such file or directory")


def test_a_signal_between_the_first_optimizer_step_and_the_end_of_an_update_waits(run, begun, capsys, monkeypatch):
    original = torch.optim.AdamW.step

    def step(self, *arguments, **named):
        done = original(self, *arguments, **named)
        os.kill(os.getpid(), signal.SIGTERM)
        return done

    shutil.rmtree("runs")
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        code, said = ended(capsys, "e.yaml")
        assert code == 0 and "checkpoint-000001 is kept" in said
    assert main(["train", "e.yaml", "--resume"]) == 0
    assert same(next(Path("runs").iterdir()), begun)


def test_the_newest_and_the_best_checkpoints_are_kept(run, capsys, monkeypatch):
    held_out = iter([0.2, 0.9, 0.5])

    def between(self):
        self._record({"update": self.trainer.updates - 1, "held_out/strict": next(held_out)})

    shutil.rmtree("runs")
    monkeypatch.setattr(Training, "_evaluate_between", between)
    options = ["updates=8", "evaluation.every=2", "checkpoints={every: 3, keep_last: 2, keep_best: 1}"]
    assert main(["train", "e.yaml", *options]) == 0
    assert [c.name[-1] for c in Run(next(Path("runs").iterdir())).checkpoints] == ["4", "6", "8"]
    said = refused(capsys, "e.yaml", "evaluation=null", "checkpoints.keep_best=1")
    assert "keep_best needs held-out scores between updates" in said


def test_output_that_can_not_be_written_is_said_before_anything_is_loaded(run, capsys, monkeypatch):
    Path("file").write_text("")
    Path("link").symlink_to("/proc/self")
    monkeypatch.setattr("flowgrpo.training.run.load_prompts", lambda source: pytest.fail("too late"))
    for output in ("file", "file/below", "link/below"):
        assert f"nothing can be written to output = {output!r}" in refused(capsys, "e.yaml", f"output={output}")


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("flowgrpo.runs.folder.time.strftime", lambda form: "20260101-000000")
    begun = [Run.begin(str(tmp_path), "a") for _ in range(3)]
    assert [run.name for run in begun] == ["a-20260101-000000", "a-20260101-000000-2", "a-20260101-000000-3"]
    assert {run.recipe for run in begun} == {"a"}


def test_a_broken_number_is_never_a_checkpoint(run, capsys, monkeypatch):
    def poison(self):
        original(self)
        next(iter(self.trainer.weights.parameters.values())).data.fill_(float("nan"))

    original = Training._update
    monkeypatch.setattr(Training, "_update", poison)
    shutil.rmtree("runs")
    assert "holds NaN or infinity, so no checkpoint was written" in refused(capsys, "e.yaml")
    assert not Run(next(Path("runs").iterdir())).checkpoints


def test_a_run_whose_own_credit_was_edited_does_not_go_on(tmp_path, monkeypatch, capsys):
    source = Path(locate("asset:mini-sd3")).parents[1] / "flowgrpo/objective/credit/terminal.py"
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(source.read_text())
    small = ["rollout.prompts_per_update=2", "rollout.group_size=4", "evaluation=null", "optimizer.decay_over=null"]
    assert main(["train", "mini", "flow_grpo", *small, "updates=1", "credit=mine.py"]) == 0
    Path("mine.py").write_text(source.read_text().replace("rewards.mean(-1)", "rewards.max(-1)"))
    run = next(Path("runs").iterdir())
    assert "mine.py is not what it was" in refused(capsys, "mini", "flow_grpo", "updates=2", "--resume", str(run))
