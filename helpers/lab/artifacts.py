"""Expensive things, made once: trained networks, adversarial sets, histories.

An artifact is a safetensors file (loading one can never run code) beside a JSON sidecar, named after the key
of its recipe.  It is written to a temporary name and renamed, so a file that exists is complete; a lock makes
two processes that want the same artifact make it once.
"""

import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from helpers import ROOT, source, write_atomically
from helpers.lab.lease import lease
from helpers.lab.recipes import Recipe, code_of


class ArtifactError(RuntimeError):
    """An artifact on disk cannot be used; the message names the file and the remedy."""


def folder() -> Path:
    """Where artifacts live: `$ARTIFACT_DIR`, else `data/artifacts`."""
    return Path(os.environ.get("ARTIFACT_DIR") or ROOT / "data" / "artifacts")


def path(kind: str, recipe: Recipe) -> Path:
    """File of the artifact `kind` made by `recipe` (whether it exists or not)."""
    return folder() / f"{kind}-{recipe.key}.safetensors"


@dataclass(frozen=True)
class Artifact:
    """What is on disk.

    path: of the safetensors file.
    tensors: name -> CPU tensor.
    info: the sidecar (recipe, seconds, history ...).
    """

    path: Path
    tensors: dict[str, Any]
    info: dict[str, Any]


def make(kind: str, recipe: Recipe, build: Callable[[Path], tuple[dict, dict]]) -> Artifact:
    """Load the artifact, or make it with `build(checkpoint) -> (tensors, extra)`.

    kind: short prefix of the file's name.
    recipe: everything that determines the result.
    build: called under a lock; `checkpoint` is a path where it may keep what it needs to resume after
        a kill (removed once the artifact is complete); `extra` is a dict of JSON-serialisable facts for the
        sidecar, such as a training history.
    ArtifactError for a truncated or foreign file.  A warning where the code has changed since and the
    revision has not.
    """
    target = path(kind, recipe)
    target.parent.mkdir(parents=True, exist_ok=True)
    code = code_of(recipe.made)
    if not target.exists():
        with lease(target.with_name(f"{target.name}.lock")):
            if not target.exists():  # somebody else has made it meanwhile
                for part in target.parent.glob(f".{target.stem}.*.tmp"):  # of who was killed amid writing
                    part.unlink(missing_ok=True)
                checkpoint = target.with_suffix(".checkpoint")
                started = time.perf_counter()
                tensors, extra = build(checkpoint)
                seconds = round(time.perf_counter() - started, 1)
                _write(target, recipe, tensors, {**extra, "seconds": seconds, "code": code})
                checkpoint.unlink(missing_ok=True)
    artifact = load(target)
    _compare(artifact, code)
    return artifact


def _compare(artifact, code):
    """Warn, in one line, if the artifact was made by other code than today's under the same revision."""
    before = artifact.info.get("code", {})
    names = [name for name in {*before, *code} if not name.startswith(source.MAKING_NOTHING)]
    changed = sorted(name for name in names if before.get(name) != code.get(name))
    if changed:
        warnings.warn(
            f"{artifact.path.name} was made before {_briefly(changed)} changed: if results depend on it,"
            " raise the `revision` of the method or attack; if you are only trying something, delete"
            f" {artifact.path}",
            stacklevel=3,
        )


def _briefly(names):
    """Names of definitions, those of a file in one: "helpers.attacks.pgd (4 definitions)"."""
    files = groupby(names, lambda name: name.rpartition(".")[0])
    groups = [(file, list(found)) for file, found in files]
    words = [found[0] if len(found) == 1 else f"{file} ({len(found)} definitions)" for file, found in groups]
    return ", ".join(words)


def load(file: Path) -> Artifact:
    """Read an artifact; ArtifactError if it is truncated, foreign or lacks its sidecar."""
    from safetensors import SafetensorError, safe_open

    remedy = f"delete {file} and run again to rebuild it"
    try:
        with safe_open(file, framework="pt") as f:
            stored = (f.metadata() or {}).get("key")
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (it is no dict)
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; run the notebook that makes it") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{file} is damaged or not a safetensors file ({error}); {remedy}") from error
    if stored is None or stored != file.stem.rsplit("-", 1)[-1]:
        raise ArtifactError(f"{file} is not the artifact its name promises (key inside: {stored}); {remedy}")
    try:
        info = json.loads(file.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        sidecar = file.with_suffix(".json")
        raise ArtifactError(f"the sidecar {sidecar} cannot be read ({error}); {remedy}") from error
    return Artifact(file, tensors, info)


def provenance() -> dict[str, Any]:
    """Machine and versions, for sidecars and results."""
    import torch

    from helpers import device

    where = device()
    on_gpu = torch.cuda.get_device_name(where) if where.type == "cuda" else ""
    return {
        "device": on_gpu or f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {
            name: version(name) for name in ("torch", "torchvision", "numpy", "advertorch", "pyautoattack")
        },
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _write(target, recipe, tensors, extra):
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    info = {"recipe": recipe.made, **extra, **provenance()}
    # The sidecar goes first: the safetensors file is what marks the artifact as complete.
    write_atomically(target.with_suffix(".json"), lambda f: f.write_text(json.dumps(info, indent=1)))
    write_atomically(target, lambda f: save_file(tensors, f, metadata={"key": recipe.key}))
