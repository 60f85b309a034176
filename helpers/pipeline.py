"""Make or load: every expensive thing of an experiment as one call, in dependency order.

    targets  →  adversarial sets  →  denoisers  →  adversarial sets against whole pipelines

Each is an artifact keyed by all its settings, those of what it was made from included, so
a notebook can ask for anything in any order, and nothing is made twice.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from helpers import artifacts, data, defenses, device, networks, profiles, seeded, threats
from helpers.attacks import ATTACKS, draws, random_targets
from helpers.training import fit

# The seen attacks a denoiser's suffix stands for (ARN, Section 4.2).
SEEN = {"pp": ("pgd_n", "pgd_t"), "dp": ("ddn_n", "pgd_n"), "ps": ("pgd_n", "sta_n")}

# Attacks run on this many images at a time.
CHUNK = 500

# Weights that ship inside the advertorch package.
ADVERTORCH_WEIGHTS = {
    "lenet5_clean": "mnist_lenet5_clntrained.pt",
    "lenet5_adv": "mnist_lenet5_advtrained.pt",
}


@dataclass(frozen=True)
class Experiment:
    """One data set under one profile and seed.

    profile: "quick", "standard" or "paper".  dataset: one the profile has.  seed: seeds the
    training and every attack.  ValueError for names that do not exist, with the choices.

    Names of attacks and methods are those of the profile's YAML.  A *defense* is written
    `method_seen`, e.g. `arn_pp`, with "none" for the bare target and "at_pgd" for adversarial
    training, which has no denoiser.
    """

    profile: str = "quick"
    dataset: str = "mnist"
    seed: int = 0
    spec: profiles.DatasetSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        profile = profiles.load(self.profile)
        spec = _choose(profile.datasets, self.dataset, f"data set of profile {self.profile}")
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
            source = profiles.load(self.profile).source
            x, y = data.load(self.dataset, split, n=limit if source == "sample" else None, source=source)
            if source == "full":
                # The official order is not random (MNIST's first 5000 test digits are harder), so that
                # attacks run on the first images only would judge by another population.
                order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:limit]
                x, y = x[order], y[order]
            self._cache[split] = x.to(device()), y.to(device())
        return self._cache[split]

    # Networks --------------------------------------------------------------------------------

    def target(self):
        """The undefended classifier, in eval mode and frozen."""
        return load_target(self.spec.target)

    def denoiser(self, defense, **changes):
        """The trained denoiser of `defense` (such as "arn_pp"), in eval mode and frozen.

        changes: settings of the method to be changed, e.g. `without=["nor"]` for an ablation.
        Defenses that are another target, "none" among them, leave images alone.
        """
        if defense == "none" or defense in self.spec.robust_targets or self._method(defense)[0].data == "labels":
            return nn.Identity()
        return self._trained_method(defense, changes)

    def defended(self, defense, **changes):
        """The whole pipeline of `defense`, target ∘ denoiser, on the device."""
        if defense in self.spec.robust_targets:
            target = load_target(self.spec.robust_targets[defense])
        elif defense != "none" and self._method(defense)[0].data == "labels":
            target = self._trained_method(defense, changes)
        else:
            target = self.target()
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
                method, self._training_data(defense), epochs=settings["epochs"], batch_size=settings["batch_size"],
                seed=self.seed, checkpoint=checkpoint, precision=settings["precision"],
            )  # fmt: skip
            return method.state_dict(), {"history": history}

        return artifacts.make(f"{self.dataset}-{defense}", settings, build)

    def _new_method(self, defense, changes):
        spec, seen = self._method(defense)
        settings = spec.settings | changes
        if spec.method == "hgd":
            settings = settings | {"target": self.target()}
        if spec.method in ("arn", "arn_released"):
            settings = settings | {"seen": len(seen)}
        with seeded(self.seed):
            return defenses.build(spec.method, **settings)

    def _training_data(self, defense):
        spec, seen = self._method(defense)
        x, y = self.images("train")
        if spec.data == "labels":
            return {"natural": x, "label": y}
        return {"natural": x, "adversarial": torch.stack([self.adversarial(a, "train") for a in seen], 1)}

    # Adversarial sets --------------------------------------------------------------------------

    def adversarial(self, attack, split="test", threat="oblivious", defense="none", **changes):
        """Adversarial images for the first images of `split`, in the order of `images`.

        attack: a name in the profile, such as "pgd_n".
        threat: what the attacker attacks.  "oblivious": the bare target; "white_box" and "bpda":
            the pipeline of `defense`; a gray-box attack is a white-box one on a substitute's.
        changes: settings of the attack to be changed, e.g. `eps=0.4`.
        Targeted attacks aim at `targets()`.  -> (n,C,H,W) on the device; n is the attack's `test`
        in the profile, else the profile's `test` (oblivious) or `adaptive_test`.
        """
        settings = self.adversarial_settings(attack, split, threat, defense, **changes)

        def build(checkpoint):
            victim = self._victim(threat, defense)
            x, y = self.images(split, settings["n"])
            y = self.targets(split)[: len(x)] if settings["targeted"] else y
            seed = {"seed": self.seed} if draws(settings["attack"]) else {}
            parts = [
                ATTACKS[settings["attack"]](victim, xs, ys, targeted=settings["targeted"], **settings["settings"], **seed)
                for xs, ys in zip(x.split(CHUNK), y.split(CHUNK), strict=True)
            ]
            return {"images": torch.cat(parts)}, {}

        kind = self._adversarial_kind(attack, split, threat, defense)
        return artifacts.make(kind, settings, build).tensors["images"].to(device())

    def targets(self, split="test"):
        """Target labels of the targeted attacks, never the true one; (N,) on the device."""
        return random_targets(self.images(split)[1], len(data.DATASETS[self.dataset].classes), self.seed)

    def _victim(self, threat, defense):
        if threat == "oblivious":
            return threats.oblivious(self.defended("none"))
        makers = {"white_box": threats.white_box, "bpda": threats.bpda}
        return _choose(makers, threat, "threat model")(self.defended(defense))

    # Settings: what the artifacts are keyed by, and where they lie -------------------------------

    def adversarial_path(self, attack, split="test", threat="oblivious", defense="none", **changes):
        """File of the artifact that `adversarial` makes or loads."""
        settings = self.adversarial_settings(attack, split, threat, defense, **changes)
        return artifacts.path(self._adversarial_kind(attack, split, threat, defense), settings)

    def defense_path(self, defense, **changes):
        """File of the artifact that `denoiser` or `defended` makes or loads."""
        return artifacts.path(f"{self.dataset}-{defense}", self.defense_settings(defense, **changes))

    def _adversarial_kind(self, attack, split, threat, defense):
        return f"{self.dataset}-{attack}-{split}" + ("" if threat == "oblivious" else f"-{threat}-{defense}")

    def defense_settings(self, defense, **changes):
        """Everything that determines a defense; a name alone where nothing is trained."""
        if defense == "none" or defense in self.spec.robust_targets:
            return {"target": self.spec.robust_targets.get(defense, self.spec.target)}
        spec, seen = self._method(defense)
        return {
            "images": self._data_settings("train"),
            "seed": self.seed,
            "precision": profiles.load(self.profile).precision,
            "target": self.spec.target if spec.data == "pairs" else None,
            "seen": [self.adversarial_settings(a, "train") for a in seen],
            **spec.model_dump(),
            "settings": spec.settings | changes,
        }

    def adversarial_settings(self, attack, split="test", threat="oblivious", defense="none", **changes):
        """Everything that determines an adversarial set."""
        spec = _choose(self.spec.attacks, attack, f"attack of profile {self.profile}")
        n = None
        if split == "test":
            n = spec.test or (self.spec.test if threat == "oblivious" else self.spec.adaptive_test)
        victim = {"target": self.spec.target}
        if threat != "oblivious":
            victim |= {"threat": threat, "defense": self.defense_settings(defense)}
        return {
            "data": self._data_settings(split), "n": n, "seed": self.seed, "victim": victim,
            "attack": spec.attack, "targeted": spec.targeted, "settings": spec.settings | changes,
        }  # fmt: skip

    def _data_settings(self, split):
        limit = self.spec.train if split == "train" else self.spec.test
        return {"name": self.dataset, "split": split, "n": limit, "source": profiles.load(self.profile).source}

    def _method(self, defense):
        if defense in self.spec.methods:
            spec = self.spec.methods[defense]
            if spec.data == "labels":
                return spec, ()
        name, _, pair = defense.rpartition("_")
        spec = _choose(self.spec.methods, name, f"method of profile {self.profile} in defense {defense!r}")
        return spec, _choose(SEEN, pair, f"pair of seen attacks in defense {defense!r}")


def load_target(name):
    """A classifier with its weights, frozen, on the device: "lenet5_clean" or "lenet5_adv" for MNIST.

    Both come with the advertorch package: trained on clean images and by PGD adversarial
    training.  They are loaded with `weights_only`, so that no code in the file can run.
    """
    import advertorch_examples

    file = _choose(ADVERTORCH_WEIGHTS, name, "target")
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

    parser = argparse.ArgumentParser(prog="python -m helpers.pipeline", description=_main.__doc__)
    parser.add_argument("kind", choices=("adversarial", "defense"))
    parser.add_argument("name", help="attack (pgd_n ...) or defense (arn_pp ...) of the profile")
    parser.add_argument("--split", default="test", choices=data.SPLITS)
    parser.add_argument("--threat", default="oblivious", choices=("oblivious", "white_box", "bpda"))
    parser.add_argument("--defense", default="none", help="whose pipeline is attacked")
    parser.add_argument("--profile", default="quick", choices=profiles.NAMES)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lab = Experiment(args.profile, args.dataset, args.seed)
    if args.kind == "defense":
        lab.defended(args.name)
    else:
        lab.adversarial(args.name, args.split, args.threat, args.defense)


if __name__ == "__main__":
    _main()
