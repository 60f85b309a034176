"""Write each notebook with its exercises' solutions at the end, so that one run checks both.

Some are written a second time, for another data set: they have to run, and there is nothing to compare their outputs with.

python tests/with_solutions.py FOLDER
"""

import copy
import re
import shutil
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
COMPARED = "nbval-check-output"
ON_CIFAR10 = ["21_arn_motivation", "23_arn_pixel_attacks"]  # of the pages that have this parameter those that are quick


def solution(notebook):
    """The Markdown file with the solutions of `notebook`, a Path."""
    return NOTEBOOKS / "solutions" / f"{notebook.stem}.md"


def blocks(text):
    """The Python code of the solutions, block by block."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def on(notebook, dataset):
    """The notebook with the parameter `dataset` set behind its parameters' cell, as papermill does it."""
    notebook = copy.deepcopy(notebook)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"dataset = {dataset!r}"))
    for cell in notebook.cells:
        if COMPARED in cell.metadata.get("tags", []):
            cell.metadata.tags.remove(COMPARED)
    return notebook


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        if file.stem in ON_CIFAR10:
            nbformat.write(on(notebook, "cifar10"), folder / f"{file.stem}.cifar10.ipynb")
        notebook.cells += [nbformat.v4.new_code_cell(block) for block in blocks(solution(file).read_text())]
        nbformat.write(notebook, folder / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
