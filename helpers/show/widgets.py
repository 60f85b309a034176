"""ipywidgets explorers.  They show what was computed before, so they react at once."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import product
from math import prod
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from itables.widget import ITable
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from helpers import seeded
from helpers.run import explorers
from helpers.show.figures import full_png, shaded

FEW = 4  # so many numbers stand beside each other; more are a slider
MOST = 25  # pages of one explorer on the site; of more choices those that one control reaches
QUALITY = 60  # of a page as WebP; its letters and pixels keep their edges


class Explorer(ipywidgets.VBox):
    """Controls above a picture; its first page as a picture where nothing runs: saved notebooks, reports.

    choices: {name of a control: its values, each with its label}.
    page: draws what is chosen: one value of each control -> (PNG, alt text).
    """

    def __init__(self, choices: Mapping[str, list[tuple[str, object]]], page: Callable):
        self.choices, self.page = choices, page
        self.controls = [_control(name, options) for name, options in choices.items()]
        self.picture = ipywidgets.Image(format="png")
        for control in self.controls:
            control.observe(self._draw, names="value")
        self._draw()
        self.first, self.alt = self.picture.value, self.picture.alt
        self.picture.layout = {
            "width": "auto",
            "max_width": "100%",
            "height": f"{Image.open(BytesIO(self.first)).height}px",
            "object_fit": "contain",
            "object_position": "left top",
            "align_self": "flex-start",
        }
        super().__init__([ipywidgets.VBox(self.controls), self.picture])

    def _draw(self, change=None):
        self.picture.value, self.picture.alt = self.page(*(control.value for control in self.controls))

    def _repr_mimebundle_(self, **settings) -> tuple[dict[str, object], dict[str, object]]:
        shown, static = super()._repr_mimebundle_(**settings), _captioned(shaded(self.first))
        if folder := os.environ.get(explorers.VARIABLE):
            with seeded(0):  # what follows in the notebook must not depend on whether pages were drawn
                self.leave(Path(folder), static)
        alt = {"image/png": {"alt": f"{explorers.FIRST} {self.alt}".strip()}}
        return shown | {"image/png": static, "text/plain": explorers.FIRST}, alt

    def pages(self) -> Iterator[tuple[int, ...]]:
        """What the site can choose: all, if that is at most MOST, else one control away from the first.

        Each page is one index for each control.
        """
        sizes = [range(len(options)) for options in self.choices.values()]
        few = prod(map(len, sizes)) <= MOST
        return (page for page in product(*sizes) if few or sum(map(bool, page)) <= 1)

    def leave(self, folder: Path, static: bytes) -> None:
        """Write the pages into `folder` as pictures, and what they are at the end of its `index.json`.

        static: the picture that stands for the explorer in the notebook; its hash tells which explorer it is.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pages = []
        for page in self.pages():
            chosen = zip(page, self.choices.values(), strict=True)
            picture, alt = self.page(*(options[i][1] for i, options in chosen))
            pages.append({"choice": page, "file": _webp(picture, folder), "alt": alt})
        controls = [
            {"name": name, "labels": [label for label, _ in options], "slider": _is_long(options)}
            for name, options in self.choices.items()
        ]
        known = explorers.read(folder)
        known.append({"first": explorers.fingerprint(static), "controls": controls, "pages": pages})
        text = json.dumps(known, ensure_ascii=False, indent=1)
        (folder / "index.json").write_text(text + "\n", encoding="utf-8")


def explorer(page: Callable[..., Figure], **choices: Sequence) -> Explorer:
    """Controls above a picture that is drawn when a choice changes: `page(**choice) -> figure`.

    choices: {name: list of values, or of (label, value)}.  More than a few numbers are a slider, all else is
        a row of buttons: these answer the keyboard, where a menu's arrow keys move JupyterLab's cells.
    page: must only draw, from what is at hand; pages seen before are kept.
    Returns the widget, whose first child holds the controls in the order of `choices` and whose second is
    the picture.  Its size is its own on any page, and the same height for all choices.
    ValueError for no choices.
    """
    if not choices or not all(choices.values()):
        raise ValueError("an explorer needs at least one choice, and a value for each")

    @cache
    def drawn(*choice):
        figure = page(**dict(zip(choices, choice, strict=True)))
        picture = full_png(figure)
        plt.close(figure)
        return picture, getattr(figure, "alt", "")

    return Explorer({name: [_labelled(value) for value in values] for name, values in choices.items()}, drawn)


def searchable(frame: pd.DataFrame) -> ITable:
    """A long table with a search for the whole and for each column; a click on a head sorts by it."""
    return ITable(frame, column_filters="header", lengthMenu=[15, 50, 200], maxBytes=0)


def _labelled(value):
    """(label, value) of a choice."""
    if isinstance(value, tuple):
        return value
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value), value


def _is_long(options):
    """More than a few numbers?"""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for _, value in options)
    return numbers and len(options) > FEW


def _control(name, options):
    if _is_long(options):
        return ipywidgets.SelectionSlider(
            options=options, description=name, continuous_update=False, layout={"width": "420px"}
        )
    return ipywidgets.ToggleButtons(
        options=options, description=name, style={"button_width": "auto"}, layout={"width": "auto"}
    )


def _webp(picture, folder):
    """Keep a PNG in `folder` as WebP, named by its content; -> the file's name."""
    files = []
    # Bars and digits are smaller as they are, photographs with a small loss.
    for png, how in ((shaded(picture), {"lossless": True}), (picture, {"quality": QUALITY, "method": 6})):
        buffer = BytesIO()
        Image.open(BytesIO(png)).convert("RGB").save(buffer, format="webp", **how)
        files.append(buffer.getvalue())
    smaller = min(files, key=len)
    name = f"{explorers.fingerprint(smaller)}.webp"
    (folder / name).write_bytes(smaller)
    return name


def _captioned(picture: bytes) -> bytes:
    """The PNG with `explorers.FIRST` written below it, in the picture's own palette."""
    page = Image.open(BytesIO(picture))
    palette = list(zip(*[iter(page.getpalette())] * 3, strict=True))
    sums = [sum(colour) for colour in palette]
    white, dark = sums.index(max(sums)), min(range(len(sums)), key=lambda i: abs(sums[i] - 255))
    canvas = Image.new("P", (max(page.width, 480), page.height + 26), white)
    canvas.putpalette(page.getpalette())
    canvas.paste(page)
    font = ImageFont.load_default(size=13)
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"  # no shades in between, which the palette lacks
    draw.text((6, page.height + 5), explorers.FIRST, fill=dark, font=font)
    buffer = BytesIO()
    canvas.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
