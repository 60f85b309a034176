"""AutoAttack for counting: the original's verdicts, its projections, what is attacked in a model's place."""

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import Linear
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from helpers import data
from helpers.measure import accelerate, autoattack
from helpers.measure.accelerate import quickest
from helpers.measure.fast import broken
from helpers.measure.judge import Ball, Judge

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

from autoattack import Around, targets  # noqa: E402  (the bench's)

STORED = json.loads((HERE / "autoattack_verdicts.json").read_text())


def cases():
    """The first stored target always, the others where slow tests run."""
    for number, name in enumerate(STORED):
        yield pytest.param(name, marks=pytest.mark.slow if number else ())


@pytest.mark.parametrize("name", cases())
@pytest.mark.filterwarnings("ignore")
def test_no_verdict_is_weaker_than_the_originals(name):
    """One image of 20 may differ in the original's favour: both start at random."""
    model, dataset, eps, norm = targets()[name]
    x, y = data.load(dataset, "test", n=len(STORED[name]))
    found = broken(model, x, y, "aa", eps=eps, norm=norm)
    original = torch.tensor([mark == "1" for mark in STORED[name]])
    assert (original & ~found).sum() <= 1
    assert found.sum() >= original.sum() - 1


# --- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_way_to_a_plane_is_the_packages(norm):
    from pyautoattack import fab_projections

    x, normal, height = torch.rand(30, 1, 8, 8), torch.randn(30, 1, 8, 8), 3 * torch.randn(30)
    x[:, :, :3], normal[:, :, 6:] = 0, 0  # pixels with no room one way, pixels that do not matter
    height[:3] = 1e3  # out of reach: as far as it goes
    offset = (normal * x).flatten(1).sum(1) - height
    theirs = getattr(fab_projections, f"projection_{norm}")(x.flatten(1), normal.flatten(1), offset)
    ours = Ball(0.1, norm).to_plane(x, normal, height)
    torch.testing.assert_close(ours, theirs.view_as(x), atol=1e-5, rtol=1e-4)


def test_bumps_are_the_packages():
    from pyautoattack.square import SquareAttack

    theirs = SquareAttack(None, norm="L2", eps=1, device="cpu")
    for side in (3, 5, 6, 9):
        torch.manual_seed(side)
        bump = theirs.eta(side)
        torch.manual_seed(side)
        torch.testing.assert_close(autoattack._bump(side, bump), bump)


@pytest.mark.parametrize("norm, eps", [("linf", 0.2), ("l2", 1.0)])
def test_what_the_model_is_shown_lies_in_the_ball(norm, eps, monkeypatch):
    monkeypatch.setattr(autoattack, "QUERIES", 300)
    model, x = Linear(5, (1, 6, 6)).eval(), torch.rand(6, 1, 6, 6)
    y, shown, show = model(x).argmax(1), [], Judge.show

    def watched(judge, rows, images):
        model_sees = judge.ball.project(judge.x[rows], images)
        shown.append(judge.ball.length(model_sees - judge.x[rows]).max())
        assert model_sees.min() >= 0 and model_sees.max() <= 1
        show(judge, rows, images)

    monkeypatch.setattr(Judge, "show", watched)
    assert broken(model, x, y, "aa", eps=eps, norm=norm, fast=model).any()
    assert shown and max(shown) <= eps * (1 + 1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_needs_no_gradient(norm, lenet, digits):
    """Quantised input has none, so that APGD breaks none but by its random start."""
    x, y = digits[0][:8], digits[1][:8]
    model = Around(lenet, before=lambda x: (3 * x).round() / 3)
    eps = {"linf": 0.3, "l2": 3.0}[norm]
    judge = Judge(model, x, y, Ball(eps, norm), False, 100)
    rows = torch.arange(len(x))
    autoattack.apgd(judge, model, autoattack.Batch(judge, rows, y), autoattack.cross_entropy)
    before = judge.broken.sum()
    autoattack.square(judge, model, autoattack.Batch(judge, rows, y))
    assert judge.broken.sum() >= before + 3


def test_an_image_without_a_gradient_costs_a_pass(lenet, digits):
    x, y = digits[0][:4], digits[1][:4]
    model = Around(lenet, before=lambda x: (3 * x).round() / 3)
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    judge = Judge(model, x, y, Ball(0.01, "linf"), False, 100)
    passes.clear()
    for part in (autoattack.fab, lambda *given: autoattack.apgd(*given, autoattack.targeted_dlr)):
        part(judge, model, autoattack.Batch(judge, torch.arange(4), (y + 1) % 10))
    assert len(passes) == 2 and not judge.broken.any()


# --- what is attacked in the model's place -----------------------------------------------------------


def test_probabilities_are_attacked_by_their_logarithm(lenet, digits):
    x, y = digits[0][:16], digits[1][:16]
    with pytest.warns(UserWarning, match="probabilities.*logarithm"):
        source = quickest(Around(lenet, after=nn.Softmax(1)), x, y)
    logits = lenet(x)
    torch.testing.assert_close(source(x), logits.log_softmax(1), atol=0.3, rtol=0.05)  # bf16, perhaps


def test_loud_logits_are_divided_until_the_cross_entropy_has_a_gradient(lenet, digits):
    x, y = digits[0][:16], digits[1][:16]
    loud = Around(lenet, after=lambda z: z / 1e-3)

    def with_gradient(model):
        images = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(images), y, reduction="sum").backward()
        return images.grad.flatten(1).any(1).sum()

    with pytest.warns(UserWarning, match="no gradient.*divided"):
        source = quickest(loud, x, y)
    assert with_gradient(loud) <= 2 and with_gradient(source) == len(x)
    assert torch.equal(source(x).argmax(1), loud(x).argmax(1))


def test_an_ordinary_model_is_left_as_it_is(lenet, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = quickest(lenet, digits[0][:16], digits[1][:16])
    torch.testing.assert_close(source(digits[0][:5]), lenet(digits[0][:5]), atol=0.3, rtol=0.05)


def test_a_copy_whose_gradients_differ_is_not_taken(robust_lenet, digits, monkeypatch, caplog):
    """The robust LeNet decides by thresholds: bfloat16 changes the sign of every fifth pixel's gradient."""
    monkeypatch.setattr(accelerate, "has_bf16", lambda where: True)
    monkeypatch.setattr(
        accelerate, "_seconds", lambda model, *_: -getattr(model, "bf16", 0)
    )  # were it sooner
    with caplog.at_level(logging.INFO):
        assert not getattr(quickest(robust_lenet, digits[0][:16], digits[1][:16]), "bf16", False)
    assert "bf16" not in caplog.text and "attacked" in caplog.text


def test_what_cannot_be_copied_is_attacked_itself(lenet, digits):
    model = Around(lenet)
    model.lock = __import__("threading").Lock()  # no copies of these
    with pytest.warns(UserWarning, match="no copy of Around"):
        assert quickest(model, digits[0][:4], digits[1][:4]) is model


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return layer


@pytest.mark.parametrize(
    "wrap", [parametrizations.spectral_norm, parametrizations.weight_norm, spectral_norm, weight_norm, pruned]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_reparametrised_layers_are_copied(wrap):
    conv, norm = wrap(nn.Conv2d(1, 8, 3, 2, 1)), nn.BatchNorm2d(8)
    net = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    x = torch.rand(5, 1, 8, 8)
    net(x)
    net.eval()
    before = net(x)
    torch.testing.assert_close(accelerate.accelerate(net, bf16=False)(x), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net(x), before)


# --- input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["pgd", "aa"])
def test_labels_come_in_any_form(attack, monkeypatch):
    monkeypatch.setattr(autoattack, "QUERIES", 50)
    model, x = Linear(5, (1, 4, 4)), torch.rand(4, 1, 4, 4)
    y = model(x).argmax(1)
    for given in (y.numpy(), y.tolist(), y.to(torch.uint8)):
        assert torch.equal(broken(model, x, given, attack, eps=0.1), broken(model, x, y, attack, eps=0.1))


class Root(nn.Module):
    def forward(self, x):
        return x + 0 * torch.sqrt((x - x).abs())


class Leaves(nn.Module):
    def forward(self, x):
        return (4 * x).detach().round() / 4


@pytest.mark.parametrize("layer, message", [(Root, "NaN or infinite"), (Leaves, "gives no gradient")])
@pytest.mark.parametrize("attack", ["pgd", "aa"])
def test_a_model_without_a_finite_gradient_is_refused(layer, message, attack):
    model, x = nn.Sequential(layer(), Linear(5, (1, 4, 4))), torch.rand(4, 1, 4, 4)
    with pytest.raises(ValueError, match=message):
        broken(model, x, model(x).argmax(1), attack, eps=0.1)
