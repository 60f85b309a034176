"""The committed notebooks as a reader meets them; `python -m tests.test_notebooks` lists all that is amiss.

Each check takes a notebook and its name, and returns what it found.
"""

import re
import shutil
from functools import cache

import nbformat
import pytest

from helpers import ROOT, ledger
from helpers.lab import profiles
from helpers.measure.labels import label
from helpers.run import navigation

FOLDER = ROOT / "notebooks"
NAMES = sorted(file.name for file in FOLDER.glob("[0-9]*.ipynb"))
LINES, COLUMNS = 20, 100
HEADING = re.compile(r"^#+ +(.+?) *$", flags=re.MULTILINE)


@cache
def read(name):
    return nbformat.read(FOLDER / name, as_version=4)


def code_cells(notebook):
    """Numbers and cells, counted from 0 as in `notebook.cells`."""
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def written(notebook):
    """(Number of the cell, text) of all text and HTML among the outputs; of two forms of one the HTML."""
    for i, cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            kind = "text/html" if "text/html" in data else "text/markdown"
            yield i, output.get("text") or data.get(kind) or data.get("text/plain", "")


@cache
def raw_keys():
    """Names of the ledger and the profiles that a reader should meet as labels only."""
    kinds = ("dataset", "target", "defense", "attack", "threat")
    names = {name for kind in kinds for name in ledger.VOCABULARY[kind]}
    for paper in profiles.papers():
        for spec in profiles.load(paper, profiles.TRUTH).values():
            names |= {*spec.attacks, *spec.methods, *spec.targets}
    return {name for name in names if re.search(r"[_\d]", name) and label(name) != name}


@cache
def anchors(name):
    """What a link can name behind #: the headings, with hyphens for blanks."""
    cells = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    return {heading.replace(" ", "-") for source in cells for heading in HEADING.findall(source)}


# --- the checks ---


def pictures_without_a_text(notebook, name):
    pictures = [
        (i, output.metadata.get("image/png", {}).get("alt"))
        for i, cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return [f"cell {i}: a picture without an alt text" for i, alt in pictures if not alt]


def keys_in_outputs(notebook, name):
    words = re.compile(rf"(?<![\w/.])({'|'.join(sorted(raw_keys(), key=len, reverse=True))})(?![\w/])")
    found = {}
    for i, text in written(notebook):
        text = re.sub(r"<code>.*?</code>|<style.*?</style>", "", text, flags=re.DOTALL)
        found.setdefault(i, set()).update(words.findall(text))
    return [f"cell {i}: {', '.join(sorted(keys))}" for i, keys in found.items() if keys]


def long_numbers_in_tables(notebook, name):
    faults = []
    for i, text in written(notebook):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", text, flags=re.DOTALL)
        bad = [cell for cell in cells if re.search(r"\d\.\d{3,}|\bnan\b", cell, flags=re.IGNORECASE)]
        faults += [f"cell {i}: {', '.join(bad[:3])}"] if bad else []
    return faults


def long_cells(notebook, name):
    lengths = [(i, cell.source.count("\n") + 1) for i, cell in code_cells(notebook)]
    return [f"cell {i}: {length} lines" for i, length in lengths if length > LINES]


def long_lines(notebook, name):
    lines = [(i, line) for i, cell in code_cells(notebook) for line in cell.source.splitlines()]
    return [f"cell {i}: {len(line)} columns" for i, line in lines if len(line) > COLUMNS]


def dead_links(notebook, name):
    faults = []
    cells = [(i, cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    for i, link in [(i, link) for i, source in cells for link in re.findall(r"\]\(([^)\s]+)\)", source)]:
        file, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (FOLDER / file).resolve() if file else FOLDER / name
        if not target.exists():
            faults.append(f"cell {i}: there is no {file}")
        elif anchor and target.suffix == ".ipynb" and anchor not in anchors(target.name):
            faults.append(f"cell {i}: {target.name} has no heading {anchor}")
    return faults


def sections_without_an_end(notebook, name):
    """A section with code ends in prose: no heading follows code, nor does the end; exercises are free."""
    faults, section = [], ""
    cells = [cell for cell in notebook.cells if navigation.TAG not in cell.metadata.get("tags", [])]
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type == "markdown" and (headings := HEADING.findall(cell.source)):
            section = headings[-1]
        ends = following is None or (
            following.cell_type == "markdown" and following.source.lstrip().startswith("#")
        )
        begun = cell is not cells[0] and section not in HEADING.findall(cells[0].source)
        if cell.cell_type == "code" and ends and begun and "xercise" not in section:
            faults.append(f"section {section!r} ends in code")
    return faults


def no_last_word(notebook, name):
    cells = [cell for cell in notebook.cells if navigation.TAG not in cell.metadata.get("tags", [])]
    last = cells[-1].source if cells[-1].cell_type == "markdown" else ""
    return [] if "What you have seen" in last else ["the last cell is not *What you have seen*"]


def attacks_on_all_images_at_once(notebook, name):
    """`lab.attack` runs them in parts: a GPU does not hold the gradients of a full test set."""
    code = "\n".join(cell.source for _, cell in code_cells(notebook))
    counts = re.findall(r"^x, y = .*\.images\(\"test\"(?:, )?(.*)\)$", code, flags=re.MULTILINE)
    small = (n.isdigit() or n and re.search(rf"^{n}: int = [1-9]", code, flags=re.MULTILINE) for n in counts)
    return [] if all(small) else re.findall(r"ATTACKS\[[^]]+\]\([\w.]+, x, y\b", code)


CHECKS = [
    pictures_without_a_text,
    keys_in_outputs,
    long_numbers_in_tables,
    long_cells,
    long_lines,
    dead_links,
    sections_without_an_end,
    no_last_word,
    attacks_on_all_images_at_once,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS)
def test_a_notebook_is_fit_to_be_read(check, name):
    assert check(read(name), name) == []


# --- the checks bite ---


def notebook(*cells, output=None):
    """A notebook of these sources, markdown where they begin with M; `output` is that of every code cell."""
    made = []
    for source in cells:
        if source.startswith("M"):
            made.append(nbformat.v4.new_markdown_cell(source[1:]))
        else:
            outputs = [nbformat.v4.new_output("display_data", **output)] if output else []
            made.append(nbformat.v4.new_code_cell(source, outputs=outputs))
    return nbformat.v4.new_notebook(cells=made)


def html(text):
    return {"data": {"text/html": text, "text/plain": "1.23456 at_pgd"}}


@pytest.mark.parametrize(
    "check, good, bad",
    [
        (
            pictures_without_a_text,
            notebook("x", output={"data": {"image/png": ""}, "metadata": {"image/png": {"alt": "a cat"}}}),
            notebook("x", output={"data": {"image/png": ""}}),
        ),
        (
            keys_in_outputs,
            notebook("x", output=html("AT, <code>at_pgd</code>, results/at_pgd.json")),
            notebook("x", output=html("<td>at_pgd</td>")),
        ),
        (keys_in_outputs, notebook("x"), notebook("x", output={"data": {"text/plain": "{'pgd_big': 1}"}})),
        (
            long_numbers_in_tables,
            notebook("x", output=html("<td>1.25</td><td>finance</td>")),
            notebook("x", output=html("<td>98.333333</td>")),
        ),
        (long_numbers_in_tables, notebook("x"), notebook("x", output=html("<td>NaN</td>"))),
        (long_cells, notebook("x\n" * 19 + "x"), notebook("x\n" * 20 + "x")),
        (long_lines, notebook("x" * 100), notebook("x" * 101)),
        (
            dead_links,
            notebook(f"M[there]({NAMES[0]}) [out](https://example.org)"),
            notebook("M[gone](99_gone.ipynb)"),
        ),
        (dead_links, notebook(f"M[all]({NAMES[0]})"), notebook(f"M[all]({NAMES[0]}#No-such-heading)")),
        (
            sections_without_an_end,
            notebook("M# T", "setup", "M## 1\nText.", "x", "MSo it is.", "M## Exercises", "x"),
            notebook("M# T", "setup", "M## 1\nText.", "x", "M## 2", "MText."),
        ),
        (sections_without_an_end, notebook("M# T", "M## 1"), notebook("M# T", "M## 1", "x")),
        (
            no_last_word,
            notebook("x", "M**What you have seen.** This."),
            notebook("M## What you have seen", "x"),
        ),
        (
            attacks_on_all_images_at_once,
            notebook("few: int = 9", 'x, y = lab.images("test", few)', 'ATTACKS["pgd"](model, x, y)'),
            notebook("few: int = 0", 'x, y = lab.images("test", few)', 'ATTACKS["pgd"](model, x, y)'),
        ),
        (
            attacks_on_all_images_at_once,
            notebook("", 'x, y = lab.images("test")', 'ATTACKS["pgd"](model, x[:9], y[:9])'),
            notebook("", 'x, y = lab.images("test")', 'ATTACKS["pgd"](model, x, y, eps=0.1)'),
        ),
    ],
)
def test_a_check_finds_what_it_is_for(check, good, bad):
    assert check(good, "00.ipynb") == [] and check(bad, "00.ipynb") != []


# --- navigation ---


def test_navigation_can_be_written_again_and_all_its_files_are_there(tmp_path):
    for name in NAMES[:3]:
        shutil.copy(FOLDER / name, tmp_path)
    before = {name: nbformat.read(tmp_path / name, as_version=4).cells for name in NAMES[:3]}
    navigation.update(tmp_path)
    once = {name: (tmp_path / name).read_bytes() for name in NAMES[:3]}
    assert navigation.update(tmp_path) == []
    assert once == {name: (tmp_path / name).read_bytes() for name in NAMES[:3]}
    for name in NAMES[:3]:
        cells = nbformat.read(tmp_path / name, as_version=4).cells
        ours = [i for i, cell in enumerate(cells) if navigation.TAG in cell.metadata.get("tags", [])]
        assert ours == [1, len(cells) - 1] and cells[1].source == cells[-1].source
        made = {navigation.TAG, navigation.CONTENTS}
        kept = [cell for cell in before[name] if not made & set(cell.metadata.get("tags", []))]
        assert [cell for cell in cells if not made & set(cell.metadata.get("tags", []))] == kept


def test_navigation_goes_back_on_and_to_the_index():
    titles = {"00_start_here.ipynb": "Start here", "01_attacks.ipynb": "Attacks", "02_x.ipynb": "X"}
    glossary = "[Glossary](01_attacks.ipynb#Glossary)"
    assert navigation.links("00_start_here.ipynb", titles) == f"{glossary} | [Attacks →](01_attacks.ipynb)"
    assert navigation.links("02_x.ipynb", titles) == (
        f"[← Attacks](01_attacks.ipynb) | [All notebooks](00_start_here.ipynb) | {glossary}"
    )
    with pytest.raises(ValueError, match="# Title"):
        navigation.title(notebook("MNo heading."))


def test_the_index_links_every_notebook():
    (cell,) = (c for c in read(navigation.INDEX).cells if navigation.CONTENTS in c.metadata.get("tags", []))
    assert re.findall(r"\]\((.+?)\)", cell.source) == NAMES


if __name__ == "__main__":
    for name in NAMES:
        print(f"\n## {name}")
        for check in CHECKS:
            for fault in check(read(name), name):
                print(f"- {check.__name__.replace('_', ' ')}: {fault}")
