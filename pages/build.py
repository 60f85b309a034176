"""The site: `python -m pages.build` makes `pages/site` from executed notebooks, docs and the syllabus.

Nothing in it asks the network: mathematics is drawn by the MathJax that npm brings at build time.
"""

import base64
import re
import shutil
import sys
from math import prod
from pathlib import Path

import nbformat
from jinja2 import Environment, FileSystemLoader
from sphinx.cmd.build import build_main

from course import slides, syllabus
from helpers import ROOT
from helpers.measure import scoreboard
from helpers.run import explorers, navigation, notebook, scales
from helpers.show import figures

HERE = ROOT / "pages"
PAPERS = ("add", "arn", "jatp", "dir")
TABLE = '<table class="dataframe"'  # the theme knows tables by it, and puts others on a light ground
NUMBERS = ["paper", "place", "dataset", "target", "defense", "attack", "published", "ours", "adaptive"]
NUMBERS += ["verdict", "scale", "n", "metric", "id", "deviation"]
ABOUT_NUMBERS = """Each published number, and beside it ours under the paper's protocol and under the
strongest attacker who knows the defense, where a run beyond quick has been kept; no word there: not run.
[The scoreboard](51_scoreboard.ipynb) says how to read it."""
PARTS = {"0": "Foundations", "1": "ADD", "2": "ARN", "3": "JATP", "4": "DIR", "5": "All four"}


def main() -> None:
    source, site = HERE / "source", HERE / "site"
    for folder in (source, site):
        shutil.rmtree(folder, ignore_errors=True)
    source.mkdir()
    if lack := slides.packages(source / "_static"):
        sys.exit(f"The site's formulas need MathJax: {lack}")
    for file in ("explorers.js", "numbers.js", "style.css"):
        shutil.copy(HERE / file, source / "_static")
    shutil.copytree(explorers.FOLDER, source / "_static" / "explorers")
    names = collect(source)
    (source / "index.md").write_text(index(names), encoding="utf-8")
    failed = build_main(["-q", "-W", "--keep-going", "-c", str(HERE), str(source), str(site)])
    if failed:
        sys.exit("The site has faults: see above.")
    print(f"The site: {site / 'index.html'}")


def collect(source: Path) -> list[str]:
    """Put all pages but the first into `source`; -> names of the notebooks."""
    files = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for file in files:
        kept = {
            one["first"]: explorer(one, file.stem) for one in explorers.read(explorers.FOLDER / file.stem)
        }
        nbformat.write(page(nbformat.read(file, as_version=4), kept), source / file.name)
    for paper in PAPERS:
        text = (ROOT / "docs" / f"{paper}.md").read_text(encoding="utf-8")
        (source / f"{paper}.md").write_text(inside(text), encoding="utf-8")
    solutions = source / "solutions"
    solutions.mkdir()
    for file in sorted((ROOT / "notebooks" / "solutions").glob("*.md")):
        (solutions / file.name).write_text("---\norphan: true\n---\n\n" + file.read_text(encoding="utf-8"))
    for file in sorted((ROOT / "results").glob("*/*.md")):  # what runs beyond quick printed
        text = inside(file.read_text(encoding="utf-8")).replace("<table", TABLE)
        (source / _of_run(file)).write_text(f"---\norphan: true\n---\n\n{text}", encoding="utf-8")
    text = syllabus.syllabus(syllabus.lessons())
    (source / "syllabus.md").write_text(inside(text), encoding="utf-8")
    (source / "numbers.md").write_text(numbers(scoreboard.board()), encoding="utf-8")
    shutil.copy(ROOT / "docs" / "five_stages.png", source)
    return [file.stem for file in files]


def page(content: nbformat.NotebookNode, moving: dict[str, str]) -> nbformat.NotebookNode:
    """The notebook as a page: without links of its own, with alt texts where Sphinx looks for them.

    moving: {fingerprint of a picture: the HTML of the explorer for which it stands}.
    """
    content = notebook.without_widgets(content)
    content.cells = [c for c in content.cells if navigation.TAG not in c.metadata.get("tags", [])]
    for cell in content.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            html = moving.get(explorers.fingerprint(base64.b64decode(data.get("image/png", ""))))
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if html:
                output.data = {"text/html": html}
            elif "text/html" in data:
                data["text/html"] = re.sub(r"<table(?![^>]*class)", TABLE, data["text/html"])
            elif alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return content


def explorer(kept: dict, name: str) -> str:
    """The HTML of an explorer of the notebook `name` (see `explorers.read`); a script moves it."""
    files = {one["file"]: f"_static/explorers/{name}/{one['file']}" for one in kept["pages"]}
    pages = {" ".join(map(str, one["choice"])): [files[one["file"]], one["alt"]] for one in kept["pages"]}
    whole = len(pages) == prod(len(control["labels"]) for control in kept["controls"])
    template = _template("explorer.html.j2")
    return template.render(id=kept["first"], controls=kept["controls"], pages=pages, whole=whole)


def numbers(rows: list[dict]) -> str:
    """The page of all published numbers (`scoreboard.board`): one table, which a script searches."""
    lines = [[_cell(row[name]) for name in NUMBERS] for row in rows]
    table = _template("numbers.html.j2").render(heads=NUMBERS, rows=lines)
    return f"# All published numbers\n\n{ABOUT_NUMBERS}\n\n```{{raw}} html\n{table}\n```\n"


def _cell(value):
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else figures.label(str(value))


def _template(name):
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    return environment.get_template(name)


def inside(text: str) -> str:
    """Links to pages of the site lead there; others, to files of the project, become plain text."""

    def one(link):
        words, to = link.groups()
        if "://" in to or to.startswith("#"):
            return link[0]
        file = Path(to.split("#")[0])
        if file.suffix == ".md" and "results" in file.parts:
            return f"[{words}]({_of_run(file)})"
        return f"[{words}]({file.name})" if file.suffix in (".ipynb", ".png") else words

    return re.sub(r"\[([^\]]*)\]\(([^)]+)\)", one, text)


def _of_run(text):
    """The page of what a run printed, `results/cpu/34_a.md`."""
    return f"{text.parent.name}_{text.name}"


def index(names: list[str]) -> str:
    """The first page: the README's first screen, what has been run, and all pages in order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = readme.partition("## Two commands")[0]
    first = re.sub(
        r"\]\(docs/(\w+)\.md\)", r"](\1.md)", first.replace("](docs/five_stages.png)", "](five_stages.png)")
    )
    first = re.sub(r"\]\(notebooks/(\w+\.ipynb)\)", r"](\1)", first)
    first = re.sub(r"\[([^\]]+)\]\(#[^)]+\)", r"\1", first)
    lists = []
    for digit, part in PARTS.items():
        pages = [name for name in names if name.startswith(digit)]
        pages += {"1": ["add"], "2": ["arn"], "3": ["jatp"], "4": ["dir"], "5": ["numbers", "syllabus"]}.get(
            digit, []
        )
        lists.append("\n".join(["```{toctree}", f":caption: {part}", ":maxdepth: 1", "", *pages, "```"]))
    return (
        "\n\n".join([first, "## What has been run beyond `quick`", inside(scales.section()), *lists]) + "\n"
    )


def anchor(heading: str) -> str:
    """The anchor of a heading, as Jupyter makes it."""
    return heading.replace(" ", "-")


if __name__ == "__main__":
    main()
