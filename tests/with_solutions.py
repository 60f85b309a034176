"""Write each notebook with its exercises' solutions at the end, so that one run checks both.

python tests/with_solutions.py FOLDER
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def solution(notebook):
    """The Markdown file with the solutions of `notebook`, a Path."""
    return NOTEBOOKS / "solutions" / f"{notebook.stem}.md"


def blocks(text):
    """The Python code of the solutions, block by block."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        notebook.cells += [nbformat.v4.new_code_cell(block) for block in blocks(solution(file).read_text())]
        nbformat.write(notebook, folder / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
