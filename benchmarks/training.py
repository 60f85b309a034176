"""What does a training step take beside the forward and backward passes that it cannot do without?

    python benchmarks/training.py [--methods jatp dir trades mart at] [--precision fp32 bf16] [--full]
                                  [--threads 1] [--repeats 7] [--json OUT]

A method's whole `training_step` (augmentation, attack, losses, update) against its floor: plain loops over
the bare networks, frozen where nothing is learned, with the method's numbers of passes and its optimizer's
step, and no projection, no loss but the cross-entropy, no augmentation.  Slim networks, or with --full the
paper's, with untrained weights; in channels_last, as `networks.build` makes them.

As in attacks.py all runs of a method take turns, in an order that changes with each repeat, and ratios are
taken within a repeat.  Seconds are CPU time for one thread; wall-clock time for more, and on a GPU.
"""

import argparse
import copy
import json
import platform
import statistics
from functools import partial
from pathlib import Path

import torch
from attacks import floor, measure, processor, versions
from torch.nn import functional as F

from helpers import data, device, networks
from helpers.defenses.dir import DIR
from helpers.defenses.jatp import JATP
from helpers.defenses.robust_training import INNER, AdversarialTraining, Mart, Trades

SIZES = {  # of the target; of JATP's denoiser, of DIR's; images in a batch
    "slim": (
        {"width": 0.25},
        {"width": 0.125, "blocks": 1},
        {"width": 0.25, "patch": 4, "encoder": 2, "decoder": 1},
        50,
    ),
    "full": ({"width": 1.0}, {"width": 1.0, "blocks": 3}, {}, 128),
}
STEPS, DIR_STEPS = INNER["steps"], 5
# Time does not go by it, and weights that repeated steps on one batch drive to infinity show nothing.
RATE = 1e-6


def bare_step(attacked, trained, optimizer, x, y, *, before, batches):
    """The passes alone: `before` forward ones, then STEPS forward and back, and an update.

    attacked: frozen; the passes go back to its input.
    trained: the network that is updated, on `batches` of (images, labels).
    """
    with torch.no_grad():
        for _ in range(before):
            attacked(x)
    floor(attacked, x, y, STEPS)
    optimizer.zero_grad(set_to_none=True)
    sum(F.cross_entropy(trained(images), labels) for images, labels in batches).backward()
    optimizer.step()


def jatp(sizes, x, y):
    """The natural features, the attack, and an update on both images at once: (method, {floor: run})."""
    target = networks.build("resnet18", **sizes[0]).to(x.device).eval().requires_grad_(False)
    method = JATP(target, steps=STEPS, learning_rate=RATE, **sizes[1]).to(x.device).train()
    trained = copy.deepcopy(method)
    frozen = copy.deepcopy(method.denoiser).requires_grad_(False)
    run = partial(
        bare_step,
        trained=lambda images: target(trained(images)),
        optimizer=trained.optimizers()["sgd"],
        x=x,
        y=y,
        before=1,
        batches=[(torch.cat([x, x]), torch.cat([y, y]))],
    )
    return method, {
        "to JATP's layer": partial(run, lambda images: up_to_layer(target, frozen(images))),
        "whole pipeline": partial(run, lambda images: target(frozen(images))),
    }


def up_to_layer(target, x):
    """The features that JATP attacks, blocks.2.conv2 of a ResNet-18, and nothing behind them.

    Their mean over the places, (N,C), is fit for a cross-entropy.
    """
    block = target.blocks[2]
    x = target.blocks[:2](target.first_features(x))
    return block.conv2(F.relu(block.bn1(block.conv1(x)))).mean((2, 3))


def dir_(sizes, x, y):
    """The attack on the pipeline, both masks in a pass; the game on the target; an update through both.

    -> (method, {floor: run})
    """
    target = networks.build("resnet18", **sizes[0]).to(x.device).eval().requires_grad_(False)
    method = DIR(target, steps=DIR_STEPS, learning_rate=RATE, **sizes[2]).to(x.device).train()
    trained = copy.deepcopy(method)
    frozen, optimizer = copy.deepcopy(method.denoiser).requires_grad_(False), trained.optimizers()["sgd"]
    visible = frozen.masks(x)

    def run():
        floor(lambda images: target(frozen(images, visible)), x, y, DIR_STEPS)
        with torch.no_grad():
            target(x)
        floor(target, x, y, DIR_STEPS)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(target(torch.cat([trained.denoiser(x, visible), x])), torch.cat([y, y])).backward()
        optimizer.step()

    return method, {"bare passes": run}


def classifier(make, settings, before, updates, sizes, x, y):
    """A method that trains the attacked network itself, each update's batch in a pass of its own."""
    network = {
        "network": "resnet18",
        "in_channels": 3,
        "optimizer": "sgd",
        "learning_rate": RATE,
        "augment": True,
    }
    method = make(attack_settings=INNER, **settings, **network, **sizes[0]).to(x.device).train()
    trained = copy.deepcopy(method)
    frozen = copy.deepcopy(method.network).eval().requires_grad_(False)
    optimizer = trained.optimizers()["network"]
    run = partial(bare_step, frozen, trained, optimizer, x, y, before=before, batches=[(x, y)] * updates)
    return method, {"network": run}


METHODS = {
    "jatp": jatp,
    "dir": dir_,
    "trades": partial(classifier, Trades, {}, 1, 2),  # the natural logits; a pass for x and one for x̃
    "mart": partial(classifier, Mart, {}, 0, 2),
    "at": partial(classifier, AdversarialTraining, {}, 0, 1),
}


def on(precision, run):
    """`run` under the precision of `helpers.training.fit`, to its end on the device too."""

    def whole():
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
            run()
        if device().type == "cuda":
            torch.cuda.synchronize()

    return whole


def bench(name, sizes, precisions, repeats):
    """Print a method's lines of the table; -> them as dicts."""
    x, y = (t.to(device()) for t in data.load("cifar10", "train", n=sizes[3]))
    x = x.contiguous(memory_format=torch.channels_last)
    method, floors = METHODS[name](sizes, x, y)
    step = partial(method.training_step, {"natural": x, "label": y}, method.optimizers())
    runs = {(who, p): on(p, run) for who, run in {"step": step, **floors}.items() for p in precisions}
    seconds = {who: own for who, (own, _) in measure(runs, repeats).items()}
    rows = []
    for precision in precisions:
        own = seconds["step", precision]
        for who in floors:
            base = seconds[who, precision]
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            row = {"method": name, "precision": precision, "images": len(x)}
            row |= {"steps": DIR_STEPS if name == "dir" else STEPS, "against": who}
            rows.append(row | {"seconds": own, "floor_seconds": base, "ratio": ratio})
            medians = f"{statistics.median(own):7.3f} | {statistics.median(base):8.3f}"
            print(f"| {name:6} | {precision:9} | {who:15} | {medians} | {ratio:5.2f} |", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = {"nargs": "+", "default": list(METHODS), "choices": METHODS}
    parser.add_argument("--methods", **methods, help="the methods to time")
    precisions = {"nargs": "+", "default": ["fp32"], "choices": ["fp32", "bf16"]}
    parser.add_argument("--precision", **precisions, help="bf16: autocast")
    parser.add_argument("--full", action="store_true", help="the paper's widths and batch, for a GPU")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, default=7, help="how often each run is timed")
    parser.add_argument("--json", type=Path, help="write the rows, the machine and the versions to this file")
    args = parser.parse_args()
    cuda = device().type == "cuda"
    # `measure` takes wall-clock time for more than one thread; a GPU's work is not in the CPU's time.
    torch.set_num_threads(max(2, args.threads) if cuda else args.threads)
    torch.manual_seed(0)
    machine = {
        "machine": platform.machine(),
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "size": "full" if args.full else "slim",
    }
    print(machine, versions())

    print(f"\n| method | precision | {'floor':15} | step, s | floor, s | ratio |")
    print(f"|--------|-----------|{'-' * 17}|--------:|---------:|------:|")
    sizes = SIZES[machine["size"]]
    rows = [row for name in args.methods for row in bench(name, sizes, args.precision, args.repeats)]
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "versions": versions(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
