"""Files are whole or as they were."""

import os

import pytest

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError, user_code
from flowgrpo.core.whole import read_json, write_json, write_text


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_text(file, "one")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_text(file, "two")
    assert file.read_text() == "one" and [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_json_that_is_missing_or_damaged_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2]}
    (tmp_path / "a.json").write_text('{"a": [1')
    for name, words in (("a.json", r"a\.json is damaged"), ("b.json", r"b\.json is missing")):
        with pytest.raises(UserError, match=words):
            read_json(tmp_path / name)


def test_what_a_users_code_raises_is_said_with_their_file_and_line(tmp_path):
    (tmp_path / "mine.py").write_text("import json\n\n\ndef f():\n    return json.loads('{')\n")
    space: dict = {}
    exec(compile((tmp_path / "mine.py").read_text(), str(tmp_path / "mine.py"), "exec"), space)
    with pytest.raises(UserError, match=r"^reward 'x' raised JSONDecodeError: .* \(mine\.py, line 5\)$"), user_code("reward 'x'"):
        space["f"]()
    with pytest.raises(UserError, match="raised SystemExit: 0"), user_code("reward 'x'"):
        raise SystemExit(0)
    with pytest.raises(UserError, match=r"^as it is$"), user_code("reward 'x'"):
        raise UserError("as it is")


def test_a_place_that_can_not_be_written_to_is_said_by_every_command_before_it_loads_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "p.txt").write_text("a red circle\n")
    for command in (
        ["train", "quickstart", "output=file/below"],
        ["sample", "quickstart", "--prompts", "p.txt", "--out", "file/below"],
        ["score", ".", "--rewards", "brisque", "--out", "file"],
        ["eval", "mini_scenes", "quickstart", "--out", "file/below"],
        ["study", "quickstart", "--out", "file"],
        ["compare", "runs", "--out", "/proc/self/below"],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "nothing can be written to" in said
