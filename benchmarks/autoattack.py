"""AutoAttack's original code and `helpers.measure.fast` in turn: whose images break, and in how many seconds.

    python benchmarks/autoattack.py [--images 100] [--threads 1] [--only 0 3] [--json results/autoattack.json]

Ten targets, ordinary ones and some that mask their gradients.  The original (package `pyautoattack`, version
"standard") runs on the frozen model in eval mode, all images in a batch: that is its soonest way.  `fast`
pays for its own set-up.  Which of the two begins changes from target to target.  Seconds are CPU time for one
thread on a CPU, wall-clock time otherwise.

Rows are written as they come; a run with `--only` replaces its own targets in the file and leaves the others.
`--again` measures `fast` alone and leaves the original's part of a row as it is: minutes in place of half an
hour, but not in turn.
`--verdicts tests/autoattack_verdicts.json` writes the original's verdicts on the first 20 images, which
tests/test_fast_autoattack.py holds `fast` to.
"""

import argparse
import json
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from attacks import processor, versions
from pyautoattack import AutoAttack
from torch import Tensor, nn

from helpers import data, device, seeded
from helpers.attacks.autoattack import NORMS
from helpers.measure import fast
from helpers.networks.zoo import load_target

STORED = 20  # images whose verdicts the tests keep


class Around(nn.Module):
    """A network with something done to its input or its output."""

    def __init__(self, net: nn.Module, before: Callable | None = None, after: Callable | None = None):
        super().__init__()
        self.net, self.before, self.after = net, before or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def targets() -> dict[str, tuple[nn.Module, str, float, str]]:
    """Name -> (model, data set, radius, norm)."""
    lenet, robust = load_target("lenet5_clean"), load_target("lenet5_adv")
    resnet = load_target("resnet18_quarter_adv")
    quantised = Around(lenet, before=lambda x: (3 * x).round() / 3)
    return {
        "LeNet, 0.1": (lenet, "mnist", 0.1, "linf"),
        "LeNet, 0.15": (lenet, "mnist", 0.15, "linf"),
        "LeNet, ℓ2 1.5": (lenet, "mnist", 1.5, "l2"),
        "LeNet behind four levels, 0.1": (quantised, "mnist", 0.1, "linf"),
        "LeNet, logits / 0.001, 0.1": (Around(lenet, after=lambda z: z / 1e-3), "mnist", 0.1, "linf"),
        "LeNet that ends in softmax, 0.1": (Around(lenet, after=nn.Softmax(1)), "mnist", 0.1, "linf"),
        "LeNet, adversarially trained, 0.3": (robust, "mnist", 0.3, "linf"),
        "LeNet, adversarially trained, 0.35": (robust, "mnist", 0.35, "linf"),
        "ResNet-18/4, adversarially trained, 8/255": (resnet, "cifar10", 8 / 255, "linf"),
        "ResNet-18/4, adversarially trained, 4/255": (resnet, "cifar10", 4 / 255, "linf"),
    }


def original(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    """Whom the original breaks, (N,) bool, judged by the model."""
    attack = AutoAttack(model, eps=eps, norm=NORMS[norm], version="standard", seed=0, device=x.device)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with seeded(0):
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    with torch.no_grad():
        return model(x_adv.clamp(0, 1)).argmax(1) != y


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    return fast.broken(model, x, y, "aa", eps=eps, norm=norm)


def measured(name: str, images: int, clock: Callable, runs: Sequence[Callable]) -> dict:
    """A row for one target: seconds and verdicts (1: broken) of each run."""
    model, dataset, eps, norm = targets()[name]
    x, y = (t.to(device()) for t in data.load(dataset, "test", n=images))
    row = {"target": name, "images": images}
    for run in runs:
        started = clock()
        broken = run(model, x, y, eps, norm)
        row[f"{run.__name__}_broken"] = "".join(str(int(b)) for b in broken)
        row[f"{run.__name__}_seconds"] = clock() - started
    return row


def show(rows: list[dict]) -> None:
    print(f"\n| {'target':42} | images | original | fast | seconds | | sooner by |")
    print(f"|{'-' * 44}|---:|---:|---:|---:|---:|---:|")
    ratios, weaker = [], []
    for row in rows:
        stand = [100 * row[f"{who}_broken"].count("0") / row["images"] for who in ("original", "ours")]
        slow, quick = row["original_seconds"], row["ours_seconds"]
        ratios.append(slow / quick)
        weaker.append(stand[1] - stand[0])
        print(
            f"| {row['target']:42} | {row['images']} | {stand[0]:.1f} | {stand[1]:.1f} "
            f"| {slow:.0f} | {quick:.1f} | {slow / quick:.1f} |"
        )
    print(
        f"\nsooner by {statistics.median(ratios):.1f} (median), at least {min(ratios):.1f}; robust accuracy "
        f"above the original's by {statistics.mean(weaker):+.2f} points (mean), at most {max(weaker):+.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--only", type=int, nargs="+", help="the targets to run, by number from 0")
    parser.add_argument("--again", action="store_true", help="`fast` alone, beside what the file holds")
    parser.add_argument("--json", type=Path, help="write rows, machine and versions to this file")
    parser.add_argument("--verdicts", type=Path, help="write the original's first verdicts to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    one = args.threads == 1 and device().type == "cpu"
    clock = time.process_time if one else time.perf_counter

    rows, names = {}, list(targets())
    for number in range(len(names)) if args.only is None else args.only:
        runs = [ours] if args.again else [ours, original] if number % 2 else [original, ours]
        row = measured(names[number], args.images, clock, runs)
        if args.json and args.json.exists():  # another process may have written meanwhile
            rows = {row["target"]: row for row in json.loads(args.json.read_text())["rows"]}
        rows[row["target"]] = rows.get(row["target"], {}) | row
        show([rows[row["target"]]])
        rows = {name: rows[name] for name in names if name in rows}
        if args.json:
            machine = {"machine": platform.machine(), "processor": processor(), "threads": args.threads}
            report = {"machine": machine | {"device": str(device())}, "versions": versions()}
            report["rows"] = list(rows.values())
            args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    show([row for row in rows.values() if "ours_seconds" in row])
    if args.verdicts:
        first = {name: row["original_broken"][:STORED] for name, row in rows.items()}
        args.verdicts.write_text(json.dumps(first, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
