"""The pages of explorers, for the site, where no kernel draws them: `pages/explorers/NOTEBOOK`.

A run that is told a folder by the variable EXPLORERS_DIR leaves them there (`helpers.show.widgets`); whoever
keeps the run's outputs in `notebooks/` keeps them, too.
"""

import hashlib
import json
import shutil
from pathlib import Path

from helpers import ROOT

FOLDER = ROOT / "pages" / "explorers"
VARIABLE = "EXPLORERS_DIR"
# what stands below an explorer where no kernel draws it
FIRST = "First page of an explorer: run this cell in JupyterLab to choose others."


def left_by(executed: Path) -> Path:
    """Where the run that made an executed notebook leaves the pages."""
    return executed.with_suffix(".explorers")


def missing(notebook: Path, executed: Path) -> bool:
    """Does the notebook have an explorer of which that run left no pages?"""
    return _has_one(notebook) and not left_by(executed).exists()


def keep(executed: Path, notebook: Path) -> None:
    """Replace the pages that are kept of `notebook` by those that the run left, if it was told to."""
    left, kept = left_by(executed), FOLDER / notebook.stem
    if left.exists() or not _has_one(notebook):
        shutil.rmtree(kept, ignore_errors=True)
    if left.exists():
        shutil.copytree(left, kept)


def _has_one(notebook):
    return "widgets.explorer(" in notebook.read_text(encoding="utf-8")


def read(folder: Path) -> list[dict]:
    """The explorers of a notebook in their order; empty if there are none.

    Of each: `first`, the fingerprint of the picture that stands for it in the notebook; `controls`, each with
    its name, its labels and whether it is a slider; `pages`, each with its choice (one index for each
    control), its file and what it shows in words.
    """
    index = folder / "index.json"
    return json.loads(index.read_text(encoding="utf-8")) if index.exists() else []


def fingerprint(picture: bytes) -> str:
    """A short hash of a picture."""
    return hashlib.sha256(picture).hexdigest()[:12]
