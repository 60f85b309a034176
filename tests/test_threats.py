"""Threat models: what each attacker's gradient is, and the alarm for a defense that kills gradients."""

import pytest
import torch
from conftest import Linear, error
from torch import nn

from helpers import threats
from helpers.attacks import ATTACKS
from helpers.defenses import Defended
from helpers.networks import build


class Fade(nn.Module):
    """A denoiser whose gradient is known: x -> 0.3 x + 0.1."""

    def forward(self, x):
        return 0.3 * x + 0.1


class FourLevels(nn.Module):
    """A gradient-killing denoiser: rounds to 0, 1/3, 2/3, 1."""

    def forward(self, x):
        return (3 * x).round() / 3


def gradient(model, x):
    """Gradient of the first logit."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]


def test_oblivious_is_the_bare_target():
    target = Linear(3, (1, 4, 4))
    assert threats.oblivious(Defended(target, Fade())) is target


def test_gray_box_is_the_target_behind_the_substitute():
    target, x = Linear(3, (1, 4, 4)), torch.rand(2, 1, 4, 4)
    assert torch.equal(threats.gray_box(Fade(), target)(x), target(0.3 * x + 0.1))


def test_white_box_gradient_goes_through_the_denoiser():
    target, x = Linear(3, (1, 4, 4)), torch.rand(2, 1, 4, 4)
    row = target.layer.weight[0].view(1, 1, 4, 4).expand(2, -1, -1, -1)
    got = gradient(threats.white_box(Defended(target, Fade())), x)
    torch.testing.assert_close(got, 0.3 * row)


def test_white_box_gradient_through_a_network_is_the_chain_rule(lenet, digits):
    x = digits[0][:3].clone().requires_grad_()
    denoiser = build("hgd_unet", width=0.05, in_channels=1).to(x.device).eval()
    restored = denoiser(x)
    outer = gradient(lenet, restored.detach())
    (expected,) = torch.autograd.grad(restored, x, grad_outputs=outer)
    got = gradient(threats.white_box(Defended(lenet, denoiser)), x.detach())
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("denoiser", [FourLevels(), Fade(), nn.Identity()])
def test_bpda_computes_the_pipeline_and_takes_the_targets_gradient_at_the_restored_image(lenet, digits, denoiser):
    x = digits[0][:5]
    defended = Defended(lenet, denoiser)
    assert torch.equal(threats.bpda(defended)(x), defended(x))
    expected = gradient(lenet, denoiser(x))
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(threats.bpda(defended), x), expected)


def test_bpda_does_not_ask_the_denoiser_for_a_gradient():
    class NoGradient(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return torch.from_numpy(x.numpy().copy())

    gradient(threats.bpda(Defended(Linear(3, (1, 4, 4)), NoGradient())), torch.rand(2, 1, 4, 4))


def test_bpda_raises_the_alarm_for_a_defense_that_kills_gradients(lenet, digits):
    x, y = digits[0][:50], digits[1][:50]
    defended = Defended(lenet, FourLevels())
    settings = {"eps": 0.3, "steps": 20}
    white_box = ATTACKS["pgd"](threats.white_box(defended), x, y, **settings)
    bpda = ATTACKS["pgd"](threats.bpda(defended), x, y, **settings)
    assert gradient(defended, x).abs().max() == 0
    assert error(defended, x, y) < 0.1 and error(defended, white_box, y) < 0.3
    assert error(defended, bpda, y) > 0.9
