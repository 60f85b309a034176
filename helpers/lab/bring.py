"""Bring your own: networks by name or by import path, with errors that say what a factory did wrong.

`package.module:factory` or `path/to/file.py:factory`, where `factory()` returns an nn.Module; weights come
from a safetensors file or a state dict that `torch.save` wrote.
"""

import importlib
import math
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers import ROOT, device, seeded
from helpers.lab.experiment import Experiment
from helpers.networks.zoo import load_target

OVERSHOOT = 0.5  # how far from [0,1] values that a brought denoiser restores may lie


def target(spec: str, weights: str, x: Tensor) -> nn.Module:
    """A classifier, checked on images.

    spec: a name that `helpers.networks.zoo.load_target` knows, or an import path.
    weights: a file of weights for the latter, "" for none.
    x: images (N,C,H,W) in [0,1].
    ValueError that names what is wrong.
    """
    found = from_path(spec, weights) if _is_path(spec, weights) else load_target(spec)
    check_target(found, x)
    return found


def denoiser(
    spec: str, weights: str, x: Tensor, lab: Experiment, seen: str | Sequence[str] = ()
) -> nn.Module:
    """A denoiser, checked on images.

    spec: a defense of the experiment, or an import path.
    weights: a file of weights for the latter, "" for none.
    x: images (N,C,H,W) in [0,1].
    lab: the experiment.
    seen: attacks that its defense is trained on, as in `Experiment.defense`.
    ValueError that names what is wrong.
    """
    if _is_path(spec, weights):
        found, overshoot = from_path(spec, weights), OVERSHOOT
    else:  # of the collection's own, HGD clamps nothing
        found, overshoot = lab.defense(spec, seen=seen).denoiser, math.inf
    check_denoiser(found, x, overshoot)
    return found


def from_path(spec: str, weights: str = "") -> nn.Module:
    """The module that a factory returns, frozen, in eval mode, on the device.

    spec: `package.module:factory` or `path/to/file.py:factory`; paths may be relative to the working folder
        or to the project's root.
    weights: a file to load into it, "" for none.
    ValueError that names what is wrong with the path, the factory, its result or the weights.
    """
    factory = _factory(spec)
    try:
        network = factory()
    except TypeError as error:
        raise ValueError(f"{spec!r} must be callable without arguments: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{spec!r} must return a torch.nn.Module, it returned {type(network).__name__}")
    if weights:
        _put_into(network, weights)
    return network.to(device()).eval().requires_grad_(False)


def check_target(network: nn.Module, x: Tensor) -> None:
    """ValueError unless `network` maps images `x` (N,C,H,W) to finite logits (N,K)."""
    logits = _output(network, x, "target")
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(
            f"the target must map images {tuple(x.shape)} to logits ({len(x)}, classes), "
            f"it gave {tuple(logits.shape)}"
        )
    sums = logits.sum(1)
    if logits.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise ValueError(
            "the target returns probabilities, whose gradient vanishes where it is sure: drop its softmax"
        )


def check_denoiser(network: nn.Module, x: Tensor, overshoot: float = OVERSHOOT) -> None:
    """ValueError unless `network` maps images `x` in [0,1] to images of the same shape, about in [0,1].

    A denoiser that subtracts the noise it sees (HGD) overshoots a little; one that works in [-1,1] or 0..255
    is another thing: its values must lie within `overshoot` of [0,1].
    If it has an attribute `stochastic`, that must be true: with False two passes must agree exactly, with
    True they must not.
    """
    with seeded(0):
        first, second = (_output(network, x, "denoiser") for _ in range(2))
    if first.shape != x.shape:
        raise ValueError(f"the denoiser must keep the shape {tuple(x.shape)}, it gave {tuple(first.shape)}")
    if first.dtype != x.dtype:
        raise ValueError(f"the denoiser must keep the type {x.dtype}, it gave {first.dtype}: end in .to(x)")
    low, high = first.min().item(), first.max().item()
    if low < -overshoot or high > 1 + overshoot:
        raise ValueError(
            f"the denoiser must give images in [0,1], it gave [{low:.4g}, {high:.4g}]: "
            "end it with a sigmoid or a clamp, and keep normalisation inside the target"
        )
    says, differ = getattr(network, "stochastic", None), not torch.equal(first, second)
    if says is not None and bool(says) != differ:
        raise ValueError(
            f"the denoiser says stochastic={says}, but two passes over the same images "
            f"{'differ' if differ else 'agree'}"
        )


def _is_path(spec: str, weights: str) -> bool:
    if weights and ":" not in spec:
        raise ValueError(
            f"{spec!r} is a name, which has weights of its own; with weights {weights!r} give an import path"
        )
    return ":" in spec


def _output(network: nn.Module, x: Tensor, what: str) -> Tensor:
    with torch.no_grad():
        try:
            y = network(x.clone())  # it may work in place
        except Exception as error:
            raise ValueError(f"the {what} fails on images {tuple(x.shape)} in [0,1]: {error}") from error
    if not torch.is_tensor(y) or not y.is_floating_point():
        kind = getattr(y, "dtype", type(y).__name__)
        raise ValueError(f"the {what} must return a floating point tensor, it returned {kind}")
    if not y.isfinite().all():
        raise ValueError(f"the {what} returned NaN or infinity on natural images")
    return y


def _factory(spec: str) -> Callable:
    """The function at an import path, or in a file."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"{spec!r} is not an import path: write package.module:factory or path/to/file.py:factory"
        )
    if place.endswith(".py"):
        file = _file(place, spec)
        _let_import_from(file.parent.resolve())  # its neighbours
        factory = runpy.run_path(str(file)).get(name)
    else:
        _let_import_from(Path.cwd(), ROOT)
        try:
            factory = getattr(importlib.import_module(place), name, None)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{spec!r}: cannot import {place} ({error}); install it, add its folder to PYTHONPATH, "
                "or write path/to/file.py:factory"
            ) from error
    if not callable(factory):
        raise ValueError(f"{spec!r}: {place} has no function {name!r}")
    return factory


def _let_import_from(*folders: Path) -> None:
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _file(name: str, what: str) -> Path:
    for file in (Path(name).expanduser(), ROOT / name):
        if file.is_file():
            return file
    raise ValueError(f"{what!r}: there is no file {name} in {Path.cwd()} or {ROOT}")


def _put_into(network: nn.Module, weights: str) -> None:
    from safetensors.torch import load_file

    file = _file(weights, weights)
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:  # weights_only: no code in the file can run
            state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"the weights in {file} do not fit {type(network).__name__}: {error}") from error
