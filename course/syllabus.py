"""The syllabus as Markdown: what `syllabus.yaml` plans, what the notebooks say of themselves, the project."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from helpers import ROOT
from helpers.run import exercises, navigation

HERE = Path(__file__).parent
# A bullet of a notebook's head, `- **Paper**: ARN, Section 4.`
HEAD = re.compile(r"^[-*] \*\*(You learn|Paper)s?[:.]?\*\*[:.]? *(.+)$", flags=re.MULTILINE)
WORDS_A_MINUTE = 120  # of prose that is to be understood, not skimmed
MINUTES_A_CELL = 0.5  # to read a cell of code and what it printed or drew


@dataclass(frozen=True)
class Lesson:
    """A notebook as the syllabus sees it; `learn`, `paper`, `prose` are Markdown, `reading` is in minutes."""

    name: str
    title: str
    learn: str
    paper: str
    prose: str
    reading: int
    exercises: list[exercises.Exercise]

    @property
    def practice(self) -> int:
        """Minutes of all exercises."""
        return sum(each.minutes for each in self.exercises)


def lesson(name: str, notebook: nbformat.NotebookNode) -> Lesson:
    """What a notebook says of itself; ValueError if its first cell lacks a bullet."""
    head = {key: text.strip() for key, text in HEAD.findall(notebook.cells[0].source)}
    if missing := {"You learn", "Paper"} - head.keys():
        raise ValueError(f"the first cell has no bullet `- **{missing.pop()}** …`")
    practice = {exercises.TEXT, exercises.STUB, exercises.CHECK, navigation.TAG}
    cells = [cell for cell in notebook.cells if not practice & set(exercises.tags(cell))]
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = sum(cell.cell_type == "code" for cell in cells)
    reading = 5 * math.ceil((len(prose.split()) / WORDS_A_MINUTE + code * MINUTES_A_CELL) / 5)
    found = exercises.exercises(notebook)
    return Lesson(name, navigation.title(notebook), head["You learn"], head["Paper"], prose, reading, found)


def lessons() -> dict[str, Lesson]:
    """{number of a notebook: Lesson}."""
    files = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return {file.name[:2]: lesson(file.stem, nbformat.read(file, as_version=4)) for file in files}


def plan() -> dict:
    """What is planned: what one needs before, ideas, formats and their sessions with goals."""
    return yaml.safe_load((HERE / "syllabus.yaml").read_text(encoding="utf-8"))


def syllabus(found: dict[str, Lesson], notebooks: str = "", slides: str = "") -> str:
    """The syllabus as Markdown.

    notebooks, slides: folders that links lead to; "" for none.
    KeyError where the plan names a notebook or an exercise that there is not.
    """

    def named(measure):
        number, _, exercise = measure.partition(".")
        titles = {each.number: each.title for each in found[number].exercises}
        return f"`{number}`, exercise {exercise}: {titles[int(exercise)]}"

    def used(pattern):
        return [number for number, each in found.items() if re.search(pattern, each.prose)]

    # one level below the syllabus's own heading
    project = re.sub("^#", "##", (HERE / "project.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"named": named, "used": used}
    environment.filters["lessons"] = lambda numbers: [found[number] for number in numbers]
    environment.filters["link"] = lambda text, folder, file: f"[{text}]({folder}/{file})" if folder else text
    return environment.get_template("syllabus.md.j2").render(
        plan(), project=project, notebooks=notebooks, slides=slides, words=WORDS_A_MINUTE, cell=MINUTES_A_CELL
    )
