"""What all attacks have in common: registry, checks, the model frozen and put back, progress bar."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from tqdm.auto import tqdm

from helpers import seeded, source
from helpers.data import check_images

# Every attack's checked function under its name; its `function` is the raw one, `revision` that of `attack`.
ATTACKS: dict[str, Callable] = {}

# By how much a library may leave [0,1] before it counts as an error.
ROUNDING = 1e-5

# Seconds before an attack shows that it is at work.
PATIENCE = 5


def attack(revision: int = 1) -> Callable:
    """Decorator: register a function as an attack under its own name, and return it unchanged.

    revision: part of the key of whatever the attack makes. Raise it when the attack's substance changes,
        so that what the old code made is not taken for the new code's. Write it as a number.
    The raw function is for training loops, which check and freeze by themselves; `ATTACKS[name]` keeps the
    contract (see `helpers.attacks`).
    ValueError if another file has registered an attack of that name.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__
        if name in ATTACKS and ATTACKS[name].__module__ != function.__module__:
            raise ValueError(
                f"there is an attack {name!r} in {ATTACKS[name].__module__}: choose another name"
            )
        checked = _checked(function)
        checked.revision = revision
        checked.function = function
        ATTACKS[name] = checked
        source.register(function)
        return function

    return register


def _checked(function: Callable) -> Callable:
    name = function.__name__

    @functools.wraps(function)
    def checked(model, x, y, *, targeted=False, **settings):
        check_images(x, y)
        if not settings.get("eps", 1) > 0:
            raise ValueError(f"eps must be positive, got {settings['eps']}")
        x = x.detach()
        with attackable(model):
            check_model(model, x, y, targeted)
            # Seeded: a stochastic model draws its numbers from torch's global generators.
            with torch.enable_grad(), _passes_shown(model, name), seeded(settings.get("seed", 0)):
                x_adv = function(model, x, y, targeted=targeted, **settings).detach().contiguous()
        low, high = (value.item() for value in x_adv.aminmax())  # both NaN if one value is
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise RuntimeError(
                f"{name} left [0,1]: its result holds values in [{low}, {high}]; are the gradients finite?"
            )
        return x_adv.clamp(0, 1)

    return checked


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


@contextmanager
def _passes_shown(model: nn.Module, name: str) -> Iterator[None]:
    """A bar that counts the model's forward passes, which is the only progress all libraries let us see."""
    silent = os.environ.get("TQDM_DISABLE") == "1"  # tqdm's own switch; its notebook bar ignores it
    with tqdm(desc=name, unit=" passes", delay=PATIENCE, leave=False, disable=silent) as bar:

        def count(module, inputs):
            bar.update()  # nothing is returned: a hook's result would replace the inputs

        hook = model.register_forward_pre_hook(count)  # before the pass, as one may end early
        try:
            yield
        finally:
            hook.remove()


@torch.no_grad()
def check_model(model: nn.Module, x: torch.Tensor, y: torch.Tensor, targeted: bool) -> None:
    """Raise ValueError if `model` is not fit to be attacked on `x`, or if `y` cannot be what it should be.

    x: images (N,C,H,W) in [0,1].
    y: int64 (N,), the true labels, or with `targeted` those to be reached.
    """
    halves = {p.dtype for p in model.parameters()} & {torch.float16, torch.bfloat16}
    if halves:
        raise ValueError(
            f"the model's parameters are {halves.pop()}, too coarse for an attack's gradients: model.float()"
        )
    images = x if targeted else x[:1]  # an attack of one step should not pay for two
    logits = model(images)
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


def random_targets(y: torch.Tensor, num_classes: int, seed: int = 0) -> torch.Tensor:
    """Target labels (N,), uniform over the classes other than the true label `y` (N,)."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, num_classes, y.shape, generator=generator)
    return (y + shift.to(y.device)) % num_classes


@torch.no_grad()
def num_classes(model: nn.Module, x: torch.Tensor) -> int:
    """Number of logits that `model` gives for an image of `x` (N,C,H,W)."""
    return model(x[:1]).shape[1]
