"""Bring your own: networks by name or by import path, with errors that say what a factory did wrong.

`package.module:factory` or `path/to/file.py:factory`, where `factory()` returns an nn.Module;
weights come from a safetensors file or a state dict that `torch.save` wrote.
"""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from helpers import ROOT, device, seeded

OVERSHOOT = 0.5


def load(spec, weights=""):
    """The module that `spec`'s factory returns, with `weights` loaded if given; frozen, in eval mode, on the device.

    Paths may be relative to the working folder or to the project's root.  ValueError names what is wrong with
    the path, the factory, its result or the weights file.
    """
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise ValueError(
            f"{spec!r} is not an import path: write package.module:factory or path/to/file.py:factory"
        )
    factory = getattr(_module(place, spec), name, None)
    if not callable(factory):
        raise ValueError(f"{spec!r}: {place} has no function {name!r}")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ValueError(f"{spec!r} must be callable without arguments: {error}") from error
    network = factory()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{spec!r} must return a torch.nn.Module, it returned {type(network).__name__}")
    if weights:
        _load_weights(network, weights)
    return network.to(device()).eval().requires_grad_(False)


def target(spec, weights, x):
    """The classifier `spec`, a name of `pipeline.load_target` or an import path, checked on images `x`."""
    from helpers.networks.zoo import load_target

    network = load(spec, weights) if _is_path(spec, weights) else load_target(spec)
    check_target(network, x)
    return network


def denoiser(spec, weights, x, lab):
    """The denoiser `spec`, a defense of the Experiment `lab` or an import path, checked on images `x`."""
    network = load(spec, weights) if _is_path(spec, weights) else lab.denoiser(spec)
    check_denoiser(network, x)
    return network


def check_target(target, x):
    """ValueError unless `target` maps images `x` (N,C,H,W) to finite logits (N,K)."""
    logits = _output(target, x, "target")
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(f"the target must map images {tuple(x.shape)} to logits ({len(x)}, classes), "
                         f"it gave {tuple(logits.shape)}")  # fmt: skip
    if logits.min() >= 0 and torch.allclose(logits.sum(1), torch.ones(len(logits)).to(logits), atol=1e-4):
        raise ValueError(
            "the target returns probabilities, whose gradient vanishes where it is sure: drop its softmax"
        )


def check_denoiser(denoiser, x):
    """ValueError unless `denoiser` maps images `x` in [0,1] to images of the same shape, about in [0,1].

    A denoiser that subtracts the noise it sees (HGD) overshoots a little; one that works in [-1,1] or 0..255
    is another thing: its values must lie within `OVERSHOOT` of [0,1].
    If it has an attribute `stochastic`, that must be true: with False two passes must agree exactly, with
    True they must not.
    """
    with seeded(0):
        first, second = (_output(denoiser, x, "denoiser") for _ in range(2))
    if first.shape != x.shape:
        raise ValueError(f"the denoiser must keep the shape {tuple(x.shape)}, it gave {tuple(first.shape)}")
    low, high = first.min().item(), first.max().item()
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(f"the denoiser must give images in [0,1], it gave [{low:.4g}, {high:.4g}]: "
                         "end it with a sigmoid or a clamp, and keep normalisation inside the target")  # fmt: skip
    says, does = getattr(denoiser, "stochastic", None), not torch.equal(first, second)
    if says is not None and bool(says) != does:
        raise ValueError(f"the denoiser says stochastic={says}, but two passes over the same images "
                         f"{'differ' if does else 'agree'}")  # fmt: skip


def _is_path(spec, weights):
    if weights and ":" not in spec:
        raise ValueError(
            f"{spec!r} is a name, which has weights of its own; with weights {weights!r} give an import path"
        )
    return ":" in spec


def _output(network, x, what):
    with torch.no_grad():
        try:
            y = network(x)
        except Exception as error:
            raise ValueError(f"the {what} fails on images {tuple(x.shape)} in [0,1]: {error}") from error
    if not torch.is_tensor(y) or not y.is_floating_point():
        kind = y.dtype if torch.is_tensor(y) else type(y).__name__
        raise ValueError(f"the {what} must return a floating point tensor, it returned {kind}")
    if not y.isfinite().all():
        raise ValueError(f"the {what} returned NaN or infinity on natural images")
    return y


def _module(place, spec):
    if place.endswith(".py"):
        file = _find(place, spec)
        made = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(made)
        sys.path.append(str(file.parent.resolve()))  # it may import its neighbours
        sys.modules[made.name] = module
        made.loader.exec_module(module)
        return module
    for folder in (str(Path.cwd()), str(ROOT)):
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ValueError(f"{spec!r}: cannot import {place} ({error}); install it, add its folder to PYTHONPATH, "
                         "or write path/to/file.py:factory") from error  # fmt: skip


def _find(name, what):
    for file in (Path(name).expanduser(), ROOT / name):
        if file.is_file():
            return file
    raise ValueError(f"{what!r}: there is no file {name} in {Path.cwd()} or {ROOT}")


def _load_weights(network, weights):
    from safetensors.torch import load_file

    file = _find(weights, weights)
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:  # weights_only: no code in the file can run
            state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"the weights in {file} do not fit {type(network).__name__}: {error}") from error
