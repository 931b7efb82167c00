"""Run the notebooks of the documentation and keep what they print: `python tools/notebooks.py`."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def executed(notebook: Path, folder: Path) -> NotebookNode:
    """A notebook after all its cells have run in a folder. Errors: nbclient's CellExecutionError."""
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


def tidy(book: NotebookNode) -> NotebookNode:
    """Without progress bars, warnings, times, and texts beside what is shown."""
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "text/html" in output.get("data", {}):
                    output.data.pop("text/plain", None)
    return book


def main() -> None:
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            book = tidy(executed(notebook, Path(folder)))
        nbformat.write(book, notebook)
        print(notebook.name, f"{notebook.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
