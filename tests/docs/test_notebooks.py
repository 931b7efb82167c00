"""The notebooks of the documentation run, and hold nothing of the machine that ran them."""

import tempfile
from pathlib import Path

import pytest

from notebooks import FOLDER, executed

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    book = executed(notebook, tmp_path)
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_place(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert len(text) < 250_000
    places = (tempfile.gettempdir(), str(Path.home()), str(FOLDER.parents[1]), "/home/", "/Users/", "site-packages")
    assert not [place for place in places if place in text]
