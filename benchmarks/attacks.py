"""How fast are our attacks, and how fast do we measure a robust accuracy?

    python benchmarks/attacks.py [--threads 1] [--images 100] [--aa-images 10] [--repeats 5]
                                 [--only attacks evaluation autoattack] [--compile] [--json OUT]

Attacks: against the floor, the forward and backward passes that the attack needs on the bare, frozen
model, and against libraries.  Evaluation: PGD-40 and AutoAttack with each ingredient of
`helpers.measure.fast`, alone and one after another, beside the libraries; with the robust accuracy that
each finds, judged by the untouched model in fp32.

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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from helpers import data, networks
from helpers.measure import fast
from helpers.attacks import ATTACKS
from helpers.attacks.advertorch import library
from helpers.measure.rates import error_rate
from helpers.networks.zoo import load_target

EPS = 8 / 255
WEIGHTS = ROOT / "data" / "zoo" / "cifar10_resnet18_quarter_adv.safetensors"


def robust_resnet():
    """An adversarially trained ResNet-18 of a quarter of the width; data/zoo/make.py makes it."""
    net = networks.build("resnet18", width=0.25)
    net.load_state_dict(load_file(WEIGHTS))  # copies float16 into float32
    return net.eval()


def floor(model, x, y, passes):
    for _ in range(passes):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)


def adv_lib():
    # Its attacks import visdom, for plots nobody asks for here; an empty module will do.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    import adv_lib.attacks

    return adv_lib.attacks


def foolbox(attack, model, x, y, **settings):
    from foolbox import PyTorchModel, attacks

    return getattr(attacks, attack[0])(**attack[1])(PyTorchModel(model, (0, 1), device=x.device), x, y, **settings)[1]


def methods(eps, step, cw_steps, ddn_steps):
    """Attack -> (passes it needs, {who: (model, x, y) -> x_adv})."""
    pgd = dict(eps=eps, steps=40, step_size=step)
    return {
        "FGSM": (1, {
            "ours": lambda m, x, y: ATTACKS["fgsm"](m, x, y, eps=eps),
            "advertorch": lambda m, x, y: library().GradientSignAttack(m, eps=eps).perturb(x, y),
            "foolbox": lambda m, x, y: foolbox(("LinfFastGradientAttack", {}), m, x, y, epsilons=eps),
        }),
        "PGD-40": (40, {
            "ours": lambda m, x, y: ATTACKS["pgd"](m, x, y, **pgd),
            "advertorch": lambda m, x, y: library().LinfPGDAttack(m, eps=eps, nb_iter=40, eps_iter=step).perturb(x, y),
            "foolbox": lambda m, x, y: foolbox(("LinfPGD", dict(steps=40, abs_stepsize=step)), m, x, y, epsilons=eps),
            "adv-lib": lambda m, x, y: adv_lib().pgd_linf(m, x, y, eps, steps=40, absolute_step_size=step),
        }),
        "PGD-40 (DLR)": (40, {
            "ours": lambda m, x, y: ATTACKS["pgd"](m, x, y, loss="dlr", **pgd),
            "adv-lib": lambda m, x, y: adv_lib().pgd_linf(m, x, y, eps, steps=40, absolute_step_size=step, loss_function="dlr"),
        }),
        f"CW 2×{cw_steps}": (2 * cw_steps, {
            "ours": lambda m, x, y: ATTACKS["cw"](m, x, y, steps=cw_steps, search_steps=2),
            "advertorch": lambda m, x, y: library().CarliniWagnerL2Attack(
                m, 10, confidence=1.0, max_iterations=cw_steps, binary_search_steps=2, learning_rate=0.01,
                initial_const=1.0, abort_early=False).perturb(x, y),
            "foolbox": lambda m, x, y: foolbox(("L2CarliniWagnerAttack", dict(
                steps=cw_steps, binary_search_steps=2, confidence=1.0, initial_const=1.0, abort_early=False)),
                m, x, y, epsilons=None),
            "adv-lib": lambda m, x, y: adv_lib().carlini_wagner_l2(
                m, x, y, confidence=1.0, max_iterations=cw_steps, binary_search_steps=2, initial_const=1.0, abort_early=False),
        }),
        f"DDN-{ddn_steps}": (ddn_steps, {
            "ours": lambda m, x, y: ATTACKS["ddn"](m, x, y, steps=ddn_steps),
            "advertorch": lambda m, x, y: library().DDNL2Attack(m, nb_iter=ddn_steps).perturb(x, y),
            "foolbox": lambda m, x, y: foolbox(("DDNAttack", dict(steps=ddn_steps)), m, x, y, epsilons=None),
            "adv-lib": lambda m, x, y: adv_lib().ddn(m, x, y, steps=ddn_steps),
        }),
    }  # fmt: skip


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
        runs = {"floor": lambda passes=passes: floor(frozen, x_last, y, passes)}
        for name, function in by.items():
            runs[name] = (lambda f=function: f(network, x, y)) if name == "ours" else library_run(function, network, x, y)
        rows += summary(title, attack, measure(runs, repeats), len(x), against="floor")
    return rows


# The evaluation: every run returns a mask of the broken images ----------------------------------------

PLAIN = dict(fold=False, channels_last=False, bf16=False)


def bench_evaluation(title, network, x, y, repeats, compiled):
    attack = dict(eps=EPS, steps=40, step_size=2 / 255)
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def judged(images):
        return broken_by(network, images, y)

    def ours(drop, **ingredients):
        model = fast.accelerate(contiguous, **ingredients)
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


def bench_autoattack(title, network, x, y, repeats, compiled):
    from pyautoattack import AutoAttack

    users = as_users_have_it(network)

    def original(batch_size):
        attack = AutoAttack(users, eps=EPS, seed=0, version="standard")
        return broken_by(network, attack.run_standard_evaluation(x, y, batch_size=batch_size)[0], y)

    def ours(**ingredients):
        model = fast.accelerate(network, **ingredients)
        return lambda: fast.broken(network, x, y, "aa", eps=EPS, fast=model)

    runs = {
        "original AutoAttack": lambda: original(250),
        "helpers.attacks": lambda: broken_by(network, ATTACKS["aa"](network, x, y, eps=EPS), y),
        "drop + channels_last": ours(fold=False, bf16=False),
        "drop + channels_last + fold": ours(bf16=False),
        "all: drop + channels_last + fold + bf16": ours(bf16=True),
    }
    if compiled:
        runs["all + compile"] = ours(bf16=True, compile=True)
    return summary(title, "AutoAttack", measure(runs, repeats, warm_up=compiled), len(x), against="original AutoAttack")


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
        rows.append({"network": title, "attack": attack, "method": name, "images": n, "seconds": own,
                     "median": statistics.median(own), "ratio": ratio, "against": against, "robust_accuracy": robust})  # fmt: skip
        shown = "" if robust is None else f"{robust:.1f}"
        print(f"| {name:40} | {statistics.median(own):7.2f} | {ratio:5.2f} | {shown:>15} |", flush=True)
    return rows


def versions():
    found = {"python": platform.python_version()}
    for name in ("torch", "advertorch", "foolbox", "adv-lib", "pyautoattack"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--images", type=int, default=100, help="images for LeNet-5 and the evaluation; a tenth for ResNet's attacks")
    parser.add_argument("--aa-images", type=int, default=10, help="images for AutoAttack: minutes each ten")
    parser.add_argument("--repeats", type=int, default=5, help="how often each method is timed; AutoAttack once")
    parser.add_argument("--only", nargs="+", default=["attacks", "evaluation", "autoattack"], help="the parts to run")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--json", type=Path, help="write the rows, the machine and the versions to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"  # bars would run through the tables
    library()  # advertorch, made importable
    print(f"{platform.machine()}, {args.threads} thread(s), {versions()}")

    rows, resnet = [], robust_resnet()
    if "attacks" in args.only:
        x, y = data.load("mnist", "test", n=args.images)
        rows += bench_attacks("LeNet-5", load_target("lenet5_adv").cpu(), x, y, args.repeats,
                              eps=0.3, step=0.01, cw_steps=20, ddn_steps=40)  # fmt: skip
        x, y = data.load("cifar10", "test", n=max(1, args.images // 10))
        rows += bench_attacks("ResNet-18/4", resnet, x, y, args.repeats, eps=EPS, step=2 / 255, cw_steps=20, ddn_steps=40)
    if "evaluation" in args.only:
        x, y = data.load("cifar10", "test", n=args.images)
        rows += bench_evaluation("ResNet-18/4", resnet, x, y, max(1, args.repeats // 2), args.compile)
    if "autoattack" in args.only:
        x, y = data.load("cifar10", "test", n=args.aa_images)
        rows += bench_autoattack("ResNet-18/4", resnet, x, y, 1, args.compile)
    if args.json:
        machine = {"machine": platform.machine(), "processor": _processor(), "threads": args.threads}
        args.json.write_text(json.dumps({"machine": machine, "versions": versions(), "rows": rows}, indent=1, ensure_ascii=False))


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
