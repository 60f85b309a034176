"""ipywidgets explorers.  They show what was computed before, so they react at once."""

from collections.abc import Callable, Sequence
from io import BytesIO

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from itables.widget import ITable
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from helpers.show.figures import png

FIRST = "First page of an explorer: run this cell in JupyterLab to choose others."
FEW = 4  # so many numbers stand beside each other; more are a slider


class Explorer(ipywidgets.VBox):
    """Controls above a picture; its first page as a picture where nothing runs: saved notebooks, reports."""

    def _repr_mimebundle_(self, **settings) -> tuple[dict[str, object], dict[str, object]]:
        shown = super()._repr_mimebundle_(**settings)
        static = {"image/png": _captioned(self.first), "text/plain": FIRST}
        return shown | static, {"image/png": {"alt": f"{FIRST} {self.alt}".strip()}}


def explorer(page: Callable[..., Figure], **choices: Sequence) -> Explorer:
    """Controls above a picture that is drawn when a choice changes: `page(**choice) -> figure`.

    choices: {name: list of values}.  More than a few numbers are a slider, all else is a row of buttons:
        these answer the keyboard, where a menu's arrow keys move JupyterLab's cells.
    page: must only draw, from what is at hand; pages seen before are kept.
    Returns the widget, whose first child holds the controls in the order of `choices` and whose second is
    the picture.  Its size is its own on any page, and the same height for all choices.
    ValueError for no choices.
    """
    if not choices or not all(choices.values()):
        raise ValueError("an explorer needs at least one choice, and a value for each")
    controls = {name: _control(name, values) for name, values in choices.items()}
    picture, pages = ipywidgets.Image(format="png"), {}

    def draw(change: dict | None = None) -> None:
        choice = {name: control.value for name, control in controls.items()}
        key = tuple(choice.values())
        if key not in pages:
            figure = page(**choice)
            pages[key] = png(figure), getattr(figure, "alt", "")
            plt.close(figure)
        picture.value, picture.alt = pages[key]

    for control in controls.values():
        control.observe(draw, names="value")
    draw()
    width, height = Image.open(BytesIO(picture.value)).size
    picture.layout = {
        "width": "auto",
        "max_width": "100%",
        "height": f"{height}px",
        "object_fit": "contain",
        "object_position": "left top",
        "align_self": "flex-start",
    }
    made = Explorer([ipywidgets.VBox(list(controls.values())), picture])
    made.first, made.alt = picture.value, picture.alt
    return made


def searchable(frame: pd.DataFrame) -> ITable:
    """A long table with a search for the whole and for each column; a click on a head sorts by it."""
    return ITable(frame, column_filters="header", lengthMenu=[15, 50, 200], maxBytes=0)


def _control(name, values):
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numbers and len(values) > FEW:
        return ipywidgets.SelectionSlider(
            options=list(values), description=name, continuous_update=False, layout={"width": "420px"}
        )
    if all(isinstance(value, bool) for value in values):
        values = [("yes" if value else "no", value) for value in values]
    return ipywidgets.ToggleButtons(
        options=list(values), description=name, style={"button_width": "auto"}, layout={"width": "auto"}
    )


def _captioned(picture: bytes) -> bytes:
    """The PNG with `FIRST` written below it, in the picture's own palette."""
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
    draw.text((6, page.height + 5), FIRST, fill=dark, font=font)
    buffer = BytesIO()
    canvas.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
