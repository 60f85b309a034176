"""Helpers of the notebook collection on denoising defenses.

The flow, and where each step lives::

    data ─► networks ─► attacks × threats ─► defenses ─► evaluation ─► ledger
                 └────────────── pipeline (make or load) ──────────────┘

Images are float32 tensors in [0,1], NCHW; normalisation lives inside the networks.
Importing this package is cheap: torch is loaded by the modules that compute.
"""

from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def device():
    """The device everything runs on: CUDA where there is a GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed):
    """Inside, torch's global generators (CPU and CUDA) start from `seed`; outside, nothing has happened."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
