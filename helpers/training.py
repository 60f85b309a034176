"""One training loop for every method of the collection.

A *method* is an `nn.Module` that holds all the networks it trains and offers

* `optimizers() -> dict[str, torch.optim.Optimizer]`
* `training_step(batch, optimizers) -> dict[str, Tensor]`: one update; the losses it reports
  are detached scalars, left on the device (the loop reads them once per epoch).

and optionally `schedulers(optimizers, epochs) -> list` of per-epoch learning-rate schedules.
"""

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from helpers import device, seeded, write_atomically
from helpers.progress import Bar

Tensors = dict[str, Tensor]  # a batch by the names of its parts; losses by theirs
Optimizers = dict[str, Optimizer]
History = list[dict[str, float]]

PATIENCE = 60  # seconds between two checkpoints in a long epoch


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
    checkpoint: path written after each epoch and, in a long one, each minute.  If it exists, training resumes
        from it and ends with the very weights an uninterrupted run would have: each epoch seeds its own
        shuffle and noise from (seed, epoch), and in its midst the generators' states are kept, too.
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
    state = _State(method, optimizers, schedulers, checkpoint)

    with seeded(seed), torch.enable_grad():  # wherever it is called from
        progress = Bar(range(len(state.history), epochs), desc="epochs")
        for epoch in progress:
            torch.manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(n).to(where)
            # Whole batches only: the last few images come first in another epoch's order.
            batches = order[: n - n % batch_size].split(batch_size)
            state.go_on()
            for chosen in batches[len(state.reports) :]:
                batch = {name: t[chosen] for name, t in data.items()}
                with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
                    losses = method.training_step(batch, optimizers)
                # Copies: F.mse_loss leaves its mean in the memory of all differences, which the epoch's
                # reports and each checkpoint would keep.
                state.reports.append({name: loss.clone() for name, loss in losses.items()})
                state.save_now_and_then()
            for scheduler in schedulers:
                scheduler.step()
            state.end_epoch()
            progress.set_postfix({name: f"{value:.3g}" for name, value in state.history[-1].items()})
    method.eval()
    return state.history


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


class _State:
    """All that a training goes on from, in memory and in the file `checkpoint` (None: nowhere).

    history: mean losses of the epochs that are over.
    reports: losses of the steps of the present one.
    """

    def __init__(
        self,
        method: nn.Module,
        optimizers: Optimizers,
        schedulers: list[LRScheduler],
        checkpoint: Path | None,
    ) -> None:
        self.method, self.optimizers, self.schedulers = method, optimizers, schedulers
        self.checkpoint, self.saved = checkpoint, time.monotonic()
        self.history: History = []
        self.reports: list[Tensors] = []
        self.generators: list[Tensor] = []
        if checkpoint is not None and checkpoint.exists():
            self._load()

    def go_on(self) -> None:
        """Put torch's generators where they were, in the midst of an epoch."""
        if self.generators:
            torch.set_rng_state(self.generators[0])
            torch.cuda.set_rng_state_all(self.generators[1:])
            self.generators = []

    def save_now_and_then(self) -> None:
        """Save after a step, if the last time is long ago."""
        if self.checkpoint is not None and time.monotonic() - self.saved > PATIENCE:
            self._save([torch.get_rng_state(), *torch.cuda.get_rng_state_all()])

    def end_epoch(self) -> None:
        """The mean of the reports becomes history; save."""
        # In full precision: bf16 losses have three digits, and so would their mean.
        all_of = {name: torch.stack([r[name] for r in self.reports]) for name in self.reports[0]}
        self.history.append({name: losses.float().mean().item() for name, losses in all_of.items()})
        self.reports = []
        if self.checkpoint is not None:
            self._save([])

    def _save(self, generators):
        state = {
            "method": self.method.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "schedulers": [s.state_dict() for s in self.schedulers],
            "history": self.history,
            "reports": self.reports,
            "generators": generators,
        }
        write_atomically(self.checkpoint, lambda file: torch.save(state, file))
        self.saved = time.monotonic()

    def _load(self):
        state = torch.load(self.checkpoint, map_location=device(), weights_only=True)
        self.method.load_state_dict(state["method"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for scheduler, stored in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(stored)
        self.history, self.reports = state["history"], state["reports"]
        self.generators = [generator.cpu() for generator in state["generators"]]
