"""A pipeline's folder with a file that is cut short is one sentence for every command that reads it."""

import shutil

import pytest

from flowgrpo.cli.main import main


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["train", "mini-wan", "flow_grpo"], "model_index.json"),
        (["train", "mini-wan", "flow_grpo", "distributed.context=2"], "model_index.json"),
        (["plan", "mini-wan", "flow_grpo"], "model_index.json"),
        (["plan", "mini-wan", "flow_grpo"], "transformer/config.json"),
        (["plan", "mini-wan", "flow_grpo", "--measure"], "transformer/config.json"),
    ],
)
def test_a_file_that_is_cut_short_is_named(command, file, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved("wan"), "model")
    capsys.readouterr()
    cut = tmp_path / "model" / file
    cut.write_text(cut.read_text()[:40])
    assert main([*command, "policy.model=./model", "policy.size=null"]) == 2
    said = capsys.readouterr().err.strip()
    assert f"{file} is damaged" in said and "\n" not in said and not (tmp_path / "runs").exists()
