"""Profiles: how much of everything.

`papers/<paper>.yaml` holds a paper's settings, else its released code's, else ours: the profile "paper", the
whole truth.  Every other profile holds only what it changes, `papers/<paper>.<profile>.yaml`, merged onto it
(or, where a data set says `like: quick`, onto what that profile makes of it) and then validated.
`profiles.yaml` says what a reader must know of each.
"""

import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

FOLDER = Path(__file__).parent / "papers"
TRUTH = "paper"


class _Loader(yaml.SafeLoader):
    """YAML in which fractions such as 8/255 are numbers."""


_Loader.add_implicit_resolver("!fraction", re.compile(r"\d+/\d+$"), list("0123456789"))
_Loader.add_constructor("!fraction", lambda loader, node: float(Fraction(node.value)))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AttackSpec(_Strict):
    """One attack as a table names it.

    attack: a registered attack, a function of `helpers.attacks`.
    targeted: whether it aims at `Experiment.targets`.
    settings: its keyword arguments.
    test: on how many test images it is run (None: all of the profile's).
    """

    attack: str
    targeted: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)
    test: PositiveInt | None = None


class MethodSpec(_Strict):
    """One defense: its class, its settings and its training budget.

    method: file and class in `helpers.defenses`, such as arn.ARN.
    settings: keyword arguments of the class.
    modules: keyword arguments that are networks themselves: {keyword: the name of a target ("target" is the
        data set's), or {defense: name, seen: ...} for what another method has trained}.
    """

    method: str
    epochs: PositiveInt
    batch_size: PositiveInt
    settings: dict[str, Any] = Field(default_factory=dict)
    modules: dict[str, str | dict[str, Any] | None] = Field(default_factory=dict)


class DatasetSpec(_Strict):
    """All experiments of one paper on one data set.

    train, test: number of images (None: all).
    adaptive_test: number of test images under attacks on whole pipelines.
    target: the undefended classifier, ready-made or one of `targets` or `methods`.
    targets: ready-made classifiers under names of the experiment's own.
    seen: the attacks that a denoiser is trained on, under the paper's names for such sets.
    grids: what a table or an ablation runs through at this scale.
    sizes: other numbers that grow with the scale, by what they count.
    source, comparable, deviation: where the profile's do not hold.
    runs: whether this scale runs the notebooks for this data set, if they are another's by default.
    """

    train: PositiveInt | None
    test: PositiveInt | None
    adaptive_test: PositiveInt | None
    target: str
    targets: dict[str, str] = Field(default_factory=dict)
    source: Literal["sample", "full"] | None = None
    comparable: bool | None = None
    deviation: str | None = None
    runs: bool = True
    seen: dict[str, list[str]]
    attacks: dict[str, AttackSpec]
    methods: dict[str, MethodSpec]
    grids: dict[str, list[Any]] = Field(default_factory=dict)
    sizes: dict[str, PositiveInt] = Field(default_factory=dict)


class Profile(_Strict):
    """What holds for all papers.

    notice: what a reader of its numbers must know.
    comparable: may its numbers be held against a paper's?
    deviation: where they may not, why, in a few words.
    source: the shipped "sample" of the images, or the "full" sets.
    precision: of the training.
    gpu: whether it is made for a CUDA GPU.
    gigabytes: of disk for the artifacts of one seed, about one and a half times what its images take.
    first: what the names of the most valuable runs begin with, for who has not the time for all.
    """

    notice: str
    comparable: bool
    deviation: str = ""
    source: Literal["sample", "full"]
    precision: Literal["fp32", "bf16"]
    gpu: bool = False
    gigabytes: PositiveInt = 1
    first: tuple[str, ...] = ()


@cache
def profiles() -> dict[str, Profile]:
    """All profiles by name."""
    file = FOLDER.parent / "profiles.yaml"
    return {name: _validated(Profile, content, file) for name, content in read(file).items()}


@cache
def papers() -> list[str]:
    """Names of the papers."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml") if "." not in file.stem)


def profile(name: str) -> Profile:
    """The profile `name`; ValueError for an unknown one, with the choices."""
    return choose(profiles(), name, "profile")


@cache
def load(paper: str, name: str = "quick") -> dict[str, DatasetSpec]:
    """The experiments of `paper` under the profile `name`, by data set; ValueError for a bad one."""
    profile(name)
    choose(papers(), paper, "paper")
    content, file = _content(paper, name)
    return {dataset: _validated(DatasetSpec, spec, f"{file}, {dataset}") for dataset, spec in content.items()}


def _content(paper, name):
    """All of a paper's settings under a profile, and the file that has the last word."""
    file = FOLDER / f"{paper}.yaml"
    content = read(file)
    if name == TRUTH:
        return content, file
    file = FOLDER / f"{paper}.{name}.yaml"
    if not file.exists():
        raise ValueError(f"paper {paper} has no profile {name!r}: write what it changes into {file}")
    changes = read(file)
    for dataset, change in changes.items():
        if "like" in change:
            content[dataset] = _content(paper, change.pop("like"))[0][dataset]
    return merged(content, changes, file), file


def read(file: Path) -> dict:
    """The content of a YAML file; fractions such as 8/255 are numbers.  ValueError names a broken file."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold names and what they mean, name: …; it holds {content!r}")
    return content


def merged(whole: dict, change: dict, file: Path, place: str = "") -> dict:
    """`whole` with what `change` says otherwise: dicts are merged, everything else is replaced.

    file: where `change` is from, for the message.
    place: where in the file this is, such as /mnist/attacks; the top by default.
    A change of a data set, attack, method or size that `whole` does not have is a ValueError: it has all.
    """
    closed = not place or place.endswith(("/attacks", "/methods", "/sizes"))
    result = dict(whole)
    for name, value in change.items():
        if closed and name not in whole:
            raise ValueError(f"{file}: {place or '/'} has no {name!r} to change; it has {', '.join(whole)}")
        both = isinstance(whole.get(name), dict) and isinstance(value, dict)
        result[name] = merged(whole[name], value, file, f"{place}/{name}") if both else value
    return result


def choose(options: dict | list, name: str, what: str) -> Any:
    """`options[name]`, or of a list the name itself; ValueError with the choices for an unknown one."""
    if name not in options:
        raise ValueError(f"unknown {what}: {name!r}; choose one of {', '.join(options)}")
    return options[name] if isinstance(options, dict) else name


def _validated(model, content, place):
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{place}: {error}") from error
