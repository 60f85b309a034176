"""The fast path to a robust accuracy: the copy is the same function, and only the model itself judges."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from conftest import InPlace, Linear
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import data, networks
from helpers.attacks import ATTACKS
from helpers.defenses.ape_gan import ApeGan
from helpers.defenses.arn import ARN
from helpers.defenses.hgd import HGD
from helpers.measure import autoattack
from helpers.measure.accelerate import accelerate
from helpers.measure.fast import broken
from helpers.networks.zoo import load_target
from helpers.threats import Defended

PLAIN = {"fold": False, "channels_last": False, "bf16": False}
RESNET_PGD = {"eps": 8 / 255, "steps": 10, "step_size": 2 / 255}


@pytest.fixture(scope="module")
def resnet():
    """The adversarially trained ResNet that ships with the project."""
    return load_target("resnet18_quarter_adv").requires_grad_(True)  # as users have it


@pytest.fixture(scope="module")
def photos():
    """50 test images of CIFAR-10 and their labels."""
    return data.load("cifar10", "test", n=50)


@pytest.fixture
def short_aa(monkeypatch):
    """AutoAttack's parts with a fraction of their steps: in full they take ten seconds."""
    monkeypatch.setattr(autoattack, "STEPS", 20)
    monkeypatch.setattr(autoattack, "QUERIES", 250)


def linear(classes=5, images=12, shape=(1, 4, 4)):
    """Model, images far from 0 and 1, their labels, and how far in ℓ∞ each is from being broken."""
    model, x = Linear(classes, shape), 0.45 + 0.1 * torch.rand(images, *shape)
    logits = model(x).detach()
    y, weight = logits.argmax(1), model.layer.weight.detach()
    margin = logits.gather(1, y[:, None]) - logits
    reach = (margin / (weight[y][:, None] - weight).norm(1, dim=2)).scatter(1, y[:, None], torch.inf).amin(1)
    return model, x, y, reach


def halfway(reach):
    """A radius that breaks half of the images."""
    return reach.sort().values[len(reach) // 2 - 1 : len(reach) // 2 + 1].mean().item()


def lived_in(model):
    """BatchNorms with statistics and scales that are not those of a new network."""
    for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
        for t, low, high in (
            (norm.running_mean, -0.3, 0.3),
            (norm.running_var, 0.5, 2),
            (norm.weight.data, 0.5, 1.5),
            (norm.bias.data, -0.3, 0.3),
        ):
            t.uniform_(low, high)
    return model


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def images_through(model):
    """A list that grows by the number of images in each pass through `model`."""
    passes = []
    model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    return passes


# --- the accelerated copy --------------------------------------------------------------------------


@pytest.mark.parametrize("denoiser", [None, partial(ApeGan, image_size=32), HGD, partial(ARN, image_size=32)])
def test_a_folded_model_is_the_same_function(denoiser):
    target = networks.build("resnet18", width=0.125)
    model = Defended(target, denoiser(width=0.125, in_channels=3)) if denoiser else target
    model = lived_in(model).eval()
    x = torch.rand(4, 3, 32, 32)
    folded = accelerate(model, bf16=False, channels_last=False)
    assert len(norms(folded.net.target if denoiser else folded)) == 0
    torch.testing.assert_close(folded(x), model(x), atol=2e-5, rtol=1e-5)


class Twice(nn.Module):
    """A convolution whose output is used beside its norm, and another that is used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.n = (
            nn.Conv2d(1, 3, 3, padding=1),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.BatchNorm2d(3),
        )
        self.m, self.layer = nn.BatchNorm2d(3), Linear(5, (3, 8, 8))

    def forward(self, x):
        x = self.a(x)
        x = self.n(x) + x
        for _ in range(2):
            x = self.m(self.b(x))
        return self.layer(x)


class Untraceable(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) if x.mean() > 2 else self.net(1 - x)


def test_what_cannot_be_folded_stays():
    model, x = lived_in(Twice()).eval(), torch.rand(4, 1, 8, 8)
    folded = accelerate(model, bf16=False)
    assert len(norms(folded)) == 2
    torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_model_that_cannot_be_traced_is_folded_in_parts_with_a_warning():
    model, x = Untraceable(lived_in(networks.build("resnet18", width=0.05))).eval(), torch.rand(4, 3, 32, 32)
    with pytest.warns(UserWarning, match="cannot follow Untraceable"):
        folded = accelerate(model, bf16=False)
    assert not norms(folded)
    torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)


def test_each_ingredient_does_what_its_name_says(resnet, photos):
    def look(**ingredients):
        model, seen = accelerate(resnet, **PLAIN | ingredients), {}
        model.net.blocks[0].conv1.register_forward_hook(lambda _, args, out: seen.update(out=out))
        assert model(photos[0][:2]).dtype == torch.float32  # the logits, whatever is inside
        return model.net, seen["out"]

    net, out = look()
    assert norms(net) and out.dtype == torch.float32 and out.is_contiguous()
    assert not any(p.requires_grad for p in net.parameters())
    net, out = look(bf16=True)
    assert (
        out.dtype == net.blocks[0].conv1.weight.dtype == torch.bfloat16
        and net.linear.weight.dtype == torch.float32
    )
    net, out = look(channels_last=True)
    assert out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
    assert not norms(look(fold=True)[0])


def test_the_copy_is_compiled_where_asked(resnet, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: ("compiled", model))
    assert accelerate(resnet, compile=True)[0] == "compiled"
    assert isinstance(accelerate(resnet), nn.Module)


def test_logits_in_bf16_are_close_and_not_rounded_to_eight_bits(resnet, photos):
    logits, exact = accelerate(resnet, bf16=True)(photos[0]), resnet(photos[0])
    assert (logits - exact).abs().max() < 0.05 * exact.std()
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("attack", ["pgd", "aa"])
def test_the_model_is_left_as_it_was(attack, short_aa):
    model = lived_in(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Linear(5, (4, 6, 6)))
    ).train()
    model[0].requires_grad_(False)
    x = torch.rand(4, 1, 8, 8)
    y = copy.deepcopy(model).eval()(x).argmax(1)
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    broken(model, x, y, attack, eps=0.5)
    assert ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]) == flags
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.get_rng_state(), generator)


# --- who is broken ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack, settings",
    [
        ("pgd", {"random_start": False}),
        ("pgd", {"loss": "dlr"}),
        ("pgd", {"restarts": 2}),
        ("pgd", {"drop": False}),
        ("aa", {}),
    ],
)
def test_exactly_the_images_within_reach_are_broken(attack, settings, short_aa):
    # Steep enough that the cross-entropy sees the nearest class alone; four images at a time.
    model, x, y, reach = linear()
    model.layer.weight.data.mul_(20), model.layer.bias.data.mul_(20)
    eps = halfway(reach)
    assert torch.equal(broken(model, x, y, attack, eps=eps, batch_size=4, **settings), reach < eps)


@pytest.mark.parametrize("fast", [None, accelerate])
@pytest.mark.parametrize("attack, settings", [("pgd", {"steps": 20}), ("aa", {})])
def test_a_model_that_works_in_place_gets_the_right_number(attack, settings, fast, short_aa):
    model, x, y, reach = linear()
    model.layer.weight.data.mul_(20), model.layer.bias.data.mul_(20)
    before, model = x.clone(), InPlace(model)
    stand_in = fast and fast(model, bf16=False)
    eps = halfway(reach)
    assert torch.equal(broken(model, x, y, attack, eps=eps, fast=stand_in, **settings), reach < eps)
    assert torch.equal(x, before)
    accelerate(model)(x)
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("ignore:the accelerated model disagrees")
def test_nan_is_no_answer():
    """Of the largest of NaNs argmax says 0, and here that is the label of each image."""

    class Saturates(Linear):
        def forward(self, x):
            moved = (x - 0.5).abs().amax((1, 2, 3), keepdim=True) > 0.01
            return super().forward(x.masked_fill(moved, torch.nan))

    model, x = Saturates(5, (1, 4, 4)), torch.full((3, 1, 4, 4), 0.5)
    model.layer.bias.data[0] = 100  # out of reach
    with pytest.warns(UserWarning, match="answers to 3 of 3 images are NaN, which counts as wrong"):
        assert broken(model, x, torch.zeros(3).long(), eps=0.1, steps=2, fast=Linear(5, (1, 4, 4))).all()


def test_in_l2_too():
    model, x, y, _ = linear(classes=2, images=12)
    weight = (model.layer.weight[1] - model.layer.weight[0]).detach()
    logits = model(x).detach()
    reach = (logits[:, 1] - logits[:, 0]).abs() / weight.norm()
    eps = halfway(reach)
    assert torch.equal(broken(model, x, y, eps=eps, norm="l2", random_start=False), reach < eps)


def test_the_same_verdict_as_the_plain_path(resnet, photos):
    x, y = photos
    plain = resnet(ATTACKS["pgd"](resnet, x, y, **RESNET_PGD)).argmax(1) != y
    clean = resnet(x).argmax(1) != y
    assert clean.sum() + 5 < plain.sum() < len(x) - 5  # else the comparison says nothing
    for kept in (accelerate(resnet, bf16=True), accelerate(resnet, bf16=False)):
        assert (
            broken(resnet, x, y, fast=kept, **RESNET_PGD) != plain
        ).sum() <= 1  # 50 images: one is two points


@pytest.mark.parametrize("attack", ["cw", "ddn"])
def test_attacks_of_minimal_norm_break_what_they_break_within_the_radius(lenet, digits, attack):
    x, y = digits
    steps = {"cw": {"steps": 30, "search_steps": 2, "learning_rate": 0.1}, "ddn": {"steps": 20}}[attack]
    images = ATTACKS[attack](lenet, x, y, **steps)
    wrong = lenet(images).argmax(1) != y
    length = (images - x).flatten(1).norm(dim=1)
    radius = length[wrong].median().item()
    for limit, expected in {math.inf: wrong, radius + 1e-4: wrong & (length <= radius + 1e-4)}.items():
        found = broken(lenet, x, y, attack, eps=limit, norm="l2", fast=lenet, **steps)
        # An image that is pulled back into the ball may still be wrong.
        assert found[expected].all() and (limit != math.inf or torch.equal(found, expected))
    assert wrong.sum() > 0 and length[wrong].min() < radius


def test_without_any_ingredient_it_is_plain_pgd(lenet, digits):
    model, x, y = copy.deepcopy(lenet).double(), digits[0][:60].double(), digits[1][:60]
    x, y = (t[model(x).argmax(1) == y] for t in (x, y))  # the random start goes by an image's place
    settings = {"eps": 0.11, "steps": 10, "seed": 3}
    plain = model(ATTACKS["pgd"](model, x, y, **settings)).argmax(1) != y
    assert 0.2 < plain.float().mean() < 0.8
    assert torch.equal(broken(model, x, y, fast=model, drop=False, **settings), plain)


def test_every_broken_image_was_broken_before_the_models_own_eyes(resnet, photos):
    x, y = photos
    shown, model = [], copy.deepcopy(resnet)
    model.register_forward_pre_hook(lambda _, args: shown.append(args[0].detach().clone()))
    found = broken(model, x, y, fast=accelerate(resnet), **RESNET_PGD)
    shown = torch.cat(shown)
    wrong = resnet(shown).argmax(1)
    for i in found.nonzero().squeeze(1).tolist():
        near = (shown - x[i]).flatten(1).abs().amax(1) <= RESNET_PGD["eps"] + 1e-6
        assert (wrong[near] != y[i]).any()
    assert 10 < found.sum() < 50


class Liar(nn.Module):
    """The model, but always sure of the wrong class."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return logits.scatter_add(1, logits.argmax(1, keepdim=True), torch.full((len(x), 1), -100.0))


@pytest.mark.parametrize("attack", ["pgd", "aa"])
def test_successes_on_the_accelerated_model_alone_do_not_count_and_do_not_shield(attack, short_aa):
    """The liar makes AutoAttack stop at once; its images are then attacked again, on the model itself."""
    model, x, y, reach = linear()
    eps = halfway(reach)
    with pytest.warns(UserWarning, match="disagrees with the model on 100%"):
        found = broken(model, x, y, attack, eps=eps, fast=Liar(model))
    assert not (found & (reach >= eps)).any()
    if attack == "aa":
        assert torch.equal(found, reach < eps)


def test_broken_images_are_dropped(resnet, photos):
    x, y = photos
    counts, found = {}, {}
    for drop in (False, True):
        model = accelerate(resnet)
        passes = images_through(model)
        found[drop] = broken(resnet, x, y, fast=model, drop=drop, **RESNET_PGD)
        counts[drop] = sum(passes)
    standing = int((~found[True]).sum())
    clean = int((resnet(x).argmax(1) == y).sum())
    assert (
        counts[False] == len(x) + 10 * clean
    )  # one pass to compare it with the model, and the misclassified are not attacked
    assert len(x) + 10 * standing <= counts[True] < counts[False]
    assert not (found[False] & ~found[True]).any()


def test_dropped_images_are_still_counted_and_once():
    model, x, y, reach = linear(images=20)
    eps = 10 * reach.max().item()  # all of them fall in the first steps, in several batches
    assert broken(model, x, y, eps=eps, batch_size=3, every=1).all()
    found = broken(model, x, y, eps=eps, restarts=3)
    assert found.dtype == torch.bool and found.shape == y.shape and found.all()


def test_only_standing_images_are_attacked_again():
    model, x, y, reach = linear()
    eps = halfway(reach)
    kept = copy.deepcopy(model)
    passes = images_through(kept)
    broken(model, x, y, eps=eps, fast=kept, steps=5, restarts=2, drop=False)
    assert passes == [12] + [12] * 5 + [int((reach >= eps).sum())] * 5


def test_misclassified_images_are_broken_and_cost_nothing():
    model, x, y, _ = linear()
    kept = copy.deepcopy(model)
    passes = images_through(kept)
    assert broken(model, x, (y + 1) % 5, eps=0.01, fast=kept).all() and len(passes) == 1


def test_targeted_images_are_broken_when_they_are_given_the_target():
    model, x, y, _ = linear(classes=2)
    towards = 1 - y
    logits = model(x).detach()
    reach = (logits[:, 1] - logits[:, 0]).abs() / (
        model.layer.weight[1] - model.layer.weight[0]
    ).detach().norm(1)
    eps = halfway(reach)
    assert torch.equal(broken(model, x, towards, targeted=True, eps=eps), reach < eps)
    with pytest.raises(ValueError, match="already classified as their target"):
        broken(model, x, y, targeted=True, eps=eps)


def test_a_stochastic_model_is_refused():
    class Noisy(Linear):
        def forward(self, x):
            return super().forward(x + 0.1 * torch.randn_like(x))

    with pytest.raises(ValueError, match="stochastic.*fresh passes"):
        broken(Noisy(5, (1, 4, 4)), torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), eps=0.1)


@pytest.mark.parametrize("attack, settings", [("pgd", {"eps": 0.11, "steps": 5}), ("aa", {"eps": 0.3})])
def test_it_is_repeatable(lenet, digits, attack, settings, short_aa):
    """To the bit, if the stand-in is named; else `quickest` takes the one that it measures to be fastest."""
    x, y = digits[0][:10], digits[1][:10]
    seen = []
    for seed in (0, 0, 1):
        model = copy.deepcopy(lenet)
        shown = []
        model.register_forward_pre_hook(lambda _, args, shown=shown: shown.append(args[0].detach().clone()))
        broken(model, x, y, attack, seed=seed, fast=model, **settings)
        seen.append(torch.cat(shown))
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape != seen[2].shape or not torch.equal(seen[0], seen[2])


# --- bad input -------------------------------------------------------------------------------------

GOOD, LABELS = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 4])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"attack": "pdg", "eps": 0.1}, "attack is one of .*pgd.*, got 'pdg'"),
        ({"eps": -0.1}, "eps must be positive.*got -0.1"),
        ({"eps": float("nan")}, "eps must be positive.*got nan"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": "0.1"}, "eps must be a number, got '0.1'"),
        ({"eps": 0.1, "steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"eps": 0.1, "norm": "l1"}, "norm linf or l2.*l1"),
        ({"eps": 0.1, "loss": "mse"}, "loss.*ce.*dlr.*mse"),
        ({"eps": 0.1, "steps": 0}, "steps, restarts, every >= 1.*ce, 0, 1, 2"),
        ({"eps": 0.1, "restarts": 0}, "restarts, every >= 1.*ce, 40, 0, 2"),
        ({"eps": 0.1, "every": 0}, "restarts, every >= 1.*ce, 40, 1, 0"),
        ({"eps": 0.1, "attack": "aa", "norm": "l1"}, "norm linf or l2.*l1"),
        ({"eps": 0.1, "attack": "aa", "targeted": True}, "untargeted"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Linear(5, (1, 4, 4))
        y = model(GOOD).argmax(1)
        broken(model, GOOD, (y + 1) % 5 if "targeted" in arguments else y, **arguments)


def test_bad_images_and_labels_are_refused():
    with pytest.raises(ValueError, match=r"\[0,1\]"):
        broken(Linear(5, (1, 4, 4)), GOOD + 0.6, LABELS, eps=0.1)
    with pytest.raises(ValueError, match=r"0\.\.3, got 0\.\.4"):
        broken(Linear(4, (1, 4, 4)), GOOD, LABELS, eps=0.1)
    with pytest.raises(ValueError, match="at least 4 classes"):
        broken(Linear(3, (1, 4, 4)), GOOD, torch.tensor([0, 1]), "aa", eps=0.1)
