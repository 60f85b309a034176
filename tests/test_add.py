"""ADD-Defense: its losses against their formulas, and who learns from what in a training step."""

import itertools
import math

import pytest
import torch

from helpers.defenses.add import ADD, eq2_as_printed, mmd
from helpers.training import fit


@pytest.fixture
def batch():
    return {
        "natural": torch.rand(6, 1, 28, 28),
        "adversarial": torch.rand(6, 2, 1, 28, 28),
        "label": torch.arange(6),
    }


def small(**settings):
    return ADD(width=1 / 64, **settings)


# --- MMD (Eq. 1, Appendix B) ---


def direct_mmd(codes, domains):
    """Appendix B as double sums, one pair of points at a time, with the median distance as bandwidth."""
    parts = [part.tolist() for part in codes.double().chunk(domains)]
    everyone = [code for part in parts for code in part]
    distances = sorted(math.dist(a, b) for a in everyone for b in everyone)
    sigma = distances[(len(distances) - 1) // 2]

    def kernel(a, b):
        return math.exp(-(math.dist(a, b) ** 2) / (2 * sigma**2))

    def mean(xs, ys):
        return sum(kernel(a, b) for a in xs for b in ys) / (len(xs) * len(ys))

    pairs = itertools.product(parts, repeat=2)
    return sum(math.sqrt(max(0.0, mean(a, a) - 2 * mean(a, b) + mean(b, b))) for a, b in pairs) / domains**2


@pytest.mark.parametrize("domains", [2, 3])
def test_mmd_is_the_double_sum_of_appendix_b(domains):
    codes = torch.randn(domains * 5, 4) + torch.arange(domains).repeat_interleave(5)[:, None]
    assert mmd(codes, domains).item() == pytest.approx(direct_mmd(codes, domains), rel=1e-5)


def test_mmd_of_equal_samples_is_zero():
    codes = torch.randn(7, 4)
    assert mmd(codes.repeat(3, 1), 3).item() < 1e-3
    assert mmd(torch.cat([codes, codes + 1]), 2).item() > 0.1


def test_mmd_has_a_finite_gradient_where_it_is_zero():
    codes = torch.randn(7, 4).repeat(2, 1).requires_grad_()
    mmd(codes, 2).backward()
    assert codes.grad.isfinite().all()


def test_descending_mmd_brings_domains_together():
    codes = torch.cat([torch.randn(20, 3), torch.randn(20, 3) + 3]).requires_grad_()
    before = mmd(codes, 2).item()
    optimizer = torch.optim.Adam([codes], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        mmd(codes, 2).backward()
        optimizer.step()
    assert mmd(codes, 2).item() < before / 3


# --- the other losses ---


def test_prior_is_the_closed_form_of_the_posterior():
    mean, log_variance = torch.randn(6, 5), torch.randn(6, 5)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    assert torch.isclose(small().loss_prior(mean, log_variance), expected)


def test_prior_is_the_closed_form_of_the_moments():
    method, codes = small(prior="moments"), torch.randn(3 * 50, 5) * 2 + 1
    expected = [
        torch.distributions.kl_divergence(
            torch.distributions.Normal(part.mean(0), part.std(0, correction=0)),
            torch.distributions.Normal(0.0, 1.0),
        ).sum()
        for part in codes.chunk(3)
    ]
    assert torch.isclose(method.loss_prior(codes, None), torch.stack(expected).mean())


def test_the_encoder_wants_all_attacks_equally_likely():
    method = small()
    last = method.perturbation_discriminator.layers[-1]
    with torch.no_grad():
        last.weight.zero_(), last.bias.zero_()
    codes = torch.randn(6, method.encoder.code_size)
    assert method.loss_perturbation(codes).item() == pytest.approx(math.log(3))
    with torch.no_grad():
        last.bias[1] = 2.0
    assert method.loss_perturbation(codes).item() > math.log(3)


def test_eq2_as_printed_has_no_upper_bound():
    domain = torch.tensor([0, 1, 2])
    values = [eq2_as_printed(scale * torch.eye(3), domain).item() for scale in (1, 10, 1000)]
    assert values[0] < values[1] < values[2] and values[2] > 600


@pytest.mark.parametrize("base", [10.0, math.e])
def test_weights_are_powers_of_the_base(base):
    method = small(exponents=(-4, 0, -3, 3), base=base)
    assert method.weights["prior"] == pytest.approx(base**-4) and method.weights["perturbation"] == 1
    assert method.weights["class"] == pytest.approx(base**-3) and method.theta == pytest.approx(base**3)


# --- training ---


def gradients(method, batch):
    """Which networks have moved after one step."""
    before = {k: v.clone() for k, v in method.named_parameters()}
    method.training_step(batch, method.optimizers())
    return {k.split(".")[0] for k, v in method.named_parameters() if not torch.equal(v, before[k])}


def test_a_step_trains_all_five_networks(batch):
    moved = gradients(small().train(), batch)
    assert moved == {
        "encoder",
        "generator",
        "perturbation_discriminator",
        "classifier",
        "image_discriminator",
    }


def test_without_its_term_the_class_classifier_stands_still(batch):
    assert "classifier" not in gradients(small(without=["class"]).train(), batch)


@pytest.mark.parametrize("term", ["mmd", "prior", "perturbation", "class", "adv"])
def test_a_term_left_out_changes_the_encoder(batch, term):
    codes = []
    for without in ([], [term]):
        torch.manual_seed(1)
        method = small(without=without, exponents=(0, 0, 0, 0)).train()
        method.training_step(batch, method.optimizers())
        codes.append(method.eval().encode(batch["natural"]))
    assert not torch.equal(*codes)


@pytest.mark.parametrize("prior", ["posterior", "moments"])
def test_training_lowers_the_error_of_the_restored_images(batch, prior):
    method = small(prior=prior, learning_rate=1e-2)
    bars = torch.zeros(6, 1, 28, 28)
    bars[:, :, 10:18] = 1  # noise, as `batch` has it, cannot be restored
    history = fit(method, batch | {"natural": bars}, epochs=40, batch_size=6, seed=0)
    assert history[-1]["mse"] < history[0]["mse"] / 2


def test_other_images_can_be_wanted(batch):
    method = small(learning_rate=1e-2, prior="moments")
    history = fit(method, batch | {"wanted": torch.zeros(6, 1, 28, 28)}, epochs=40, batch_size=6, seed=0)
    assert history[-1]["mse"] < history[0]["mse"] / 10
    assert method.eval()(batch["natural"]).mean() < 0.2 < batch["natural"].mean()


def test_restored_images_do_not_depend_on_chance(batch):
    method = small().eval()
    assert torch.equal(method(batch["natural"]), method(batch["natural"]))
    assert method(batch["natural"]).min() >= 0 and method(batch["natural"]).max() <= 1


def test_color_images_of_side_32():
    assert small(in_channels=3, image_size=32)(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("settings, named", [({"without": ["mse"]}, "mse"), ({"prior": "flat"}, "'flat'")])
def test_an_unknown_choice_is_named(settings, named):
    with pytest.raises(ValueError, match=named):
        small(**settings)
