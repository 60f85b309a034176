"""Expensive things, made once: trained networks, adversarial sets, histories.

An artifact is a safetensors file (loading one can never run code) beside a JSON sidecar,
named after a hash of *all* the settings that determine it.  It is written to a temporary
name and renamed, so a file that exists is complete; a lock makes two processes that want
the same artifact make it once.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from helpers import ROOT, write_atomically

# Part of every key.  Raise it when code changes what an artifact holds for the same settings.
REVISION = 1

# Artifacts that ship with the project because they take minutes each.  Without the folder they are made anew.
SHIPPED = ROOT / "data" / "zoo" / "quick"


class ArtifactError(RuntimeError):
    """An artifact on disk cannot be used; the message names the file and the remedy."""


def folder() -> Path:
    """Where artifacts live: `$ARTIFACT_DIR`, else `data/artifacts`."""
    return Path(os.environ.get("ARTIFACT_DIR") or ROOT / "data" / "artifacts")


def key(settings: dict) -> str:
    """Twelve hex digits of the SHA-256 of `settings` (JSON-serialisable, order-free)."""
    text = json.dumps([REVISION, settings], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def path(kind: str, settings: dict) -> Path:
    """File of the artifact `kind` made with `settings` (whether it exists or not)."""
    return folder() / f"{kind}-{key(settings)}.safetensors"


@dataclass(frozen=True)
class Artifact:
    """`tensors`: name -> CPU tensor.  `info`: the sidecar (settings, seconds, history ...)."""

    path: Path
    tensors: dict
    info: dict


def make(kind: str, settings: dict, build) -> Artifact:
    """Load the artifact, take it from `SHIPPED`, or make it with `build(checkpoint) -> (tensors, extra)`.

    kind: short file-name prefix.  settings: everything that determines the result.
    build: called under the file lock; `checkpoint` is a path where it may keep what it needs
    to resume after a kill (removed once the artifact is complete); `extra` is a dict of
    JSON-serialisable facts for the sidecar, such as a training history.
    Raises ArtifactError for a truncated or foreign file.
    """
    target = path(kind, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists() and (SHIPPED / target.name).exists():
            for file in (target.with_suffix(".json"), target):  # in the order of `_write`
                write_atomically(file, lambda f: shutil.copyfile(SHIPPED / file.name, f))  # noqa: B023
        if not target.exists():
            checkpoint = target.with_suffix(".checkpoint")
            started = time.perf_counter()
            tensors, extra = build(checkpoint)
            _write(target, settings, tensors, extra | {"seconds": round(time.perf_counter() - started, 1)})
            checkpoint.unlink(missing_ok=True)
    return load(target)


def load(file: Path) -> Artifact:
    """Read an artifact; ArtifactError if it is truncated, foreign or lacks its sidecar."""
    from safetensors import SafetensorError, safe_open

    remedy = f"delete {file} and run again to make it anew"
    try:
        with safe_open(file, framework="pt") as f:
            stored = (f.metadata() or {}).get("key")
            tensors = {name: f.get_tensor(name) for name in f.keys()}
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; run the notebook that makes it") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{file} is damaged or not a safetensors file ({error}); {remedy}") from error
    if stored is None or stored != file.stem.rsplit("-", 1)[-1]:
        raise ArtifactError(f"{file} is not the artifact its name promises (key inside: {stored}); {remedy}")
    try:
        info = json.loads(file.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the sidecar {file.with_suffix('.json')} cannot be read ({error}); {remedy}") from error
    return Artifact(file, tensors, info)


def provenance() -> dict:
    """Machine and versions, for sidecars and results."""
    import torch

    from helpers import device

    where = device()
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy", "advertorch", "pyautoattack")},
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _write(target, settings, tensors, extra):
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    info = {"settings": settings, **extra, **provenance()}
    # The sidecar goes first: the safetensors file is what marks the artifact as complete.
    write_atomically(target.with_suffix(".json"), lambda f: f.write_text(json.dumps(info, indent=1)))
    write_atomically(target, lambda f: save_file(tensors, f, metadata={"key": key(settings)}))
