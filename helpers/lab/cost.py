"""How long making an artifact should take on one H100, or on one core: passes × images × FLOPs, or kernels.

From settings, without torch, good to a factor of two or three.  No attack is taken to end early, but
AutoAttack's later parts get the images that are left; that it may run on a faster copy is not counted.
"""

import ast
import re
from collections.abc import Callable
from math import ceil, prod
from typing import Any, NamedTuple

from helpers import source
from helpers.lab.recipes import Recipe

# FLOP/s that an H100 sustains in bf16, and the share that networks reach of it, layer by layer in PyTorch;
# float32 runs as TF32, half as fast.
BF16, EFFICIENCY = 200e12, 0.5

# Seconds in which the kernels of a forward pass start: of any pass, and of each layer with what follows it.
PASS, LAYER = 0.5e-3, 0.05e-3

BOTH = 3  # forward and backward, in forward passes
CHUNK, MEMORY = 500, 20e3  # images that are attacked at a time, fewer where they take more MB (make.py)
ARTIFACT = 2  # seconds to load and save one
PROJECTION = 1.5e-6  # seconds a number and step, in which a core projects onto the Wasserstein ball (FWA)

# Share of the images that AutoAttack's first part leaves: of targets as they are, whatever is before them,
# and of those trained adversarially, which have these names.
STANDING, ROBUST = 0.05, 0.45
HARDENED = re.compile(r"_(adv|at|trades|mma|mart)$|robust_training\.(?!Classifier)")

# data set -> side, numbers and classes of its images, and how many there are
FACTS = ("side", "numbers", "classes", "train", "test")
DATASETS = {
    **dict.fromkeys(("mnist", "fashion_mnist"), (28, 784, 10, 60_000, 10_000)),
    "cifar10": (32, 3072, 10, 50_000, 10_000),
    "svhn": (32, 3072, 10, 73_257, 26_032),
    "lisa": (32, 3072, 16, 3509, 1148),
}


class Net(NamedTuple):
    """A forward pass: 10⁹ FLOPs an image, layers, MB kept for gradients, how often (EOT), a core's speed.

    core: 10⁹ FLOP/s that one core of a CPU reaches in it, measured; bf16 or not.
    """

    gflops: float
    layers: int
    kept: float
    times: float = 1
    core: float = 60


# At full width; ARN's networks and HGD's are a quarter dearer on CIFAR-10 than here.
CODE = Net(0.44, 10, 1.3)
PURIFIER, VIT = Net(4.4, 47, 29, core=100), Net(3.1, 42, 24, core=200)
NETWORKS = {"lenet5": Net(0.009, 4, 0.26), "fashion_cnn": Net(0.015, 4, 0.3), "svhn_cnn": Net(0.023, 5, 0.65)}
NETWORKS |= {"lisa_cnn": Net(0.031, 4, 0.1), "resnet18": Net(1.11, 21, 4.7), "resnet110": Net(0.51, 110, 8.4)}
NETWORKS |= {
    "vgg19": Net(0.80, 17, 2.8),
    "wrn28_20": Net(42, 29, 37),
    "ApeGan": Net(0.03, 4, 0.38),
    "HGD": Net(1.25, 26, 4.7),
}
NETWORKS |= {"ARN": CODE, "ReleasedARN": CODE, "ADD": CODE, "JATP": PURIFIER, "NRP": PURIFIER}
NETWORKS |= {"DIR": VIT, "DIRPretraining": VIT}
# Where they are narrow, a core reaches about the square root of the width of its speed.
BLOCKWISE = ("JATP", "NRP", "DIR", "DIRPretraining")

# settings of an attack, and FACTS -> forward passes over its images, BOTH for one with gradient
ATTACKS: dict[str, Callable[[dict], float]] = {
    **dict.fromkeys(("cw", "sta"), lambda s: BOTH * s["steps"] * s["search_steps"]),
    "vni_fgsm": lambda s: BOTH * s["steps"] * (1 + s["samples"]),
    "jsma": lambda s: BOTH * s["gamma"] * s["numbers"] / 2 * s["classes"],  # two numbers a step
    "fab": lambda s: BOTH * 2 * s["steps"] * s["restarts"] * 9,
    "square": lambda s: s["queries"] * s["restarts"],
    "ba": lambda s: 2 * s["steps"],
    **dict.fromkeys(("lsa", "lsa_own"), lambda s: s["rounds"] * s["candidates"]),
    "roa": lambda s: BOTH * s["steps"] + (s["candidates"] if s["search"] == "gradient" else _places(s)),
    "ensemble": lambda s: (
        BOTH * s["steps"] * (1 + s["standing"] * s["classes"]) + s["standing"] * s["queries"]
    ),
    # APGD's 100 steps, then APGD and (twice) FAB for nine classes and Square; or APGD twice, over 20 draws
    "aa": lambda s: (
        BOTH * 4000 if s["version"] == "rand" else BOTH * 100 + s["standing"] * (BOTH * 2700 + 5000)
    ),
}

# settings, passes of the attack in a step, domains -> passes through a denoiser, and through its target
DENOISERS: dict[str, Callable[[dict, float, int], tuple[float, float]]] = {
    # The discriminator is as large; a deeper one has the discriminator of ADD, which is small.
    "ApeGan": lambda s, attack, d: (attack + (1 if s["deep"] else 2) * BOTH * d, attack),
    "HGD": lambda s, attack, d: (attack + BOTH * d, attack + BOTH * d + 1),
    "JATP": lambda s, attack, d: (attack + BOTH, attack + BOTH + 1),
    "NRP": lambda s, attack, d: (attack * bool(s["full"]) + BOTH * d, attack + (BOTH + 1) * d),
    "DIR": lambda s, attack, d: (attack + BOTH, 2 * attack + 2 * BOTH),  # δ, too, takes so many steps
}


def seconds(recipe: Recipe, gpu: bool = True) -> float:
    """What making an artifact takes, without those that it is made from: on an H100, else on one core."""
    made = recipe.made
    count = made["images"]["n"] or _facts(made)[made["images"]["split"]]
    if "attack" in made:
        standing = {"standing": ROBUST if _hardened(made["victim"]) else STANDING}
        many = passes(made["attack"], made["settings"] | _facts(made) | standing)
        nets = networks(made["victim"])
        work, epochs, count = [(many, net) for net in nets], 1, min(made["n"] or count, count)
        size = max(1, min(CHUNK, int(MEMORY / sum(net.kept * net.times for net in nets))))
    else:
        work, epochs, size = _update(made), made["epochs"], made["batch_size"]
    if not gpu:
        an_image = sum(many * net.times * net.gflops / net.core for many, net in work)
        if made.get("attack") == "fwa":
            an_image += PROJECTION * made["settings"]["steps"] * _facts(made)["numbers"]
        return ARTIFACT + epochs * count * an_image
    speed = BF16 * EFFICIENCY / 1e9 / (1 if made.get("precision") == "bf16" else 2)
    whole, rest = divmod(count, size)
    return ARTIFACT + epochs * (whole * _time(work, size, speed) + bool(rest) * _time(work, rest, speed))


def passes(attack: str, settings: dict[str, Any]) -> float:
    """In how many forward passes over its images an attack is done.

    settings: with the data set's FACTS, and as `standing` the share that AutoAttack's first part leaves.
    """
    if attack in ATTACKS:
        return ATTACKS[attack]({"standing": STANDING} | settings)
    return BOTH * settings.get("steps", 1) * settings.get("restarts", 1) * settings.get("samples", 1)


def networks(made: dict[str, Any]) -> list[Net]:
    """What a forward pass of something goes through, from its recipe's `made`."""
    if "ready_made" in made:
        zoo = ast.literal_eval(source.find("helpers.networks.zoo", "ZOO").node.value)
        _, name, width, _ = zoo.get(made["ready_made"], (None, "lenet5", 1, 1))
        return [_scaled(name, width)]
    if "denoiser" in made:
        return networks(made["denoiser"]) + networks(made["target"])
    if "part" in made:
        of, settings = made["of"], made["of"]["settings"]
        if made["part"] == "target" and "network" not in settings:  # trained along with a denoiser
            return networks(of["target"])
        return [_own(of)._replace(times=settings.get("samples", 1))]  # of a smoothed classifier
    times = made["samples"] if made["threat"] == "eot" else 1
    return [net._replace(times=net.times * times) for net in networks(made["of"])]


def _hardened(made):
    """Whether a target trained adversarially is in it."""
    if isinstance(made, dict):
        return any(map(_hardened, made.values()))
    return isinstance(made, str) and bool(HARDENED.search(made))


def _update(made):
    """What an update of a method goes through: (forward passes, Net)."""
    settings, method = made["settings"], made["method"].rpartition(".")[2]
    inner = next(iter(made["inner"].values()), {"attack": "pgd", "settings": settings})
    attacks = made["inner"] or method in ("JATP", "DIR", "Mma") or settings.get("self_supervised")
    attack = passes(inner["attack"], inner["settings"] | _facts(made)) if attacks else 0
    if "network" in settings:
        many = settings.get("search_steps", 0) + attack + (2 * BOTH if attack else BOTH)
        return [(many, net) for net in [_own(made), *(networks(made["behind"]) if "behind" in made else [])]]
    count = DENOISERS.get(method, lambda s, attack, d: (BOTH * d, 0))
    alone, guided = count(settings, attack, len(made.get("seen", ())) + 1)
    return [(alone, _own(made)), *((guided, net) for net in (networks(made["target"]) if guided else []))]


def _time(work, size, speed):
    """Seconds of one batch: products, or starting their kernels, whichever takes longer."""
    return sum(n * net.times * max(size * net.gflops / speed, PASS + LAYER * net.layers) for n, net in work)


def _facts(made):
    return dict(zip(FACTS, DATASETS[made["images"]["name"]], strict=True))


def _own(made):
    method, settings = made["method"].rpartition(".")[2], made["settings"]
    if settings.get("deep"):  # an APE-GAN with the networks of ADD
        method = "ADD"
    name, width = settings.get("network", method), settings.get("width", 1)
    net, share = _scaled(name, width), _depth(settings)
    if name in BLOCKWISE:
        net = net._replace(core=net.core * width**0.5)
    return net._replace(gflops=net.gflops * share, kept=net.kept * share)


def _scaled(name, width):
    net = NETWORKS[name]
    return net._replace(gflops=net.gflops * width**2, kept=net.kept * width)


def _depth(settings):
    """The work of a denoiser that has a setting for its blocks, as a share of that in NETWORKS.

    There JATP and NRP have 3 blocks; DIR has 8 in its encoder, 2 in its decoder, and patches of 2 pixels.
    """
    if "blocks" in settings:
        return settings["blocks"] / 3
    if "patch" not in settings:
        return 1
    # Two masks: together they show the encoder every place once, and the decoder works on all for each.
    blocks = settings["encoder"] + 2 * settings["decoder"]
    return blocks / 12 * (2 / settings["patch"]) ** 2


def _places(settings):
    """How many rectangles the exhaustive search tries."""
    return prod(ceil((settings["side"] - settings[n]) / settings["stride"]) + 1 for n in ("width", "height"))
