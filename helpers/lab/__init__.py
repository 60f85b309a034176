"""The laboratory: `Experiment` makes or loads every expensive thing of a paper's experiments.

`recipes` and `profiles` take no torch; the names below load it when they are used.
"""


def __getattr__(name: str) -> type:
    if name in ("Experiment", "Defense"):
        from helpers.lab import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
