"""The small commands."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest

import flowgrpo.cli.main as command_line
from flowgrpo.cli.main import COMMANDS, main
from flowgrpo.scoring.chosen import chosen_rewards, with_arguments


def test_doctor_says_what_is_installed(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] and facts["cpu cores"] >= 1 and "gpus" in facts


def test_rewards_lists_and_describes(capsys):
    assert main(["rewards"]) == 0
    out = capsys.readouterr().out
    assert "\nscene:strict\n" in out and "range: 0 to 1" in out and "licence: Apache-2.0" in out


@pytest.mark.parametrize("option", ["--checkpoint", "--lora"])
@pytest.mark.parametrize(
    ("model", "missing"),
    [("mini/flow_grpo", "no pytorch_lora_weights.safetensors"), ("quickstart", "no folder 'transformer' with all weights in it")],
)
def test_sample_without_the_weights_in_the_folder(capsys, tmp_path, monkeypatch, option, model, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red circle\n")
    assert main(["sample", model, "--prompts", str(tmp_path / "p.txt"), option, str(tmp_path)]) == 2
    assert missing in capsys.readouterr().err


def waiting(environment: dict[str, str]) -> str:
    """How often threads spin when a command imports torch, by what its environment says."""
    code = "import os, sys; from flowgrpo.cli.main import main; assert 'torch' not in sys.modules; main(['trian'])"
    code += "; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    return subprocess.run([sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("environment", "spins"),
    [({}, "2000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_NUM_THREADS": "1"}, "2000")],
)
def test_threads_that_wait_leave_the_core_to_others_unless_the_user_says_how(environment, spins):
    assert waiting(environment) == f"{spins}\n"


def complaint(capsys, *arguments: str) -> str:
    """The one sentence with which a command ends."""
    assert main([*arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowgrpo: ") and error.count("\n") == 1
    return error


COUNTS = {
    ("sample", "quickstart", "--prompts", "x"): ["--batch", "--steps"],
    ("plan", "quickstart"): ["--processes"],
    ("credit", "quickstart"): ["--updates", "--prompts"],
    ("bench", "quickstart"): ["--updates"],
    ("models", "--check", "x"): ["--steps"],
    ("score", "x", "--rewards", "ocr", "--out", "y"): ["--batch"],
    ("eval", "mini_scenes", "quickstart"): ["--limit", "--batch"],
    ("study", "quickstart"): ["--evaluations", "--points", "--workers"],
}
SEEDS = {
    ("sample", "quickstart", "--prompts", "x"): "--seed",
    ("eval", "mini_scenes", "quickstart"): "--seed",
    ("study", "quickstart"): "--seeds",
}


@pytest.mark.parametrize("command", COUNTS, ids=lambda command: command[0])
def test_counts_are_whole_and_above_0(capsys, command):
    for option in COUNTS[command]:
        for value, words in (
            ("0", "0 is less than 1"),
            ("-3", "-3 is less than 1"),
            ("x", "no whole number"),
            ("1.5", "no whole"),
        ):
            error = complaint(capsys, *command, option, value)
            assert f"{command[0]}: argument {option}: " in error and words in error
        assert "more than" in complaint(capsys, *command, option, str(2**31))


@pytest.mark.parametrize("command", SEEDS, ids=lambda command: command[0])
def test_seeds_fit_into_63_bits(capsys, command):
    for value in ("-1", str(2**63), str(2**64), "1" * 5000, "x"):
        assert f"argument {SEEDS[command]}: " in complaint(capsys, *command, SEEDS[command], value)


def test_an_unknown_command_or_option_has_a_neighbour(capsys):
    assert "there is no command 'trian' (did you mean 'train'?" in complaint(capsys, "trian", "quickstart")
    assert "name a command: train, recipes, methods, plan" in complaint(capsys)
    wrong = complaint(capsys, "sample", "quickstart", "--prompts", "x", "--chekpoint", "y")
    assert "sample: it does not take '--chekpoint' (did you mean '--checkpoint'?" in wrong
    assert "are required: CONFIG" in complaint(capsys, "train")
    assert "does not take 'more'" in complaint(capsys, "doctor", "more")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["train", ""], "train"),
        (["plan", "mini", " "], "mini"),
        (["train", "mini", "flow_grpo", "--resume", ""], "--resume"),
        (["sample", "quickstart", "--checkpoint", "", "--prompts", "p.txt"], "--checkpoint"),
        (["sample", "quickstart", "--prompts", "p.txt", "--out="], "--out"),
        (["score", "", "--rewards", "jpeg:compressibility", "--out", "o"], "score"),
        (["score", ".", "--rewards", "jpeg:compressibility", "--out", ""], "--out"),
        (["compare", "one", ""], "one"),
    ],
)
def test_a_variable_that_is_not_set_is_no_folder_and_no_default(capsys, tmp_path, monkeypatch, command, option):
    """Else the model's own weights are sampled as if they were a checkpoint's, and the folder that one is in is scored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red circle")
    assert f"what follows '{option}' is empty; is a variable of the shell not set?" in complaint(capsys, *command)
    assert [*tmp_path.iterdir()] == [tmp_path / "p.txt"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and f"flowgrpo {command}" in capsys.readouterr().out


def read(monkeypatch, *arguments: str) -> Namespace:
    """What the command is given."""
    found = []
    module = command_line._module(arguments[0])
    monkeypatch.setattr(module, "run", lambda given: found.append(given) or 0)
    assert main([*arguments]) == 0
    return found[0]


@pytest.mark.parametrize(
    "line",
    [
        "train quickstart {} --resume",
        "train quickstart --resume {}",
        "train {} quickstart --resume",
        "sample quickstart --prompts p.txt {} --out there",
        "sample quickstart --prompts p.txt --out there {}",
        "plan quickstart --json {}",
        "plan --processes 2 quickstart {}",
        "credit quickstart --prompts 3 {}",
        "credit mini flow_grpo {} dense_grpo --json",
        "models --check there --json {}",
        "eval mini_scenes quickstart {} --checkpoint a b",
        "eval mini_scenes quickstart --checkpoint a b {}",
        "study one two {} --seeds 0 1",
        "study one two --seeds 0 1 {}",
        "score there --rewards a --out b {}",
        "serve-reward scene:soft --port 0 {}",
    ],
)
def test_values_to_change_may_stand_anywhere(monkeypatch, line):
    for values in (["a.b=c"], ["a.b=c d", "rewards.x/y.py:Z.arguments.k='/v'"]):
        words = [word for part in line.split() for word in (values if part == "{}" else [part])]
        given = read(monkeypatch, *words)
        assert given.overrides == values
        assert getattr(given, "configs", ["one", "two"]) == ["one", "two"]
        assert getattr(given, "checkpoint", None) in (None, [], ["a", "b"]) and getattr(given, "resume", "") in ("", None)


def test_what_an_option_is_given_is_no_value_to_change(monkeypatch, tmp_path):
    assert read(monkeypatch, "sample", "quickstart", "--prompts", "a=b.txt", "--out", "c=d").overrides == []
    (tmp_path / "a=b.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert read(monkeypatch, "train", "a=b.yaml", "c=d").config == ["a=b.yaml"]


def test_values_to_change_in_their_old_spelling_are_read_with_a_warning(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["score", ".", "--rewards", "ocr", "--out", "o", "--set", "orc.nonsense=1"]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning == "flowgrpo: --set goes with version 0.3.0; write orc.nonsense=1 as --help says"
    assert "'orc.nonsense=1' must look like rewards.LABEL.arguments.KEY=VALUE" in error
    assert main(["study", "mini/cps", "--set", "updatse=1"]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "--set goes with version" in warning and "unknown key 'updatse'" in error
    assert "unknown key 'updatse'" in complaint(capsys, "study", "mini/cps", "updatse=1")


def test_an_argument_of_a_reward_is_written_as_in_a_config(capsys):
    rewards = chosen_rewards("ocr,text:Length")
    settings = ["rewards.text:Length.arguments.target=3", "text:Length.width=2", "rewards.*.arguments.width=4"]
    assert with_arguments(rewards, settings)["text:Length"].arguments == {"target": 3, "width": 4}
    for wrong in ("rewards.ocr.nonsense=1", "rewards.orc.arguments.x=1", "rewards.*.arguments.x=1", "rewards.ocr=1"):
        for command in (["score", ".", "--rewards", "ocr", "--out", "o"], ["eval", "mini_scenes", "quickstart"]):
            error = complaint(capsys, *command, wrong)
            assert f"'{wrong}' must look like rewards.LABEL.arguments.KEY=VALUE with the label of a reward" in error
