"""The page of the report: every figure, every table and every verdict of the executed notebooks.

It is made of `reports/<profile>/*.ipynb` and `results/<profile>/*.json`, whichever of them are there, and
needs nothing else.  Beside it stands one page a notebook.
"""

import html
import json
import re
from collections import Counter
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup

from helpers import ROOT, write_atomically
from helpers.lab import profiles
from helpers.measure.labels import label
from helpers.measure.verdicts import LEGEND
from helpers.run import page, plan, scales


def build(profile: str, runs: list[plan.Run], results: Path | None = None) -> Path:
    """Write the report on `runs` beside their outputs, whichever of them are there; -> its path.

    results: folder of the JSON files that `helpers.measure.comparison` saved; may be missing.  Those of other
        runs, with another seed, are left out.
    """
    index = runs[0].output.with_name("index.html")
    notebooks = [_notebook(run) for run in runs]
    for notebook in notebooks:
        _page(notebook)
    results = _results(results or ROOT / "results" / profile, runs)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["label"] = label
    environment.filters["verdict"] = _badges
    template = environment.from_string(Path(__file__).with_name("index.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        name=profile,
        notice=profiles.profile(profile).notice,
        notebooks=notebooks,
        states=Counter(notebook["state"] for notebook in notebooks),
        old=sum(notebook["old"] for notebook in notebooks),
        results=results,
        legend=LEGEND,
        scales=Markup(page.markdown(scales.section(to_results="../results"))),  # as from a notebook
    )
    index.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(index, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return index


def _results(folder, runs):
    """The saved comparisons of the runs, with how often each verdict is found."""
    notebooks, seeds = {run.notebook.stem for run in runs}, {run.values.get("seed", 0) for run in runs}
    results = [json.loads(one.read_text(encoding="utf-8")) for one in sorted(folder.glob("*.json"))]
    of_runs = [r for r in results if r["notebook"].partition(".")[0] in notebooks and r["seed"] in seeds]
    return [result | {"counts": _counts(result["rows"])} for result in of_runs]


def _notebook(run):
    """What the report shows of one run: its state, title, first paragraph, and `sections`.

    old: its output was made by an earlier version of the notebook or the helpers.
    A section is a markdown heading with the figures (PNG, base64) and tables (HTML) under it.
    """
    state = "failed" if run.failed.exists() else "done" if run.output.exists() else "not run"
    executed = {"failed": run.failed, "done": run.output, "not run": run.notebook}[state]
    node = nbformat.read(executed, as_version=4)
    title, intro, sections = run.name, "", [{"heading": "", "items": []}]
    for cell in node.cells:
        if "papermill-error-cell-tag" in cell.metadata.get("tags", []):  # a failure, in papermill's words
            continue
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
        "old": state == "done" and not run.is_done(),
        "title": _inline(f"{title} ({variant})" if variant else title),
        "intro": page.markdown(intro),
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
    return re.sub(r"^<p>|</p>$", "", page.markdown(re.sub(r"^(\d+)\.", r"\1\.", markdown)).strip())


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
    place = notebook["page"]
    if notebook["state"] == "not run":
        place.unlink(missing_ok=True)
        return
    if place.exists() and place.stat().st_mtime >= notebook["executed"].stat().st_mtime:
        return
    text = page.write(notebook["node"], notebook["name"])
    write_atomically(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))
