"""A notebook as a file: its parameters, what its run depends on, and how it is kept in git."""

import ast
import hashlib
import json
import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers import ROOT
from helpers.run import options

if TYPE_CHECKING:  # nbformat takes half a second
    from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
MADE_FROM = "made_from"  # metadata of an executed notebook: the fingerprint of all that it was made from
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}


class Parameter(NamedTuple):
    """One line of a notebook's parameters cell, `eps: float = 0.3  # its comment`."""

    type: str
    default: Any
    comment: str


def parameters(notebook: Path) -> dict[str, Parameter]:
    """{name: Parameter} of the cell with papermill's tag "parameters"; empty without one.

    ValueError for a file that is no notebook, and for a cell of parameters that is not Python.
    """
    try:
        cells = _cells(notebook)
        tagged = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        source = "".join(next(tagged, {"source": []})["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook} is not a notebook, or a damaged one") from error
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{notebook}: its parameters, line {error.lineno}: {error.msg}") from error
    found = {}
    for node in body:
        if isinstance(node, ast.AnnAssign):
            line = source.splitlines()[node.end_lineno - 1].encode()
            comment = line[node.end_col_offset :].decode().strip(" #;")
            found[node.target.id] = Parameter(ast.unparse(node.annotation), _value(node.value), comment)
    return found


def value(text: str, parameter: Parameter, name: str) -> Any:
    """What `-p name text` means for a parameter of this type; ValueError with the value and the choices."""
    wanted = TYPES.get(parameter.type.partition("[")[0])
    if wanted is str:
        read = text
    elif wanted is bool:
        read = {"true": True, "false": False}.get(text.lower())
    elif wanted is float:
        read = _number(text)
    else:
        read = _value(text)
    if wanted is not None and type(read) is not wanted:
        such = "" if parameter.default is None else f", such as {parameter.default!r}"
        raise ValueError(f"{name}={text}: a value of type {parameter.type}{such}")
    if name == "seed" and read not in range(options.MAX_SEED + 1):
        raise ValueError(f"seed={text}: a whole number from 0 to {options.MAX_SEED}")
    known = _choices(name, parameter)
    for one in read if isinstance(read, list) else [read]:
        if known is not None and one not in known:
            raise ValueError(f"{name}={text}: {one!r} is not known; choose one of {', '.join(known)}")
    return read


def offered(parameter: Parameter) -> list[str]:
    """What a comment such as "mnist (LeNet rows) | cifar10" offers; empty if it does not begin so."""
    words = [words.split()[0] for words in parameter.comment.split("|") if words.strip()]
    found = [re.sub(r"\W+$", "", word) for word in words]
    return found if len(found) > 1 and found[0] == parameter.default else []


def _choices(name, parameter):
    """The values that a parameter of this name may have; None: any of its type."""
    if name == "profile":
        return options.PROFILES
    if name == "dataset":
        return offered(parameter) or [parameter.default, *options.datasets()]
    return options.attacks() if name == "extra_attacks" else None


def fingerprint(notebook: Path, values: dict) -> str:
    """A hash of what a run depends on: all cells, the values of parameters, and the helpers.

    Outputs do not count, so that looking at a notebook changes nothing; nor do comments in the helpers, nor
    this wing, which only runs notebooks.
    """
    cells = [["".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in _cells(notebook)]
    text = json.dumps([cells, values, _helpers()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def made_from(executed: Path) -> str | None:
    """The fingerprint that an executed notebook keeps; None if there is no such notebook."""
    try:
        return json.loads(executed.read_text(encoding="utf-8"))["metadata"].get(MADE_FROM)
    except FileNotFoundError:
        return None


def clean(notebook: "NotebookNode") -> "NotebookNode":
    """Remove what differs from run to run and between machines; -> notebook."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    return without_widgets(notebook)


def without_widgets(notebook: "NotebookNode") -> "NotebookNode":
    """Leave of each widget, whose state is in the kernel only, its picture or a note; -> notebook.

    An output without anything in it, such as what is left of a bar, goes.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if data.pop(WIDGET, None) and "image/png" not in data:
                output.data = {"text/plain": "(interactive: run this cell to use it)"}
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data") != {}]
    return notebook


@cache
def _helpers():
    hashes = {}
    for file in sorted((ROOT / "helpers").rglob("*")):
        name = file.relative_to(ROOT).as_posix()
        if file.suffix not in (".py", ".csv", ".yaml", ".j2") or name.startswith("helpers/run/"):
            continue
        text = file.read_text(encoding="utf-8")
        content = ast.dump(ast.parse(text)) if file.suffix == ".py" else text
        hashes[name] = hashlib.sha256(content.encode()).hexdigest()
    return hashes


def _cells(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def _value(written):
    """The value of a literal, a text or an expression; all else, such as 8/255, as it is written."""
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return written if isinstance(written, str) else ast.unparse(written)


def _number(text):
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return None
