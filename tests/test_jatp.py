"""JATP: each equation against its own formula, and what training may and may not change."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import networks
from helpers.defenses.jatp import JATP, adversarial_risk, feature_similarity
from helpers.threats import Defended
from helpers.training import fit

LAYER = "blocks.1.conv2"
SLIM = {"width": 0.06, "blocks": 1, "steps": 2, "layer": LAYER, "augment": False}


@pytest.fixture
def target():
    """A tiny untrained ResNet-18, with BatchNorm statistics that a pass in train mode would move."""
    return networks.build("resnet18", width=0.05).eval().requires_grad_(False)


@pytest.fixture
def batch():
    return {"natural": torch.rand(6, 3, 16, 16), "label": torch.arange(6)}


def features(model, layer, x):
    kept = []
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, out: kept.append(out))
    with torch.no_grad():
        logits = model(x)
    handle.remove()
    return logits, kept[0]


def test_full_adversarial_examples_move_the_pipelines_features_within_the_ball(target, batch):
    method, x = JATP(target, **SLIM), batch["natural"]
    x_adv = method.full_adversarial(x, batch["label"])
    noise = (x + (8 / 255) * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    pipeline = Defended(target, method.denoiser)
    f, adv, rand = (features(pipeline, f"target.{LAYER}", images)[1] for images in (x, x_adv, noise))
    assert ((adv - f) ** 2).sum() > 2 * ((rand - f) ** 2).sum()


def test_full_adversarial_examples_do_not_leak_the_label(target, batch):
    method = JATP(target, **SLIM)
    torch.manual_seed(1)
    one = method.full_adversarial(batch["natural"], batch["label"])
    torch.manual_seed(1)
    assert torch.equal(one, method.full_adversarial(batch["natural"], batch["label"].flip(0)))


def test_full_adversarial_examples_follow_the_denoiser(target, batch):
    method = JATP(target, **SLIM)
    torch.manual_seed(1)
    before = method.full_adversarial(batch["natural"], batch["label"])
    for p in method.denoiser.parameters():
        p.data.neg_()
    torch.manual_seed(1)
    assert not torch.equal(before, method.full_adversarial(batch["natural"], batch["label"]))


def test_losses_are_equations_6_to_9(target, batch):
    method, x, y = JATP(target, **SLIM), batch["natural"], batch["label"]
    x_adv = (x + 0.03).clamp(0, 1)
    got = method.losses(x_adv, x, y)
    with torch.no_grad():
        restored, natural = method(x_adv), method(x)
    logits, f_adv = features(target, LAYER, restored)
    natural_logits, f = features(target, LAYER, natural)
    p, p_natural = logits.softmax(1), natural_logits.softmax(1)
    pix = bce = fsm = 0
    for i in range(6):
        pix += (restored[i] - x[i]).square().mean() / 6
        rival = max(p[i, k] for k in range(10) if k != y[i])
        bce += -(p[i, y[i]].log() + (1 - rival).log()) / 6
        fsm += (f_adv[i] - f[i]).square().mean() * (1 - p_natural[i, y[i]]) / 6
    assert [got[term].item() for term in ("pix", "bce", "fsm")] == pytest.approx(
        [pix.item(), bce.item(), fsm.item()], rel=1e-3
    )


def test_the_overall_loss_is_equation_10_without_what_is_left_out(target):
    terms = {"pix": torch.tensor(1.0), "bce": torch.tensor(10.0), "fsm": torch.tensor(100.0)}
    assert JATP(target, **SLIM).overall(terms) == 10 + 5 * 100 + 3 * 1
    assert JATP(target, **SLIM, alpha=2, beta=7, without=["bce"]).overall(terms) == 2 * 100 + 7 * 1
    assert JATP(target, **SLIM, without=["fsm", "pix"]).overall(terms) == 10


def test_an_unknown_term_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown loss terms \['ce'\]; choose from bce, fsm, pix"):
        JATP(without=["ce"])


@pytest.mark.parametrize("joint", [False, True])
def test_training_leaves_the_target_alone(target, batch, joint):
    before = copy.deepcopy(target.state_dict())
    method = JATP(target, **SLIM, joint=joint)
    fit(method, batch, epochs=2, batch_size=3, seed=0)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert not target.training and not any(p.requires_grad for p in target.parameters())


def test_jatp_prime_trains_a_target_of_its_own(target, batch):
    method = JATP(target, **SLIM, joint=True)
    fit(method, batch, epochs=2, batch_size=3, seed=0)
    assert not torch.equal(method.joint_target.linear.weight, target.linear.weight)
    assert not torch.equal(method.joint_target.stem[1].running_mean, target.stem[1].running_mean)


def test_jatp_prime_needs_a_target():
    with pytest.raises(ValueError, match="joint=True trains the target along: give it"):
        JATP(joint=True)


def test_a_trained_denoiser_loads_without_its_target(target, batch):
    method = JATP(target, **SLIM)
    fit(method, batch, epochs=1, batch_size=3, seed=0)
    loaded = JATP(width=0.06, blocks=1)
    loaded.load_state_dict(method.state_dict())
    assert torch.equal(loaded(batch["natural"]), method(batch["natural"]))


def test_the_learning_rate_falls_after_15_and_25_of_30_epochs(target):
    method = JATP(target, **SLIM)
    optimizers = method.optimizers()
    (schedule,) = method.schedulers(optimizers, 30)
    rates = []
    for _ in range(30):
        rates.append(optimizers["sgd"].param_groups[0]["lr"])
        optimizers["sgd"].step()
        schedule.step()
    assert rates == pytest.approx([0.01] * 15 + [0.001] * 10 + [0.0001] * 5)


def test_augmentation_is_fresh_in_each_step(target, batch, monkeypatch):
    method = JATP(target, **SLIM | {"augment": True})
    seen = []
    monkeypatch.setattr(method, "full_adversarial", lambda x, y: seen.append(x) or x)
    optimizers = method.optimizers()
    for _ in range(2):
        method.training_step(batch, optimizers)
    assert not torch.equal(*seen) and seen[0].shape == batch["natural"].shape


def test_told_so_it_learns_from_pgd_on_the_pipeline(target, batch, monkeypatch):
    """DIR, Section 4.1: "the attack used in all methods was PGD"."""
    method, seen = JATP(target, full={"eps": 0.1, "steps": 1}, **SLIM), []
    losses = method.losses
    monkeypatch.setattr(method, "losses", lambda x_adv, x, y: seen.append(x_adv) or losses(x_adv, x, y))
    torch.manual_seed(1)
    expected = method.adversarial(batch)[:, 0]
    torch.manual_seed(1)
    method.training_step(batch, method.optimizers())
    assert torch.equal(seen[0], expected) and (expected - batch["natural"]).abs().max() > 0.09


def test_the_adversarial_risk_is_equation_4():
    class Table(nn.Module):  # an "image" is the class it is given
        def forward(self, x):
            return F.one_hot(x.flatten().long(), 3).float()

    y = torch.tensor([0, 0, 0, 0])
    natural, adversarial = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 1, 2])
    risk = adversarial_risk(Table(), adversarial, natural, y)
    assert risk == {
        "adversarial": 3 / 4,
        "misclassified": 1 / 4,
    }  # the last: wrong before, and wrong in another way


def test_feature_similarity_is_the_mean_square_difference_of_each_image():
    a, b = torch.randn(2, 3, 4, 5, 5)
    wanted = [(a[i] - b[i]).square().mean().item() for i in range(3)]
    assert feature_similarity(a, b) == pytest.approx(wanted, rel=1e-5)
