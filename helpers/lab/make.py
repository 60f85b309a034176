"""Make or load what a recipe says: trained methods, their networks, adversarial sets.

    targets  →  adversarial sets  →  denoisers  →  adversarial sets against whole pipelines

Each is an artifact under its recipe's key, so a notebook can ask for anything in any order, and nothing is
made twice.
"""

import hashlib
import importlib
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from helpers import data, device, seeded, source, write_atomically
from helpers.attacks import ATTACKS, draws, random_targets, stickers
from helpers.lab import artifacts
from helpers.lab.artifacts import Artifact
from helpers.lab.recipes import Recipe
from helpers.networks.zoo import load_target
from helpers.threats import Defended, made_from
from helpers.training import Tensors, fit

# Attacks run on this many images at a time (more of them leave a CPU's caches), and on fewer where a pass
# keeps more than so many bytes of them for its gradient, as that of a large network or of EOT does.
CHUNK, MEMORY = {"cpu": 100, "cuda": 500}, {"cpu": 4e9, "cuda": 20e9}

# After how many seconds an attack saves what it has.
PATIENCE = 60

# Networks that are in memory already, by the key of their recipe and the folder of artifacts.
_networks: dict[tuple[str, Path], nn.Module] = {}


def natural(images: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Natural images (N,C,H,W) in [0,1] and their labels (N,), on the device.

    images: what a recipe says of them (`Recipes.images`).
    """
    return _natural(images["name"], images["split"], images["n"], images["source"], data.data_dir())


@cache
def _natural(name, split, n, origin, folder):
    """folder: where full sets lie; it decides what is read, though `data.load` finds it by itself."""
    x, y = data.load(name, split, n=n if origin == "sample" else None, source=origin)
    if origin == "full":
        # The official order is not random (MNIST's first 5000 test digits are harder), so that attacks run on
        # the first images only would judge by another population.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
        x, y = x[order], y[order]
    return x.to(device()), y.to(device())


def targets_of(images: dict[str, Any], seed: int) -> Tensor:
    """Labels (N,) that targeted attacks on a recipe's `images` aim at, never the true ones; on the device."""
    labels = natural(images)[1]
    return random_targets(labels, len(data.DATASETS[images["name"]].classes), seed)


def network(recipe: Recipe) -> nn.Module:
    """The network of a recipe, frozen and in eval mode, on the device; it knows its recipe."""
    place = recipe.key, artifacts.folder()
    if place not in _networks:
        _networks[place] = _network(recipe)
    return _networks[place]


def defended(recipe: Recipe) -> Defended:
    """What a trained method deploys, target ∘ denoiser; both parts know their recipes.

    The target is None for a denoiser that no target has guided: it may stand in front of any.
    """
    method = network(recipe)
    target = recipe.parts.get("target")
    pipeline = method.defended(None if target is None else network(target))
    for name in ("target", "denoiser"):
        part = getattr(pipeline, name)
        if part is not None and not isinstance(part, nn.Identity) and made_from(part) is None:
            part.recipe = recipe.part(name)
    return pipeline.eval()


def history(recipe: Recipe) -> list[dict[str, float]]:
    """Mean losses of each epoch of a trained method."""
    return _artifact(recipe).info["history"]


def adversarial(recipe: Recipe, victim: nn.Module | None = None, keep: str = "") -> Tensor:
    """The images of an adversarial set, (n,C,H,W) on the device.

    victim: the network that is attacked, if it is at hand; else it is made by its recipe.
    keep: a name under which what attacks a network without a recipe is kept; without one it is not.
    """
    if recipe.made["victim"] is None and not keep:
        return _attacked(recipe, victim)
    if keep:
        named = {"named": keep, "weights": _weights(victim)}
        recipe = Recipe({**recipe.made, "victim": named}, recipe.asked, recipe.parts)

    def build(checkpoint: Path) -> tuple[Tensors, dict]:
        model = network(recipe.parts["victim"]) if victim is None else victim
        return {"images": _attacked(recipe, model, checkpoint)}, {}

    made = recipe.made
    kind = f"{made['images']['name']}-{made['attack']}-{made['images']['split']}"
    return artifacts.make(kind, recipe, build).tensors["images"].to(device())


def _network(recipe):
    if "ready_made" in recipe.made:
        target = load_target(recipe.made["ready_made"])
        target.recipe = recipe
        return target
    if "part" in recipe.made:
        part = getattr(defended(recipe.parts["of"]), recipe.made["part"])
        if part is None or getattr(made_from(part), "key", None) != recipe.key:
            raise ValueError(f"{recipe.asked['of']['defense']!r} trains no {recipe.made['part']} of its own")
        return part
    if "method" in recipe.made:
        method = _fresh(recipe)
        method.load_state_dict(_artifact(recipe).tensors)
        return method.to(device()).eval().requires_grad_(False)
    raise ValueError(f"no network is made by {recipe.asked}")


def _artifact(recipe: Recipe) -> Artifact:
    made = recipe.made

    def build(checkpoint: Path) -> tuple[Tensors, dict]:
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

    name = made["method"].rpartition(".")[2].lower()
    return artifacts.make(f"{made['images']['name']}-{name}", recipe, build)


def _fresh(recipe: Recipe) -> nn.Module:
    """The method of a recipe, as its training begins."""
    made = recipe.made
    file, _, name = made["method"].rpartition(".")
    method = getattr(importlib.import_module(f"helpers.defenses.{file}"), name)
    settings = dict(made["settings"])
    settings |= {key: network(part) for key, part in recipe.parts.items() if key not in ("seen", "wanted")}
    taken = source.signature(source.method(made["method"]))
    if "seen" in taken and "seen" in recipe.parts:
        settings["seen"] = len(recipe.parts["seen"])
    if "images" in taken:
        settings["images"] = len(natural(made["images"])[0])
    with seeded(made["seed"]):
        return method(**settings)


def _training_data(method: nn.Module, recipe: Recipe) -> Tensors:
    """The tensors that the method learns from, all with the images first."""
    x, y = natural(recipe.made["images"])
    tensors = {"natural": x, "label": y, "index": torch.arange(len(x), device=x.device)}
    tensors = {name: tensor for name, tensor in tensors.items() if name in method.learns_from}
    if "adversarial" in method.learns_from:
        if not recipe.parts.get("seen"):
            raise ValueError(
                f"{recipe.asked['defense']} learns from adversarial examples: say which attacks it has `seen`"
            )
        tensors["adversarial"] = torch.stack([adversarial(one) for one in recipe.parts["seen"]], 1)
    if "wanted" in recipe.parts:
        tensors["wanted"] = adversarial(recipe.parts["wanted"])
    return tensors


def _attacked(recipe: Recipe, model: nn.Module, checkpoint: Path | None = None) -> Tensor:
    """The attack itself, on as many images at a time as fit into memory; it goes on from `checkpoint`."""
    made = recipe.made
    if made["attack"] not in ATTACKS:
        raise ValueError(
            f"attack {made['attack']!r} is never imported: add it to helpers/attacks/__init__.py"
        )
    x, y = natural(made["images"])
    if made["targeted"]:
        y = targets_of(made["images"], made["seed"])
    settings = dict(made["settings"])
    if draws(made["attack"]):
        settings["seed"] = made["seed"]
    if "mask" in settings:  # by its name, so that it can be part of the key
        settings["mask"] = stickers.mask(settings["mask"], size=x.shape[-1])
    if "references" in made:
        settings["references"], settings["classes"] = natural(made["references"])
    where = x.device.type
    chunk = max(1, min(CHUNK[where], int(MEMORY[where] // (kept(model, x[:1]) or 1))))
    attack = partial(ATTACKS[made["attack"]], model, targeted=made["targeted"], **settings)
    x, y = x[: made["n"]], y[: made["n"]]
    parts, saved = [x[:0]], time.monotonic()
    if checkpoint and checkpoint.exists():
        parts = [torch.load(checkpoint, x.device, weights_only=True)]
    for start in range(len(parts[0]), len(x), chunk):
        few = slice(start, start + chunk)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=made.get("precision") == "bf16"):
            parts.append(attack(x[few], y[few]))
        if checkpoint and time.monotonic() - saved > PATIENCE:
            parts, saved = [torch.cat(parts)], time.monotonic()
            write_atomically(checkpoint, partial(torch.save, parts[0]))
    return torch.cat(parts)


def kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that a pass of x (N,C,H,W) keeps until its gradient is taken, without the weights.

    Random numbers that the model draws are not missing afterwards.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with seeded(0), torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        scores = model(x.clone().requires_grad_())  # its graph lives on here, so that no place is used twice
    del scores
    return sum(sizes.values())


def _weights(model: nn.Module) -> str:
    """A hash of a network's weights, so that under one name there is one network."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
