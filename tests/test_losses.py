"""Each shared loss against a plain re-computation: loops, numpy, or another definition."""

from math import exp, log

import numpy as np
import pytest
import torch
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
    fitted = Normal(
        torch.tensor(columns.mean(0)), torch.tensor(columns.std(0))
    )  # numpy's std is the biased one
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


def test_the_divergence_is_that_of_torchs_distributions():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(*(torch.distributions.Categorical(logits=t) for t in (a, b)))
    torch.testing.assert_close(losses.kl(a, b), expected)
