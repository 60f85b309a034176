"""On a GPU that there is not (`tests/virtual.py`): no device is mixed, and no loop waits for it."""

import sys

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from virtual import GPU, WAITS, Generator, Virtual, from_numbers, moved

import helpers
from helpers.attacks import ATTACKS
from helpers.attacks.stickers import mask
from helpers.defenses import add, ape_gan, arn, dir, hgd, jatp, nrp, robust_training, stochastic
from helpers.measure import embedding, gradients, ladder, lid, rates
from helpers.networks import build
from helpers.show import figures
from helpers.threats import Defended, bpda, eot, fixed_mask, gray_box, oblivious, white_box
from helpers.training import fit


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """`helpers.device()` is the virtual one, for whoever has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("helpers") and vars(module).get("device") is helpers.device:
            monkeypatch.setattr(module, "device", lambda: GPU)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "tensor", from_numbers)
    with Virtual(), torch.autograd.set_multithreading_enabled(False):
        yield
    WAITS.clear()


def images(n=4, channels=1, size=28):
    return torch.rand(n, channels, size, size, device=GPU)


def labels(n=4):
    return torch.arange(n, device=GPU) % 10


# --- the device itself: it must see what it is for ---


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(4, 1, 28, 28),
        lambda x: torch.cat([x, torch.ones(1, 1, 28, 28)]),
        lambda x: torch.ones(4)[torch.arange(2, device=GPU)],
        lambda x: x.numpy(),
        lambda x: torch.rand(3, device=GPU, generator=torch.Generator()),
    ],
)
def test_what_cuda_refuses_is_refused(wrong):
    with pytest.raises((RuntimeError, TypeError, AssertionError)):
        wrong(images())


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0.5],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_for_the_device_is_seen(waits):
    waits(images())
    assert WAITS


def test_numbers_and_gradients_are_those_of_the_cpu():
    x, layer = torch.rand(3, 5), nn.Linear(5, 2)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    there = moved(layer)
    (gradient,) = torch.autograd.grad(there(x.to(GPU)).square().sum(), there.weight)
    assert gradient.device == GPU and torch.equal(gradient.cpu(), expected) and (there.bias + 1).device == GPU


# --- training steps ---


def slim(name="resnet18", channels=3):
    return moved(build(name, 10, 0.07, channels)).eval().requires_grad_(False)


FULL = {"eps": 0.03, "steps": 2, "step_size": 0.01}
SMALL = {"network": "lenet5", "width": 0.1}
DIR = {"width": 0.07, "encoder": 1, "decoder": 1, "patch": 8}
METHODS = {
    "add": lambda: add.ADD(width=0.03),
    "arn": lambda: arn.ARN(width=0.03),
    "arn, posterior": lambda: arn.ARN(width=0.03, prior="posterior"),
    "arn, released": lambda: arn.ReleasedARN(width=0.03),
    "ape_gan": lambda: ape_gan.ApeGan(width=0.1, natural_domain=True),
    "ape_gan, full": lambda: ape_gan.ApeGan(width=0.1, target=slim("lenet5", 1), full=FULL),
    "hgd": lambda: hgd.HGD(target=slim("lenet5", 1), width=0.05),
    "nrp": lambda: nrp.NRP(target=slim(), width=0.05, blocks=1, steps=2),
    "jatp": lambda: jatp.JATP(target=slim(), width=0.05, blocks=1, steps=2),
    "jatp, joint": lambda: jatp.JATP(target=slim(), width=0.05, blocks=1, steps=2, joint=True),
    "dir, pre-training": lambda: dir.DIRPretraining(**DIR),
    "dir": lambda: dir.DIR(target=slim(), steps=2, **DIR),
    "classifier": lambda: robust_training.Classifier(augment=True, optimizer="sgd", **SMALL),
    "pgd": lambda: robust_training.AdversarialTraining(attack_settings=FULL, **SMALL),
    "doa": lambda: robust_training.AdversarialTraining(
        attack="roa",
        attack_settings={"height": 7, "width": 7, "stride": 7, "steps": 2, "search": "gradient"},
        **SMALL,
    ),
    "trades": lambda: robust_training.Trades(attack_settings=FULL, **SMALL),
    "mart": lambda: robust_training.Mart(attack_settings=FULL, **SMALL),
    "mma": lambda: robust_training.Mma(images=8, steps=2, search_steps=2, **SMALL),
    "smoothed": lambda: stochastic.Smoothed(samples=2, **SMALL),
    "me_net": lambda: stochastic.MeNet(attack_settings=FULL, **SMALL),
}
PHOTOGRAPHS = ("nrp", "jatp", "dir")


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_stays_on_the_device_and_never_waits_for_it(name):
    method = moved(METHODS[name]()).train()
    x = images(4, 3, 32) if name.startswith(PHOTOGRAPHS) else images()
    both = torch.stack([x, 1 - x], 1)
    batch = {"natural": x, "adversarial": both, "label": labels(), "index": torch.arange(4, device=GPU)}
    optimizers = method.optimizers()
    method.training_step(batch, optimizers)  # the first builds the optimizers' state
    WAITS.clear()
    losses = method.training_step(batch, optimizers)
    assert all(loss.device == GPU and not loss.requires_grad for loss in losses.values())
    assert WAITS == []


def test_a_whole_training_waits_once_an_epoch_and_goes_on_from_a_checkpoint(tmp_path):
    def trained(epochs):
        torch.manual_seed(0)
        method = robust_training.Classifier(schedule="cyclic", **SMALL)
        WAITS.clear()
        history = fit(moved(method), data, epochs=epochs, batch_size=4, seed=0, checkpoint=tmp_path / "kept")
        return history

    data = {"natural": images(12), "label": labels(12)}
    assert len(trained(1)) == 1
    once = WAITS.count("_local_scalar_dense")
    assert len(trained(3)) == 3
    assert WAITS.count("_local_scalar_dense") == 2 * once  # as often an epoch, however many batches


# --- attacks and threats ---


def pipeline(denoiser=None, target="lenet5", channels=1):
    """A small target behind a small denoiser, on the device."""
    denoiser = arn.ARN(width=0.03) if denoiser is None else denoiser
    return Defended(slim(target, channels), moved(denoiser).eval().requires_grad_(False))


def references():
    return {"references": images(), "classes": labels()}


# Our own attacks, whose loops are ours to keep on the device: settings, and what counts their rounds.
OWN = {
    "pgd": ({"eps": 0.1}, "steps"),
    "pgd_dlr": ({"eps": 0.1}, "steps"),
    "mi_fgsm": ({"eps": 0.1}, "steps"),
    "vni_fgsm": ({"eps": 0.1, "samples": 2}, "steps"),
    "ti_bim": ({"eps": 0.1}, "steps"),
    "feature_pgd": ({"eps": 0.1, "layer": "target.conv2"}, "steps"),
    "code_pgd": ({"eps": 0.1, "layer": "denoiser.encoder.mean"}, "steps"),
    "restored": ({"eps": 0.1}, "steps"),
    "sta_own": ({}, "steps"),
    "rp2": ({}, "steps"),
    "roa": ({"stride": 9, "search": "gradient"}, "steps"),
    "fwa": ({"eps": 0.1}, "steps"),
    "lsa_own": ({"candidates": 8}, "rounds"),
}
# Libraries': that they run, and mix no devices.
THEIRS = {
    "fgsm": {"eps": 0.1},
    "cw": {"steps": 2, "search_steps": 1},
    "ddn": {"steps": 2},
    "sta": {"steps": 1},
    "lsa": {"rounds": 1, "candidates": 8},
    "square": {"eps": 0.1, "queries": 3},
    "ba": {"steps": 2},
}


def attacked(name, model, x=None, **settings):
    """The attack on images, and how often it waits for the device."""
    x = images() if x is None else x
    WAITS.clear()
    if name == "rp2":
        settings["mask"] = mask("mask1", size=x.shape[-1])
    if name == "code_pgd":
        settings |= references()
    x_adv = ATTACKS[name](model, x, labels(), **settings)
    assert x_adv.device == GPU and x_adv.shape == x.shape
    return len(WAITS)


# The engine of torch ends the process at backward passes of AutoAttack's parts on a device written in Python;
# advertorch's JSMA indexes by a range, which becomes a tensor out of sight of operators.
UNSEEN = {"aa", "ensemble", "apgd_ce", "apgd_dlr", "fab", "jsma"}


def test_every_attack_is_looked_at():
    assert {*OWN, *THEIRS, "mask_adaptive"} == set(ATTACKS) - UNSEEN


@pytest.mark.parametrize("name", OWN)
def test_the_loop_of_our_own_attacks_never_waits_for_the_device(name):
    settings, rounds = OWN[name]
    model = pipeline()
    attacked(name, model, **settings, **{rounds: 2})  # builds what is built once
    few, many = (attacked(name, model, **settings, **{rounds: count}) for count in (2, 5))
    assert few == many


@pytest.mark.parametrize("name", THEIRS)
def test_attacks_of_libraries_mix_no_devices(name):
    attacked(name, slim("lenet5", 1), **THEIRS[name])


@pytest.mark.parametrize(
    "threat",
    [
        oblivious,
        lambda defended: gray_box(moved(ape_gan.ApeGan(width=0.1)), defended.target),
        white_box,
        bpda,
        lambda defended: eot(defended, 2),
        lambda defended: fixed_mask(defended, 0),
    ],
)
def test_every_threat_is_attacked_on_the_device(threat):
    few, many = (attacked("pgd", threat(pipeline()), eps=0.1, steps=steps) for steps in (2, 5))
    assert few == many


def test_the_masks_of_dir_are_drawn_on_the_device():
    model = pipeline(dir.DIR(**DIR), "resnet18", 3)
    x = images(4, 3, 32)
    few, many = (attacked("mask_adaptive", model, x, eps=0.1, steps=steps) for steps in (2, 5))
    assert few == many
    attacked("pgd", eot(model, 2), x, eps=0.1, steps=2)


# --- what notebooks draw and measure ---


LOOKED_AT = {
    "image_grid, of a target": lambda p, x, y: figures.image_grid({"a": x, "b": 1 - x}, labels=y, target=p),
    "image_grid, of predictions": lambda p, x, y: figures.image_grid({"a": x}, {"a": y}, y),
    "restored_grid": lambda p, x, y: figures.restored_grid(p, x, 1 - x, y),
    "map_grid": lambda p, x, y: figures.map_grid({"a": [x[0, 0], x[1, 0] - x[0, 0]]}, ["one", "two"]),
    "panels": lambda p, x, y: figures.panels({"a": (x.flatten(1)[:, :2], y % 2)}),
    "strip": lambda p, x, y: figures.strip([x[0], x[1] - x[0]], ["one", "two"]),
    "embed": lambda p, x, y: embedding.embed(embedding.inputs_of(p.target, "linear2", x)),
    "embed, images": lambda p, x, y: embedding.embed(x),
    "separation": lambda p, x, y: embedding.separation(x.flatten(1), y % 2),
    "probe": lambda p, x, y: embedding.probe([x, 1 - x]),
    "read_off": lambda p, x, y: embedding.read_off(x, y % 2),
    "lid": lambda p, x, y: lid.lid(x.flatten(1), x.flatten(1), 3),
    "lid_features": lambda p, x, y: lid.lid_features(p.target, lid.noisy(x, 1 - x), x, ["conv2"], 3),
    "of_images": lambda p, x, y: gradients.of_images(p, x, y),
    "accuracy": lambda p, x, y: rates.accuracy(p, x, y),
    "right_within": lambda p, x, y: rates.right_within(p, x, 1 - x, y, 0.3),
    "targeted_accuracy": lambda p, x, y: rates.targeted_accuracy(p, x, y, (y + 1) % 10),
    "fooling_rate": lambda p, x, y: rates.fooling_rate(p, x, 1 - x),
    "withstood": lambda p, x, y: rates.broken_by_any(rates.withstood(p, {"pgd": 1 - x}, y)),
    "passes": lambda p, x, y: rates.mean_accuracy(rates.passes(p, x, 2), y),
}


@pytest.mark.parametrize("name", LOOKED_AT)
def test_what_notebooks_draw_and_measure_mixes_no_devices(name):
    LOOKED_AT[name](pipeline(), images(40), labels(40))
    plt.close("all")


def test_the_ladder_of_attacks_mixes_no_devices(monkeypatch):
    """Its rungs, judges and checks; AutoAttack's parts, which the engine cannot run here, are PGD's steps."""
    for name in ("apgd_ce", "apgd_dlr"):
        monkeypatch.setitem(ATTACKS, name, ATTACKS["pgd"])
    p, x, y = pipeline(), images(6), labels(6)
    substitute = moved(ape_gan.ApeGan(width=0.1)).eval()
    rungs = ladder.climb(
        p, x, y, eps=0.1, steps=2, queries=3, substitute=substitute, surrogate=slim("lenet5", 1)
    )
    assert len(rungs) >= 8
    assert ladder.checklist(p, x, y, rungs) and len(ladder.table(rungs)) == len(rungs)
    ladder.strongest(rungs), ladder.alarms(p, x, y, rungs)
