"""One training loop for every method of the collection.

A *method* is an `nn.Module` that holds all the networks it trains and offers

* `optimizers() -> dict[str, torch.optim.Optimizer]`
* `training_step(batch, optimizers) -> dict[str, Tensor]`: one update; the losses it reports
  are detached scalars, left on the device (the loop reads them once per epoch).

and optionally `schedulers(optimizers, epochs) -> list` of per-epoch learning-rate schedules.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from helpers import device, seeded, write_atomically

Tensors = dict[str, Tensor]  # a batch by the names of its parts; losses by theirs
Optimizers = dict[str, Optimizer]
History = list[dict[str, float]]


def fit(
    method: nn.Module,
    data: Tensors,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    checkpoint: Path | None = None,
    precision: str = "fp32",
) -> History:
    """Train `method` in place and return its history, one dict of mean losses per epoch.

    data: name -> tensor, all with the same first dimension N; a batch holds the same names.
    epochs: passes over the data, whole batches only.
    batch_size: images in a batch, at most N.
    seed: of shuffles, and of whatever the method draws.
    checkpoint: path written after each epoch.  If it exists, training resumes from it and
        ends with the very weights an uninterrupted run would have: each epoch seeds its own
        shuffle and noise from (seed, epoch), so no generator state needs to be carried over.
    precision: "fp32", or "bf16" for autocast (the update itself stays in fp32).
    Raises ValueError for unequal lengths, a batch larger than the data, or an unknown precision.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision is fp32 or bf16, got {precision!r}")
    lengths = {name: len(t) for name, t in data.items()}
    n = next(iter(lengths.values()))
    if len(set(lengths.values())) != 1 or batch_size > n:
        raise ValueError(
            f"all data must have the same length, at least batch_size={batch_size}; got {lengths}"
        )

    where = device()
    method.to(where).train()
    data = {name: t.to(where) for name, t in data.items()}
    optimizers = method.optimizers()
    schedulers = method.schedulers(optimizers, epochs) if hasattr(method, "schedulers") else []
    history = _resume(checkpoint, method, optimizers, schedulers)

    with seeded(seed), torch.enable_grad():  # wherever it is called from
        silent = os.environ.get("TQDM_DISABLE") == "1"  # tqdm's own switch; its notebook bar ignores it
        progress = tqdm(range(len(history), epochs), desc="epochs", leave=False, disable=silent)
        for epoch in progress:
            torch.manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(n).to(where)
            reports = []
            # Whole batches only: the last few images come first in another epoch's order.
            for chosen in order[: n - n % batch_size].split(batch_size):
                batch = {name: t[chosen] for name, t in data.items()}
                with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
                    reports.append(method.training_step(batch, optimizers))
            for scheduler in schedulers:
                scheduler.step()
            history.append(
                {name: torch.stack([r[name] for r in reports]).mean().item() for name in reports[0]}
            )
            progress.set_postfix({name: f"{value:.3g}" for name, value in history[-1].items()})
            if checkpoint is not None:
                _save(checkpoint, method, optimizers, schedulers, history)
    method.eval()
    return history


def crop_and_flip(x: Tensor) -> Tensor:
    """Random crops and mirror images of a batch (N,C,H,W), on its device, from torch's global generator.

    Each image is padded by four zeros, cut out at random, and mirrored half the time: the usual
    augmentation for CIFAR-10.  -> (N,C,H,W)
    """
    n, c, h, w = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    rows = torch.randint(9, (n, 1), device=x.device) + torch.arange(h, device=x.device)
    columns = torch.randint(9, (n, 1), device=x.device) + torch.arange(w, device=x.device)
    columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, columns, columns.flip(1))
    every = torch.arange(n, device=x.device)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _save(
    checkpoint: Path,
    method: nn.Module,
    optimizers: Optimizers,
    schedulers: list[LRScheduler],
    history: History,
) -> None:
    state = {
        "method": method.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
        "schedulers": [s.state_dict() for s in schedulers],
        "history": history,
    }
    write_atomically(checkpoint, lambda file: torch.save(state, file))


def _resume(
    checkpoint: Path | None, method: nn.Module, optimizers: Optimizers, schedulers: list[LRScheduler]
) -> History:
    if checkpoint is None or not checkpoint.exists():
        return []
    state = torch.load(checkpoint, map_location=device(), weights_only=True)
    method.load_state_dict(state["method"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for scheduler, stored in zip(schedulers, state["schedulers"], strict=True):
        scheduler.load_state_dict(stored)
    return state["history"]
