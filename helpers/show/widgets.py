"""ipywidgets explorers.  They show what was computed before, so they react at once."""

from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from helpers.show.figures import png


def flip_through(figures: Mapping[object, Figure], description: str) -> ipywidgets.VBox:
    """A slider over ready-made figures: {value: figure} in the slider's order.

    Each figure is rendered once, to PNG, and closed; moving the slider swaps bytes.  Returns the
    widget, whose children are the slider and the picture.  ValueError for no figures.
    """
    if not figures:
        raise ValueError("flip_through needs at least one figure")
    pages = {value: _closed(figure) for value, figure in figures.items()}
    slider = ipywidgets.SelectionSlider(
        options=list(pages), description=description, continuous_update=False, layout={"width": "420px"}
    )
    picture = ipywidgets.Image(value=pages[slider.value], format="png")

    def turn(change: dict) -> None:
        picture.value = pages[change["new"]]

    slider.observe(turn, names="value")
    return ipywidgets.VBox([slider, picture])


def explorer(page: Callable[..., Figure], **choices: Sequence) -> ipywidgets.VBox:
    """Controls beside a picture that is drawn when a choice changes: `page(**choice) -> figure`.

    choices: {name: list of values}; two booleans become a checkbox, all else a menu.  `page` must
        only draw, from what is at hand; pages seen before are kept.
    Returns the widget, whose first child holds the controls in the order of `choices` and whose second is
    the picture.
    """
    controls = {}
    for name, values in choices.items():
        if all(isinstance(value, bool) for value in values):
            controls[name] = ipywidgets.Checkbox(value=values[0], description=name, indent=False)
        else:
            width = {"width": "220px"}
            controls[name] = ipywidgets.Dropdown(options=values, description=name, layout=width)
    pages, picture = {}, ipywidgets.Image(format="png")

    def draw(change: dict | None = None) -> None:
        choice = {name: control.value for name, control in controls.items()}
        key = tuple(choice.values())
        if key not in pages:
            pages[key] = _closed(page(**choice))
        picture.value = pages[key]

    for control in controls.values():
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), picture])


def _closed(figure: Figure) -> bytes:
    picture = png(figure)
    plt.close(figure)
    return picture
