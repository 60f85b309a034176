"""Cut the README's picture out of the committed notebook: `python docs/make_picture.py`."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "figures.image_grid(rows, labels=y[show]" in cell.source)
    outputs = cell.outputs
    first = next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    (ROOT / "docs" / "five_stages.png").write_bytes(base64.b64decode(first))


if __name__ == "__main__":
    main()
