"""How fast are our attacks, and how fast do we measure a robust accuracy?

    python benchmarks/attacks.py [--threads 1] [--images 100] [--repeats 5]
                                 [--only attacks evaluation ensemble] [--compile] [--json OUT]

Attacks: against the floor, the forward and backward passes that the attack needs on the bare, frozen
model, and against libraries.  Evaluation: PGD-40 with each ingredient of
`helpers.measure.fast`, alone and one after another, beside the libraries; with the robust accuracy that
each finds, judged by the untouched model in fp32.  Ensemble: the cheap stand-in for AutoAttack beside it,
how many images each breaks; not run unless asked for.  AutoAttack itself, and `fast`'s, are in autoattack.py.

Everything in a table runs in turn, in an order that changes with each repeat, so that a busy
machine slows all alike; ratios are taken within a repeat, and their medians are printed.  Seconds
are CPU time for one thread, wall-clock time for more.
"""

import argparse
import copy
import json
import os
import platform
import random
import statistics
import sys
import time
import types
import warnings
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.nn import functional as F

from helpers import data, device
from helpers.attacks import ATTACKS
from helpers.attacks.advertorch import library
from helpers.measure import fast
from helpers.measure.accelerate import accelerate
from helpers.networks.zoo import load_target

EPS = 8 / 255
PARTS = ["attacks", "evaluation", "ensemble"]


def floor(model, x, y, passes):
    for _ in range(passes):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)


def adv_lib():
    # Its attacks import visdom, for plots nobody asks for here; an empty module will do.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    import adv_lib.attacks

    return adv_lib.attacks


def foolbox(attack, model, x, y, *, epsilons, **settings):
    from foolbox import PyTorchModel, attacks

    box = PyTorchModel(model, (0, 1), device=x.device)
    return getattr(attacks, attack)(**settings)(box, x, y, epsilons=epsilons)[1]


def methods(eps, step, cw_steps, ddn_steps):
    """Attack -> (passes it needs, {who: (model, x, y) -> x_adv})."""
    pgd = {"eps": eps, "steps": 40, "step_size": step}
    cw = {"confidence": 1.0, "binary_search_steps": 2, "initial_const": 1.0, "abort_early": False}

    def advertorch(name, model, x, y, **settings):
        return getattr(library(), name)(model, **settings).perturb(x, y)

    def adv_libs(name, *args, **settings):
        return getattr(adv_lib(), name)(*args, **settings)

    fgsm = {
        "ours": partial(ATTACKS["fgsm"], eps=eps),
        "advertorch": partial(advertorch, "GradientSignAttack", eps=eps),
        "foolbox": partial(foolbox, "LinfFastGradientAttack", epsilons=eps),
    }
    pgd_40 = {
        "ours": partial(ATTACKS["pgd"], **pgd),
        "advertorch": partial(advertorch, "LinfPGDAttack", eps=eps, nb_iter=40, eps_iter=step),
        "foolbox": partial(foolbox, "LinfPGD", steps=40, abs_stepsize=step, epsilons=eps),
        "adv-lib": partial(adv_libs, "pgd_linf", ε=eps, steps=40, absolute_step_size=step),
    }
    pgd_dlr = {
        "ours": partial(ATTACKS["pgd"], loss="dlr", **pgd),
        "adv-lib": partial(
            adv_libs, "pgd_linf", ε=eps, steps=40, absolute_step_size=step, loss_function="dlr"
        ),
    }
    carlini_wagner = {
        "ours": partial(ATTACKS["cw"], steps=cw_steps, search_steps=2),
        "advertorch": partial(
            advertorch,
            "CarliniWagnerL2Attack",
            num_classes=10,
            max_iterations=cw_steps,
            learning_rate=0.01,
            **cw,
        ),
        "foolbox": partial(foolbox, "L2CarliniWagnerAttack", steps=cw_steps, epsilons=None, **cw),
        "adv-lib": partial(adv_libs, "carlini_wagner_l2", max_iterations=cw_steps, **cw),
    }
    ddn = {
        "ours": partial(ATTACKS["ddn"], steps=ddn_steps),
        "advertorch": partial(advertorch, "DDNL2Attack", nb_iter=ddn_steps),
        "foolbox": partial(foolbox, "DDNAttack", steps=ddn_steps, epsilons=None),
        "adv-lib": partial(adv_libs, "ddn", steps=ddn_steps),
    }
    return {
        "FGSM": (1, fgsm),
        "PGD-40": (40, pgd_40),
        "PGD-40 (DLR)": (40, pgd_dlr),
        f"CW 2×{cw_steps}": (2 * cw_steps, carlini_wagner),
        f"DDN-{ddn_steps}": (ddn_steps, ddn),
    }


def as_users_have_it(network):
    """Default memory format, parameters that require gradients."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format).requires_grad_(True)


def library_run(attack, network, x, y):
    model = as_users_have_it(network)

    def run():
        model.zero_grad(set_to_none=True)
        return attack(model, x, y)

    return run


def bench_attacks(title, network, x, y, repeats, **settings):
    frozen = copy.deepcopy(network).requires_grad_(False)
    x_last = x.contiguous(memory_format=torch.channels_last)
    rows = []
    for attack, (passes, by) in methods(**settings).items():
        runs = {"floor": partial(floor, frozen, x_last, y, passes)}
        for name, function in by.items():
            ours = name == "ours"
            runs[name] = partial(function, network, x, y) if ours else library_run(function, network, x, y)
        rows += summary(title, attack, measure(runs, repeats), len(x), against="floor")
    return rows


# The evaluation: every run returns a mask of the broken images ----------------------------------------

PLAIN = {"fold": False, "channels_last": False, "bf16": False}


def bench_evaluation(title, network, x, y, repeats, compiled):
    attack = {"eps": EPS, "steps": 40, "step_size": 2 / 255}
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def judged(images):
        return broken_by(network, images, y)

    def ours(drop, **ingredients):
        model = accelerate(contiguous, **ingredients)
        return lambda: fast.broken(network, x, y, fast=model, drop=drop, **attack)

    frozen = copy.deepcopy(contiguous).requires_grad_(False)
    runs = {
        "floor: 40 passes, all images": lambda: floor(frozen, x, y, 40),
        "helpers.attacks": lambda: judged(ATTACKS["pgd"](network, x, y, **attack)),
        "no ingredient": ours(False, **PLAIN),
        "channels_last alone": ours(False, **PLAIN | {"channels_last": True}),
        "fold alone": ours(False, **PLAIN | {"fold": True}),
        "bf16 alone": ours(False, **PLAIN | {"bf16": True}),
        "drop alone": ours(True, **PLAIN),
        "drop + channels_last": ours(True, **PLAIN | {"channels_last": True}),
        "drop + channels_last + fold": ours(True, bf16=False),
        "all: drop + channels_last + fold + bf16": ours(True, bf16=True),
    }
    if compiled:
        runs["all + compile"] = ours(True, bf16=True, compile=True)
    for name, function in methods(EPS, 2 / 255, 1, 1)["PGD-40"][1].items():
        if name != "ours":
            attacked = library_run(function, network, x, y)
            runs[name] = lambda attacked=attacked: judged(attacked())
    return summary(title, "PGD-40", measure(runs, repeats), len(x), against="floor: 40 passes, all images")


def pipelines(images):
    """Name -> (model, images, labels, radius): what `bench_ensemble` compares the two attacks on."""
    from helpers.lab import Experiment
    from helpers.threats import white_box

    digits, photos = (
        [part.to(device()) for part in data.load(name, "test", n=images)] for name in ("mnist", "cifar10")
    )
    arn = Experiment(paper="arn", dataset="mnist", profile="quick", seed=0).defense("arn", seen="pp")
    jatp = Experiment(paper="jatp", dataset="cifar10", profile="quick", seed=0).defense("jatp")
    return {
        "LeNet-5, adversarially trained": (load_target("lenet5_adv"), *digits, 0.3),
        "the same, beyond the radius of its training": (load_target("lenet5_adv"), *digits, 0.33),
        "ResNet-18/8, AT": (load_target("resnet18_eighth_at"), *photos, EPS),
        "ResNet-18/8, TRADES": (load_target("resnet18_eighth_trades"), *photos, EPS),
        "JATP, quick, white-box": (white_box(jatp), *photos, EPS),
        "ARN, quick, white-box": (white_box(arn), *digits, 0.1),
    }


def bench_ensemble(images):
    """`ensemble` beside AutoAttack: how many images each breaks, on how many they differ, their seconds."""
    print(f"\nThe ensemble and AutoAttack, {images} images\n")
    print("| pipeline | right | AutoAttack breaks | ensemble breaks | they differ on | seconds | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows = []
    for title, (model, x, y, eps) in pipelines(images).items():
        right = ~broken_by(model, x, y)
        runs = {name: partial(ATTACKS[name], model, x, y, eps=eps) for name in ("aa", "ensemble")}
        measured = measure(runs, 1, warm_up=False)
        broken = {name: right & broken_by(model, images, y) for name, (_, images) in measured.items()}
        row = {
            "network": title,
            "images": len(x),
            "eps": eps,
            "right": int(right.sum()),
            "aa": int(broken["aa"].sum()),
            "ensemble": int(broken["ensemble"].sum()),
            "differ": int((broken["aa"] != broken["ensemble"]).sum()),
            "seconds": {name: seconds[0] for name, (seconds, _) in measured.items()},
        }
        aa, ensemble = row["seconds"]["aa"], row["seconds"]["ensemble"]
        print(
            f"| {title} | {row['right']} | {row['aa']} | {row['ensemble']} | {row['differ']} "
            f"| {aa:.0f}, {ensemble:.1f} | {aa / ensemble:.0f} |",
            flush=True,
        )
        rows.append(row)
    return rows


@torch.no_grad()
def broken_by(model, images, y):
    return torch.cat([model(part).argmax(1) for part in images.split(250)]) != y


# Measuring -------------------------------------------------------------------------------------------


def measure(runs, repeats, warm_up=True):
    """name -> (seconds in each repeat, last result), after one run that does not count."""
    # One thread's own time, if there is but one: what others do on the machine does not count.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for name in list(runs):
        try:
            if name in ("advertorch", "foolbox", "adv-lib") or warm_up:
                runs[name]()
        except ImportError as error:
            print(f"{name} skipped: {error}")
            del runs[name]
    seconds, results = {name: [] for name in runs}, {}
    for repeat in range(repeats):
        order = list(runs)
        random.Random(repeat).shuffle(order)
        for name in order:
            started = clock()
            results[name] = runs[name]()
            seconds[name].append(clock() - started)
    return {name: (seconds[name], results[name]) for name in runs}


def summary(title, attack, measured, n, against):
    """Print a table; -> its rows as dicts."""
    base = measured[against][0]
    print(f"\n{title}, {attack}, {n} images\n\n| {'method':40} | seconds | ratio | robust accuracy |")
    print(f"|{'-' * 42}|--------:|------:|----------------:|")
    rows = []
    for name, (own, result) in measured.items():
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        mask = result is not None and result.dtype == torch.bool
        robust = 100 * (1 - result.float().mean().item()) if mask else None
        rows.append(
            {
                "network": title,
                "attack": attack,
                "method": name,
                "images": n,
                "seconds": own,
                "median": statistics.median(own),
                "ratio": ratio,
                "against": against,
                "robust_accuracy": robust,
            }
        )
        shown = "" if robust is None else f"{robust:.1f}"
        print(f"| {name:40} | {statistics.median(own):7.2f} | {ratio:5.2f} | {shown:>15} |", flush=True)
    return rows


def versions():
    found = {"python": platform.python_version()}
    for name in ("torch", "advertorch", "foolbox", "adv-lib", "pyautoattack"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument(
        "--images", type=int, default=100, help="for LeNet-5, evaluation, ensemble; ResNet's attacks: a tenth"
    )
    parser.add_argument("--repeats", type=int, default=5, help="how often a method is timed")
    parser.add_argument("--only", nargs="+", default=PARTS[:2], choices=PARTS, help="the parts to run")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--json", type=Path, help="write rows, machine and versions to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"  # bars would run through the tables
    library()  # advertorch, made importable
    print(f"{platform.machine()}, {args.threads} thread(s), {versions()}")

    rows, resnet = [], load_target("resnet18_quarter_adv").cpu()
    if "attacks" in args.only:
        x, y = data.load("mnist", "test", n=args.images)
        lenet, steps = load_target("lenet5_adv").cpu(), {"cw_steps": 20, "ddn_steps": 40}
        rows += bench_attacks("LeNet-5", lenet, x, y, args.repeats, eps=0.3, step=0.01, **steps)
        x, y = data.load("cifar10", "test", n=max(1, args.images // 10))
        rows += bench_attacks("ResNet-18/4", resnet, x, y, args.repeats, eps=EPS, step=2 / 255, **steps)
    if "evaluation" in args.only:
        x, y = data.load("cifar10", "test", n=args.images)
        rows += bench_evaluation("ResNet-18/4", resnet, x, y, max(1, args.repeats // 2), args.compile)
    if "ensemble" in args.only:
        rows += bench_ensemble(args.images)
    if args.json:
        machine = {"machine": platform.machine(), "processor": processor(), "threads": args.threads}
        report = {"machine": machine, "versions": versions(), "rows": rows}
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
