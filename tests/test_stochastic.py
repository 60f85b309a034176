"""Classifiers smoothed by noise; and ME-Net: the matrix estimate against an SVD, and training behind it."""

import numpy as np
import pytest
import torch
from conftest import Linear, error
from torch import nn
from torch.nn import functional as F

from helpers import data, device, seeded, threats
from helpers.attacks import ATTACKS, NoGradient
from helpers.defenses.robust_training import Classifier
from helpers.defenses.stochastic import MatrixEstimation, MeNet, Smoothed, votes
from helpers.training import fit

# --- randomised smoothing ---


def digits_for(method, **settings):
    x, y = data.load("mnist", "train", n=600)
    torch.manual_seed(0)
    method = method(width=0.25, learning_rate=5e-3, **settings)
    return method, fit(method, {"natural": x, "label": y}, epochs=8, batch_size=50, seed=0)


def linear(sigma, samples=16):
    """Two classes with logits ±m(x)/2: over the noise m is normal, with the deviation σ‖w₁ − w₀‖."""
    method = Smoothed(sigma=sigma, samples=samples, num_classes=2)
    method.network = Linear(2, (1, 4, 4))
    method.eval().requires_grad_(False)
    x = torch.rand(20, 1, 4, 4)
    weight = method.network.layer.weight[1] - method.network.layer.weight[0]
    logits = method.network(x)
    return method, x, logits[:, 1] - logits[:, 0], sigma * weight.norm(), weight


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_votes_for_a_linear_model_follow_the_normal_distribution(sigma):
    method, x, margin, deviation, _ = linear(sigma)
    samples = 4000
    counts = votes(method, x, samples)
    assert counts.shape == (20, 2) and (counts.sum(1) == samples).all()
    p = torch.special.ndtr(margin / deviation)
    # Five standard errors of each of the 20 shares.
    assert ((counts[:, 1] / samples - p).abs() <= 5 * (p * (1 - p) / samples).sqrt() + 1e-4).all()
    assert p.min() < 0.4 and p.max() > 0.6  # they are not all ties


def test_in_eval_mode_it_gives_the_mean_of_the_probabilities():
    method, x, margin, deviation, _ = linear(0.5, samples=4000)
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    points, weights = torch.tensor(points).float(), torch.tensor(weights / weights.sum()).float()
    exact = (margin[:, None] + deviation * points).sigmoid() @ weights
    probability = method(x).exp()
    torch.testing.assert_close(probability.sum(1), torch.ones(20))
    # A share between 0 and 1 has a deviation of at most 1/2: five standard errors.
    assert (probability[:, 1] - exact).abs().max() < 5 * 0.5 / 4000**0.5


def test_it_can_be_attacked_through_its_noise():
    """On a linear model every noisy copy's gradient has the same direction, and so the attack is exact."""
    method, x, margin, _, weight = linear(0.5)
    y = (margin > 0).long()
    x = 0.3 + 0.4 * x  # [0,1] does not matter to a step of 0.1
    x_adv = ATTACKS["fgsm"](method, x, y, eps=0.1)
    away = (1 - 2 * y).view(-1, 1, 1, 1) * weight.sign().view(1, 1, 4, 4)
    torch.testing.assert_close(x_adv, x + 0.1 * away)


def test_the_noise_comes_from_torchs_global_generator():
    method, x = Smoothed().eval(), torch.rand(3, 1, 28, 28)

    def after(seed):
        torch.manual_seed(seed)
        return method(x), votes(method, x, 20)

    first, again, other = after(1), after(1), after(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_in_training_it_is_the_base_classifier_under_one_draw_of_noise():
    method, x, y = Smoothed(sigma=0.5).train(), torch.rand(3, 1, 28, 28), torch.tensor([1, 2, 3])
    torch.manual_seed(7)
    expected = F.cross_entropy(method.network(x + 0.5 * torch.randn(x.shape)), y)
    torch.manual_seed(7)
    reported = method.training_step({"natural": x, "label": y}, method.optimizers())
    torch.testing.assert_close(reported["risk"], expected.detach())


def test_training_with_noise_teaches_the_base_classifier_to_bear_it():
    x, y = (t.to(device()) for t in data.load("mnist", "test", n=200))
    noisy = x + torch.randn_like(x)
    (plain, _), (smoothed, history) = digits_for(Classifier), digits_for(Smoothed, sigma=1.0)
    # Seen on one CPU: 70 % and 39 % errors.
    assert error(smoothed.network, noisy, y) < error(plain.network, noisy, y) - 0.1
    assert history[-1]["risk"] < history[0]["risk"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sigma": 0}, "sigma must be positive, got 0: .*Classifier"),
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_settings_of_the_noise_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Smoothed(**settings).eval()(torch.rand(1, 1, 28, 28))


# --- ME-Net ---

EPS = 0.1


def low_rank(n=4, rank=2, c=3, size=16):
    """Images in [0,1] that are, as one matrix with values in [-1,1], of rank `rank`."""
    matrix = torch.rand(n, size, rank) @ torch.rand(n, rank, c * size) / rank
    return (matrix.reshape(n, size, c, size).transpose(1, 2) + 1) / 2


def hidden(x, kept, training=False, seed=0):
    """Which entries of `x` a pass hides, read off an estimate of full rank: they become 0.5."""
    with seeded(seed):
        return (MatrixEstimation(kept, 1).train(training)(x) - 0.5).abs() < 1e-5


def test_without_a_mask_it_is_the_nearest_matrix_of_its_rank():
    x = low_rank()
    torch.testing.assert_close(MatrixEstimation((1, 1), 2 / 16)(x), x, atol=1e-5, rtol=0)
    rest = (MatrixEstimation((1, 1), 1 / 16)(x) - x).square().sum((1, 2, 3))
    second = torch.linalg.svdvals((2 * x - 1).transpose(1, 2).flatten(2))[:, 1]
    torch.testing.assert_close(rest, (second / 2).square(), atol=1e-4, rtol=1e-4)


def test_it_is_the_truncated_svd_of_the_masked_channels_side_by_side():
    x = 0.55 + 0.4 * torch.rand(3, 3, 16, 20)
    mask = 1 - hidden(x, (0.7, 0.7)).float()
    with seeded(0):
        restored = MatrixEstimation((0.7, 0.7), 0.25).eval()(x)
    for image, kept, got in zip(x, mask, restored, strict=True):
        u, s, v = torch.linalg.svd(torch.cat(list((2 * image - 1) * kept), 1), full_matrices=False)
        estimate = (u[:, :4] * s[:4]) @ v[:4] / kept.mean()
        expected = (torch.stack(estimate.split(20, 1)) + 1) / 2
        torch.testing.assert_close(got, expected.clamp(0, 1), atol=1e-5, rtol=0)


def test_a_matrix_of_low_rank_is_completed():
    x = low_rank(rank=1, size=32)
    masked = torch.where(hidden(x, (0.5, 0.5)), 0.5, x)
    with seeded(0):
        completed = MatrixEstimation((0.5, 0.5), 1 / 32).eval()(x)
    assert ((completed - x).square().mean((1, 2, 3)) < (masked - x).square().mean((1, 2, 3)) / 2).all()


def test_each_image_draws_its_share_of_entries_in_training_and_the_middle_afterwards():
    x = torch.full((200, 3, 16, 16), 0.9)
    training, evaluated = (1 - hidden(x, (0.2, 0.8), mode).float().mean((1, 2, 3)) for mode in (True, False))
    chance = 5 * 0.5 / (3 * 16 * 16) ** 0.5  # five standard errors of one image's share
    assert (evaluated - 0.5).abs().max() < chance
    assert training.min() > 0.2 - chance and training.max() < 0.8 + chance
    assert abs(training.std() - 0.6 / 12**0.5) < 0.03  # uniform


def test_the_result_is_an_image_and_goes_by_the_seed():
    x, denoiser = torch.rand(2, 1, 28, 28).round(), MatrixEstimation()

    def after(seed):
        with seeded(seed):
            return denoiser(x)

    assert after(1).shape == x.shape and after(1).min() == 0 and after(1).max() == 1
    assert torch.equal(after(1), after(1)) and not torch.equal(after(1), after(2))
    with torch.autocast("cpu", torch.bfloat16):
        reduced = after(1)
    assert torch.equal(reduced, after(1))
    assert MatrixEstimation((1e-9, 1e-9))(x).eq(0.5).all()  # nothing seen: grey, not NaN


def test_a_mask_can_be_held_still():
    x, method = torch.rand(3, 1, 28, 28), MeNet(width=0.25).eval()
    still = threats.fixed_mask(method.defended(), seed=3)
    torch.testing.assert_close(still(x)[1:], still(x[1:]))
    assert not torch.allclose(method(x), method(x))


def test_trained_behind_the_estimate_it_falls_to_bpda_while_a_plain_attack_finds_no_gradient():
    (x, y), test = data.load("mnist", "train", n=600), data.load("mnist", "test", n=100)
    method = MeNet(width=0.25, learning_rate=5e-3)
    history = fit(method, {"natural": x, "label": y}, epochs=8, batch_size=50, seed=0)
    assert history[-1]["risk"] < history[0]["risk"] / 2
    x, y = (t.to(device()) for t in test)
    defended = method.defended()
    natural = error(defended, x, y)
    assert natural < 0.4  # guessing errs in nine of ten
    with pytest.raises(NoGradient, match="the model gives no gradient"):
        ATTACKS["pgd"](defended, x, y, eps=EPS, steps=5)
    x_adv = ATTACKS["pgd"](threats.bpda(defended), x, y, eps=2 * EPS, steps=10)
    noise = (x + 2 * EPS * torch.randn_like(x).sign()).clamp(0, 1)
    assert error(defended, x_adv, y) > max(natural, error(defended, noise, y)) + 0.2


def test_adversarial_training_learns_from_attacks_on_the_whole_pipeline():
    x, y = (t.to(device()) for t in data.load("mnist", "train", n=100))
    batch = {"natural": x, "label": y}
    method = MeNet(width=0.25, attack_settings={"eps": EPS, "steps": 5}).to(device()).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    x_adv = method.attacked(x, y)
    assert 0 < (x_adv - x).abs().max() <= EPS + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    noise = (x + EPS * torch.randn_like(x).sign()).clamp(0, 1)
    risks = [torch.stack([F.cross_entropy(method(t), y) for _ in range(10)]).mean() for t in (x_adv, noise)]
    assert risks[0] > risks[1]
    # The attack has left the method alone; the step changes every weight.
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in method.parameters()) and method.denoiser.training
    method.training_step(batch, method.optimizers())
    assert all(
        not torch.equal(before[f"network.{name}"], p) for name, p in method.deployed.named_parameters()
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kept": (0, 0.5)}, "0 < low <= high <= 1, got"),
        ({"kept": (0.6, 0.4)}, "0 < low <= high <= 1, got"),
        ({"kept": (0.6,)}, "0 < low <= high <= 1, got"),
        ({"rank": 0}, "rank is a share of the singular values, .* got 0"),
        ({"attack_settings": {"steps": 5}}, "attack settings of pgd: .*eps"),
    ],
)
def test_bad_settings_of_the_estimate_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MeNet(**settings)


def test_it_has_a_denoiser_of_its_own():
    with pytest.raises(ValueError, match="leave `behind` out"):
        MeNet(behind=nn.AvgPool2d(3, 1, 1))


def test_what_is_smoothed_is_deployed_whole():
    method = Smoothed()
    assert method.defended().target is method and type(method.defended().denoiser) is nn.Identity
