"""Exercises that answer, and guesses that are remembered, in the notebooks.

An exercise is three cells: its text (tag `exercise`), a stub that sets what is asked for to None (tag
`stub`), and a check (tag `check`).  Its solution is the code below its number in `notebooks/solutions`,
which takes the stub's place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ipywidgets
from IPython.display import Markdown, display


@dataclass(frozen=True)
class Outcome:
    """What a check says: `right`, and why."""

    right: bool
    message: str

    def __repr__(self) -> str:
        return self.message


def check(exercise: int, answer: object, *rules: tuple[Callable[[object], object], str]) -> Outcome:
    """Tell a right answer from a wrong one, with the hint of the first rule that it breaks.

    exercise: its number.
    answer: what the stub sets; None, or an empty place in a tuple or dict, is an exercise not done yet.
    rules: (test, hint): `test(answer)` is true of a right answer.  One that raises counts as broken, and the
        message names the error.
    """
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else [answer]
    if any(part is None for part in parts):
        return Outcome(False, f"○ Exercise {exercise} is not done yet: fill in the cell above.")
    for test, hint in rules:
        try:
            holds = bool(test(answer))
        except Exception as error:  # any: it is a student's object
            reason = f"{type(error).__name__}: {error}"
            return Outcome(False, f"✗ Exercise {exercise}: this answer cannot be used ({reason}). {hint}")
        if not holds:
            return Outcome(False, f"✗ Exercise {exercise}: {hint}")
    return Outcome(True, f"✓ Exercise {exercise}")


class Guess:
    """A question asked before an experiment; `beside(outcome)` shows the answer again, behind it."""

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        """Show the question with a button for each choice; none is chosen until somebody does."""
        self.buttons = ipywidgets.ToggleButtons(
            options=list(choices), value=None, style={"button_width": "auto"}
        )
        display(Markdown(f"**What do you expect?** {question} ({' · '.join(choices)})"))
        display(self.buttons)

    def beside(self, outcome: str) -> Markdown:
        """The guess and `outcome`, a sentence or number of the notebook's, in one line."""
        return Markdown(f"You expected: **{self.buttons.value or 'no guess yet'}**. It came out: {outcome}")
