"""Helpers of the notebook collection on denoising defenses.

The flow, and where each step lives; each wing imports only from those before it::

    data, losses, ledger, source, progress ─► networks ─► threats, training ─► attacks
        ─► defenses ─► lab ─► measure ─► run ─► show

Images are float32 tensors in [0,1], NCHW; normalisation lives inside the networks.
Importing this package is cheap: torch is loaded by the modules that compute.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def device():
    """The device everything runs on: CUDA where there is a GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generators (CPU and CUDA) start from `seed`; outside, nothing has happened."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary_path)` and rename, so that `file` is never half written."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
