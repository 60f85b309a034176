"""NRP: its purifier and critic, the self-supervised perturbation, the losses, and who learns in a step."""

import copy
import itertools
import math

import pytest
import torch

from helpers import data, device
from helpers.defenses.nrp import NRP, BasicBlock, DenseBlock, NRPDiscriminator, NRPPurifier, relativistic_loss
from helpers.networks import build
from helpers.networks.features import features_at
from helpers.networks.zoo import load_target
from helpers.training import fit

LAYER = "blocks.2.conv2"
SMALL = {"width": 0.05, "blocks": 1}


@pytest.fixture(scope="module")
def target():
    return load_target("resnet18_quarter_nat")


@pytest.fixture(scope="module")
def images():
    return data.load("cifar10", "train", n=40)[0].to(device())


def distance(target, a, b):
    """‖F(a) − F(b)‖² of each image."""
    with torch.no_grad(), features_at(target, LAYER) as see:
        return (see(a)[1] - see(b)[1]).square().flatten(1).sum(1)


# --- the networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_purifier_keeps_the_shape_and_critic_gives_one_score_an_image(side, in_channels):
    x = torch.rand(2, in_channels, side, side)
    assert NRPPurifier(in_channels=in_channels, **SMALL)(x).shape == x.shape
    assert NRPDiscriminator(in_channels=in_channels, width=0.05)(x).shape == (2,)


def test_the_purifier_has_the_published_layers():
    """Per dense block: 64, 96, 128, 160 channels to 32, then 192 to 64; three of them a basic block."""
    dense = 9 * (32 * (64 + 96 + 128 + 160) + 192 * 64) + 4 * 32 + 64
    count = 3 * 3 * dense + 9 * (3 * 64 + 64 * 3) + 64 + 3
    assert sum(p.numel() for p in NRPPurifier().parameters()) == count


def test_width_scales_all_channels_and_blocks_adds_basic_blocks():
    network = NRPPurifier(width=0.25, blocks=2)
    assert len(network.blocks) == 2 and all(isinstance(block, BasicBlock) for block in network.blocks)
    assert {p.shape[0] for p in network.blocks.parameters()} == {16, 8}


def test_blocks_scale_their_residuals_by_a_fifth():
    dense, x = DenseBlock(4, 2).double(), torch.rand(2, 4, 8, 8).double()
    with torch.no_grad():
        for p in dense.parameters():
            p.zero_()
        dense.convs[-1].bias.fill_(1.0)
        torch.testing.assert_close(dense(x), x + 0.2)
        block = BasicBlock(4, 2).double()
        for part in block.dense:
            part.load_state_dict(dense.state_dict())
        torch.testing.assert_close(block(x), x + 0.2 * (x + 3 * 0.2))


def test_each_convolution_of_a_dense_block_sees_all_before_it():
    block, seen = DenseBlock(4, 2), []
    for conv in block.convs:
        conv.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    block(torch.rand(1, 4, 8, 8))
    for (before, out), (after, _) in itertools.pairwise(seen):
        torch.testing.assert_close(after, torch.cat([before, torch.where(out > 0, out, 0.2 * out)], 1))


def test_a_dense_block_starts_near_the_identity():
    block, x = DenseBlock(64, 32), torch.rand(2, 64, 8, 8)
    plain = copy.deepcopy(block)
    for conv in plain.convs:
        conv.reset_parameters()
    assert (block(x) - x).norm() < 0.03 * x.norm() < (plain(x) - x).norm()


def test_the_purifier_does_not_clip():
    network = NRPPurifier(**SMALL)
    with torch.no_grad():
        network.last.bias.fill_(5.0)
        assert network(torch.rand(2, 3, 16, 16)).min() > 1


# --- the self-supervised perturbation --------------------------------------------------------------


def test_ssp_stays_in_the_ball_and_in_the_unit_range(target, images):
    x_adv = NRP(target, eps=0.05, **SMALL).self_supervised_perturbation(images)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert 0.049 < (x_adv - images).abs().max() <= 0.05 + 1e-6


def test_ssp_moves_the_features_further_than_noise_of_its_size(target, images):
    method = NRP(target, **SMALL)
    x_adv = method.self_supervised_perturbation(images)
    noise = (images + method.attack["eps"] * torch.randn_like(images).sign()).clamp(0, 1)
    assert (distance(target, x_adv, images) > 2 * distance(target, noise, images)).all()


def test_ssp_starts_elsewhere_each_time(target, images):
    method = NRP(target, steps=1, **SMALL)
    first, second = (method.self_supervised_perturbation(images[:2]) for _ in range(2))
    assert not torch.equal(first, second)


# --- the losses ------------------------------------------------------------------------------------


def test_relativistic_loss_by_hand():
    """Scores 2, 0 of real and −1, −3 of fake images: averages 1 and −2."""
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, -3.0])

    def sigma(t):
        return 1 / (1 + math.exp(-t))

    critic = (
        -(math.log(sigma(4)) + math.log(sigma(2)) + math.log(1 - sigma(-2)) + math.log(1 - sigma(-4))) / 2
    )
    generator = (
        -(math.log(1 - sigma(4)) + math.log(1 - sigma(2)) + math.log(sigma(-2)) + math.log(sigma(-4))) / 2
    )
    assert relativistic_loss(real, fake).item() == pytest.approx(critic, rel=1e-5)
    assert relativistic_loss(fake, real).item() == pytest.approx(generator, rel=1e-5)


@pytest.mark.parametrize("weights", [{}, {"alpha": 2.0, "gamma": 3.0, "lambda_": 0.5}])
def test_each_network_descends_its_own_loss(target, images, weights):
    """A step of plain gradient descent with rate 1 shows the gradient."""
    method, natural = NRP(target, **SMALL, **weights).to(device()), images[:6]
    before = copy.deepcopy(method)
    plain = {
        part: torch.optim.SGD(getattr(method, part).parameters(), lr=1.0) for part in method.optimizers()
    }
    torch.manual_seed(1)
    reported = method.training_step({"natural": natural}, plain)

    torch.manual_seed(1)
    restored = before.purifier(before.self_supervised_perturbation(natural))
    meets = copy.deepcopy(before.critic)
    meets.load_state_dict(method.critic.state_dict())  # P meets the updated critic
    with features_at(target, LAYER) as see:
        feature = (see(restored)[1] - see(natural)[1]).square().mean()
    losses = {
        "critic": relativistic_loss(before.critic(natural), before.critic(restored.detach())),
        "adv": relativistic_loss(meets(restored), meets(natural)),
        "pixel": (restored - natural).square().mean(),
        "feature": feature,
    }
    assert {name: value.item() for name, value in reported.items()} == pytest.approx(
        {name: value.item() for name, value in losses.items()}, rel=1e-4
    )

    published = {"alpha": 0.005, "gamma": 0.01, "lambda_": 1.0}  # Wang et al. 2018, Section 4.1
    alpha, gamma, lambda_ = (published | weights).values()
    total = alpha * losses["adv"] + gamma * losses["pixel"] + lambda_ * losses["feature"]
    for part, loss in (("critic", losses["critic"]), ("purifier", total)):
        parameters = list(getattr(before, part).parameters())
        gradients = torch.autograd.grad(loss, parameters)
        for p, gradient, new in zip(parameters, gradients, getattr(method, part).parameters(), strict=True):
            torch.testing.assert_close(p - new, gradient, rtol=1e-2, atol=1e-5)


# --- training --------------------------------------------------------------------------------------


def test_it_learns_from_its_own_perturbation_without_labels(target, images):
    method, seen = NRP(target, **SMALL).to(device()), []
    method.purifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    assert method.learns_from == ("natural",)
    method.training_step({"natural": images[:6]}, method.optimizers())
    (x,) = seen
    assert x.shape == images[:6].shape and 0.03 < (x - images[:6]).abs().max() <= 8 / 255 + 1e-6


def test_told_so_it_learns_from_the_batchs_adversarial_examples_instead(target, images):
    """DIR, Section 4.1: "the attack used in all methods was PGD"."""
    method, seen = NRP(target, self_supervised=False, **SMALL).to(device()), []
    assert method.learns_from == ("natural", "adversarial")
    method.purifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    adversarial = torch.stack([images / 2, images / 3], 1)
    method.training_step({"natural": images, "adversarial": adversarial}, method.optimizers())
    assert torch.equal(seen[0], torch.cat([images / 2, images / 3]))


def test_told_so_it_learns_from_full_adversarial_examples_instead(target, images):
    method, seen = NRP(target, full={"eps": 0.1, "steps": 1}, **SMALL).to(device()), []
    assert method.learns_from == ("natural", "label")
    x, y = images[:6], torch.arange(6, device=images.device)
    torch.manual_seed(1)
    expected = method.adversarial({"natural": x, "label": y})[:, 0]
    method.purifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    torch.manual_seed(1)
    method.training_step({"natural": x, "label": y}, method.optimizers())
    assert torch.equal(seen[-1], expected) and (expected - x).abs().max() > 0.09


@pytest.mark.parametrize("training", [False, True])
def test_training_leaves_its_target_alone(images, training):
    """Its weights, its BatchNorm statistics, its gradients, its mode: even if it comes in train mode."""
    target = build("resnet18", width=0.05).to(device()).train(training)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    fit(NRP(target, steps=2, **SMALL), {"natural": images[:8]}, epochs=2, batch_size=4, seed=0)
    assert all(torch.equal(t, before[name]) for name, t in target.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in target.parameters())
    assert all(module.training == training for module in target.modules())


def test_a_purifier_is_saved_and_loaded_without_its_target(target):
    method = NRP(target, **SMALL)
    assert all(name.startswith(("purifier.", "critic.")) for name in method.state_dict())
    NRP(**SMALL).load_state_dict(method.state_dict())


def test_a_layer_that_the_target_lacks_is_named(target, images):
    with pytest.raises(ValueError, match="no layer 'conv3_3'.*blocks.2.conv2"):
        NRP(target, layer="conv3_3", **SMALL).training_step({"natural": images[:4]}, {})


def test_training_restores_features_and_pixels(target, images):
    """The purifier starts far off, and has to learn even the identity."""
    method, natural = NRP(target, width=0.125, blocks=1, learning_rate=5e-3, steps=3), images[:20]
    first, *_, last = fit(method, {"natural": natural}, epochs=10, batch_size=5, seed=0)
    # Seen on one CPU, over four seeds: 30 to 48 % of the first epoch's feature loss, 3 to 20 % of pixels'.
    assert last["feature"] < 0.7 * first["feature"] and last["pixel"] < 0.7 * first["pixel"]


def test_it_trains_in_bf16_and_reports_float32(target, images):
    method = NRP(target, steps=2, **SMALL).to(device())
    with torch.autocast(device().type, torch.bfloat16):
        losses = method.training_step({"natural": images[:6]}, method.optimizers())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(p.isfinite().all() for p in method.parameters())
