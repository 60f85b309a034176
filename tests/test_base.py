"""What defenses share: the frozen target and its copy, full adversarial examples, domains, ablations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import networks
from helpers.defenses.add import ADD
from helpers.defenses.ape_gan import ApeGan
from helpers.defenses.arn import ARN, ReleasedARN
from helpers.defenses.base import Denoiser, ablated, descend, domain_labels, stacked
from helpers.defenses.dir import DIR, DIRPretraining
from helpers.defenses.hgd import HGD
from helpers.defenses.jatp import JATP
from helpers.defenses.nrp import NRP
from helpers.defenses.robust_training import AdversarialTraining, Classifier, Mart, Mma, Trades
from helpers.defenses.stochastic import MeNet, Smoothed
from helpers.threats import made_from
from helpers.training import fit

LAYER = "blocks.1.conv2"
ATTACK = {"attack_settings": {"eps": 0.3, "steps": 2}}
VIT = {"in_channels": 1, "image_size": 28, "patch": 7, "encoder": 1, "decoder": 1}
GUIDED = {"in_channels": 1, "blocks": 1, "layer": "conv2"}
METHODS = {
    ADD: {},
    ARN: {},
    ReleasedARN: {},
    ApeGan: {},
    HGD: {},
    NRP: GUIDED,
    JATP: GUIDED,
    DIRPretraining: VIT,
    DIR: VIT,
    Classifier: {},
    AdversarialTraining: ATTACK,
    Trades: ATTACK,
    Mart: ATTACK,
    Mma: {"steps": 2, "images": 10},
    Smoothed: {},
    MeNet: {},
}


@pytest.fixture
def target():
    """A tiny untrained ResNet-18, with BatchNorm statistics that a pass in train mode would move."""
    return networks.build("resnet18", width=0.05).eval().requires_grad_(False)


@pytest.fixture
def batch():
    return {"natural": torch.rand(6, 3, 16, 16), "label": torch.arange(6)}


# --- every method ---


def small(method, lenet):
    settings = METHODS[method] | ({"target": lenet} if method in (HGD, NRP, JATP, DIR) else {})
    return method(width=0.03, **settings)


def digits(names):
    generator = torch.Generator().manual_seed(3)
    natural = torch.rand(10, 1, 28, 28, generator=generator)
    adversarial = torch.rand(10, 2, 1, 28, 28, generator=generator)
    known = {
        "natural": natural,
        "adversarial": adversarial,
        "label": torch.arange(10),
        "index": torch.arange(10),
    }
    return {name: known[name] for name in names}


@pytest.mark.parametrize("method", METHODS)
def test_one_optimizer_for_each_network_and_every_parameter_in_exactly_one(method, lenet):
    one = small(method, lenet)
    held = [id(p) for o in one.optimizers().values() for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in one.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_what_it_says_it_learns_from_in_bf16_too(method, lenet):
    one = small(method, lenet)
    before = [p.detach().clone() for p in one.parameters()]
    (losses,) = fit(one, digits(one.learns_from), epochs=1, batch_size=5, seed=0, precision="bf16")
    assert all(torch.tensor(loss).isfinite() for loss in losses.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in one.parameters())
    assert any(not torch.equal(p.cpu(), old) for p, old in zip(one.parameters(), before, strict=True))
    assert type(one).revision >= 1


@pytest.mark.parametrize("method", METHODS)
def test_convolutions_are_in_channels_last_format(method, lenet):
    weights = [p for p in small(method, lenet).parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_deployed_is_the_method_before_the_target_or_in_its_place(method, lenet):
    one, x = small(method, lenet).eval(), torch.rand(2, 1, 28, 28)
    deployed = one.defended(lenet)
    if isinstance(one, Denoiser):
        assert deployed.target is lenet and deployed.denoiser is one
    else:
        torch.manual_seed(1)
        expected = one(x)
        torch.manual_seed(1)
        torch.testing.assert_close(deployed.eval()(x), expected)


# --- the target, and its copy that is trained along ---


@pytest.mark.parametrize("method", [JATP, DIR])
def test_a_target_that_was_trained_along_is_deployed_and_is_no_longer_what_it_was(method, target):
    target.recipe = "the lab's"
    one = method(target, joint=True, width=0.06)
    deployed = one.defended(networks.build("resnet18", width=0.05))
    assert deployed.target is one.joint_target and made_from(target) == "the lab's"
    assert made_from(one.joint_target) is None


@pytest.mark.parametrize("method", [ApeGan, HGD, NRP, JATP, DIR])
def test_the_target_is_no_part_of_the_method(method, target):
    one = method(target, width=0.06)
    assert one.target is target and target not in list(one.modules())
    assert set(one.state_dict()) == set(method(width=0.06).state_dict())


# --- full adversarial examples ---


class Mixed(Denoiser):
    """The simplest denoiser: each channel a mixture of all."""

    def __init__(self, target, full):
        super().__init__(target, full)
        self.mixture = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.mixture(x)


def test_full_adversarial_examples_are_the_pipelines_as_it_is_now(target, batch):
    method, x, y = Mixed(target, {"eps": 0.1, "steps": 3}), batch["natural"], batch["label"]
    assert method.learns_from == ("natural", "label")
    torch.manual_seed(0)
    before = method.adversarial(batch)
    method.mixture.weight.data.neg_()
    torch.manual_seed(0)
    after = method.adversarial(batch)
    assert before.shape == (6, 1, 3, 16, 16) and (before[:, 0] - x).abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        loss = [F.cross_entropy(target(method(images)), y) for images in (x, before[:, 0], after[:, 0])]
    assert loss[2] > loss[0] and loss[2] > loss[1]


def test_without_full_the_batchs_own_adversarial_examples_count(target):
    method, adversarial = Mixed(target, None), torch.rand(6, 2, 3, 16, 16)
    assert method.learns_from == ("natural", "adversarial")
    assert method.adversarial({"adversarial": adversarial}) is adversarial


@pytest.mark.parametrize("method", [ApeGan, HGD, NRP])
def test_every_baseline_crops_and_mirrors_an_image_and_its_adversarial_examples_alike(
    target, batch, method, monkeypatch
):
    """JATP, Section 4.1: "all natural images ... are performed simple data augmentations"."""
    more = {ApeGan: {"image_size": 16}, HGD: {}, NRP: {"layer": LAYER, "blocks": 1}}[method]
    if method is NRP:
        more["self_supervised"] = False
    one = method(target, width=0.06, in_channels=3, augment=True, **more)
    x = batch["natural"]
    pairs = {"natural": x, "adversarial": torch.stack([x / 2, x / 4], 1), "label": batch["label"]}
    seen = one.inputs(pairs)
    torch.testing.assert_close(seen["adversarial"][:, 1], seen["natural"] / 4)
    torch.testing.assert_close(seen["adversarial"][:, 0], seen["natural"] / 2)
    assert not torch.equal(seen["natural"], x) and torch.equal(seen["label"], batch["label"])
    used = []
    monkeypatch.setattr(one, "inputs", lambda batch: used.append(batch) or seen)
    losses = one.train().training_step(pairs, one.optimizers())
    assert len(used) == 1 and all(loss.isfinite() for loss in losses.values())
    assert method(target, width=0.06, in_channels=3, **more).inputs(pairs) is pairs  # only where told


@pytest.mark.parametrize("method", [ApeGan, HGD, NRP])
def test_every_baseline_learns_from_full_adversarial_examples(target, batch, method):
    more = {ApeGan: {"image_size": 16}, HGD: {}, NRP: {"layer": LAYER, "blocks": 1}}[method]
    one = method(target, {"eps": 0.03, "steps": 1}, width=0.06, in_channels=3, **more)
    before = copy.deepcopy(one.state_dict())
    history = fit(one, batch, epochs=1, batch_size=3, seed=0)
    assert all(value == value for value in history[0].values())
    assert any(not torch.equal(before[name], value) for name, value in one.state_dict().items())


def test_settings_that_pgd_does_not_take_are_refused_before_training(target):
    with pytest.raises(ValueError, match="attack settings of pgd: .*'epsilon'"):
        HGD(target, {"eps": 0.1, "epsilon": 0.1})


# --- the small parts ---


def test_domains_are_stacked_one_after_the_other():
    adversarial, natural = torch.rand(3, 2, 1, 4, 4), torch.rand(3, 1, 4, 4)
    assert torch.equal(stacked(adversarial), torch.cat([adversarial[:, 0], adversarial[:, 1]]))
    with_natural = stacked(adversarial, natural)
    assert torch.equal(with_natural, torch.cat([natural, adversarial[:, 0], adversarial[:, 1]]))
    assert domain_labels(torch.zeros(9, 5), 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_ablation_keeps_the_weights_of_the_other_terms():
    assert ablated({"a": 1.0, "b": 2.0}, ["a"]) == {"b": 2.0}
    with pytest.raises(ValueError, match=r"unknown loss terms \['c'\]; choose from a, b"):
        ablated({"a": 1.0, "b": 2.0}, ["a", "c"])


def test_an_update_moves_what_the_optimizer_trains_and_nothing_else():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    before, kept = first.weight.detach().clone(), second.weight.detach().clone()
    loss = second(first(torch.ones(1, 2))).sum()
    (gradient,) = torch.autograd.grad(loss, first.weight, retain_graph=True)
    first.weight.grad = torch.full((2, 2), 7.0)  # of an earlier step
    descend(loss, torch.optim.SGD(first.parameters(), 1.0))
    torch.testing.assert_close(first.weight, before - gradient)
    assert torch.equal(second.weight, kept) and second.weight.grad is None
