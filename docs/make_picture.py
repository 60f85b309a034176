"""Cut the README's picture out of the committed notebook: `python docs/make_picture.py`."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
notebook = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
pictures = [o.data["image/png"] for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
(ROOT / "docs" / "five_stages.png").write_bytes(base64.b64decode(pictures[0]))
