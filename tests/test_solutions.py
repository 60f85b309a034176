"""The exercises' solutions run, and their checks hold, at the end of their notebooks."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("*.md"))


@pytest.mark.parametrize("solution", SOLUTIONS, ids=lambda file: file.stem)
def test_solutions_run(solution, monkeypatch):
    # What the notebooks need is expensive: make it where they will look for it themselves.
    monkeypatch.delenv("ARTIFACT_DIR", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # all cores, as a reader would
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(NOTEBOOKS / f"{solution.stem}.ipynb", as_version=4)
    blocks = re.findall(r"^```python\n(.*?)^```", solution.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks, f"{solution.name} has no code"
    notebook.cells += [nbformat.v4.new_code_cell(block) for block in blocks]
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()


def test_every_notebook_has_solutions():
    assert [s.stem for s in SOLUTIONS] == sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb"))
