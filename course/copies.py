"""The copies of a notebook for students and for instructors.

The student's has exercises to fill in and no outputs.  The instructor's has the outputs that are kept in git:
those of the notebook, and in `course/outputs` those of its solutions.
"""

import copy
import hashlib
import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers import ROOT, write_atomically
from helpers.run import exercises
from helpers.run import notebook as file

OUTPUTS = ROOT / "course" / "outputs"
LINK = re.compile(r"^.*\bsolutions/.*$\n?", flags=re.MULTILINE)


def student(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is handed out: no outputs, and no word of where the solutions are."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return _without_link(made)


def instructor(notebook: NotebookNode, solutions: str, outputs: list[list[dict]]) -> NotebookNode:
    """The notebook with each solution behind its exercise, and the exercise's check once more.

    solutions: the text of their file.
    outputs: of the cells that `exercises.woven` tags `solution`, in order; empty: none.
    """
    made, given = copy.deepcopy(notebook), exercises.solutions(solutions)
    found, left = exercises.exercises(notebook), iter(outputs)
    shown = {each.number: _solution(notebook, each, given[each.number], left) for each in found}
    for each in reversed(found):
        made.cells[each.check + 1 : each.check + 1] = shown[each.number]
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return _without_link(made)


def _without_link(notebook):
    """The notebook without the line that says where the solutions are."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and LINK.search(cell.source):
            cell.source = LINK.sub("", cell.source).strip()
    notebook.cells = [cell for cell in notebook.cells if cell.source]
    return notebook


def _solution(notebook, exercise, parts, outputs):
    """The cells of one solution."""
    cells = []
    for i, part in enumerate([*parts, exercises.Part(True, notebook.cells[exercise.check].source)]):
        common = {"id": f"solution-{exercise.number}-{i}", "metadata": {"tags": [exercises.SOLUTION]}}
        if part.code:
            made = [nbformat.from_dict(output) for output in next(outputs, [])]
            cells.append(nbformat.v4.new_code_cell(part.source, outputs=made, **common))
        else:
            source = part.source.replace(f"**{exercise.number}. ", f"**Solution {exercise.number} · ", 1)
            cells.append(nbformat.v4.new_markdown_cell(source, **common))
    return cells


def key(notebook: NotebookNode, solutions: str) -> str:
    """A hash of all code that the solutions' outputs come from, but for the helpers'.

    They are as old or as new as the outputs that the notebooks keep in git.
    """
    woven = exercises.woven(notebook, solutions)
    sources = [cell.source for cell in woven.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def kept(name: str, key: str) -> list[list[dict]] | None:
    """The outputs of a notebook's solutions that are kept in git; None if there are none for this key."""
    place = OUTPUTS / f"{name}.json"
    content = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"key": None}
    return content["outputs"] if content["key"] == key else None


def keep(name: str, key: str, executed: Path) -> None:
    """Keep the outputs of the solutions in `executed`, a notebook that `helpers.run.exercises` ran."""
    notebook = file.clean(nbformat.read(executed, as_version=4))
    cells = [cell for cell in notebook.cells if exercises.SOLUTION in exercises.tags(cell)]
    # Warnings name files of this machine, and speak of its artifacts.
    shown = [[output for output in cell.outputs if output.get("name") != "stderr"] for cell in cells]
    content = {"key": key, "outputs": shown}
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    OUTPUTS.mkdir(exist_ok=True)
    write_atomically(OUTPUTS / f"{name}.json", lambda place: place.write_text(text, encoding="utf-8"))
