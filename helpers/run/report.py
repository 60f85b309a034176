"""The report: every figure, every table and every verdict of the executed notebooks on one page.

`python -m helpers.run.report quick` reads `reports/quick/*.ipynb` and `results/quick/*.json` and writes
`reports/quick/index.html`, which needs nothing else, beside one page a notebook.  `make reproduce` does so
after each notebook: the page says which have run, which failed and which have not run.
"""

import argparse
import html
import json
import re
from collections import Counter
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from helpers import ROOT, write_atomically
from helpers.lab import profiles
from helpers.measure.verdicts import LEGEND
from helpers.run import notebook as file
from helpers.run import options, plan, scales


def build(profile: str, runs: list[plan.Run], results: Path | None = None) -> Path:
    """Write the report on `runs` beside their outputs, whichever of them are there; -> its path.

    results: folder of the JSON files that `helpers.measure.comparison` saved; may be missing.
    """
    known = profiles.profile(profile)
    index = runs[0].output.with_name("index.html")
    notebooks = [_notebook(run) for run in runs]
    for notebook in notebooks:
        _page(notebook)
    results = [
        json.loads(one.read_text()) for one in sorted((results or ROOT / "results" / profile).glob("*.json"))
    ]
    for result in results:
        result["counts"] = _counts(result["rows"])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["verdict"] = _badges
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text())
    page = template.render(
        name=profile,
        notice=known.notice,
        notebooks=notebooks,
        states=Counter(notebook["state"] for notebook in notebooks),
        results=results,
        legend=LEGEND,
        scales=Markup(markdown2html(scales.section())),
    )
    write_atomically(index, lambda temporary: temporary.write_text(page))
    return index


def _notebook(run):
    """What the report shows of one run: its state, title, first paragraph, and `sections`.

    A section is a markdown heading with the figures (PNG, base64) and tables (HTML) under it.
    """
    state = "failed" if run.failed.exists() else "done" if run.output.exists() else "not run"
    executed = {"failed": run.failed, "done": run.output, "not run": run.notebook}[state]
    node = nbformat.read(executed, as_version=4)
    title, intro, sections = run.name, "", [{"heading": "", "items": []}]
    for cell in node.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ +(.+)$", cell.source, flags=re.MULTILINE)
            if not intro:
                title = headings[0] if headings else title
                intro = next((p for p in cell.source.split("\n\n") if not p.startswith("#")), "")
            elif headings:
                sections.append({"heading": _inline(headings[-1]), "items": []})
        for output in cell.get("outputs", []) if state != "not run" else []:
            data = output.get("data", {})
            if "image/png" in data:
                alt = output.metadata.get("image/png", {}).get("alt", "")
                sections[-1]["items"].append({"png": data["image/png"].replace("\n", ""), "alt": alt})
            elif "<table" in data.get("text/html", ""):
                sections[-1]["items"].append({"table": _table(data["text/html"])})
    variant = run.name.partition(".")[2]  # another data set or seed
    return {
        "name": run.name,
        "state": state,
        "title": _inline(f"{title} ({variant})" if variant else title),
        "intro": markdown2html(intro),
        "sections": [section for section in sections if section["items"]],
        "seconds": node.metadata.get("papermill", {}).get("duration"),
        "error": _error(node) if state == "failed" else None,
        "node": node,
        "executed": executed,
        "page": run.output.with_suffix(".html"),
    }


def _error(node):
    """The last line of a failed notebook's traceback."""
    outputs = [
        output for cell in node.cells for output in cell.get("outputs", []) if output.output_type == "error"
    ]
    return f"{outputs[-1].ename}: {outputs[-1].evalue}" if outputs else "its kernel died"


def _inline(markdown):
    """A heading's markdown as HTML, without the paragraph around it; "1." at its start is no list."""
    return re.sub(r"^<p>|</p>$", "", markdown2html(re.sub(r"^(\d+)\.", r"\1\.", markdown)).strip())


def _table(text):
    """The HTML of a data frame without pandas' own look and without scripts, its verdicts coloured."""
    text = re.sub(r"<(style scoped|script).*?</(style|script)>", "", text, flags=re.DOTALL)
    text = text.replace(' border="1"', "").replace(' style="text-align: right;"', "")
    text = re.sub(r"<td>(?=[\d.]+ \()", '<td class="whole">', text)  # 6.0 (4–8) stays on one line
    words = "|".join(LEGEND)
    return re.sub(rf"(?<=<td>)(?:{words})(?:, (?:{words}))*(?=</td>)", lambda found: _badges(found[0]), text)


def _badges(verdict):
    """A verdict such as "gains, as claimed" as coloured words."""
    badge = '<span class="verdict {}">{}</span>'
    words = [word for word in verdict.split(", ") if word]
    return Markup(" ".join(badge.format(html.escape(w.replace(" ", "-")), html.escape(w)) for w in words))


def _counts(rows):
    """How often each word is found in the verdicts, in the order of the legend."""
    found = Counter(word for row in rows for word in row["verdict"].split(", ") if word)
    return [(word, found[word]) for word in dict.fromkeys([*LEGEND, *found]) if found[word]]


def _page(notebook):
    """The whole notebook as a page of its own, unless it is there already."""
    page = notebook["page"]
    if notebook["state"] == "not run":
        page.unlink(missing_ok=True)
        return
    if page.exists() and page.stat().st_mtime >= notebook["executed"].stat().st_mtime:
        return
    # Formulas are drawn by MathJax if there is a network.  Nothing else is loaded, and nothing waits for it.
    text, _ = HTMLExporter(log_level="ERROR").from_notebook_node(
        file.without_widgets(notebook["node"]), {"metadata": {"name": notebook["name"]}}
    )
    text = re.sub(r'<script src="[^"]*require[^"]*"></script>', "", text)
    text = text.replace("<script src=", "<script defer src=")
    write_atomically(page, lambda temporary: temporary.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.run.report", description=__doc__)
    parser.add_argument("profile", choices=options.PROFILES)
    parser.add_argument("seeds", nargs="*", type=int, default=[0])
    args = parser.parse_args()
    print(build(args.profile, plan.runs(args.profile, args.seeds)))


if __name__ == "__main__":
    main()
