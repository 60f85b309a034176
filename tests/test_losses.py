"""Each shared loss against a plain re-computation: loops, numpy, or another definition."""

from math import exp, log

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from helpers import losses


def sigmoid(z):
    return 1 / (1 + exp(-z))


def test_cross_entropy_to_a_distribution():
    logits, p = torch.randn(6, 3), torch.tensor([0.2, 0.5, 0.3])
    expected = 0
    for row in logits.tolist():
        total = sum(exp(z) for z in row)
        expected -= sum(q * log(exp(z) / total) for q, z in zip(p.tolist(), row, strict=True)) / 6
    assert losses.cross_entropy_to(logits, p).item() == pytest.approx(expected, rel=1e-5)


def test_moment_kl_is_the_closed_form_for_the_fitted_gaussian():
    code = 2 * torch.randn(50, 4) + torch.tensor([0.0, 1.0, -2.0, 5.0])
    columns = code.numpy()
    fitted = Normal(torch.tensor(columns.mean(0)), torch.tensor(columns.std(0)))  # numpy's std is the biased one
    expected = kl_divergence(fitted, Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses.moment_kl(code), expected, rtol=1e-5, atol=0)


def test_moment_kl_vanishes_for_the_prior_and_survives_a_constant_code():
    code = torch.randn(1000, 3)
    code = (code - code.mean(0)) / code.std(0, correction=0)
    assert losses.moment_kl(code).item() == pytest.approx(0, abs=1e-5)
    assert losses.moment_kl(torch.zeros(10, 3)).isfinite()


def test_posterior_kl_is_the_closed_form_summed_over_batch_and_dimensions():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses.posterior_kl(mean, log_variance), expected)


def test_squared_error_sums_over_an_image_and_averages_over_images():
    a, b = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)
    expected = np.mean([np.sum((one - other) ** 2) for one, other in zip(a.numpy(), b.numpy(), strict=True)])
    assert losses.squared_error(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_gan_losses_are_their_cross_entropies():
    real, fake = torch.randn(4), torch.randn(6)
    on_real = np.mean([-log(sigmoid(z)) for z in real.tolist()])
    on_fake = np.mean([-log(1 - sigmoid(z)) for z in fake.tolist()])
    deceive = np.mean([-log(sigmoid(z)) for z in fake.tolist()])
    assert losses.real_fake_loss(real, fake).item() == pytest.approx(on_real + on_fake, rel=1e-5)
    assert losses.deceive_loss(fake).item() == pytest.approx(deceive, rel=1e-5)


def test_gan_losses_are_finite_for_a_perfect_discriminator():
    sure = torch.tensor([1e4])
    assert losses.real_fake_loss(sure, -sure) == 0 and losses.deceive_loss(-sure) == 1e4


def test_gradient_penalty_is_the_formula_pixel_by_pixel():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 2, 1)).double()
    real, fake = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64)
    torch.manual_seed(1)
    got = losses.gradient_penalty(network, real, fake)
    torch.manual_seed(1)
    mix = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    deviations = []
    for x in mix * real + (1 - mix) * fake:
        gradient = torch.autograd.functional.jacobian(lambda z: network(z[None]).squeeze(), x)
        deviations += [(gradient[:, i, j].norm().item() - 1) ** 2 for i in range(4) for j in range(4)]
    assert got.item() == pytest.approx(np.mean(deviations), rel=1e-9)


def test_gradient_penalty_teaches_the_discriminator_and_nobody_else():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2, requires_grad=True)
    losses.gradient_penalty(network, real, fake).backward()
    assert network[1].weight.grad.abs().max() > 0 and fake.grad is None


def test_gradient_penalty_of_a_unit_slope_is_zero():
    real, fake = torch.rand(2, 4, 1, 3, 3)
    penalty = losses.gradient_penalty(lambda x: x.flatten(1).sum(1), real, fake)
    assert penalty.item() == pytest.approx(0, abs=1e-10)


def test_boosted_cross_entropy_is_the_formula():
    logits, y = torch.randn(6, 5), torch.arange(6) % 5
    p = logits.softmax(1).double()
    wrong = [max(p[i, k] for k in range(5) if k != y[i]) for i in range(6)]
    wanted = [-(p[i, y[i]].log() + (1 - wrong[i]).log()) for i in range(6)]
    assert losses.boosted_cross_entropy(logits, y) == pytest.approx(torch.stack(wanted).numpy(), rel=1e-5)


def test_boosted_cross_entropy_grows_on_where_the_probability_of_a_wrong_class_rounds_to_one():
    logits = torch.tensor([[0.0, 200.0, -5.0], [0.0, 400.0, -5.0]])
    loss = losses.boosted_cross_entropy(logits, torch.tensor([0, 0]))
    assert loss == pytest.approx([400, 800], rel=1e-4)  # each of its two terms is the margin


def test_feature_similarity_is_the_mean_square_difference_of_each_image():
    a, b = torch.randn(2, 3, 4, 5, 5)
    wanted = [np.square(a[i].numpy() - b[i].numpy()).mean() for i in range(3)]
    assert losses.feature_similarity(a, b) == pytest.approx(wanted, rel=1e-5)
