"""A notebook's exercises and their solutions: `python -m helpers.run.exercises notebooks/22_x.ipynb [OUT]`.

An exercise is a text (cell tag `exercise`), stubs (tag `stub`) and a check (tag `check`), in this order.  Its
solution is the Python code below its number in `notebooks/solutions`.  The command runs a notebook with its
exercises and solutions, from the artifacts at hand: each check must refuse the stub and accept the solution.
"""

import argparse
import copy
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from helpers import ROOT

if TYPE_CHECKING:  # nbformat takes half a second
    from nbformat import NotebookNode

SOLUTIONS = ROOT / "notebooks" / "solutions"
TEXT, STUB, CHECK = "exercise", "stub", "check"
SOLUTION = "solution"  # tag of what `woven` adds, but for its verdicts
HEADING = re.compile(r"^### Exercise (\d+) · (.+)$", flags=re.MULTILINE)
KIND = re.compile(r"^\*Level ([123]) of 3 · (\d+) minutes · You learn (.+)\*$", flags=re.MULTILINE)
SECTION = re.compile(r"^\*\*(\d+)\. ", flags=re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$\n?", flags=re.MULTILINE | re.DOTALL)
# Behind a check: what that cell, the one before, came out as.
VERIFY = """\
from helpers.run import exercises as machinery

machinery.verify({number}, Out.get(max(Out, default=0)), right={right})  # nbval numbers no cells"""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook.

    level: 1 to 3.  learn: what one learns, as it follows "You learn".
    text, stubs, check: numbers of its cells.
    """

    number: int
    title: str
    level: int
    minutes: int
    learn: str
    text: int
    stubs: tuple[int, ...]
    check: int


class Part(NamedTuple):
    """A stretch of a solution, Python code or Markdown."""

    code: bool
    source: str


def tags(cell: "NotebookNode") -> list[str]:
    return cell.metadata.get("tags", [])


def exercises(notebook: "NotebookNode") -> list[Exercise]:
    """The exercises in their order, numbered from 1; ValueError that says which cell is not as it must be."""
    found, places = [], [i for i, cell in enumerate(notebook.cells) if TEXT in tags(cell)]
    for number, place in enumerate(places, 1):
        source = notebook.cells[place].source
        heading, kind = HEADING.search(source), KIND.search(source)
        if not heading or int(heading[1]) != number or not kind:
            raise ValueError(
                f"cell {place} begins with `### Exercise {number} · Title` and a line "
                "`*Level 2 of 3 · 15 minutes · You learn …*`"
            )
        end = place + 1
        while end < len(notebook.cells) and STUB in tags(notebook.cells[end]):
            end += 1
        if end == place + 1 or end == len(notebook.cells) or CHECK not in tags(notebook.cells[end]):
            raise ValueError(f"exercise {number}: its text is followed by cells `stub` and a cell `check`")
        stubs = tuple(range(place + 1, end))
        level, minutes, learn = int(kind[1]), int(kind[2]), kind[3]
        found.append(Exercise(number, heading[2].strip(), level, minutes, learn, place, stubs, end))
    ours = {place for each in found for place in (*each.stubs, each.check)}
    for i, cell in enumerate(notebook.cells):
        if {STUB, CHECK} & set(tags(cell)) and i not in ours:
            raise ValueError(f"cell {i} belongs to no exercise: it follows no cell `exercise`")
    return found


def solutions(text: str) -> dict[int, list[Part]]:
    """{number of the exercise: its solution} of a file of solutions, which has sections `**1. Title.**`."""
    places = [*SECTION.finditer(text)]
    ends = [place.start() for place in places[1:]] + [len(text)]
    return {int(place[1]): _parts(text[place.start() : end]) for place, end in zip(places, ends, strict=True)}


def blocks(parts: list[Part]) -> list[str]:
    """The code of a solution, block by block."""
    return [part.source for part in parts if part.code]


def solution_of(notebook: Path) -> Path:
    """The file with the solutions of `notebook`."""
    return SOLUTIONS / f"{notebook.stem}.md"


def woven(notebook: "NotebookNode", text: str) -> "NotebookNode":
    """The notebook with each exercise's solution behind it, and both checked.

    Behind the check, which must not be right yet: the solution's code, and the check again (tag `solution`).
    text: of the file of solutions; ValueError where its numbers are not those of the exercises.
    """
    import nbformat

    notebook, found, given = copy.deepcopy(notebook), exercises(notebook), solutions(text)
    if [each.number for each in found] != sorted(given):
        raise ValueError(f"there are {len(found)} exercises, and solutions of {sorted(given)}")
    for each in reversed(found):
        sources = [*blocks(given[each.number]), notebook.cells[each.check].source]
        notebook.cells[each.check + 1 : each.check + 1] = [
            nbformat.v4.new_code_cell(VERIFY.format(number=each.number, right=False)),
            *(nbformat.v4.new_code_cell(source, metadata={"tags": [SOLUTION]}) for source in sources),
            nbformat.v4.new_code_cell(VERIFY.format(number=each.number, right=True)),
        ]
    return notebook


def verify(number: int, outcome: object, *, right: bool) -> None:
    """AssertionError unless `outcome`, the value of the check of an exercise, is `right` or not."""
    if not hasattr(outcome, "right") or f"Exercise {number}" not in outcome.message:
        raise AssertionError(f"exercise {number}: its check ends in {outcome!r}, not in exercises.check(…)")
    if outcome.right != right:
        what = "the solution is refused" if right else "the stub is accepted"
        raise AssertionError(f"exercise {number}: {what}: {outcome.message}")


def _parts(section):
    """The stretches of a section, without empty ones."""
    pieces = BLOCK.split(section)  # Markdown, code, Markdown, …
    parts = [Part(bool(i % 2), piece.strip("\n")) for i, piece in enumerate(pieces)]
    return [part for part in parts if part.source.strip()]


def run(notebook: Path, output: Path) -> str | None:
    """Run a notebook with its exercises done into `output`; -> the failure in words, if any.

    ValueError if its exercises or solutions are not as they must be.
    """
    import nbformat

    from helpers.run.__main__ import execute

    text = solution_of(notebook).read_text(encoding="utf-8")
    source = output.with_suffix(".source.ipynb")
    nbformat.write(woven(nbformat.read(notebook, as_version=4), text), source)
    try:
        return execute(source, output, {})
    finally:
        source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.run.exercises", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", nargs="?", type=Path, help="the executed notebook")
    args = parser.parse_args()
    output = args.output or ROOT / "reports" / "exercises" / args.notebook.name
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        failure = run(args.notebook, output)
    except ValueError as error:
        failure = str(error)
    sys.exit(f"{args.notebook}: {failure}" if failure else None)


if __name__ == "__main__":
    main()
