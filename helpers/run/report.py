"""The report: every figure, every table and every verdict of the executed notebooks on one page.

`python -m helpers.run.report reports/quick` reads `reports/quick/*.ipynb` and `results/quick/*.json`
and writes `reports/quick/index.html`, which needs nothing else, beside one page a notebook.
"""

import html
import json
import re
import sys
from collections import Counter
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from helpers import ROOT
from helpers.lab import artifacts, profiles
from helpers.run import __main__ as run

# The words of `helpers.measure.rates`, from best to worst for a defense.
VERDICTS = ["better than claimed", "as claimed", "worse than claimed", "stands", "weakened", "broken", "not comparable"]
# ... and those that take no side.
VERDICTS += ["as published", "higher than published", "lower than published", "published only"]


def build(folder, results):
    """Write the report on the executed notebooks in `folder`, named after their profile; -> its path.

    results: folder of the JSON files that `helpers.measure.rates.Comparison` saved; may be missing.
    """
    notebooks = [_notebook(file) for file in sorted(folder.glob("*.ipynb"))]
    for notebook in notebooks:
        _page(notebook, folder)
    results = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    for result in results:
        result["counts"] = _counts(result["rows"])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["verdict"] = _badges
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text())
    index = folder / "index.html"
    page = template.render(
        profile=profiles.load(folder.name), notebooks=notebooks, results=results,
        # where the numbers were computed; without any, this machine
        origin=results[0] if results else artifacts.provenance(),
    )  # fmt: skip
    artifacts.write_atomically(index, lambda file: file.write_text(page))
    return index


def _notebook(file):
    """What the report shows of one executed notebook: title, first paragraph, and `sections`.

    A section is a markdown heading with the figures (PNG, base64) and tables (HTML) under it.
    """
    node = nbformat.read(file, as_version=4)
    title, intro, sections = file.stem, "", [{"heading": "", "items": []}]
    for cell in node.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ +(.+)$", cell.source, flags=re.MULTILINE)
            if not intro:
                title = headings[0] if headings else title
                intro = next((p for p in cell.source.split("\n\n") if not p.startswith("#")), "")
            elif headings:
                sections.append({"heading": _inline(headings[-1]), "items": []})
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                sections[-1]["items"].append({"png": data["image/png"].replace("\n", "")})
            elif "<table" in data.get("text/html", ""):
                sections[-1]["items"].append({"table": _table(data["text/html"])})
    variant = file.stem.partition(".")[2]  # another data set or seed
    return {
        "stem": file.stem, "title": _inline(f"{title} ({variant})" if variant else title), "intro": markdown2html(intro), "node": node,
        "sections": [section for section in sections if section["items"]],
        "seconds": node.metadata.get("papermill", {}).get("duration"),
    }  # fmt: skip


def _inline(markdown):
    """A heading's markdown as HTML, without the paragraph around it; "1." at its start is no list."""
    return re.sub(r"^<p>|</p>$", "", markdown2html(re.sub(r"^(\d+)\.", r"\1\.", markdown)).strip())


def _table(text):
    """The HTML of a data frame without pandas' own look and without scripts, its verdicts coloured."""
    text = re.sub(r"<(style scoped|script).*?</(style|script)>", "", text, flags=re.DOTALL)
    text = text.replace(' border="1"', "").replace(' style="text-align: right;"', "")
    text = re.sub(r"<td>(?=[\d.]+ \()", '<td class="whole">', text)  # 6.0 (4–8) stays on one line
    words = "|".join(VERDICTS)
    return re.sub(rf"(?<=<td>)(?:{words})(?:, (?:{words}))*(?=</td>)", lambda found: _badges(found[0]), text)


def _badges(verdict):
    """A verdict such as "as claimed, broken" as coloured words."""
    badge = '<span class="verdict {}">{}</span>'
    return Markup(
        " ".join(badge.format(html.escape(w.replace(" ", "-")), html.escape(w)) for w in verdict.split(", "))
    )


def _counts(rows):
    """How often each word is found in the verdicts, in the order of VERDICTS."""
    found = Counter(word for row in rows for word in row["verdict"].split(", "))
    return [(word, found[word]) for word in dict.fromkeys([*VERDICTS, *found]) if found[word]]


def _page(notebook, folder):
    """The whole notebook as a page of its own."""
    # Formulas are drawn by MathJax if there is a network.  Nothing else is loaded, and nothing waits for it.
    page, _ = HTMLExporter(log_level="ERROR").from_notebook_node(
        run.clean(notebook["node"]), {"metadata": {"name": notebook["stem"]}}
    )
    page = re.sub(r'<script src="[^"]*require[^"]*"></script>', "", page)
    page = page.replace("<script src=", "<script defer src=")
    file = folder / f"{notebook['stem']}.html"
    artifacts.write_atomically(file, lambda temporary: temporary.write_text(page))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    build(folder, ROOT / "results" / folder.resolve().name)
