"""What all attacks have in common: registry, checks, the model watched and put back, progress bar."""

import functools
import inspect
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers import seeded, source
from helpers.data import check_images
from helpers.progress import Bar

# Every attack's checked function under its name; its `function` is the raw one, `revision` that of `attack`.
ATTACKS: dict[str, Callable] = {}

# By how much a library may leave [0,1] before it counts as an error.
ROUNDING = 1e-5

# What a setting with such a default may be.
NUMBERS = {int: Integral, float: Real}

# What an infinite gradient is taken for: it still leads the way, and its square is finite.
HUGE = 1e10

# torch's words for a loss that does not depend on the images, as far as autograd can see.
CUT_OFF = "does not require grad|on Tensor that requires grad|not have been used in the graph"

ELSEWISE = (
    "look for another way: bpda of helpers.threats goes round a denoiser, square and ba need no gradient"
)


class NoGradient(ValueError):
    """The model has no gradient that an attack could follow."""


def attack(revision: int = 1) -> Callable:
    """Decorator: register a function as an attack under its own name, and return it unchanged.

    revision: part of the key of whatever the attack makes. Raise it when the attack's substance changes,
        so that what the old code made is not taken for the new code's. Write it as a number.
    The raw function is for training loops, which check and freeze by themselves; `ATTACKS[name]` keeps the
    contract (see `helpers.attacks`).
    A function that takes `**settings` and hands them on shows their names and defaults as its own.
    ValueError if another file has registered an attack of that name.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__
        if name in ATTACKS and ATTACKS[name].__module__ != function.__module__:
            raise ValueError(
                f"there is an attack {name!r} in {ATTACKS[name].__module__}: choose another name"
            )
        source.register(function)
        function.__signature__ = _spelled_out(function)
        checked = _checked(function)
        checked.revision = revision
        checked.function = function
        ATTACKS[name] = checked
        return function

    return register


def _spelled_out(function: Callable) -> inspect.Signature:
    """The function's signature, with what it hands on (`**settings`) by name."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(own) == len(signature.parameters):
        return signature
    definition = source.find(function.__module__, function.__name__) or source.ELSEWHERE[function.__name__]
    for name, default in source.signature(definition).items():
        if name not in signature.parameters:
            default = inspect.Parameter.empty if default is source.REQUIRED else default
            own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return signature.replace(parameters=own)


def _checked(function: Callable) -> Callable:
    name, parameters = function.__name__, inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(model, x, y, *, targeted=False, **settings):
        _check_settings(parameters, settings)
        model = as_module(model)
        y = as_labels(y, x)
        check_images(x, y)
        with gradients_on(), _left_alone(x.dtype), attackable(model):
            # Copies of our own, laid out as NCHW: what a library makes of strides is its own affair.
            x, y = x.detach().clone(memory_format=torch.contiguous_format), y.clone()
            with seeded(0):
                check_model(model, x, y, targeted)
            # Seeded: a stochastic model draws its numbers from torch's global generators.
            with watched(model, name), seeded(settings.get("seed", 0)):
                x_adv = function(model, x, y, targeted=targeted, **settings).detach().contiguous()
        low, high = (value.item() for value in x_adv.aminmax())  # both NaN if one value is
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise RuntimeError(
                f"{name} left [0,1]: its result holds values in [{low}, {high}]; are the gradients finite?"
            )
        return x_adv.clamp(0, 1)

    return checked


def _check_settings(parameters, settings):
    """ValueError for what is no number where one is wanted (`eps="0.1"`, `steps=2.5`), and for eps <= 0."""
    for name, value in settings.items():
        kind = type(parameters[name].default) if name in parameters else None
        if name == "eps" or name == "step_size" and value is not None:
            kind = float
        if kind in NUMBERS and not isinstance(value, NUMBERS[kind]):
            raise ValueError(f"{name} must be a {'whole ' * (kind is int)}number, got {value!r}")
    if not settings.get("eps", 1) > 0:
        raise ValueError(f"eps must be positive, got {settings['eps']}")


def as_module(model: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    """`model`, or a module that calls it: a plain function, images -> logits, will do.

    TypeError for anything else; ValueError for a model made under `torch.inference_mode()`.
    """
    if not callable(model) or isinstance(model, type):
        raise TypeError(f"the model must be a torch.nn.Module, or a function images -> logits; got {model!r}")
    model = model if isinstance(model, nn.Module) else _Function(model)
    if any(t.is_inference() for t in chain(model.parameters(), model.buffers())):
        raise ValueError(
            "the model was made under torch.inference_mode(): no gradient will ever pass it; make it outside"
        )
    return model


class _Function(nn.Module):
    """A plain function as a module.  Whether what it calls is in eval mode is its owner's affair."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_labels(y: Any, x: Tensor) -> Tensor:
    """Class numbers from a tensor, an array or a list: int64 (N,) on the device of the images `x`.

    ValueError for anything else.  Floating point numbers stay as they are, for `check_images` to refuse.
    """
    try:
        labels = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"labels must be class numbers, int64 (N,): a tensor, an array or a list; got {type(y).__name__}"
        ) from error
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    return labels.to(getattr(x, "device", None), torch.int64 if whole else None)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Inside, gradients are taken, whatever the caller has switched off; make tensors anew (`x.clone()`)."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _left_alone(dtype):
    """What belongs to the whole process is on leaving as it was; inside, new tensors are of `dtype`.

    advertorch seeds numpy's generator, AutoAttack takes the trace function of debuggers and coverage away.
    """
    numbers, others = np.random.get_state(), random.getstate()
    usual, tracer = torch.get_default_dtype(), sys.gettrace()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        np.random.set_state(numbers)
        random.setstate(others)
        torch.set_default_dtype(usual)
        if sys.gettrace() is not tracer:
            sys.settrace(tracer)


@contextmanager
def attackable(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` in eval mode with frozen parameters; restore both on leaving.

    Freezing is a matter of speed too: gradients for parameters nobody reads cost a third.
    """
    training = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield model
    finally:
        for module, was in training.items():
            module.training = was
        for p in trainable:
            p.requires_grad_(True)


class _Watch:
    """An eye on the gradients that an attack is given: at which share of a pass's images are they not finite?

    What is seen stays on the device until the end, so that the attack never waits for it.
    """

    def __init__(self) -> None:
        self.asked, self.passes, self.shares = 0, [], []

    def see(self, gradient: Tensor) -> Tensor:
        """Take note, and hand on the gradient with 0 for NaN and a large number for infinity."""
        if len(gradient):
            self.passes.append(gradient.flatten(1).sum(1))  # (N,), finite where an image's whole gradient is
        if len(self.passes) == 1000:
            self.fold()
        return gradient.nan_to_num(0.0, HUGE, -HUGE)

    def fold(self) -> None:
        """Of the passes noted keep the lowest and the highest share."""
        shares = torch.stack([1 - one.isfinite().float().mean() for one in self.passes])
        self.shares += shares.aminmax()
        self.passes = []

    def report(self, name: str) -> None:
        """NoGradient if none was given, or no image ever had a finite one; a warning if some had not."""
        if self.passes:
            self.fold()
        if not self.shares:
            if self.asked:  # and the rest of the loss had a gradient
                raise _cut_off(name)
            return
        shares = torch.stack(self.shares).tolist()
        what = f"{name}: the model's gradient is NaN or infinite at"
        if min(shares) == 1:
            raise NoGradient(f"{what} all images: nothing was attacked; {ELSEWISE}")
        if max(shares) > 0:
            share = f"{max(shares):.0%} of a pass's images"
            warnings.warn(f"{what} {share}, which are attacked less or not at all; {ELSEWISE}", stacklevel=5)


@contextmanager
def following(name: str) -> Iterator[None]:
    """NoGradient, in the name of an attack, in place of torch's error where the images get no gradient."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(CUT_OFF, str(error)):
            raise
        raise _cut_off(name) from error


def _cut_off(name):
    return NoGradient(
        f"{name}: the model gives no gradient: it leaves torch (numpy, PIL), or detaches; {ELSEWISE}"
    )


_WATCH: ContextVar[_Watch | None] = ContextVar("watch", default=None)


def heeded(x: Tensor) -> Tensor:
    """The images `x` for one pass: a copy, which the model may change, and whose gradient is watched.

    The model that an attack is given sees nothing else; an attack that calls *parts* of it does this itself.
    """
    x, watch = x.clone(), _WATCH.get()
    if watch is not None and x.requires_grad:
        watch.asked += 1
        x.register_hook(watch.see)
    return x


@contextmanager
def watched(model: nn.Module, name: str) -> Iterator[None]:
    """Each of the model's passes gets images `heeded`, and is shown: libraries let us see no other progress.

    name: of the attack, for its errors.
    NoGradient where there is none to follow; a warning where it is NaN or infinite at some images.
    """
    watch = _Watch()
    token = _WATCH.set(watch)
    with Bar(desc=name, unit=" passes") as bar:

        def before_a_pass(module, inputs):  # which may end early
            bar.update()
            return heeded(inputs[0]), *inputs[1:]

        hook = model.register_forward_pre_hook(before_a_pass)
        try:
            with following(name):
                yield
        finally:
            hook.remove()
            _WATCH.reset(token)
    watch.report(name)


@torch.no_grad()
def check_model(model: nn.Module, x: Tensor, y: Tensor, targeted: bool) -> None:
    """Raise ValueError if `model` is not fit to be attacked on `x`, or if `y` cannot be what it should be.

    x: images (N,C,H,W) in [0,1].
    y: int64 (N,), the true labels, or with `targeted` those to be reached.
    """
    types = {p.dtype for p in model.parameters()}
    if halves := types & {torch.float16, torch.bfloat16}:
        raise ValueError(
            f"the model's parameters are {halves.pop()}, too coarse for an attack's gradients: model.float()"
        )
    images = x if targeted else x[:1]  # an attack of one step should not pay for two
    try:
        logits = model(images.clone())
    except RuntimeError as error:
        if types and x.dtype not in types:
            raise ValueError(
                f"the model computes in {types.pop()}, the images are {x.dtype}: "
                "convert one of them, for example x.float()"
            ) from error
        raise
    if not torch.is_tensor(logits) or logits.ndim != 2 or len(logits) != len(images):
        given = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        raise ValueError(
            f"the model must map images {tuple(images.shape)} to logits ({len(images)}, classes), "
            f"it gave {given}"
        )
    if not logits.isfinite().all():
        raise ValueError(
            "the model's logits on natural images hold NaN or infinity: has its training diverged?"
        )
    check_images(x, y, logits.shape[1])
    if not targeted:
        return
    hits = int((logits.argmax(1) == y).sum())
    if len(x) > 1 and 2 * hits > len(x):
        raise ValueError(
            f"targeted=True, but {hits} of {len(x)} images are already classified as their target: "
            "y must hold the labels to be reached, never the true ones (see random_targets)"
        )


def draws(name: str) -> bool:
    """Whether the attack `name` draws random numbers, and so takes a `seed`."""
    return "seed" in inspect.signature(ATTACKS[name]).parameters


def random_targets(y: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Target labels (N,), uniform over the classes other than the true label `y` (N,)."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, num_classes, y.shape, generator=generator)
    return (y + shift.to(y.device)) % num_classes


@torch.no_grad()
def num_classes(model: nn.Module, x: Tensor) -> int:
    """Number of logits that `model` gives for an image of `x` (N,C,H,W)."""
    return model(x[:1].clone()).shape[1]
