"""What a run beyond quick printed is kept as text."""

import re

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import ROOT
from helpers.run import plan, printed

FRAME = pd.DataFrame({"PGD": ["3.8 (3–5)"], "C&W": ["–"]}, index=["ARN-PP"])


def cell(*outputs):
    return new_code_cell("", outputs=list(outputs))


def shown(data, metadata=None):
    return new_output("display_data", data, metadata=metadata or {})


def notebook():
    table = shown({"text/html": FRAME._repr_html_(), "text/plain": str(FRAME)})
    figure = shown({"image/png": "iVBOR", "text/plain": "<Figure>"}, {"image/png": {"alt": "Bars: ARN 3.8."}})
    question = shown(
        {"text/markdown": "**What do you expect?** More? (yes · no)", "text/plain": "<Markdown>"}
    )
    widget = shown({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "ToggleButtons()"})
    lines = new_output("stream", name="stdout", text="300 images\n")
    warning = new_output("stream", name="stderr", text="/somewhere/a.py:1: UserWarning")
    cells = [
        new_markdown_cell("# Title\n\n## 1. Nothing"),
        cell(),
        new_markdown_cell("## 2. Rates\n\nProse."),
    ]
    cells += [cell(lines, warning, question, widget), cell(table), cell(figure)]
    return new_notebook(cells=[*cells, new_markdown_cell("## Exercises"), cell(lines)])


def test_tables_lines_and_descriptions_stay_under_their_heading():
    text = printed.printed(notebook())
    heading, lines, *_ = text.split("\n\n")
    assert (heading, lines) == ("## 2. Rates", "```text\n300 images\n```")
    assert "<tr><th>ARN-PP</th><td>3.8 (3–5)</td><td>–</td></tr>" in text
    assert text.endswith("*Figure.* Bars: ARN 3.8.\n")
    for gone in ("Nothing", "Prose", "expect", "Toggle", "<style", "class=", "Warning"):
        assert gone not in text


def test_a_run_leaves_its_text_beside_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(printed, "RESULTS", tmp_path)
    output = tmp_path / "23_a.ipynb"
    nbformat.write(notebook(), output)
    run = plan.Run("23_a.seed1", tmp_path / "notebooks" / "23_a.ipynb", output, {"profile": "cpu", "seed": 1})
    printed.keep(run, "cpu")
    text = (tmp_path / "cpu" / "23_a.seed1.md").read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nWhat [`23_a`](../../notebooks/23_a.ipynb) printed with ")
    assert "profile cpu, seed 1" in text and "300 images" in text


def test_what_is_kept_names_no_folder_of_a_machine():
    kept = sorted((ROOT / "results").rglob("*.md"))
    told = [file for file in kept if re.search(r"/(home|root|Users|tmp|work|opt)/", file.read_text("utf-8"))]
    assert kept and told == []
