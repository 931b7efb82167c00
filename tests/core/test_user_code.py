"""A user's code is loaded as it is now, however often it is edited and whatever else has its name."""

import gc
import pickle
import sys
from itertools import count

import pytest

from flowgrpo.core.errors import UserError
from flowgrpo.core.identity import named
from flowgrpo.core.plugins import load_file, resolve
from flowgrpo.core.sources import look_anew, source_digest, user_modules

DATACLASS = """
from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Mine:
    x: int = 1
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def value_of(spec):
    module, name = resolve(spec, "flowgrpo.rewards")
    return vars(module)[name]


def test_an_edited_file_is_loaded_as_it_is_now(desk):
    file = desk / "edited.py"
    for value in range(3):
        file.write_text(f"value = {value}\n")
        assert value_of(f"{file}:value") == value


def test_an_edited_module_is_loaded_as_it_is_now(desk):
    for value in range(3):
        (desk / "edited_module.py").write_text(f"value = {value}\n")
        assert value_of("edited_module:value") == value


def test_what_others_import_meanwhile_is_no_matter(monkeypatch):
    """Other code runs whenever Python collects garbage, and it may import."""
    numbers, before = count(), gc.get_threshold()
    monkeypatch.setattr(sys, "path_importer_cache", {f"/none/{next(numbers)}": None for _ in range(1000)})
    monkeypatch.setattr(gc, "callbacks", [lambda *_: sys.path_importer_cache.update({f"/none/{next(numbers)}": None})])
    gc.set_threshold(1)
    try:
        look_anew()
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("spec", ["uses_helper.py:value", "uses_helper:value"])
def test_an_edited_helper_is_loaded_as_it_is_now(desk, monkeypatch, spec):
    monkeypatch.chdir(desk)
    (desk / "helpers").mkdir()
    (desk / "helpers" / "__init__.py").write_text("")
    (desk / "helpers" / "middle.py").write_text("from .deep import value\n")
    (desk / "uses_helper.py").write_text("from helpers.middle import value\n")
    for value in range(3):
        (desk / "helpers" / "deep.py").write_text(f"value = {value}\n")
        assert value_of(spec) == value


def test_two_of_one_name_do_not_meet(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(f"value = {folder!r}\nclass Mine: pass\n")
    one, two = (load_file(tmp_path / folder / "same_name.py") for folder in ("one", "two"))
    assert (one.value, two.value) == ("one", "two")
    assert type(pickle.loads(pickle.dumps(one.Mine()))) is one.Mine and type(pickle.loads(pickle.dumps(two.Mine()))) is two.Mine
    for folder in ("one", "two"):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            assert value_of("same_name:value") == folder


def test_what_did_not_change_is_loaded_once(desk):
    (desk / "once.py").write_text(DATACLASS)
    first, second = (value_of(f"{desk / 'once.py'}:Mine") for _ in range(2))
    assert first is second and pickle.loads(pickle.dumps(first(3))) == second(3)
    assert value_of("once:Mine") is value_of("once:Mine")


@pytest.mark.parametrize("source", [b"def f(:\n", b"x = 1\0\n", b"x = '\xff'\n"])
def test_a_file_that_is_no_python_is_said(desk, source):
    (desk / "broken.py").write_bytes(source)
    with pytest.raises(UserError, match=r"broken.py can't be imported: it raised (SyntaxError|ValueError)"):
        load_file(desk / "broken.py")
    with pytest.raises(UserError, match=r"module 'broken' can't be imported: it raised (SyntaxError|ValueError)"):
        value_of("broken:x")
    with pytest.raises(UserError, match="no module named 'nowhere_at_all'"):
        value_of("nowhere_at_all:x")


def test_a_file_that_failed_is_tried_again(desk):
    file = desk / "fails.py"
    file.write_text("from pathlib import Path\nvalue = float(Path(__file__).with_name('weight').read_text())\n")
    with pytest.raises(Exception, match="can't be imported"):
        load_file(file)
    (desk / "weight").write_text("2")
    assert load_file(file).value == 2.0


def test_the_modules_of_a_file_are_the_users_own_wherever_they_are_imported(desk):
    (desk / "pack").mkdir()
    (desk / "pack" / "__init__.py").write_text("")
    (desk / "pack" / "a.py").write_text("def f():\n    from . import b\n")
    (desk / "pack" / "b.py").write_text("import numpy, json\nfrom flowgrpo.core import keys\n")
    file = desk / "root.py"
    file.write_text("def f():\n    import pack.a\n")
    assert user_modules(file).keys() == {"pack", "pack.a", "pack.b"}
    assert not sys.modules.keys() & {"pack", "pack.a", "pack.b"}
    before = source_digest(file)
    (desk / "pack" / "b.py").write_text("import numpy\n")
    assert source_digest(file) != before


def test_names_in_settings_are_files_folders_and_code(desk, monkeypatch):
    monkeypatch.chdir(desk)
    (desk / "folder" / "below").mkdir(parents=True)
    weights = desk / "folder" / "below" / "w.bin"
    weights.write_bytes(b"1")
    (desk / "judge.py").write_text("x = 1\n")
    settings = {"a": ["folder", {"b": "judge.py:x"}], "c": "judge:x", "d": "json:dumps", "e": "no file", "f": 3, "g": "~nobody/x"}
    before = named(settings)
    assert before.keys() == {"folder", "judge.py:x", "judge:x"}
    weights.write_bytes(b"2")
    assert [name for name, value in named(settings).items() if value != before[name]] == ["folder"]
