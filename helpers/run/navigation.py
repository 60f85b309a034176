"""Previous, next, index and glossary in every notebook: `python -m helpers.run.navigation [FOLDER]`.

The links stand in two cells with the tag "navigation", below the title and at the end.  The index has a third
cell, with the tag "contents": all notebooks by their titles.  All of it follows from the names of the files
and their titles alone, so that a second run changes nothing.
"""

import re
from pathlib import Path

import nbformat

from helpers import ROOT, write_atomically
from helpers.run.options import Parser

TAG, CONTENTS = "navigation", "contents"
INDEX, GLOSSARY = "00_start_here.ipynb", "01_attacks.ipynb#Glossary"
PARTS = {"0": "Foundations", "1": "ADD", "2": "ARN", "3": "JATP", "4": "DIR", "5": "All four, and the tools"}


def main() -> None:
    parser = Parser(prog="python -m helpers.run.navigation", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "notebooks")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"there is no folder {folder}")
    for name in update(folder):
        print(name)


def update(folder: Path) -> list[str]:
    """Write the links into all notebooks of `folder`; -> names of those that have changed."""
    files = sorted(folder.glob("[0-9]*.ipynb"))
    notebooks = [nbformat.read(file, as_version=4) for file in files]
    titles = {file.name: title(notebook) for file, notebook in zip(files, notebooks, strict=True)}
    headings = {file.name: heading(notebook) for file, notebook in zip(files, notebooks, strict=True)}
    changed = []
    for file, notebook in zip(files, notebooks, strict=True):
        content = links(file.name, titles)
        cells = [cell for cell in notebook.cells if TAG not in _tags(cell)]
        top, end = _cell(f"{TAG}-top", content), _cell(f"{TAG}-end", content)
        cells = [cells[0], top, *cells[1:], end]
        if file.name == INDEX:
            cells = [_list(headings) if CONTENTS in _tags(cell) else cell for cell in cells]
        if cells != notebook.cells:
            notebook.cells = cells
            write_atomically(file, lambda temporary, notebook=notebook: nbformat.write(notebook, temporary))
            changed.append(file.name)
    return changed


def heading(notebook: nbformat.NotebookNode) -> str:
    """The first heading of a notebook; ValueError if its first cell has none."""
    found = re.match(r"# +(.+)", notebook.cells[0].source)
    if not found:
        raise ValueError("a notebook's first cell begins with a heading, # Title: more about it")
    return found[1].strip()


def title(notebook: nbformat.NotebookNode) -> str:
    """The first heading of a notebook, as far as the colon; ValueError if its first cell has none."""
    return heading(notebook).split(":")[0].strip()


def links(name: str, titles: dict[str, str]) -> str:
    """The line of links of the notebook `name`; titles: {file name: title}, in the order of reading."""
    names = list(titles)
    place = names.index(name)
    parts = [f"[← {titles[before]}]({before})" for before in names[max(0, place - 1) : place]]
    parts += [f"[All notebooks]({INDEX})"] if name != INDEX else []
    parts += [f"[Glossary]({GLOSSARY})"]
    parts += [f"[{titles[after]} →]({after})" for after in names[place + 1 : place + 2]]
    return " | ".join(parts)


def contents(headings: dict[str, str]) -> str:
    """All notebooks, part by part, as a Markdown list of links; headings: {file name: first heading}."""
    lines, part = [], None
    for name, words in headings.items():
        if PARTS[name[0]] != part:
            part = PARTS[name[0]]
            lines += ["", f"**{part}**", ""]
        lines.append(f"* [{name[:2]}]({name}) {words}")
    return "\n".join(lines).strip()


def _list(headings: dict[str, str]) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(contents(headings), id=CONTENTS, metadata={"tags": [CONTENTS]})


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _cell(id: str, source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=id, metadata={"tags": [TAG]})


if __name__ == "__main__":
    main()
