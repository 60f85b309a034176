"""The report shows what executed notebooks hold and what the results say, whatever is missing."""

import base64
import json
import os
import re

import nbformat
import pytest
from browser import chromium
from nbformat import v4

from helpers import ROOT
from helpers.run import index, page, plan
from helpers.run import notebook as file

PNG = base64.b64encode(b"\x89PNG a picture").decode()
TABLE = '<table border="1" class="dataframe"><tr><td>gains, as claimed</td><td>6.0 (4–8)</td></tr></table>'


def output(**data):
    return v4.new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})


def write(folder, name, *cells):
    folder.mkdir(exist_ok=True)
    nbformat.write(v4.new_notebook(cells=list(cells)), folder / f"{name}.ipynb")


def cell(*outputs):
    return v4.new_code_cell("1 + 1", outputs=list(outputs))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "quick"
    write(
        folder,
        "00_first",
        v4.new_markdown_cell("# The *first* one\n\nWhat you will learn.\n\nNot this."),
        v4.new_markdown_cell("Some text.\n\n## 1. A picture of $x^2$"),
        cell(
            v4.new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "Ten <digits>"}})
        ),
        v4.new_markdown_cell("## A table"),
        cell(output(text_html=TABLE)),
        cell(output(text_html="<b>no table</b>"), v4.new_output("stream", text="printed")),
    )
    return folder


def report(folder, results=None, waiting=()):
    """The report on all notebooks in `folder`, and on some that wait, which are in the folder above."""
    names = sorted({file.name.split(".ipynb")[0].removesuffix(".failed") for file in folder.glob("*.ipynb")})
    runs = []
    for name in [*names, *waiting]:
        notebook = folder.parent / f"{name.partition('.')[0]}.ipynb"
        if not notebook.exists():
            write(folder.parent, notebook.stem)
        runs.append(plan.Run(name, notebook, folder / f"{name}.ipynb", {}))
    return index.build("quick", runs, results or folder / "missing").read_text()


def test_figures_and_tables_stand_under_their_headings(folder):
    text = report(folder)
    places = [
        text.index(part) for part in ("1. A picture of <math", PNG, "A table</h3>", 'class="dataframe"')
    ]
    assert places == sorted(places) and 'alt="Ten &lt;digits&gt;"' in text


def test_title_and_first_paragraph_are_shown_and_the_rest_is_linked(folder):
    text = report(folder)
    assert "The <em>first</em> one</h2>" in text and "What you will learn." in text
    assert "Not this." not in text and "Some text." not in text and "printed" not in text
    assert 'href="00_first.html"' in text
    assert "Not this." in (folder / "00_first.html").read_text()


def test_another_data_set_or_seed_is_told_by_the_title(folder):
    write(folder, "00_first.cifar10.seed1", v4.new_markdown_cell("# The *first* one"))
    assert "The <em>first</em> one (cifar10.seed1)</h2>" in report(folder)


def test_verdicts_are_marked_and_pandas_borders_go(folder):
    text = report(folder)
    assert (
        '<span class="verdict gains">gains</span> <span class="verdict as-claimed">as claimed</span>' in text
    )
    assert 'border="1"' not in text and "<style scoped>" not in text


def test_a_notebook_without_outputs_or_text_is_no_obstacle(folder):
    write(folder, "01_bare", v4.new_code_cell("pass"))
    write(folder, "02_empty")
    text = report(folder)
    assert "01_bare</h2>" in text and "02_empty</h2>" in text


def test_the_notice_of_the_profile_is_shown(folder):
    assert "not comparable" in report(folder)


def test_what_has_run_what_failed_and_what_has_not_run_is_told(folder):
    error = v4.new_output("error", ename="ValueError", evalue="no <image>", traceback=["the traceback"])
    marker = v4.new_markdown_cell(
        "An Exception was encountered", metadata={"tags": ["papermill-error-cell-tag"]}
    )
    write(folder, "01_second.failed", marker, v4.new_markdown_cell("# The second"), cell(error))
    write(
        folder.parent,
        "02_third",
        v4.new_markdown_cell("# The third"),
        cell(output(image_png="an old picture")),
    )
    text = report(folder, waiting=["02_third"])
    assert "1 of 3 notebooks have run" in text and ">1 failed<" in text and "1 have not run" in text
    assert "It failed: ValueError: no &lt;image&gt;." in text
    assert "<h2>The second</h2>" in text and "An Exception was" not in text
    assert 'class="alarm failed"><a href="01_second.html#traceback">01_second failed</a>' in text
    assert re.search('id="traceback">.*the traceback', (folder / "01_second.html").read_text(), re.DOTALL)
    assert "It has not run yet." in text and "The third" in text and "an old picture" not in text
    assert not (folder / "02_third.html").exists()


def test_a_notebook_that_ran_again_gets_its_page_again_and_others_keep_theirs(folder):
    report(folder)
    first = folder / "00_first.html"
    before = first.stat().st_mtime_ns
    report(folder)
    assert first.stat().st_mtime_ns == before
    write(folder, "00_first", v4.new_markdown_cell("# Changed"))
    os.utime(folder / "00_first.ipynb", (first.stat().st_mtime + 5,) * 2)
    report(folder)
    assert "Changed" in first.read_text()


def test_what_ran_with_earlier_code_is_told(folder):
    assert "1 of them ran with earlier code" in report(folder) and ">ran with earlier code<" in report(folder)
    executed = nbformat.read(folder / "00_first.ipynb", 4)
    executed.metadata[file.MADE_FROM] = file.fingerprint(folder.parent / "00_first.ipynb", {})
    nbformat.write(executed, folder / "00_first.ipynb")
    assert "earlier code" not in report(folder)


def test_nothing_is_loaded_from_outside(folder):
    write(
        folder, "01_formula", v4.new_markdown_cell("# F\n\nSo $x^2$, [to](00_first.ipynb#a), [there](b.md).")
    )
    assert "://" not in report(folder)
    for name in ("00_first", "01_formula"):
        text = (folder / f"{name}.html").read_text()
        assert "<script" not in text and not re.search(r"(src|href)=.https?:|url\(.?http|@import", text)
    assert "<math" in text and 'href="00_first.html#a"' in text and 'href="../../notebooks/b.md"' in text


def test_all_pages_are_dark_where_the_reader_likes_that(folder):
    dark = "prefers-color-scheme: dark"
    assert dark in report(folder) and dark in (folder / "00_first.html").read_text()


def test_a_figures_description_is_on_its_page(folder):
    report(folder)
    assert 'alt="Ten &lt;digits&gt;"' in (folder / "00_first.html").read_text()


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_formula_of_the_notebooks_is_drawn(notebook):
    for one in nbformat.read(notebook, 4).cells:
        if one.cell_type == "markdown":
            drawn = re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", page.markdown(one.source), flags=re.DOTALL)
            # no command and no dollar is left, and no style that browsers do not know
            assert not re.search(r"\\[A-Za-z]|\$|mathvariant=.(?!normal)", drawn), drawn


@pytest.mark.parametrize(
    "latex, parts",
    [
        (r"\mathcal L_{mse} \tag{6}", ["ℒ", "<span>(6)</span>"]),
        (r"\mathbb E\big\lVert \mathbf x \big\rVert", ["𝔼", "‖", "𝐱"]),
        (r"\arg\max_{x} f", [">arg<", "<munder><mo>max</mo>"]),
    ],
)
def test_formulas_have_the_letters_and_limits_that_they_are_written_with(latex, parts):
    drawn = page.formula(latex, display=True)
    assert all(part in drawn for part in parts) and "\\" not in drawn and "://" not in drawn


def test_a_formula_that_cannot_be_read_stays_as_it_is():
    assert page.formula(r"\frac") == r"<code>\frac</code>"


def test_a_widget_is_replaced_by_a_note_in_the_notebook_report(folder):
    kind = "application/vnd.jupyter.widget-view+json"
    write(
        folder,
        "03_widget",
        cell(v4.new_output("display_data", {kind: {"model_id": "1"}, "text/plain": "VBox()"})),
    )
    report(folder)
    assert "interactive: run this cell" in (folder / "03_widget.html").read_text()


def test_the_report_says_what_has_been_run_at_which_scale(folder, monkeypatch):
    table = "| paper | ours |\n|---|---|\n| ARN | 3.8 |"
    monkeypatch.setattr(index.scales, "section", lambda to_results: table)
    text = report(folder)
    assert "What has been run at which scale" in text and "<td>3.8</td>" in text


def test_the_report_links_what_runs_printed(folder):
    links = re.findall(r'href="([^"]+/results/[^"]+)"', report(folder))
    assert links
    for link in links:
        assert (ROOT / "reports" / "quick" / link).resolve().is_file()


@pytest.fixture
def results(tmp_path):
    """A folder with the comparison of 00_first, and one of a reader's own with another seed."""
    rate = {"value": 6.04, "n": 500, "low": 4.2, "high": 8.5}
    row = {"id": "arn/t1/<x>", "defense": "arn_pp", "attack": "pgd", "paper": 1.85, "ours": rate, "n": 500}
    gain = {"value": 5.0, "low": 1.2, "high": 9.0}
    content = {
        "notebook": "00_first",
        "profile": "quick",
        "seed": 0,
        "commit": None,
        "device": "an abacus",
        "versions": {"torch": "2.0"},
        "made": "2026-01-02T03:04:05+00:00",
        "rows": [
            row | {"adaptive": rate | {"value": 100.0}, "gain": gain, "verdict": "gains, as claimed"},
            row | {"adaptive": None, "verdict": "a new word"},
            row | {"id": "mine", "paper": None, "adaptive": None, "verdict": ""},
        ],
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "00_first.json").write_text(json.dumps(content))
    private = content | {"seed": 1, "device": "a reader's machine"}
    (tmp_path / "results" / "00_first.seed1.json").write_text(json.dumps(private))
    return tmp_path / "results"


def test_results_become_verdicts_with_numbers(folder, results):
    text = report(folder, results)
    for part in (
        "6.0 <small>4–8</small>",
        "100.0 <small>",
        "+5.0 <small>+1 to +9</small>",
        ">500</td>",
        "right on more images",
        "1.9</td>",
        "a new word</span> 1",
        "an abacus",
    ):
        assert part in text
    assert "a reader's machine" not in text and "00_first.seed1" not in text
    assert "arn/t1/&lt;x&gt;" in text and "<x>" not in text


@pytest.mark.slow
def test_on_a_telephone_and_in_the_dark_everything_can_be_read(folder, results):
    """At 400 px nothing is wider than the page, and no cell of a verdict is outside; nothing is asked for."""
    write(folder, "01_formula", v4.new_markdown_cell("# F\n\n$$\\frac{a}{b} \\tag{1}$$"))
    report(folder, results)
    with chromium() as browser:
        for name in ("index", "00_first", "01_formula"):
            tab = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
            asked = []
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto((folder / f"{name}.html").as_uri())
            tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 400
            colors = tab.evaluate(
                "['color', 'backgroundColor'].map(what => getComputedStyle(document.body)[what])"
            )
            light, dark = (sum(map(float, re.findall(r"[\d.]+", color)[:3])) for color in colors)
            assert light > 500 > 150 > dark
            assert all(url.startswith(("file:", "data:")) for url in asked)
            if name == "index":
                rights = (
                    "[...document.querySelectorAll('.cards td')].map(c => c.getBoundingClientRect().right)"
                )
                assert len(tab.evaluate(rights)) == 33 and max(tab.evaluate(rights)) <= 400
            if name == "01_formula":
                height = "document.querySelector('mfrac').getBoundingClientRect().height"
                assert tab.evaluate(height) > 20  # one above the other
