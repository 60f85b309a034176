"""Make or load: every expensive thing of an experiment as one call, in dependency order.

    targets  →  adversarial sets  →  denoisers  →  adversarial sets against whole pipelines

Each is an artifact keyed by all its settings, those of what it was made from included, so
a notebook can ask for anything in any order, and nothing is made twice.
"""

import inspect
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from helpers import ROOT, data, defenses, device, networks, seeded, threats
from helpers.attacks import stickers
from helpers.lab import artifacts, profiles
from helpers.attacks import ATTACKS, draws, random_targets
from helpers.training import fit

# Attacks run on this many images at a time, EOT on fewer: it keeps the graphs of all its passes in memory.
CHUNK, PASSES = 500, 2000

# Weights that ship inside the advertorch package.
ADVERTORCH_WEIGHTS = {
    "lenet5_clean": "mnist_lenet5_clntrained.pt",
    "lenet5_adv": "mnist_lenet5_advtrained.pt",
}

# ... and those in data/zoo, with their network.
ZOO = {
    "fashion_cnn_nat": ("fashion_mnist_cnn_nat.safetensors", {"name": "fashion_cnn", "in_channels": 1}),
    "resnet18_quarter_nat": ("cifar10_resnet18_quarter_nat.safetensors", {"name": "resnet18", "width": 0.25}),
    "resnet18_quarter_adv": ("cifar10_resnet18_quarter_adv.safetensors", {"name": "resnet18", "width": 0.25}),
    "wrn28_1_nat": ("cifar10_wrn28_1_nat.safetensors", {"name": "wrn28_20", "width": 0.05}),
    "vgg19_eighth_nat": ("cifar10_vgg19_eighth_nat.safetensors", {"name": "vgg19", "width": 0.125}),
    # trained adversarially, each by another strategy
    **{
        f"resnet18_eighth_{strategy}": (
            f"cifar10_resnet18_eighth_{strategy}.safetensors", {"name": "resnet18", "width": 0.125}
        )
        for strategy in ("at", "trades", "mart", "mma")
    },
}  # fmt: skip

# Methods that are told how many attacks they will see.
COUNTS_ATTACKS = ("arn", "arn_released", "add")

# Ending of a defense whose target is trained again behind its denoiser.
RETRAINED = "_re"


@dataclass(frozen=True)
class Experiment:
    """One paper's experiments on one data set, under one profile and seed.

    profile: "quick", "standard" or "paper".  dataset: one the profile has for the paper.  seed: seeds the
    training and every attack.  paper: "arn", "add", "jatp" or "dir".  ValueError for names that do not exist,
    with the choices.

    Names of attacks and methods are those of the profile's YAML.  A *defense* is written
    `method_seen`, e.g. `arn_pp`, with "none" for the bare target and the method alone where it sees no attack but
    its own (`jatp`), or is another target, such as adversarial training.  `method_seen_re`: the target is trained again, on what
    the denoiser makes of natural images (ADD-re; ADD, Section 4.2).
    """

    profile: str = "quick"
    dataset: str = "mnist"
    seed: int = 0
    paper: str = "arn"
    spec: profiles.DatasetSpec = field(init=False, repr=False, compare=False)
    _profile: profiles.Profile = field(init=False, repr=False, compare=False)  # read once: it is long

    def __post_init__(self):
        object.__setattr__(self, "_profile", profiles.load(self.profile))
        datasets = _choose(self._profile.papers, self.paper, f"paper of profile {self.profile}")
        spec = _choose(datasets, self.dataset, f"data set of profile {self.profile} for paper {self.paper}")
        object.__setattr__(self, "spec", spec)

    # Data ------------------------------------------------------------------------------------

    def images(self, split="test", n=None):
        """Natural images (N,C,H,W) in [0,1] and labels (N,) on the device; the first n of the profile's."""
        limit = self.spec.train if split == "train" else self.spec.test
        x, y = self._split(split, limit)
        return x[:n], y[:n]

    @cached_property
    def _cache(self):
        return {}

    def _split(self, split, limit):
        if split not in self._cache:
            source = self._source
            x, y = data.load(self.dataset, split, n=limit if source == "sample" else None, source=source)
            if source == "full":
                # The official order is not random (MNIST's first 5000 test digits are harder), so that
                # attacks run on the first images only would judge by another population.
                order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:limit]
                x, y = x[order], y[order]
            self._cache[split] = x.to(device()), y.to(device())
        return self._cache[split]

    @property
    def _source(self):
        return self.spec.source or self._profile.source

    # Networks --------------------------------------------------------------------------------

    def target(self, name=None):
        """An undefended classifier, in eval mode and frozen; by default the one that denoisers are trained with.

        name: another one, of the profile's `targets` or `methods`.  A method that trains a target along with its
            denoiser stands for that target.
        """
        name = self._target_name(name)
        if name not in self.spec.methods:
            return load_target(name)
        method = self._trained_method(name, {})
        if self.spec.methods[name].data == "labels":
            return method.deployed
        if getattr(method, "joint_target", None) is None:
            raise ValueError(f"{name!r} trains no target, only a denoiser: leave the name out for the target it guards")
        return method.joint_target

    def _own_target(self, defense):
        """Name of the target that the denoiser of `defense` is trained with; None for the data set's."""
        if defense == "none" or defense in self.spec.robust_targets:
            return None
        return self._method(defense)[0].target

    def _target_name(self, name):
        return self.spec.targets.get(name or self.spec.target, name or self.spec.target)

    def denoiser(self, defense, **changes):
        """The trained denoiser of `defense` (such as "arn_pp"), in eval mode and frozen.

        changes: settings of the method to be changed, e.g. `without=["nor"]` for an ablation.
        Defenses that are another target, "none" among them, leave images alone.
        """
        defense = defense.removesuffix(RETRAINED)
        if defense == "none" or defense in self.spec.robust_targets:
            return nn.Identity()
        method = self._trained_method(defense, changes)
        # A classifier may be trained behind a denoiser of its own (ME-Net).
        return getattr(method, "denoiser", nn.Identity()) if self._method(defense)[0].data == "labels" else method

    def defended(self, defense, target=None, **changes):
        """The whole pipeline of `defense`, target ∘ denoiser, on the device.

        target: another one than the denoiser was trained with, as in `target`; ValueError for a defense that is
            a target itself.
        """
        own = defense in self.spec.robust_targets or defense.endswith(RETRAINED)
        if target and (own or defense != "none" and self._method(defense)[0].data == "labels"):
            raise ValueError(f"{defense!r} is a target of its own and cannot be put before {target!r}: leave `target` out")
        if defense in self.spec.robust_targets:
            target = self.target(self.spec.robust_targets[defense])
        elif defense.endswith(RETRAINED):
            target = self._trained_method(defense, changes)
        elif defense != "none" and self._method(defense)[0].data == "labels":
            target = self._trained_method(defense, changes).deployed
        else:
            target = self.target(target or self._own_target(defense))
        return defenses.Defended(target, self.denoiser(defense, **changes)).eval()

    def history(self, defense, **changes):
        """Training history of `defense`: a list of dicts, mean losses per epoch."""
        return self._trained(defense, changes).info["history"]

    def _trained_method(self, defense, changes):
        method = self._new_method(defense, changes)
        method.load_state_dict(self._trained(defense, changes).tensors)
        return _finished(method)

    def _trained(self, defense, changes):
        settings = self.defense_settings(defense, **changes)

        def build(checkpoint):
            method = self._new_method(defense, changes)
            history = fit(
                method, self._training_data(defense, changes), epochs=settings["epochs"], batch_size=settings["batch_size"],
                seed=self.seed, checkpoint=checkpoint, precision=settings["precision"],
            )  # fmt: skip
            return method.state_dict(), {"history": history}

        return artifacts.make(f"{self.dataset}-{defense}", settings, build)

    def _new_method(self, defense, changes):
        spec, seen = self._method(defense)
        settings = spec.settings | (changes if not defense.endswith(RETRAINED) else {})
        if spec.method in defenses.GUIDED or spec.full:
            settings = settings | {"target": self.target(spec.target)}
        if spec.full:
            settings = settings | {"full": spec.full}
        if spec.method in COUNTS_ATTACKS:
            settings = settings | {"seen": len(seen)}
        with seeded(self.seed):
            method = defenses.build(spec.method, **settings)
        if spec.start:
            target = self.target(None if spec.start == "target" else spec.start)
            method.network.load_state_dict(getattr(target, "network", target).state_dict())
        if spec.pretrained:
            pretrained = self._trained_method(spec.pretrained, self._of_the_denoiser(spec, changes))
            method.denoiser.load_state_dict(pretrained.denoiser.state_dict())
        return method

    def _of_the_denoiser(self, spec, changes):
        """The settings that a method hands on to its denoiser, which its pre-training has to share."""
        own = inspect.signature(defenses.DEFENSES[spec.method]).parameters
        return {name: value for name, value in (spec.settings | changes).items() if name not in own}

    def _training_data(self, defense, changes):
        spec, seen = self._method(defense)
        x, y = self.images("train")
        if defense.endswith(RETRAINED):
            denoiser = self.denoiser(defense, **changes)
            with torch.no_grad():
                x = torch.cat([denoiser(part) for part in x.split(CHUNK)])
        if spec.data != "pairs":
            return {"natural": x, "label": y, "index": torch.arange(len(x), device=x.device)}
        seen_examples = [self.adversarial(a, "train", target=spec.target) for a in seen]
        batch = {"natural": x, "label": y, "adversarial": torch.stack(seen_examples, 1)}
        if spec.wanted:
            batch["wanted"] = self.adversarial(spec.wanted, "train")
        return batch

    # Adversarial sets --------------------------------------------------------------------------

    def adversarial(self, attack, split="test", threat="oblivious", defense="none", target=None, method=None, **changes):
        """Adversarial images for the first images of `split`, in the order of `images`.

        attack: a name in the profile, such as "pgd".
        threat: what the attacker attacks.  "oblivious": the bare target; "white_box", "bpda" and the others of
            `helpers.threats.by_name`: the pipeline of `defense`; a gray-box attack is a white-box one on a substitute's.
        target: another one than the denoiser was trained with, as in `target`.
        method: settings of the defense's method to be changed, as in `denoiser`, e.g. `{"without": ["nor"]}`.
        changes: settings of the attack to be changed, e.g. `eps=0.4`.
        Targeted attacks aim at `targets()`.  -> (n,C,H,W) on the device; n is the attack's `test`
        in the profile, else the profile's `test` (oblivious) or `adaptive_test`.
        """
        settings = self.adversarial_settings(attack, split, threat, defense, target, method, **changes)

        def build(checkpoint):
            victim = self._victim(threat, defense, target, method)
            x, y = self.images(split, settings["n"])
            y = self.targets(split)[: len(x)] if settings["targeted"] else y
            more = dict(settings["settings"])
            if draws(settings["attack"]):
                more["seed"] = self.seed
            if "mask" in more:  # by its name, so that it can be part of the key
                more["mask"] = stickers.mask(more["mask"], size=x.shape[-1])
            chunk = min(CHUNK, max(1, PASSES // getattr(victim, "samples", 1)))
            parts = [
                ATTACKS[settings["attack"]](victim, xs, ys, targeted=settings["targeted"], **more)
                for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True)
            ]
            return {"images": torch.cat(parts)}, {}

        kind = self._adversarial_kind(attack, split, threat, defense)
        return artifacts.make(kind, settings, build).tensors["images"].to(device())

    def targets(self, split="test"):
        """Target labels of the targeted attacks, never the true one; (N,) on the device."""
        return random_targets(self.images(split)[1], len(data.DATASETS[self.dataset].classes), self.seed)

    def _victim(self, threat, defense, target, method):
        if threat == "oblivious":
            return threats.oblivious(self.defended("none", target))
        return threats.by_name(threat, self.defended(defense, target, **(method or {})))

    # Settings: what the artifacts are keyed by, and where they lie -------------------------------

    def adversarial_path(self, attack, split="test", threat="oblivious", defense="none", target=None, **changes):
        """File of the artifact that `adversarial` makes or loads."""
        settings = self.adversarial_settings(attack, split, threat, defense, target, **changes)
        return artifacts.path(self._adversarial_kind(attack, split, threat, defense), settings)

    def defense_path(self, defense, **changes):
        """File of the artifact that `denoiser` or `defended` makes or loads."""
        return artifacts.path(f"{self.dataset}-{defense}", self.defense_settings(defense, **changes))

    def _adversarial_kind(self, attack, split, threat, defense):
        return f"{self.dataset}-{attack}-{split}" + ("" if threat == "oblivious" else f"-{threat}-{defense}")

    def defense_settings(self, defense, **changes):
        """Everything that determines a defense; a name alone where nothing is trained."""
        if defense == "none" or defense in self.spec.robust_targets:
            return {"target": self._target_settings(self.spec.robust_targets.get(defense))}
        spec, seen = self._method(defense)
        settings = {
            "images": self._data_settings("train"),
            "seed": self.seed,
            "precision": self._profile.precision,
            "target": None if spec.data == "labels" else self._target_settings(spec.target),
            "seen": [self.adversarial_settings(a, "train", target=spec.target) for a in seen],
            **spec.model_dump(exclude_none=True, exclude={"target"}),
            "settings": spec.settings | changes,
        }
        if spec.start:
            settings["target"] = self._target_settings(None if spec.start == "target" else spec.start)
        if spec.pretrained:
            settings["pretrained"] = self.defense_settings(spec.pretrained, **self._of_the_denoiser(spec, changes))
        if spec.wanted:
            settings["wanted"] = self.adversarial_settings(spec.wanted, "train")
        if defense.endswith(RETRAINED):
            settings["restored_by"] = self.defense_settings(defense.removesuffix(RETRAINED), **changes)
        return settings

    def _target_settings(self, name=None):
        name = self._target_name(name)
        return self.defense_settings(name) if name in self.spec.methods else name

    def adversarial_settings(
        self, attack, split="test", threat="oblivious", defense="none", target=None, method=None, **changes
    ):
        """Everything that determines an adversarial set."""
        spec = _choose(self.spec.attacks, attack, f"attack of profile {self.profile}")
        n = None
        if split == "test":
            n = spec.test or (self.spec.test if threat == "oblivious" else self.spec.adaptive_test)
        victim = {"target": self._target_settings(target or (None if threat == "oblivious" else self._own_target(defense)))}
        if "mask" in spec.settings:
            victim |= {"stickers": stickers.origin(data.DATASETS[self.dataset].shape[-1])}
        if threat != "oblivious":
            victim |= {"threat": threat, "defense": self.defense_settings(defense, **(method or {}))}
        return {
            "data": self._data_settings(split), "n": n, "seed": self.seed, "victim": victim,
            "attack": spec.attack, "targeted": spec.targeted, "settings": spec.settings | changes,
        }  # fmt: skip

    def _data_settings(self, split):
        limit = self.spec.train if split == "train" else self.spec.test
        return {"name": self.dataset, "split": split, "n": limit, "source": self._source}

    def seen(self, defense):
        """Names of the attacks that `defense` is trained on; none for another target."""
        return self._method(defense.removesuffix(RETRAINED))[1]

    def _method(self, defense):
        """The MethodSpec of `defense` and its seen attacks; for a retrained target that of its training."""
        if defense.endswith(RETRAINED):
            return _choose(self.spec.methods, "retrained", f"method of profile {self.profile}"), ()
        if defense in self.spec.methods:
            spec = self.spec.methods[defense]
            if spec.data != "pairs":
                return spec, ()
        name, _, seen = defense.rpartition("_")
        spec = _choose(self.spec.methods, name, f"method of profile {self.profile} in defense {defense!r}")
        return spec, _choose(self.spec.seen, seen, f"set of seen attacks in defense {defense!r}")


def load_target(name):
    """A ready-made classifier, frozen, on the device.

    "lenet5_clean" and "lenet5_adv", for MNIST, come with the advertorch package: trained on clean
    images and by PGD adversarial training.  They are loaded with `weights_only`, so that no code in
    the file can run.  Those of `ZOO`, for Fashion-MNIST and CIFAR-10, are from `data/zoo`.
    """
    if name in ZOO:
        file, network = ZOO[name]
        network = networks.build(**network)
        network.load_state_dict(load_file(ROOT / "data" / "zoo" / file))
        return _finished(network)
    import advertorch_examples

    file = _choose(ADVERTORCH_WEIGHTS | ZOO, name, "target")
    folder = Path(advertorch_examples.__file__).parent / "trained_models"
    network = networks.build("lenet5", in_channels=1)
    network.load_state_dict(torch.load(folder / file, map_location="cpu", weights_only=True))
    return _finished(network)


def _finished(network):
    return network.to(device()).eval().requires_grad_(False)


def _choose(options, name, what):
    if name not in options:
        raise ValueError(f"unknown {what}: {name!r}; choose one of {', '.join(options)}")
    return options[name]


def _main():
    """Make one artifact from the command line, for the Snakefile and for clusters."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m helpers.lab", description=_main.__doc__)
    parser.add_argument("kind", choices=("adversarial", "defense"))
    parser.add_argument("name", help="attack (pgd ...) or defense (arn_pp ...) of the profile")
    parser.add_argument("--split", default="test", choices=data.SPLITS)
    parser.add_argument("--threat", default="oblivious", help="oblivious, white_box, bpda ...: see helpers.threats.by_name")
    parser.add_argument("--defense", default="none", help="whose pipeline is attacked")
    parser.add_argument("--profile", default="quick", choices=profiles.NAMES)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paper", default="arn")
    args = parser.parse_args()
    lab = Experiment(args.profile, args.dataset, args.seed, args.paper)
    if args.kind == "defense":
        lab.defended(args.name)
    else:
        lab.adversarial(args.name, args.split, args.threat, args.defense)


if __name__ == "__main__":
    _main()
