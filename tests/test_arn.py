"""ARN: each equation against plain loops, and who learns from what (Eq. 7, 8, Algorithm 1)."""

import copy
from math import exp, log

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.defenses.arn import (
    ARN,
    TERMS,
    CodeClassifier,
    Encoder,
    Generator,
    ImageDiscriminator,
    ReleasedARN,
    draw,
    eq5_as_printed,
    gradient_penalty,
    squared_error,
)

SEEN, BATCH = 2, 4
PARTS = ("encoder", "generator", "attack_discriminator", "image_discriminator")


def arn(method=ARN, **settings):
    """A tiny ARN in double precision, by default of Eq. 1-6 to the letter; the same weights in every call.

    They are larger than the published start, under which all inputs look alike to the discriminators.
    """
    torch.manual_seed(0)
    if method is ARN:
        settings = {"natural_domain": False} | settings
    method = method(width=0.03, **settings).double()
    for module in method.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return method


def batch(seen=SEEN):
    torch.manual_seed(1)
    natural = torch.rand(BATCH, 1, 28, 28, dtype=torch.float64)
    noise = 0.3 * torch.rand(BATCH, seen, 1, 28, 28, dtype=torch.float64)
    return {"natural": natural, "adversarial": (natural[:, None] + noise).clamp(0, 1)}


def updates(method, data=None):
    """The gradient that one training step hands each part's optimizer, by name; and the reported losses.

    It is read off a step of plain gradient descent, small enough not to upset the discriminators.
    """
    rate = 1e-4
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizers = {part: torch.optim.SGD(getattr(method, part).parameters(), lr=rate) for part in PARTS}
    torch.manual_seed(2)
    reported = method.training_step(data or batch(), optimizers)
    after = dict(method.named_parameters())
    got = {part: {} for part in PARTS}
    for name, value in before.items():
        got[name.split(".")[0]][name] = (value - after[name].detach()) / rate
    return got, reported


def gradients(loss, method, part):
    """The gradient of `loss` with respect to one part, by name."""
    named = {f"{part}.{name}": p for name, p in getattr(method, part).named_parameters()}
    found = torch.autograd.grad(loss, named.values(), retain_graph=True)
    return dict(zip(named, found, strict=True))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], atol=1e-9, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def differ(a, b):
    return any(not torch.allclose(a[name], b[name], atol=1e-9, rtol=1e-6) for name in a)


def sigmoid(z):
    return 1 / (1 + exp(-z))


# --- the networks ---


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_encoder_and_generator_meet_at_the_code(side, in_channels):
    x = torch.rand(2, in_channels, side, side)
    code = Encoder(0.1, in_channels, side)(x)
    assert code.shape == (2, 205)
    assert Generator(0.1, in_channels, side)(code).shape == x.shape
    assert CodeClassifier(4, 0.1, 205)(code).shape == (2, 4)
    assert ImageDiscriminator(0.1, in_channels, side)(x).shape == (2,)


def test_the_variational_encoder_gives_mean_and_log_variance():
    mean, log_variance = Encoder(0.1, variational=True)(torch.rand(2, 1, 28, 28))
    assert mean.shape == log_variance.shape == (2, 205) and not torch.equal(mean, log_variance)


def test_the_generator_stays_in_the_unit_range_however_wild_its_weights():
    network = Generator(0.1)
    for p in network.parameters():
        p.data.mul_(30)
    out = network(torch.randn(4, 205))
    assert out.min() >= 0 and out.max() <= 1 and out.max() - out.min() > 0.5


@pytest.mark.parametrize(
    "side, second", [(32, 16), (28, 4)]
)  # of the second layer's kernel: 4×4, or 2×2 at side 28
def test_the_encoder_has_the_published_size(side, second):
    """ADD-Defense, Table 4: convolutions 128, 256, 512, 1024, 2048; BatchNorm after all but the last."""
    count = 16 * (128 + 512 * 256 + 1024 * 512 + 2048 * 1024) + second * 256 * 128 + 3968 + 2 * 1920
    assert sum(p.numel() for p in Encoder(image_size=side).parameters()) == count


def test_another_image_size_is_refused_with_the_choices():
    for network in (Encoder, Generator, ImageDiscriminator):
        with pytest.raises(ValueError, match=r"\[28, 32\], got 30"):
            network(image_size=30)


# --- Eq. 1 to 6, from the logits of the discriminators ---------------------------------------------


@pytest.fixture
def forward():
    """A method, its data, and for each attack k the codes E(x̃_k) and restored images G(E(x̃_k))."""
    method, data = arn().eval(), batch()
    codes = [method.encoder(data["adversarial"][:, k]) for k in range(SEEN)]
    restored = [method.generator(code) for code in codes]
    return method, data, codes, restored


def log_softmax(row):
    total = sum(exp(z) for z in row)
    return [log(exp(z) / total) for z in row]


def test_eq1_attack_discriminator(forward):
    method, _, codes, _ = forward
    expected = 0
    for k, code in enumerate(codes):
        expected -= (
            sum(log_softmax(row)[k] for row in method.attack_discriminator(code).tolist()) / BATCH / SEEN
        )
    assert method.loss_attack_discriminator(torch.cat(codes), SEEN).item() == pytest.approx(expected)


def test_eq2_attack_invariance(forward):
    method, _, codes, _ = forward
    expected = 0
    for code in codes:
        for row in method.attack_discriminator(code).tolist():
            expected -= sum(p / SEEN for p in log_softmax(row)) / BATCH / SEEN
    assert method.loss_att(torch.cat(codes), SEEN).item() == pytest.approx(expected)


def test_eq2_is_least_where_the_discriminator_is_confused(forward):
    method, _, codes, _ = forward
    for p in method.attack_discriminator.layers[-1].parameters():
        p.data.zero_()  # equal logits
    assert method.loss_att(torch.cat(codes), SEEN).item() == pytest.approx(log(SEEN))


def test_eq3_normalisation_is_per_attack(forward):
    method, _, codes, _ = forward
    codes[1] = 3 * codes[1] + 1
    expected = 0
    for code in codes:
        for column in code.T.tolist():
            mean = sum(column) / BATCH
            variance = sum((c - mean) ** 2 for c in column) / BATCH
            expected += 0.5 * (mean**2 + variance - 1 - log(variance + 1e-8)) / SEEN
    assert method.loss_nor(torch.cat(codes), SEEN).item() == pytest.approx(expected)


def test_eq3_of_the_released_code_is_that_of_each_images_own_gaussian(forward):
    method, _, codes, _ = forward
    mean, log_variance = torch.cat(codes), torch.randn(SEEN * BATCH, codes[0].shape[1]).double()
    expected = 0
    for row, logs in zip(mean.tolist(), log_variance.tolist(), strict=True):
        expected += sum(0.5 * (m**2 + exp(v) - 1 - v) for m, v in zip(row, logs, strict=True)) / SEEN / BATCH
    assert method.loss_nor(mean, SEEN, log_variance).item() == pytest.approx(expected)


def test_under_the_prior_posterior_codes_are_drawn_in_training_only():
    method, data = arn(prior="posterior").eval(), batch()
    assert torch.equal(method.encode(data["natural"]), method.encoder(data["natural"])[0])
    torch.manual_seed(3)
    codes, mean, log_variance = draw(method.encoder, data["natural"])
    torch.manual_seed(3)
    torch.testing.assert_close(codes, mean + log_variance.exp().sqrt() * torch.randn_like(mean))
    got, reported = updates(arn(prior="posterior"), data)
    head = got["encoder"]["encoder.log_variance.weight"]
    assert head.abs().max() > 0 and all(loss.isfinite() for loss in reported.values())
    codes, mean, log_variance = draw(arn().encoder, data["natural"])
    assert codes is mean and log_variance is None


def test_an_unknown_prior_is_an_error_with_the_choices():
    with pytest.raises(ValueError, match="moments, posterior; got 'kl'"):
        ARN(width=0.02, prior="kl")


def test_eq4_is_summed_over_attacks(forward):
    method, data, _, restored = forward
    expected = sum(((r - data["natural"]) ** 2).sum().item() / BATCH for r in restored)
    got = method.loss_mse(torch.cat(restored), data["natural"].repeat(SEEN, 1, 1, 1), SEEN)
    assert got.item() == pytest.approx(expected)


def test_eq5_bounded(forward):
    method, data, _, restored = forward
    real = method.image_discriminator(data["natural"]).tolist()
    expected = 0
    for r in restored:
        fake = method.image_discriminator(r).tolist()
        expected -= (
            sum(log(sigmoid(a)) + log(1 - sigmoid(b)) for a, b in zip(real, fake, strict=True)) / BATCH
        )
    got = method.loss_image_discriminator(data["natural"], torch.cat(restored), SEEN)
    assert got.item() == pytest.approx(expected)


def test_eq5_as_printed():
    real, fake = torch.randn(4), torch.randn(4)
    expected = (
        sum(log(sigmoid(f)) + log(1 - sigmoid(r)) for r, f in zip(real.tolist(), fake.tolist(), strict=True))
        / 4
    )
    assert eq5_as_printed(real, fake).item() == pytest.approx(expected, rel=1e-5)


def test_eq5_as_printed_has_no_lower_bound_but_the_direction_of_the_bounded_form():
    method = arn()
    for sure in (1e1, 1e3, 1e5):  # a discriminator that is ever surer of the right answer
        assert eq5_as_printed(torch.full((4,), sure), torch.full((4,), -sure)) < -sure
    logits = torch.zeros(2, requires_grad=True)  # of a real and of a fake image
    method.image_discriminator.forward = lambda which: logits[which]
    (printed,) = torch.autograd.grad(eq5_as_printed(logits[:1], logits[1:]), logits)
    bounded = method.loss_image_discriminator(torch.tensor([0]), torch.tensor([1]), 1)
    assert bounded.item() == pytest.approx(2 * log(2)) and bounded >= 0
    assert torch.equal(torch.autograd.grad(bounded, logits)[0].sign(), printed.sign())


def test_eq6_adversarial(forward):
    method, _, _, restored = forward
    expected = -sum(log(sigmoid(z)) / BATCH for r in restored for z in method.image_discriminator(r).tolist())
    assert method.loss_adv(torch.cat(restored), SEEN).item() == pytest.approx(expected)


# --- Eq. 7, 8 and Algorithm 1: who learns from what -------------------------------------------------


def test_one_step_gives_each_network_the_gradient_of_its_own_objective():
    method = arn()
    weights = {"lambda1": method.lambda1, "lambda2": method.lambda2, "theta": method.theta}
    assert weights == {"lambda1": 0.1, "lambda2": 0.01, "theta": 0.1}  # Section 4.1
    reference, data = copy.deepcopy(method), batch()
    natural, adversarial = data["natural"], data["adversarial"]
    codes = reference.encoder(torch.cat([adversarial[:, 0], adversarial[:, 1]]))
    restored = reference.generator(codes)
    mse = reference.loss_mse(restored, natural.repeat(2, 1, 1, 1), 2)
    att, nor, adv = (
        reference.loss_att(codes, 2),
        reference.loss_nor(codes, 2),
        reference.loss_adv(restored, 2),
    )
    expected = {
        "encoder": gradients(mse + 0.1 * att + 0.01 * nor, reference, "encoder"),  # Eq. 7
        "generator": gradients(mse + 0.1 * adv, reference, "generator"),  # Eq. 8
        "attack_discriminator": gradients(
            reference.loss_attack_discriminator(codes, 2), reference, "attack_discriminator"
        ),
        "image_discriminator": gradients(
            reference.loss_image_discriminator(natural, restored, 2), reference, "image_discriminator"
        ),
    }
    got, reported = updates(method, data)
    for part in PARTS:
        assert differ(got[part], {name: torch.zeros_like(g) for name, g in got[part].items()})
        assert_same(got[part], expected[part])
    assert {name: reported[name].item() for name in ("mse", "att", "nor", "adv")} == pytest.approx(
        {"mse": mse.item(), "att": att.item(), "nor": nor.item(), "adv": adv.item()}
    )
    assert not any(loss.requires_grad for loss in reported.values())


@pytest.mark.parametrize(
    "weight, learns", [("lambda1", "encoder"), ("lambda2", "encoder"), ("theta", "generator")]
)
def test_each_weight_reaches_one_network_only(weight, learns):
    """ℒ_adv does not reach the encoder, ℒ_att and ℒ_nor not the generator, and none a discriminator."""
    plain, heavy = updates(arn())[0], updates(arn(**{weight: 1000.0}))[0]
    for part in PARTS:
        if part == learns:
            assert differ(plain[part], heavy[part])
        else:
            assert_same(plain[part], heavy[part])


@pytest.mark.parametrize("method", [ARN, ReleasedARN])
@pytest.mark.parametrize(
    "term, weight, learns",
    [
        ("att", "lambda1", "encoder"),
        ("nor", "lambda2", "encoder"),
        ("adv", "theta", "generator"),
    ],
)
def test_without_a_term_is_training_with_its_weight_at_zero(method, term, weight, learns):
    full, zero = arn(method), arn(method)
    setattr(full, weight, 1000.0)
    setattr(zero, weight, 0.0)
    full, without, zero = (updates(m)[0] for m in (full, arn(method, without=[term]), zero))
    for part in PARTS:
        assert_same(without[part], zero[part])
        assert differ(full[part], without[part]) == (part == learns)


def test_without_everything_leaves_the_mse():
    method, data = arn(without=TERMS), batch()
    reference = copy.deepcopy(method)
    codes = reference.encoder(torch.cat([data["adversarial"][:, 0], data["adversarial"][:, 1]]))
    mse = reference.loss_mse(reference.generator(codes), data["natural"].repeat(2, 1, 1, 1), 2)
    got, _ = updates(method, data)
    for part in ("encoder", "generator"):
        assert_same(got[part], gradients(mse, reference, part))


def test_an_unknown_term_is_an_error_with_the_choices():
    with pytest.raises(ValueError, match="unknown loss terms.*'mse'.*att, nor, adv"):
        ARN(width=0.02, without=["att", "mse"])


def test_the_denoiser_is_the_generator_after_the_encoder():
    method, x = arn().eval(), batch()["natural"]
    assert torch.equal(method(x), method.generator(method.encoder(x)))
    assert arn(in_channels=3, image_size=32).eval()(torch.rand(2, 3, 32, 32).double()).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("method", [ARN, ReleasedARN])
def test_by_default_the_natural_images_are_one_more_attack(method):
    """Section 4.2: seen attacks "together with natural examples"; the released code has three domains."""
    one = method(width=0.03).double()
    assert one.attack_discriminator(torch.zeros(1, one.encoder.code_size).double()).shape == (1, 3)


def test_the_natural_domain_is_trained_as_the_first_attack():
    data = batch()
    as_attacks = torch.cat([data["natural"][:, None], data["adversarial"]], 1)
    with_domain, reported = updates(arn(natural_domain=True), data)
    three_attacks, expected = updates(arn(seen=3), {"natural": data["natural"], "adversarial": as_attacks})
    for part in PARTS:
        assert_same(with_domain[part], three_attacks[part])
    assert reported == expected


def test_more_than_two_seen_attacks():
    method = arn(seen=3)
    got, reported = updates(method, batch(seen=3))
    assert method.attack_discriminator(torch.zeros(1, method.encoder.code_size).double()).shape == (1, 3)
    assert all(loss.isfinite() for loss in reported.values())


# --- the released variant ---------------------------------------------------------------------------


def test_released_step_gives_each_network_the_gradient_of_the_released_objective():
    method, data = arn(ReleasedARN), batch()
    assert (method.lambda1, method.lambda2, method.theta) == (0.5, 1e-6, 0.01)
    reference = copy.deepcopy(method)
    got, reported = updates(method, data)  # the discriminators step first: E and G meet the new ones
    domains = [data["natural"], data["adversarial"][:, 0], data["adversarial"][:, 1]]
    x = torch.cat(domains).repeat(1, 3, 1, 1)
    target = data["natural"].repeat(3, 3, 1, 1)
    label = F.one_hot(torch.arange(3).repeat_interleave(BATCH), 3).double()

    torch.manual_seed(2)
    mean, log_variance = reference.encoder(x)
    codes = mean + torch.randn_like(mean) * log_variance.exp().sqrt()
    restored = reference.generator(codes)

    def bce(logits, wanted):
        p = logits.sigmoid()
        return -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()

    d_attack = bce(reference.attack_discriminator(codes.detach()), label)
    real, fake = reference.image_discriminator(target), reference.image_discriminator(restored.detach())
    d_image = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    penalty = 30 * gradient_penalty(
        lambda z: reference.image_discriminator((z + 1) / 2), 2 * x - 1, 2 * restored.detach() - 1
    )
    assert_same(got["attack_discriminator"], gradients(d_attack, reference, "attack_discriminator"))
    assert_same(got["image_discriminator"], gradients(d_image + penalty, reference, "image_discriminator"))

    for part in ("attack_discriminator", "image_discriminator"):
        getattr(reference, part).load_state_dict(getattr(method, part).state_dict())
    mse = ((2 * restored - 2 * target) ** 2).mean()
    att = bce(reference.attack_discriminator(codes), torch.full_like(label, 1 / 3))
    nor = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
    adv = -reference.image_discriminator(restored).sigmoid().log().mean()
    assert_same(got["encoder"], gradients(200 * mse + 0.5 * att + 1e-6 * nor, reference, "encoder"))
    assert_same(got["generator"], gradients(200 * mse + 0.01 * adv, reference, "generator"))
    expected = {"mse": mse, "att": att, "nor": nor, "adv": adv, "d_attack": d_attack, "d_image": d_image}
    assert {k: v.item() for k, v in reported.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )


def test_released_restores_by_the_mean_code_and_turns_gray_by_luminance():
    method, x = arn(ReleasedARN).eval(), batch()["natural"]
    mean, _ = method.encoder(x.repeat(1, 3, 1, 1))
    red, green, blue = method.generator(mean).unbind(1)
    restored = method(x)
    assert restored.shape == x.shape
    torch.testing.assert_close(
        restored.squeeze(1), 0.299 * red + 0.587 * green + 0.114 * blue, rtol=1e-6, atol=1e-7
    )
    assert all("luminance" not in name for name in method.state_dict())  # a constant, not learnt
    assert torch.equal(method(x), restored)  # nothing is drawn


def test_released_norm_gains_start_around_zero_and_the_papers_around_one():
    for method, start in ((ARN, 1), (ReleasedARN, 0)):
        norms = [module for module in method(width=0.1).modules() if isinstance(module, nn.BatchNorm2d)]
        gains = torch.cat([norm.weight for norm in norms])
        assert gains.mean().item() == pytest.approx(start, abs=0.005)
        assert gains.std().item() == pytest.approx(0.02, rel=0.2)


def test_released_learning_rates_fall_after_half_of_the_epochs():
    method = arn(ReleasedARN)
    optimizers = method.optimizers()
    schedulers = method.schedulers(optimizers, 10)
    rates = {part: [] for part in PARTS}
    for _ in range(10):
        for part, optimizer in optimizers.items():
            rates[part].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    for part in PARTS:
        later = 5e-5 if "discriminator" in part else 1e-5
        assert rates[part] == pytest.approx([1e-4] * 5 + [later] * 5)


@pytest.mark.parametrize("method", [ARN, ReleasedARN])
def test_adam_is_the_published_one_and_each_network_has_its_own(method):
    one = arn(method)
    optimizers = one.optimizers()
    assert set(optimizers) == set(PARTS)
    for part, optimizer in optimizers.items():
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.999))
        assert {id(p) for p in group["params"]} == {id(p) for p in getattr(one, part).parameters()}


# --- losses of ARN alone ---


def test_squared_error_sums_over_an_image_and_averages_over_images():
    a, b = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)
    expected = sum(((one - other) ** 2).sum().item() for one, other in zip(a, b, strict=True)) / 4
    assert squared_error(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_penalty_is_the_formula_pixel_by_pixel():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 2, 1)).double()
    real, fake = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64)
    torch.manual_seed(1)
    got = gradient_penalty(network, real, fake)
    torch.manual_seed(1)
    mix = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    deviations = []
    for x in mix * real + (1 - mix) * fake:
        gradient = torch.autograd.functional.jacobian(lambda z: network(z[None]).squeeze(), x)
        deviations += [(gradient[:, i, j].norm().item() - 1) ** 2 for i in range(4) for j in range(4)]
    assert got.item() == pytest.approx(sum(deviations) / len(deviations), rel=1e-9)


def test_gradient_penalty_teaches_the_discriminator_and_nobody_else():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2, requires_grad=True)
    gradient_penalty(network, real, fake).backward()
    assert network[1].weight.grad.abs().max() > 0 and fake.grad is None


def test_gradient_penalty_of_a_unit_slope_is_zero():
    real, fake = torch.rand(2, 4, 1, 3, 3)
    penalty = gradient_penalty(lambda x: x.flatten(1).sum(1), real, fake)
    assert penalty.item() == pytest.approx(0, abs=1e-10)
