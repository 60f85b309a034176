"""Make or load what a recipe says: trained methods, their networks, adversarial sets.

    targets  →  adversarial sets  →  denoisers  →  adversarial sets against whole pipelines

Each is an artifact under its recipe's key, so a notebook can ask for anything in any order, and nothing is made twice.
"""

import importlib
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from helpers import data, device, seeded, source
from helpers.attacks import ATTACKS, draws, random_targets, stickers
from helpers.lab import artifacts
from helpers.lab.recipes import COUNTED, Recipe
from helpers.networks.zoo import load_target
from helpers.threats import Defended, made_from
from helpers.training import fit

# Attacks run on this many images at a time, EOT on fewer: it keeps the graphs of all its passes in memory.
CHUNK, PASSES = 500, 2000

# Networks that are in memory already, by the key of their recipe and the folder of artifacts.
_networks: dict[tuple, nn.Module] = {}


def natural(name: str, split: str, n: int | None, source: str) -> tuple[Tensor, Tensor]:
    """Natural images (N,C,H,W) in [0,1] and their labels (N,), on the device; n=None: all."""
    return _natural(name, split, n, source, data.data_dir())


@cache
def _natural(name, split, n, source, _folder):
    x, y = data.load(name, split, n=n if source == "sample" else None, source=source)
    if source == "full":
        # The official order is not random (MNIST's first 5000 test digits are harder), so that attacks run on
        # the first images only would judge by another population.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
        x, y = x[order], y[order]
    return x.to(device()), y.to(device())


def targets_of(images: dict, seed: int) -> Tensor:
    """Labels that targeted attacks on `images` (a recipe's) aim at, never the true ones; (N,) on the device."""
    labels = natural(**images)[1]
    return random_targets(labels, len(data.DATASETS[images["name"]].classes), seed)


def network(recipe: Recipe) -> nn.Module:
    """The network of a recipe, frozen and in eval mode, on the device; it knows its recipe."""
    place = recipe.key, artifacts.folder()
    if place not in _networks:
        _networks[place] = _network(recipe)
    return _networks[place]


def _network(recipe):
    if "ready_made" in recipe.made:
        return _knowing(load_target(recipe.made["ready_made"]), recipe)
    if "part" in recipe.made:
        return getattr(defended(recipe.parts["of"]), recipe.made["part"])
    if "method" in recipe.made:
        return _trained(recipe)
    raise ValueError(f"no network is made by {recipe.asked}")


def defended(recipe: Recipe) -> Defended:
    """What a trained method deploys, target ∘ denoiser; both parts know their recipes."""
    method = network(recipe)
    target = recipe.parts.get("target")
    pipeline = method.defended(None if target is None else network(target))
    for name in ("target", "denoiser"):
        part = getattr(pipeline, name)
        if made_from(part) is None and not isinstance(part, nn.Identity):
            _knowing(part, recipe.part(name))
    return pipeline.eval()


def history(recipe: Recipe) -> list[dict]:
    """Mean losses of each epoch of a trained method."""
    return _artifact(recipe).info["history"]


def _trained(recipe):
    method = _fresh(recipe)
    method.load_state_dict(_artifact(recipe).tensors)
    return method.to(device()).eval().requires_grad_(False)


def _artifact(recipe):
    made = recipe.made

    def build(checkpoint):
        method = _fresh(recipe)
        losses = fit(
            method,
            _training_data(method, recipe),
            epochs=made["epochs"],
            batch_size=made["batch_size"],
            seed=made["seed"],
            checkpoint=checkpoint,
            precision=made["precision"],
        )
        return method.state_dict(), {"history": losses}

    return artifacts.make(f"{made['images']['name']}-{recipe.asked['defense']}", recipe, build)


def _fresh(recipe):
    """The method of a recipe, as its training begins."""
    file, _, name = recipe.made["method"].rpartition(".")
    method = getattr(importlib.import_module(f"helpers.defenses.{file}"), name)
    settings = dict(recipe.made["settings"])
    settings |= {key: network(part) for key, part in recipe.parts.items() if key not in ("seen", "wanted")}
    counts = {"seen": len(recipe.parts.get("seen", ())), "images": recipe.made["images"]["n"]}
    taken = source.signature(source.method(recipe.made["method"]))
    settings |= {key: counts[key] for key in COUNTED if key in taken and counts[key]}
    with seeded(recipe.made["seed"]):
        return method(**settings)


def _training_data(method, recipe):
    x, y = natural(**recipe.made["images"])
    available: dict[str, Callable[[], Tensor]] = {
        "natural": lambda: x,
        "label": lambda: y,
        "index": lambda: torch.arange(len(x), device=x.device),
        "adversarial": lambda: torch.stack([adversarial(one) for one in recipe.parts["seen"]], 1),
        "wanted": lambda: adversarial(recipe.parts["wanted"]),
    }
    if "adversarial" in method.learns_from and not recipe.parts.get("seen"):
        raise ValueError(
            f"{recipe.asked['defense']} learns from adversarial examples: say which attacks it has `seen`"
        )
    names = {*method.learns_from} | ({"wanted"} if "wanted" in recipe.parts else set())
    return {name: available[name]() for name in available if name in names}


def adversarial(recipe: Recipe, victim: nn.Module | None = None, keep: str = "") -> Tensor:
    """The images of an adversarial set, (n,C,H,W) on the device.

    victim: the network that is attacked, if it is at hand; else it is made by its recipe.
    keep: a name under which what attacks a network without a recipe is kept.
    """
    made = recipe.made

    def build(_checkpoint=None):
        model = network(recipe.parts["victim"]) if victim is None else victim
        x, y = natural(**made["images"])
        x, y = (
            x[: made["n"]],
            (targets_of(made["images"], made["seed"]) if made["targeted"] else y)[: made["n"]],
        )
        settings = dict(made["settings"])
        if draws(made["attack"]):
            settings["seed"] = made["seed"]
        if "mask" in settings:  # by its name, so that it can be part of the key
            settings["mask"] = stickers.mask(settings["mask"], size=x.shape[-1])
        chunk = min(CHUNK, max(1, PASSES // getattr(model, "samples", 1)))
        parts = [
            ATTACKS[made["attack"]](model, xs, ys, targeted=made["targeted"], **settings)
            for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True)
        ]
        return {"images": torch.cat(parts)}, {}

    if made["victim"] is None and not keep:
        return build()[0]["images"]
    if keep:
        recipe = Recipe({**made, "victim": {"named": keep}}, recipe.asked)
    kind = f"{made['images']['name']}-{recipe.asked['attack']}-{made['images']['split']}"
    return artifacts.make(kind, recipe, build).tensors["images"].to(device())


def _knowing(module, recipe):
    module.recipe = recipe
    return module
