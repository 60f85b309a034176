"""Slides of a notebook: what its cells with the tag `slide` show, its headings, its key sentences.

A key sentence is bold text of at least `WORDS` words.  One that stands behind a shown cell stands below it on
the slide, too; the prose around it becomes the speaker's notes.
"""

import base64
import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from helpers.run import exercises, navigation

HERE = Path(__file__).parent
TAG = "slide"
WORDS = 5
BOLD = re.compile(r"\*\*([^*\n]+?)\*\*")
HEADING = re.compile(r"^## +(.+?) *$", flags=re.MULTILINE)
LAST = "What you have seen"
# What of the packages lies beside the slides.
FILES = {
    "reveal.js": [
        "dist/reset.css",
        "dist/reveal.css",
        "dist/reveal.js",
        "dist/theme",
        "plugin/notes",
        "LICENSE",
    ],
    "mathjax": ["es5/tex-svg-full.js", "LICENSE"],
}


@dataclass
class Slide:
    """One slide.

    shown: HTML of figures and tables.  keys: sentences, notes: for the speaker, both Markdown.
    """

    title: str
    shown: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def slides(notebook: NotebookNode) -> list[Slide]:
    """The slides between the title and the exercises; sections with nothing to show have none."""
    found, title = [], ""
    for cell in notebook.cells[1:]:
        tags = exercises.tags(cell)
        if exercises.TEXT in tags:
            break
        if navigation.TAG in tags:
            continue
        if TAG in tags:
            found.append(Slide(title, shown=_shown(cell)))
        elif cell.cell_type == "markdown":
            for heading, prose in _sections(cell.source):
                if heading:
                    title = heading
                    found.append(Slide(title))
                if found and prose:
                    found[-1].keys += key_sentences(prose)
                    found[-1].notes.append(prose)
    return [slide for slide in found if slide.shown or slide.keys]


def key_sentences(prose: str) -> list[str]:
    """The bold text of Markdown that is long enough to say something."""
    return [bold for bold in BOLD.findall(prose) if len(bold.split()) >= WORDS]


def _sections(source):
    """(Heading or "", the prose below it) of a Markdown cell."""
    pieces = HEADING.split(source)
    return [("", pieces[0].strip()), *zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True)]


def _shown(cell):
    """HTML of what a cell shows: its outputs, else its source."""
    if cell.cell_type == "markdown":
        return [markdown2html(cell.source)]
    found = [_output(output) for output in cell.outputs if output.get("name") != "stderr"]
    return [part for part in found if part] or [f"<pre>{html.escape(cell.source)}</pre>"]


def _output(output):
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
        return f'<img alt="{alt}" src="data:image/png;base64,{_one_line(data["image/png"])}">'
    if "text/html" in data:
        rows = data["text/html"].count("<tr")
        return f'<div class="table {"long" if rows > 12 else ""}">{data["text/html"]}</div>'
    if "text/markdown" in data:
        return markdown2html(data["text/markdown"])
    text = data.get("text/plain", "").strip()
    return f"<pre>{html.escape(text)}</pre>" if text else ""


def _one_line(encoded):
    return base64.b64encode(base64.b64decode(encoded)).decode()


def deck(notebook: NotebookNode, learn: str) -> str:
    """The page with the slides of a notebook; learn: Markdown for its first slide."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    environment.filters["markdown"] = lambda text: markdown2html(text)
    return environment.get_template("slides.html.j2").render(
        title=navigation.title(notebook),
        learn=learn,
        slides=slides(notebook),
        exercises=exercises.exercises(notebook),
        last=next((text for text in map(_last_word, notebook.cells) if text), ""),
    )


def _last_word(cell):
    if cell.cell_type != "markdown" or LAST not in cell.source:
        return ""
    return re.sub(rf"^(#+ *|\*\*){LAST}\.?(\*\*)?", "", cell.source).strip()


def packages(folder: Path) -> str | None:
    """Put what the slides need in the browser into `folder`; -> in words why not, if it cannot be had."""
    wanted = json.loads((HERE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    if wanted != {name: _version(name) for name in wanted}:
        npm = shutil.which("npm")
        if npm is None:
            return "npm is missing (it comes with Node.js; on Debian and Ubuntu: apt install npm)"
        command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        answer = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        if answer.returncode:
            return f"npm could not install {', '.join(wanted)}:\n{answer.stderr.strip()}"
    for name, parts in FILES.items():
        for part in parts:
            source, target = HERE / "node_modules" / name / part, folder / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
    return None


def _version(package):
    """Which version of an npm package is installed; None: none."""
    file = HERE / "node_modules" / package / "package.json"
    return json.loads(file.read_text(encoding="utf-8"))["version"] if file.exists() else None
