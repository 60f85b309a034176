"""Profiles: how much of everything.  One validated YAML each, chosen by the notebooks' `profile`."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AttackSpec(_Strict):
    """One attack as a table names it.

    attack: key of `helpers.attacks.ATTACKS`; settings: its keyword arguments.
    test: on how many test images it is run (None: all of the profile's).
    """

    attack: str
    targeted: bool = False
    settings: dict = Field(default_factory=dict)
    test: PositiveInt | None = None


class MethodSpec(_Strict):
    """One defense: key of `helpers.defenses.DEFENSES`, its settings, and its training budget.

    data: "pairs" (natural and seen adversarial examples: a denoiser), "natural" (natural images: a denoiser that makes
        adversarial examples of its own in training) or "labels" (natural images: a classifier).
    full: settings of the PGD on the whole pipeline that a denoiser is trained on (JATP, Eq. 3); goes with "natural".
    target: the target that a denoiser is trained with, where it is not the data set's.
    start: "target" lets a classifier begin with the target's weights; or another target's name.
    pretrained: the defense whose denoiser's weights a denoiser begins with (DIR, Eq. 2).
    wanted: the attack whose examples a denoiser shall generate instead of natural ones (ADD, Appendix G.3).
    """

    method: str
    epochs: PositiveInt
    batch_size: PositiveInt
    data: Literal["pairs", "natural", "labels"] = "pairs"
    full: dict | None = None
    target: str | None = None
    start: str | None = None
    pretrained: str | None = None
    wanted: str | None = None
    settings: dict = Field(default_factory=dict)


class DatasetSpec(_Strict):
    """All experiments of one paper on one data set.

    train, test: number of images (None: all).  adaptive_test: number of test images under the
    slow attacks on whole pipelines.  target: the undefended classifier, ready-made or one of `targets` or `methods`.
    targets: ready-made classifiers under names of the experiment's own.
    robust_targets: defenses that are nothing but another, ready-made target.  seen: the attacks that the
    ending of a denoiser's name stands for.  source: where the profile's does not hold.
    """

    train: PositiveInt | None
    test: PositiveInt | None
    adaptive_test: PositiveInt | None
    target: str
    targets: dict[str, str] = Field(default_factory=dict)
    robust_targets: dict[str, str] = Field(default_factory=dict)
    source: Literal["sample", "full"] | None = None
    seen: dict[str, list[str]]
    attacks: dict[str, AttackSpec]
    methods: dict[str, MethodSpec]


class Profile(_Strict):
    """How much of everything.

    notice: what a reader of its numbers must know.  deviation: the same in a few words, for
    the rows of a table.  comparable: may its numbers be held against the paper's?
    """

    name: str
    notice: str
    deviation: str
    comparable: bool
    source: Literal["sample", "full"]
    precision: Literal["fp32", "bf16"]
    papers: dict[str, dict[str, DatasetSpec]]


FOLDER = Path(__file__).parent
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Profile:
    """The profile `name`.  ValueError for an unknown name or a bad value, naming the choices."""
    if name not in NAMES:
        raise ValueError(f"unknown profile {name!r}; choose one of {', '.join(NAMES)}")
    return parse(FOLDER / f"{name}.yaml")


def parse(file: Path) -> Profile:
    """Read and validate a profile file; ValueError naming the file, the place and the value."""
    try:
        return Profile.model_validate(yaml.safe_load(file.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
