"""ipywidgets explorers.  They show what was computed before, so they react at once."""

from io import BytesIO

import ipywidgets
import matplotlib.pyplot as plt


def flip_through(figures, description):
    """A slider over ready-made figures: {value: matplotlib figure} in the slider's order.

    Each figure is rendered once, to PNG, and closed; moving the slider swaps bytes.  Returns the
    widget, whose children are the slider and the picture.  ValueError for no figures.
    """
    if not figures:
        raise ValueError("flip_through needs at least one figure")
    pages = {value: _png(figure) for value, figure in figures.items()}
    slider = ipywidgets.SelectionSlider(
        options=list(pages), description=description, continuous_update=False, layout={"width": "420px"}
    )
    picture = ipywidgets.Image(value=pages[slider.value], format="png")
    slider.observe(lambda change: setattr(picture, "value", pages[change["new"]]), names="value")
    return ipywidgets.VBox([slider, picture])


def explorer(page, **choices):
    """Controls beside a picture that is drawn when a choice changes: `page(**choice) -> matplotlib figure`.

    choices: {name: list of values}; two booleans become a checkbox, all else a menu.  `page` must
    only draw, from what is at hand; pages seen before are kept.  Returns the widget, whose first child holds
    the controls in the order of `choices` and whose second is the picture.
    """
    controls = {}
    for name, values in choices.items():
        if all(isinstance(value, bool) for value in values):
            controls[name] = ipywidgets.Checkbox(value=values[0], description=name, indent=False)
        else:
            controls[name] = ipywidgets.Dropdown(options=values, description=name, layout={"width": "220px"})
    pages, picture = {}, ipywidgets.Image(format="png")

    def draw(change=None):
        choice = {name: control.value for name, control in controls.items()}
        key = tuple(choice.values())
        if key not in pages:
            pages[key] = _png(page(**choice))
        picture.value = pages[key]

    for control in controls.values():
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), picture])


def _png(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
