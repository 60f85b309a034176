"""DIR: what its masks show and where it goes, each equation by its own formula, what stays as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import networks, seeded, threats
from helpers.defenses.dir import DIR, DIRPretraining, Discard, MaskedViT, take, to_images, to_patches
from helpers.threats import Defended
from helpers.training import fit

NET = {"width": 0.04, "patch": 4, "encoder": 1, "decoder": 1, "image_size": 16}
SLIM = NET | {"steps": 2, "augment": False}


@pytest.fixture
def target():
    """A tiny untrained ResNet-18, with BatchNorm statistics that a pass in train mode would move."""
    return networks.build("resnet18", width=0.05).eval().requires_grad_(False)


@pytest.fixture
def batch():
    x = torch.rand(6, 3, 16, 16)
    return {"natural": x, "label": torch.arange(6), "adversarial": (x + 0.03).clamp(0, 1)[:, None]}


class Identity(nn.Module):
    """Stands for the network: leaves each visible patch at its slot, and everything else black."""

    places, patch = 16, 4

    def forward(self, x, visible, slots):
        patches = take(to_patches(x, self.patch), visible)
        empty = torch.zeros_like(to_patches(x, self.patch))
        return to_images(
            empty.scatter(1, slots[..., None].expand_as(patches), patches), self.patch, x.shape[1]
        )


def with_identity(**settings):
    denoiser = Discard(**NET, **settings)
    denoiser.vit = Identity()
    return denoiser


# Masks ---------------------------------------------------------------------------------------


def test_two_masks_of_one_half_partition_the_patches(batch):
    visible = Discard(**NET).masks(batch["natural"])
    assert visible.shape == (2, 6, 8)
    every = visible.transpose(0, 1).flatten(1).sort(1).values
    assert torch.equal(every, torch.arange(16).expand(6, -1))


@pytest.mark.parametrize("hidden, k", [(0.0, 1), (0.25, 2), (0.75, 4), (0.7, 4)])
def test_the_fewest_masks_of_another_share_show_every_patch(batch, hidden, k):
    visible = Discard(**NET, hidden=hidden).masks(batch["natural"])
    assert visible.shape == (k, 6, round((1 - hidden) * 16))
    for image in visible.transpose(0, 1):
        assert image.unique().numel() == 16
        assert all(mask.unique().numel() == len(mask) for mask in image)


def test_masks_differ_between_images_and_passes_but_not_between_seeds(batch):
    denoiser, x = Discard(**NET), batch["natural"]
    with seeded(1):
        first, second = denoiser.masks(x), denoiser.masks(x)
    with seeded(1):
        again = denoiser.masks(x)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert len({tuple(mask.sort().values.tolist()) for mask in first[0]}) == 6


@pytest.mark.parametrize("hidden, wrong", [(1.0, "hidden=1.0"), (-0.1, "hidden=-0.1")])
def test_a_share_that_leaves_nothing_is_refused(hidden, wrong):
    with pytest.raises(ValueError, match=wrong):
        Discard(**NET, hidden=hidden)


def test_halves_can_be_misplaced_only_where_there_are_two():
    with pytest.raises(ValueError, match="hidden must be 0.5"):
        Discard(**NET, hidden=0.25, misplaced=True)


# Where what they show goes --------------------------------------------------------------------


def test_an_identity_denoiser_returns_the_image_half_by_half(batch):
    x = batch["natural"]
    halves = with_identity().each(x)
    torch.testing.assert_close(halves.sum(0), x)
    assert (halves == 0).flatten(1).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_misplaced_puts_the_second_half_over_the_first(batch):
    x, denoiser = batch["natural"], with_identity(misplaced=True)
    visible = denoiser.masks(x)
    first, second = (to_patches(half, 4) for half in denoiser.each(x, visible))
    torch.testing.assert_close(take(first, visible[0]), take(to_patches(x, 4), visible[0]))
    torch.testing.assert_close(take(second, visible[0]), take(to_patches(x, 4), visible[1]))
    assert not take(second, visible[1]).any()


def test_a_hidden_patch_has_no_influence_at_all(batch):
    denoiser, x = Discard(**NET), batch["natural"]
    visible = denoiser.masks(x)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser.each(leaf, visible)[0].sum(), leaf)
    gradient = to_patches(gradient, 4)
    assert not take(gradient, visible[1]).any() and take(gradient, visible[0]).abs().sum() > 0


def test_the_restoration_is_the_mean_over_the_masks_in_whatever_batch(batch):
    denoiser, x = Discard(**NET).eval(), batch["natural"]
    visible = denoiser.masks(x)
    torch.testing.assert_close(denoiser(x, visible), denoiser.each(x, visible).mean(0))
    alone = torch.stack([denoiser.vit(x[2:3], visible[k, 2:3])[0] for k in range(2)]).mean(0)
    torch.testing.assert_close(denoiser(x, visible)[2], alone, rtol=1e-4, atol=1e-5)


def test_the_order_in_which_visible_patches_come_does_not_matter(batch):
    denoiser, x = Discard(**NET).eval(), batch["natural"]
    visible = denoiser.masks(x)
    torch.testing.assert_close(denoiser(x, visible), denoiser(x, visible.flip(2)), rtol=1e-4, atol=1e-5)


def test_another_share_can_be_hidden_with_the_same_weights(batch):
    denoiser, x = Discard(**NET).eval(), batch["natural"]
    everything = denoiser.hiding(0.0)
    torch.testing.assert_close(everything(x), everything(x))  # no choice is left
    torch.testing.assert_close(
        everything(x), denoiser.vit(x, torch.arange(16).expand(6, -1)), rtol=1e-4, atol=1e-5
    )
    assert denoiser.masks(x).shape[0] == 2 and everything.masks(x).shape[0] == 1


def test_a_fixed_seed_makes_the_defense_deterministic(target, batch):
    defended, x = Defended(target, DIR(target, **SLIM)).eval(), batch["natural"]
    assert not torch.equal(defended(x), defended(x))
    with seeded(3):
        first = defended(x)
    with seeded(3):
        assert torch.equal(first, defended(x))
    still = threats.fixed_mask(defended, 3)
    torch.testing.assert_close(still(x), still(x))
    torch.testing.assert_close(still(x)[:2], still(x[:2]), rtol=1e-4, atol=1e-5)


def test_a_trained_denoiser_needs_no_target(target):
    state = DIR(target, **SLIM).state_dict()
    assert all(name.startswith("denoiser.") for name in state)
    DIR(**SLIM).load_state_dict(state)


def test_training_can_begin_with_a_pre_trained_denoiser(target, batch):
    first = DIRPretraining(**NET)
    begun = DIR(target, pretrained=first, **SLIM)
    for name, value in first.denoiser.state_dict().items():
        assert torch.equal(begun.denoiser.state_dict()[name], value)
    begun.denoiser.vit.hidden.data.add_(1)
    assert not torch.equal(begun.denoiser.vit.hidden, first.denoiser.vit.hidden)


# The game -------------------------------------------------------------------------------------


def test_the_white_box_attack_keeps_to_its_ball_and_uses_the_masks_in_use(target, batch):
    method, x, y = DIR(target, **SLIM), batch["natural"], batch["label"]
    visible = method.masks(x)
    x_adv = method.white_box(x, y, visible)
    assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    noise = (x + (8 / 255) * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    loss = [F.cross_entropy(target(method.denoiser(images, visible)), y).item() for images in (noise, x_adv)]
    assert loss[1] > loss[0]


@pytest.mark.parametrize("projected, reach", [(True, 2 / 255), (False, 4 * 2 / 255)])
def test_the_games_perturbation_stays_in_its_ball_unless_released(target, projected, reach):
    method = DIR(target, **SLIM | {"eps": 2 / 255, "step_size": 2 / 255, "steps": 4}, projected=projected)
    restored = 1.2 * torch.rand(6, 3, 16, 16) - 0.1  # a restoration may leave [0,1]
    length = (method.perturbed(restored) - restored).abs().max().item()
    assert length == pytest.approx(reach, abs=0.005) and length <= reach + 0.005
    if projected:
        assert length <= reach + 1e-6


def test_the_games_perturbation_moves_the_prediction_further_than_noise(target):
    method, restored = DIR(target, **SLIM), torch.rand(6, 3, 16, 16)
    noise = restored + (8 / 255) * torch.randn_like(restored).sign()

    def divergence(images):
        return F.kl_div(
            target(images).log_softmax(1), target(restored).softmax(1), reduction="batchmean"
        ).item()

    assert divergence(method.perturbed(restored)) > 2 * divergence(noise)


def test_the_terms_are_those_of_equations_5_and_6(target, batch):
    method, x, y = DIR(target, **SLIM, alpha=3.0, mse=0.5), batch["natural"], batch["label"]
    visible = method.masks(x)
    x_adv = method.white_box(x, y, visible)
    torch.manual_seed(5)
    losses = method.losses(x_adv, x, y, visible)
    torch.manual_seed(5)
    restored = method.denoiser(x_adv, visible)
    p, q = target(restored).softmax(1), target(method.perturbed(restored)).softmax(1)
    torch.testing.assert_close(losses["adv"], -p[range(6), y].log().mean())
    torch.testing.assert_close(losses["rep"], (p * (p / q).log()).sum(1).mean(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(losses["mse"], (restored - x).square().mean())
    torch.testing.assert_close(
        method.overall(losses), losses["adv"] + 3 * losses["rep"] + 0.5 * losses["mse"]
    )


@pytest.mark.parametrize("held", [False, True])
def test_the_game_reaches_the_denoiser_through_both_predictions_unless_one_is_held_still(target, batch, held):
    method, x, y = DIR(target, **SLIM, held=held), batch["natural"], batch["label"]
    visible = method.masks(x)
    torch.manual_seed(5)
    method.losses(x, x, y, visible)["rep"].backward()
    got = method.denoiser.vit.head.weight.grad
    torch.manual_seed(5)
    restored = method.denoiser(x, visible)
    moved = method.perturbed(restored)
    if not held:
        moved = restored + (moved - restored).detach()
    p, q = target(restored).softmax(1), target(moved).softmax(1)
    (expected,) = torch.autograd.grad((p * (p / q).log()).sum(1).mean(), method.denoiser.vit.head.weight)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)
    through_one = torch.autograd.grad(
        F.kl_div(
            target(moved.detach()).log_softmax(1),
            target(method.denoiser(x, visible)).softmax(1),
            reduction="batchmean",
        ),
        method.denoiser.vit.head.weight,
    )[0]
    assert torch.allclose(got, through_one, rtol=1e-2, atol=1e-6) == held


def test_pre_training_redraws_the_natural_image_behind_each_mask(batch):
    method = DIRPretraining(**NET, augment=False)
    before = copy.deepcopy(method)
    torch.manual_seed(7)
    loss = method.training_step(batch, method.optimizers())["restoration"]
    x = torch.stack([batch["natural"], batch["adversarial"][:, 0]], 1).flatten(0, 1)
    torch.manual_seed(7)
    restored = before.denoiser.each(x)
    expected = (restored - batch["natural"].repeat_interleave(2, 0)).square().mean()
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("augment", [False, True])
def test_pre_training_learns(augment):
    x = torch.linspace(0, 1, 16).expand(20, 3, 16, 16) * torch.rand(20, 3, 1, 1)
    method = DIRPretraining(**NET, augment=augment, learning_rate=3e-3)
    history = fit(
        method,
        {"natural": x, "label": torch.zeros(20), "adversarial": x[:, None]},
        epochs=8,
        batch_size=10,
        seed=0,
    )
    assert history[-1]["restoration"] < 0.7 * history[0]["restoration"]


# Training -------------------------------------------------------------------------------------


def test_frozen_means_frozen(target, batch):
    method = DIR(target, **SLIM)
    before, denoiser = copy.deepcopy(target.state_dict()), copy.deepcopy(method.state_dict())
    fit(method, {"natural": batch["natural"], "label": batch["label"]}, epochs=2, batch_size=3, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert not target.training and not any(p.requires_grad for p in target.parameters())
    assert any(not torch.equal(value, denoiser[name]) for name, value in method.state_dict().items())


def test_joint_trains_a_copy_of_the_target_and_leaves_the_target_alone(target, batch):
    method, before = DIR(target, **SLIM, joint=True), copy.deepcopy(target.state_dict())
    assert [group["lr"] for group in method.optimizers()["sgd"].param_groups] == [5e-5, 0.1]
    fit(method, {"natural": batch["natural"], "label": batch["label"]}, epochs=1, batch_size=3, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    changed = {
        name
        for name, value in method.joint_target.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert any("running_mean" in name for name in changed) and any("weight" in name for name in changed)


def test_joint_needs_the_target():
    with pytest.raises(ValueError, match="give it"):
        DIR(**SLIM, joint=True)


def test_training_is_the_same_for_the_same_seed(target, batch):
    data = {"natural": batch["natural"], "label": batch["label"]}
    states = []
    for _ in range(2):
        with seeded(0):
            method = DIR(target, **SLIM)
        fit(method, data, epochs=1, batch_size=3, seed=1)
        states.append(method.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_published_network_is_the_default():
    vit = MaskedViT()
    assert (vit.places, vit.head.in_features, len(vit.encoder) - 1, len(vit.decoder)) == (256, 192, 8, 2)
    assert vit.encoder[0].attn.num_heads == 3


def test_a_patch_must_divide_the_image():
    with pytest.raises(ValueError, match="do not divide"):
        MaskedViT(patch=3)


def test_images_of_another_size_are_refused(batch):
    with pytest.raises(ValueError, match=r"images of 16×16 pixels \(image_size\), got \(28, 28\)"):
        Discard(**NET)(torch.rand(1, 3, 28, 28))


def test_images_survive_being_cut_into_patches():
    x = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(to_images(to_patches(x, 4), 4, 3), x)
    torch.testing.assert_close(to_patches(x, 4)[:, 4].view(2, 3, 4, 4), x[..., 4:8, 4:8])
