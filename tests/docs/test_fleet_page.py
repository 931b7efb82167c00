"""The tables of docs/howto/fleet_size.md are what its commands print."""

import re
import shlex
from pathlib import Path

import pytest

from flowgrpo.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "fleet_size.md").read_text(encoding="utf-8")
SECONDS = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
TABLES = re.findall(r"```\n(flowgrpo plan .* h200\.json.*)\n```\n\n((?:\|.*\n)+)", PAGE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def rows(text: str) -> list[tuple[list[str], list[float]]]:
    """Of the lines of a table: the words of its cells, and the numbers."""
    lines = [re.sub(r" +", " ", line) for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [(NUMBER.split(line), [float(number) for number in NUMBER.findall(line)]) for line in lines]


def test_both_tables_have_their_command():
    assert len(TABLES) == 2


@pytest.mark.parametrize(("command", "table"), TABLES, ids=["48 prompts", "480 prompts"])
def test_a_table_is_what_its_command_prints(command, table, tmp_path, monkeypatch, capsys):
    (tmp_path / "h200.json").write_text(SECONDS)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    printed, said = rows(capsys.readouterr().out), rows(table)
    assert [words for words, _ in printed] == [words for words, _ in said]
    for (_, ours), (_, theirs) in zip(said, printed, strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=1.0)
