"""What a profile runs: which notebooks, with which parameters, and how long each is expected to take.

`make plan PROFILE=standard` prints it.  Notebooks are found, not listed: those in `notebooks/` whose names
begin with a digit.  Beyond quick, one whose parameters say `dataset: str = "mnist"  # mnist … | cifar10 …` is
run for each of these data sets.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from helpers import ROOT
from helpers.run import notebook as file
from helpers.run import options

# {profile: {name of a run: seconds}}, and {notebook: what it asks `Experiment` for in the profile quick}
TIMES, NEEDS = (Path(__file__).with_name(name) for name in ("times.json", "needs.json"))


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters that differ from its defaults.

    seconds: what it took when it was recorded, with one thread, else the profile's estimate; None: unknown.
    needs: the artifacts that it asks for, as JSON (`asked` of their recipes).
    """

    name: str
    notebook: Path
    output: Path
    values: dict = field(hash=False)
    seconds: float | None = None
    needs: frozenset[str] = frozenset()

    @property
    def failed(self) -> Path:
        """The executed notebook with its traceback, if the last run failed."""
        return self.output.with_suffix(".failed.ipynb")

    @property
    def asked(self) -> Path:
        """Where a run notes what it asks for."""
        return self.output.with_suffix(".needs.jsonl")

    def is_done(self) -> bool:
        """Is its output there, made from today's notebook, parameters and helpers?"""
        return file.made_from(self.output) == file.fingerprint(self.notebook, self.values)

    def command(self, python: str) -> list[str]:
        """The command line that makes its output."""
        values = [part for name, value in self.values.items() for part in ("-p", name, str(value))]
        return [python, "-m", "helpers.run", "--collection", str(self.notebook), str(self.output), *values]


@dataclass(frozen=True)
class Step:
    """One artifact that runs ask for, for a cluster to make before them.

    name: a hash of what is asked for.
    asked: that, as JSON; `python -m helpers.lab` understands it.
    wanted_by: names of the runs.
    after: names of the steps that make what this one is made from.
    """

    name: str
    asked: str
    wanted_by: frozenset[str]
    after: tuple[str, ...]


def runs(profile: str, seeds: list[int] = (0,), only: list[str] = ()) -> list[Run]:
    """What `profile` runs with these seeds, in the order of the notebooks.

    only: what the names of the wanted ones begin with; empty: all.
    """
    times, needs = read(TIMES).get(profile, {}), read(NEEDS)
    estimates = _profiles().profile(profile).minutes
    found = []
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        parameters = file.parameters(notebook)
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        default, *others = datasets(parameters)
        for dataset in [default, *others]:
            if dataset != default and not _is_run(notebook, dataset, profile):
                continue
            for seed in seeds:
                name = notebook.stem + (f".{dataset}" if dataset != default else "")
                values = {"profile": profile, "seed": seed} | ({"dataset": dataset} if others else {})
                values = {n: v for n, v in values.items() if v != defaults.get(n)}
                full = name + (f".seed{seed}" if seed else "")
                output = ROOT / "reports" / profile / f"{full}.ipynb"
                asked = [_moved(need, {default: dataset}, seed) for need in needs.get(notebook.stem, [])]
                asked = frozenset(json.dumps(need, sort_keys=True) for need in asked)
                guess = next((60 * m for start, m in estimates.items() if name.startswith(start)), None)
                found.append(Run(full, notebook, output, values, times.get(name, guess), asked))
    return [run for run in found if not only or run.name.startswith(tuple(only))]


def by_value(profile: str, planned: list[Run]) -> list[Run]:
    """The runs, the most valuable first: those that the profile names (`first`), in that order."""
    names = _profiles().profile(profile).first

    def place(run):
        return next((k for k, name in enumerate(names) if run.name.startswith(name)), len(names))

    return sorted(planned, key=place)


def steps(planned: list[Run]) -> list[Step]:
    """What the runs ask for, each artifact once, whoever asks."""
    wanted = sorted({need for run in planned for need in run.needs})
    names = {need: hashlib.sha256(need.encode()).hexdigest()[:12] for need in wanted}
    found = []
    for need in wanted:
        wanted_by = frozenset(run.name for run in planned if need in run.needs)
        # A need is written with sorted keys, so what it is made from stands in it word for word.
        after = tuple(names[other] for other in wanted if other in need and other != need)
        found.append(Step(names[need], need, wanted_by, after))
    return found


def _profiles():
    from helpers.lab import profiles  # takes a while, in which Ctrl-C would end in a traceback

    return profiles


def _is_run(notebook, dataset, profile):
    """Whether the profile runs a notebook for another data set, too."""
    paper = notebook.stem.split("_")[1]
    known = _profiles().load(paper, profile) if paper in _profiles().papers() else {}
    return profile != "quick" and (dataset not in known or known[dataset].runs)


def datasets(parameters: dict[str, file.Parameter]) -> list:
    """The default of the parameter `dataset`, then the others that its comment offers; [None] without one."""
    parameter = parameters.get("dataset")
    if parameter is None:
        return [None]
    return file.offered(parameter) or [parameter.default]


def _moved(need, datasets, seed):
    """What is asked for in the place of `need` for another data set and seed."""
    if isinstance(need, list):
        return [_moved(one, datasets, seed) for one in need]
    if not isinstance(need, dict):
        return need
    moved = {name: _moved(one, datasets, seed) for name, one in need.items()}
    if "paper" in need:
        moved["dataset"] = datasets.get(need["dataset"], need["dataset"])
        moved |= {"seed": need.get("seed", 0) + seed} if seed else {}
    return moved


def read(kept: Path) -> dict:
    """The content of TIMES or NEEDS; empty before anything was recorded."""
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def told(seconds: float | None) -> str:
    """A length of time for a person: "40 s", "7 min", "3.5 h"."""
    if seconds is None:
        return "time unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def main() -> None:
    args = options.parser("Print which notebooks a profile runs, and how long each should take.").parse_args()
    planned = runs(args.profile, args.seeds, args.only)
    for run in planned:
        print(f"{run.name:<48} {told(run.seconds):>12}{'  done' if run.is_done() else ''}")
    known = [run.seconds for run in planned if run.seconds is not None]
    total = told(sum(known) if known else None)
    if 0 < len(known) < len(planned):
        total += f" and {len(planned) - len(known)} notebooks of unknown time"
    print(f"{len(planned)} notebooks, {total} of one core from nothing; CORES={args.cores} at a time.")
    if _profiles().profile(args.profile).minutes:
        print("Where no time was recorded yet it is estimated.")


if __name__ == "__main__":
    main()
