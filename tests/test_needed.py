"""What a profile needs is checked once: each thing that may be missing, alone and together."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers import data
from helpers.run import needed, plan


def run(*pairs, seed=0):
    """A run that asks for an attack of each (paper, data set)."""
    needs = [{"paper": paper, "dataset": dataset, "attack": "pgd"} for paper, dataset in pairs]
    nested = {"victim": {"threat": "white_box", "of": needs[0]}} | needs[0]
    texts = frozenset(json.dumps(need) for need in [nested, *needs])
    values = {"seed": seed} if seed else {}
    return plan.Run("23_x", Path("notebooks/23_x.ipynb"), Path("out.ipynb"), values, None, texts)


MNIST = run(("arn", "mnist"))


@pytest.fixture
def machine(monkeypatch):
    """A machine with all that there is; what it lacks is set by the test."""
    has = {"gpu": True, "free": 1e12, "data": True, "answers": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["gpu"])
    monkeypatch.setattr(needed.shutil, "disk_usage", lambda folder: SimpleNamespace(free=has["free"]))
    monkeypatch.setattr(data, "available", lambda name: has["data"])
    monkeypatch.setattr(needed, "_answers", lambda name: has["answers"])
    return has


def lacking(profile, *runs, **settings):
    with pytest.raises(needed.Lacking) as caught:
        needed.check(profile, list(runs), **settings)
    return str(caught.value)


def test_nothing_is_said_where_nothing_is_missing(machine):
    for profile in ("quick", "cpu", "standard", "paper"):
        needed.check(profile, [MNIST])
    machine |= {"gpu": False, "data": False}
    needed.check("quick", [MNIST])


def test_without_a_gpu_other_ways_are_named(machine):
    machine["gpu"] = False
    text = lacking("standard", MNIST)
    assert "no\n  - CUDA GPU" in text and "PROFILE=cpu" in text and "notebooks/23_x.ipynb" in text
    needed.check("standard", [MNIST], gpu=False)  # the head of a cluster
    needed.check("cpu", [MNIST])


def test_all_that_is_missing_is_one_message(machine):
    machine |= {"gpu": False, "free": 1e9, "data": False}
    text = lacking("standard", run(("arn", "mnist"), ("jatp", "cifar10")), run(("arn", "mnist"), seed=1))
    assert text.count("PROFILE=standard was not started") == 1
    for part in (
        "  - CUDA GPU",
        "1.0 GB are free",
        "full cifar10, mnist in",
        "no server",
        "To go on",
        "DATA_DIR",
    ):
        assert text.count(part) == 1, part
    assert "helpers.run" not in text  # a single notebook would lack the data, too


def test_missing_data_are_fetched_unless_something_else_is_missing(machine, monkeypatch, capsys):
    machine |= {"data": False, "answers": True}
    asked = []
    monkeypatch.setattr(data, "load", lambda name, split, **how: asked.append((name, split)))
    needed.check("cpu", [MNIST])
    assert asked == [("mnist", "train"), ("mnist", "test")] and "Downloading mnist" in capsys.readouterr().out
    machine["gpu"] = False
    assert "mnist" not in lacking("standard", MNIST).replace("notebooks/23_x", "") and len(asked) == 2


def test_a_download_that_fails_is_told_in_a_line(machine, monkeypatch):
    def load(*_, **__):
        raise data.DataError("it broke:\n  here\n  there")

    machine |= {"data": False, "answers": True}
    monkeypatch.setattr(data, "load", load)
    assert "the download failed: it broke: here there\n" in lacking("cpu", MNIST)


def test_only_data_sets_that_the_runs_use_in_full_are_needed():
    runs = [run(("arn", "mnist"), ("arn", "cifar10"))]
    assert needed.datasets("quick", runs) == []
    assert needed.datasets("cpu", runs) == ["mnist"]  # its CIFAR-10 is the sample
    assert needed.datasets("standard", runs) == ["cifar10", "mnist"]
    assert needed.datasets("standard", [MNIST]) == ["mnist"]
