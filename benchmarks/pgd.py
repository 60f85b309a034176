"""How fast is our PGD?  Against the floor (the gradients alone) and against three libraries.

    python benchmarks/pgd.py [--threads 1] [--images 100] [--repeats 9]

The floor of an n-step attack is n forward and backward passes to the input of the bare, frozen
model: no attack of n steps can do less.  Everything runs in turn, in an order that changes with
each repeat, so that a busy machine slows all alike; ratios are taken within a repeat, and their
medians are printed.
"""

import argparse
import copy
import platform
import random
import statistics
import sys
import time
import types
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import data, networks
from helpers.attacks import ATTACKS
from helpers.attacks.advertorch import library
from helpers.pipeline import load_target


def floor(model, x, y, steps):
    for _ in range(steps):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)


def our_pgd(model, x, y, steps, eps, step_size):
    ATTACKS["pgd"](model, x, y, eps=eps, steps=steps, step_size=step_size)


def advertorch_pgd(model, x, y, steps, eps, step_size):
    library().LinfPGDAttack(model, eps=eps, nb_iter=steps, eps_iter=step_size).perturb(x, y)


def foolbox_pgd(model, x, y, steps, eps, step_size):
    import foolbox

    attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=step_size)
    attack(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)


def adv_lib_pgd(model, x, y, steps, eps, step_size):
    # Its attacks import visdom, for plots nobody asks for here; an empty module will do.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import pgd_linf

    pgd_linf(model, x, y, eps, steps=steps, absolute_step_size=step_size)


LIBRARIES = {"advertorch": advertorch_pgd, "foolbox": foolbox_pgd, "adv-lib": adv_lib_pgd}


def contestants(network, x, y, steps, eps, step_size):
    """Name -> a function without arguments.  The libraries get what their users have: parameters
    that require gradients, in the default memory format."""
    frozen = copy.deepcopy(network).requires_grad_(False)
    plain_frozen = copy.deepcopy(frozen).to(memory_format=torch.contiguous_format)
    plain = copy.deepcopy(plain_frozen).requires_grad_(True)
    x_last = x.contiguous(memory_format=torch.channels_last)
    settings = dict(steps=steps, eps=eps, step_size=step_size)
    runs = {
        "floor, channels_last": lambda: floor(frozen, x_last, y, steps),
        "floor, contiguous": lambda: floor(plain_frozen, x, y, steps),
        "ours": lambda: our_pgd(network, x, y, **settings),
    }
    for name, attack in LIBRARIES.items():
        def run(attack=attack):
            plain.zero_grad(set_to_none=True)
            attack(plain, x, y, **settings)

        runs[name] = run
    return runs


def measure(runs, repeats):
    """Seconds of each run in each repeat, after one that does not count."""
    for name in list(runs):
        try:
            runs[name]()
        except ImportError as error:
            print(f"{name} skipped: {error}")
            del runs[name]
    seconds = {name: [] for name in runs}
    for repeat in range(repeats):
        order = list(runs)
        random.Random(repeat).shuffle(order)
        for name in order:
            started = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def report(title, seconds):
    print(f"\n{title}\n")
    print(f"| {'method':21} | seconds | to floor, channels_last | to floor, contiguous |")
    print(f"|{'-' * 23}|--------:|------------------------:|---------------------:|")
    for name, own in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(own, seconds[f"floor, {form}"], strict=True))
            for form in ("channels_last", "contiguous")
        ]
        print(f"| {name:21} | {statistics.median(own):7.3f} | {ratios[0]:23.2f} | {ratios[1]:20.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--images", type=int, default=100, help="images for LeNet-5; ResNet-18 gets a 25th of them")
    parser.add_argument("--repeats", type=int, default=9, help="how often each method is timed")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    library()  # advertorch, made importable

    print(f"{platform.machine()}, {args.threads} thread(s), Python {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("torch", "advertorch", "foolbox", "adv-lib") if _installed(name)))
    x, y = data.load("mnist", "test", n=args.images)
    runs = contestants(load_target("lenet5_clean").cpu(), x, y, steps=40, eps=0.3, step_size=0.01)
    report(f"LeNet-5, {args.images} images of 1×28×28, PGD-40", measure(runs, args.repeats))

    n = max(1, args.images // 25)
    x, y = data.load("cifar10", "test", n=n)
    runs = contestants(networks.build("resnet18").eval(), x, y, steps=10, eps=8 / 255, step_size=2 / 255)
    report(f"ResNet-18, {n} images of 3×32×32, PGD-10", measure(runs, args.repeats))


def _installed(name):
    try:
        return version(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
