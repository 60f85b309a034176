"""Threat models: what each attacker's gradient is, and the alarm for a defense that kills gradients."""

import pytest
import torch
from conftest import Linear, error
from torch import nn

from helpers import threats
from helpers.attacks import ATTACKS
from helpers.defenses.ape_gan import ApeGanGenerator
from helpers.defenses.hgd import DenoisingUNet
from helpers.threats import Defended, made_from


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
    denoiser = DenoisingUNet(0.05).to(x.device).eval()
    restored = denoiser(x)
    outer = gradient(lenet, restored.detach())
    (expected,) = torch.autograd.grad(restored, x, grad_outputs=outer)
    got = gradient(threats.white_box(Defended(lenet, denoiser)), x.detach())
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("denoiser", [FourLevels(), Fade(), nn.Identity()])
def test_bpda_computes_the_pipeline_and_takes_the_targets_gradient_at_the_restored_image(
    lenet, digits, denoiser
):
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


def test_bpda_takes_the_gradient_of_its_stand_in():
    target, x = Linear(3, (1, 4, 4)), torch.rand(2, 1, 4, 4)
    row = target.layer.weight[0].view(1, 1, 4, 4).expand(2, -1, -1, -1)
    attacked = threats.bpda(Defended(target, FourLevels()), stand_in=Fade())
    assert torch.equal(attacked(x), target(FourLevels()(x)))
    torch.testing.assert_close(gradient(attacked, x), 0.3 * row)


def test_transfer_attacks_the_surrogate_alone():
    surrogate = Linear(3, (1, 4, 4))
    assert threats.transfer(surrogate) is surrogate


class Grain(nn.Module):
    """A stochastic denoiser."""

    def forward(self, x):
        return x + 0.3 * torch.randn_like(x)


def test_eot_is_the_log_of_the_mean_probability():
    target, x, y = Linear(3, (1, 4, 4)), torch.rand(5, 1, 4, 4), torch.arange(5) % 3
    defended = Defended(target, Grain())
    torch.manual_seed(7)
    logits = threats.eot(defended, 4)(x)
    torch.manual_seed(7)
    mean = torch.stack([defended(x).softmax(1) for _ in range(4)]).mean(0)
    torch.testing.assert_close(logits, mean.log())
    # so the cross-entropy is that of the mean, whatever is attacked with it
    torch.testing.assert_close(
        nn.functional.cross_entropy(logits, y), -mean.gather(1, y[:, None]).log().mean()
    )


def test_eot_of_a_sure_model_does_not_round_to_nothing():
    class Sure(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, -200.0]]).expand(len(x), 2) * (1 + 0 * x.sum())

    logits = threats.eot(Defended(Sure(), nn.Identity()), 3)(torch.rand(1, 1, 2, 2))
    torch.testing.assert_close(logits[0, 1].item(), -200.0)


def test_eot_of_a_deterministic_defense_changes_nothing(lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    plain, averaged = (ATTACKS["pgd"](m, x, y, eps=0.1, steps=3) for m in (lenet, threats.eot(lenet, 3)))
    assert ((plain - averaged).abs() > 1e-5).float().mean() < 0.01


def test_eot_needs_a_sample():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        threats.eot(nn.Identity(), 0)


def test_a_fixed_mask_is_the_same_in_each_pass_and_place_and_differs_by_seed():
    x = torch.rand(3, 1, 4, 4)
    still = threats.fixed_mask(Defended(nn.Flatten(), Grain()), seed=1)
    before = torch.get_rng_state()
    first = still(x)
    assert torch.equal(first, still(x)) and torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(still(x[[2, 0]]), first[[2, 0]])  # elsewhere in the batch, the same mask
    torch.testing.assert_close(
        first - x.flatten(1), (first - x.flatten(1))[:1].expand(3, -1), atol=1e-6, rtol=0
    )
    assert not torch.equal(first, threats.fixed_mask(Defended(nn.Flatten(), Grain()), seed=2)(x))


@pytest.mark.parametrize("network, width", [(DenoisingUNet, 0.05), (ApeGanGenerator, 0.1)])
def test_a_fixed_mask_of_a_deterministic_denoiser_is_the_denoiser(lenet, digits, network, width):
    x = digits[0][:4]
    denoiser = network(width).to(x.device, memory_format=torch.channels_last).eval()
    defended = Defended(lenet, denoiser)
    torch.testing.assert_close(threats.fixed_mask(defended, 0)(x), defended(x), atol=1e-4, rtol=1e-4)
    got, expected = (gradient(m, x) for m in (threats.fixed_mask(defended, 0), defended))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_bpda_eot_averages_fresh_draws_and_goes_round_the_denoiser():
    class Rough(nn.Module):
        def forward(self, x):
            return FourLevels()(x + 0.3 * torch.rand_like(x))

    target, x = Linear(3, (1, 4, 4)), torch.rand(2, 1, 4, 4)
    defended = Defended(target, Rough())
    attacked = threats.eot(threats.bpda(defended), 4)
    torch.manual_seed(7)
    logits = attacked(x)
    torch.manual_seed(7)
    draws = torch.stack([defended(x).softmax(1) for _ in range(4)])
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(logits, draws.mean(0).log())
    assert gradient(attacked, x).abs().max() > 0 == gradient(defended, x).abs().max()


# --- what it was made from ---


class Words:
    """A recipe that says in words what has been done to it."""

    def __init__(self, text):
        self.text = text

    def then(self, target):
        return Words(f"{self.text}, {target.text}")

    def under(self, threat, **settings):
        named = {k: s.text if isinstance(s, Words) else s for k, s in settings.items()}
        return Words(f"{threat}{named} of ({self.text})")


def from_the_lab(module, text):
    module.recipe = Words(text)
    return module


def said(module):
    recipe = made_from(module)
    return None if recipe is None else recipe.text


@pytest.fixture
def known():
    return Defended(from_the_lab(nn.Flatten(), "target"), from_the_lab(Fade(), "fade"))


def test_a_pipeline_of_known_parts_is_known(known):
    assert said(known) == "fade, target"
    assert said(Defended(known.target, nn.Identity())) == "target"
    assert said(threats.oblivious(known)) == said(threats.transfer(known.target)) == "target"
    assert said(threats.white_box(known)) == "fade, target"
    assert said(threats.gray_box(from_the_lab(Grain(), "grain"), known.target)) == "grain, target"


def test_a_pipeline_with_an_unknown_part_is_not(known):
    for target, denoiser in [
        (known.target, Fade()),
        (nn.Flatten(), known.denoiser),
        (nn.Flatten(), nn.Identity()),
    ]:
        unknown = Defended(target, denoiser)
        attacked = [unknown, threats.bpda(unknown), threats.eot(unknown, 3), threats.fixed_mask(unknown, 3)]
        assert [said(one) for one in attacked] == [None] * 4


def test_a_threat_adds_its_settings_to_what_is_known(known):
    assert said(threats.bpda(known)) == "bpda{'stand_in': None} of (fade, target)"
    assert said(threats.eot(known, 3)) == "eot{'samples': 3} of (fade, target)"
    assert said(threats.fixed_mask(known, 7)) == "fixed_mask{'seed': 7} of (fade, target)"
    both = threats.eot(threats.bpda(known), 3)
    assert said(both) == "eot{'samples': 3} of (bpda{'stand_in': None} of (fade, target))"


def test_bpda_is_known_if_its_stand_in_is(known):
    stand_in = from_the_lab(Fade(), "other")
    assert said(threats.bpda(known, stand_in)) == "bpda{'stand_in': 'other'} of (fade, target)"
    assert said(threats.bpda(known, Fade())) is None
