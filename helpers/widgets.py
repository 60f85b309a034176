"""ipywidgets explorers.  They only turn pages that were drawn before, so they react at once."""

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


def _png(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
