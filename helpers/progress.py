"""A bar for what takes longer than a moment.  It leaves no trace, in a terminal or in a notebook."""

import os

from tqdm.std import tqdm

PATIENCE = 1.0  # seconds before a bar is shown


class Bar(tqdm):
    """tqdm's bar; in a notebook it is a line of text, which is emptied at the end.

    tqdm's own bar for notebooks is a widget.  A saved notebook keeps a reference to it, and shows an error in
    its place when it is opened again.  The environment's TQDM_DISABLE=1 switches bars off.
    """

    def __init__(self, *args, **settings) -> None:
        """args, settings: tqdm's."""
        self._line, self._notebook = None, _in_a_notebook()
        silent = os.environ.get("TQDM_DISABLE") == "1"
        super().__init__(*args, leave=False, delay=PATIENCE, disable=silent, **settings)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or `msg` in its place; an empty one takes it away."""
        if not self._notebook:
            super().display(msg, pos)
            return
        from IPython.display import display  # half a second

        text = str(self) if msg is None else msg
        shown = {"text/plain": text} if text else {}
        if self._line is None:
            self._line = display(shown, raw=True, display_id=True)
        else:
            self._line.update(shown, raw=True)


def _in_a_notebook() -> bool:
    try:
        return "IPKernelApp" in get_ipython().config
    except NameError:  # no IPython at all
        return False
