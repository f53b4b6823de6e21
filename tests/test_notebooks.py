"""Every notebook runs from its first cell to its last, in a kernel of its own, with few draws."""

from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = "2000"  # draws a chain: enough for a good verdict, so that the notebook goes all the way


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()


@pytest.mark.pages
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBINFER_NOTEBOOK_DRAWS", SMALL)
    execute(jupytext.read(path), tmp_path)


def test_a_failing_cell_is_caught(tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="planted"):
        execute(jupytext.reads("# %%\nraise RuntimeError('planted')\n", fmt="py:percent"), tmp_path)


def test_no_outputs_are_stored():
    assert [path.name for path in NOTEBOOKS.iterdir() if path.suffix == ".ipynb"] == []
