"""What a profile runs: which notebooks, with which parameters, and how long each is expected to take.

`make plan PROFILE=standard` prints it.  Notebooks are found, not listed: those in `notebooks/` whose names
begin with a digit.  Beyond quick, one whose parameters offer data sets, as in
`dataset: str = "mnist"  # mnist … | cifar10 …`, is run for each of these.
"""

import hashlib
import json
import re
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers import ROOT
from helpers.run import notebook as file
from helpers.run import options

# {profile: {name of a run: seconds}}, and {notebook: what it asks `Experiment` for in the profile quick}
START, LONG = 30, 600  # seconds: a notebook's imports, data and figures; a piece that is worth cutting
SHOWN = 20  # such pieces

TIMES, NEEDS = (Path(__file__).with_name(name) for name in ("times.json", "needs.json"))


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters that differ from its defaults.

    seconds: what it took when it was recorded, with one thread or on the GPU, else an
        estimate; None: unknown.
    estimated: whether it is one.
    needs: the artifacts that it asks for, as JSON (`asked` of their recipes).
    """

    name: str
    notebook: Path
    output: Path
    values: dict = field(hash=False)
    seconds: float | None = None
    needs: frozenset[str] = frozenset()
    estimated: bool = False

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
                asked = needs.get(notebook.stem, [])
                if profile != "quick":
                    asked = [_moved(need, {default: dataset}, seed, profile) for need in asked]
                asked = frozenset(json.dumps(need, sort_keys=True) for need in asked)
                took, new = times.get(name), name not in times
                found.append(Run(full, notebook, output, values, took, asked, estimated=new))
    found = [run for run in found if not only or run.name.startswith(tuple(only))]
    return _estimated(profile, found, needs) if profile != "quick" else found


def _estimated(profile, planned, needs):
    """The runs, with a time for each that has none: START, and what no run before it has made.

    needs: those of NEEDS; a notebook that is not there keeps an unknown time.
    """
    made, timed = {}, []
    for run in planned:
        fresh = {key: took for key, (_, took) in pieces(profile, [run]).items() if key not in made}
        made |= fresh
        if run.seconds is None and run.notebook.stem in needs:
            run = replace(run, seconds=START + sum(fresh.values()))
        timed.append(run)
    return timed


def pieces(profile: str, planned: list[Run]) -> dict[str, tuple[str, float]]:
    """All artifacts of the runs by their keys: as what each was asked for, and an estimate of its seconds."""
    from helpers.lab import cost, recipes  # see `_profiles`

    asked = [need for run in planned for need in _all_needs(profile, run)]
    found, gpu = recipes.artifacts(asked, profile), _profiles().profile(profile).gpu
    return {key: (json.dumps(one.asked), cost.seconds(one, gpu)) for key, one in found.items()}


def _all_needs(profile, run):
    """A run's needs, with what this scale's longer grids add to them."""
    from helpers.run import grids

    needs = [json.loads(need) for need in sorted(run.needs)]
    paper = run.name.split("_")[1]
    if paper not in _profiles().papers():
        return needs
    default = file.parameters(run.notebook).get("dataset")
    specs = list(_profiles().load(paper, "quick"))
    default = default.default if default and default.default in specs else specs[0]
    place = {"paper": paper, "dataset": run.values.get("dataset", default), "seed": run.values.get("seed", 0)}
    code = run.notebook.read_text(encoding="utf-8").replace('\\"', '"')
    return grids.grown(needs, code, place, default, profile)


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


def _moved(need, datasets, seed, profile):
    """What is asked for in the place of quick's `need`, for another profile, data set and seed."""
    if isinstance(need, list):
        return [_moved(one, datasets, seed, profile) for one in need]
    if not isinstance(need, dict):
        return need
    moved = {name: _moved(one, datasets, seed, profile) for name, one in need.items()}
    if "paper" in need:
        moved["dataset"] = datasets.get(need["dataset"], need["dataset"])
        moved |= {"seed": need.get("seed", 0) + seed} if seed else {}
        if "attack" in need:
            moved |= {"n": _count(need, moved["dataset"], profile)}
            moved = {name: one for name, one in moved.items() if one is not None}
        if "target" in need and "defense" not in need:
            moved["target"] = _role(need)
    return moved


def _count(need, dataset, profile):
    """How many images a notebook asks for where it asks for `need` in quick; None: as the profile says.

    Notebooks name a number themselves where a set goes with a smaller one: as many as attacks on whole
    pipelines get, a size of the profile, or the few of a picture.
    """
    quick, larger = (
        _profiles().load(need["paper"], name)[place]
        for name, place in (("quick", need["dataset"]), (profile, dataset))
    )
    attack = quick.attacks.get(need["attack"])
    usual = attack and attack.test or (quick.test if "target" in need["victim"] else quick.adaptive_test)
    if need["split"] != "test" or need["n"] == usual:
        return None
    sizes = {count: larger.sizes[name] for name, count in quick.sizes.items() if name in larger.sizes}
    sizes[_aware(quick)] = _aware(larger)
    return need["n"] if need["n"] < min(sizes) else sizes.get(need["n"])


def _aware(spec):
    """On how many images attacks on whole pipelines are run."""
    attack = spec.attacks.get("adaptive")
    return attack and attack.test or spec.adaptive_test


def _role(need):
    """The name by which every profile knows the target that is one of quick's slim ones."""
    spec = _profiles().load(need["paper"], "quick").get(need["dataset"])
    roles = {name: role for role, name in spec.targets.items()} if spec else {}
    roles |= {spec.targets.get(spec.target, spec.target): "target"} if spec else {}
    return roles.get(need["target"], need["target"])


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


def _long(profile, planned):
    """Lines that name the pieces of more than LONG, the longest first."""
    found = sorted(pieces(profile, planned).values(), key=lambda piece: -piece[1])
    found = [(asked, seconds) for asked, seconds in found if seconds > LONG]
    yield f"{len(found)} pieces (one method or attack) of more than {told(LONG)}{':' if found else '.'}"
    for asked, seconds in found[:SHOWN]:
        words = re.sub(r"(paper|dataset): \w+, |(seed|split): \w+, |[{}]", "", asked.replace('"', ""))
        one = json.loads(asked)
        words = f"{one['paper']} {one['dataset']}: {textwrap.shorten(words, 100, placeholder=' …')}"
        yield f"  {told(seconds):>8}  {words}"
    if len(found) > SHOWN:
        yield f"  and {len(found) - SHOWN} more"


def main() -> None:
    args = options.parser("Print which notebooks a profile runs, and how long each should take.").parse_args()
    planned = runs(args.profile, args.seeds, args.only)
    for run in planned:
        print(f"{run.name:<48} {told(run.seconds):>12}{'  done' if run.is_done() else ''}")
    profile = _profiles().profile(args.profile)
    known = [run.seconds for run in planned if run.seconds is not None]
    total = told(sum(known) if known else None)
    if 0 < len(known) < len(planned):
        total += f" and {len(planned) - len(known)} notebooks of unknown time"
    machine = "one H100" if profile.gpu else f"one core from nothing; CORES={args.cores} at a time"
    print(f"{len(planned)} notebooks, {total} of {machine}.")
    guessed = sum(run.estimated and run.seconds is not None for run in planned)
    if guessed:
        print(*_long(args.profile, planned), sep="\n")
        how = " from FLOPs, to a factor of two or three, of what quick asks for and longer grids add"
        print(f"Estimated{how}: {guessed} of these times.")


if __name__ == "__main__":
    main()
