"""Attacks: against closed forms on a linear model, against other libraries, and the promises they share."""

import ast
import copy
import importlib.util
import inspect
import re
import warnings

import numpy as np
import pytest
import torch
from conftest import Linear, error
from torch import nn

from helpers import progress, source
from helpers.attacks import ATTACKS, attackable, contract, draws, random_targets
from helpers.attacks.advertorch import library
from helpers.attacks.pgd import dlr_loss
from helpers.attacks.sta import total_variation, warp
from helpers.threats import Defended

# Settings that make every attack quick on tiny images.
QUICK = {
    "fgsm": {"eps": 0.1},
    "pgd": {"eps": 0.1, "steps": 3},
    "pgd_dlr": {"eps": 0.1, "steps": 3},
    "mi_fgsm": {"eps": 0.1, "steps": 3},
    "vni_fgsm": {"eps": 0.1, "steps": 3, "samples": 2},
    "ti_bim": {"eps": 0.1, "steps": 3, "kernel_size": 3},
    "apgd_ce": {"eps": 0.1, "steps": 10},
    "apgd_dlr": {"eps": 0.1, "steps": 10},
    "fab": {"eps": 0.1, "steps": 5},
    "aa": {"eps": 0.5},
    "ensemble": {"eps": 0.1, "steps": 5, "queries": 10},
    "cw": {"steps": 5, "search_steps": 2},
    "ddn": {"steps": 5},
    "jsma": {"gamma": 0.2},
    "square": {"eps": 0.1, "queries": 20},
    "ba": {"steps": 10},
    "lsa": {"rounds": 2, "candidates": 8, "reach": 2},
    "lsa_own": {"rounds": 3, "candidates": 8, "reach": 2},
    "sta": {"steps": 5},
    "sta_own": {"steps": 5},
    "fwa": {"eps": 0.1, "steps": 3},
    "rp2": {"steps": 3},
    "roa": {"height": 2, "width": 2, "steps": 3},
    "feature_pgd": {"eps": 0.1, "steps": 3},
    "code_pgd": {"eps": 0.1, "steps": 3},
    "mask_adaptive": {"eps": 0.1, "steps": 3},
    "restored": {"eps": 0.1, "steps": 3},
}


def run(name, model, x, y, **settings):
    """The attack with its quick settings; the one that can only be targeted aims at the next of five classes.

    Those made for denoisers get what they need: a layer, references, a pipeline.
    """
    if name == "jsma":
        y, settings = (y + 1) % 5, {"targeted": True} | settings
    return attack(name)(model, x, y, **QUICK[name] | settings)


def attack(name):
    def call(model, x, y, **settings):
        if name in ("feature_pgd", "code_pgd"):
            settings = {"layer": list(dict(model.named_modules()))[-1]} | settings
        if name == "code_pgd":
            generator = torch.Generator().manual_seed(0)
            references = torch.rand(10, *x.shape[1:], generator=generator)
            settings = {"references": references.to(x), "classes": torch.arange(10) % 5} | settings
        if name == "rp2":
            settings = {"mask": torch.ones(x.shape[2:])} | settings
        if name in ("restored", "mask_adaptive"):
            model = Defended(model, Halves())
        return ATTACKS[name](model, x, y, **settings)

    return call


class Halves(nn.Identity):
    """A denoiser that does nothing, and shows the even and the odd columns when asked for each mask."""

    def each(self, x):
        even = (torch.arange(x.shape[3]) % 2 == 0).to(x)
        return torch.stack([x * even, x * (1 - even)])


def norms(difference, p=2):
    return difference.flatten(1).norm(p, dim=1)


# --- the linear model: what an optimal attack does is known ----------------------------------------


def linear(classes, images=6, shape=(1, 4, 4), scale=1.0):
    """Model, images far from 0 and 1, and the labels it gives them."""
    model = Linear(classes, shape, scale)
    x = 0.45 + 0.1 * torch.rand(images, *shape)
    return model, x, model(x).argmax(1)


def boundaries(model, x, y, p):
    """For each image the distances to its class's boundaries, in the norm dual to `p`; (N,K), own inf."""
    logits, weight = model(x).detach(), model.layer.weight.detach()
    margin = logits.gather(1, y[:, None]) - logits
    distance = margin / (weight[y][:, None] - weight).norm(p, dim=2)
    return distance.scatter(1, y[:, None], torch.inf)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("fgsm", {}),
        ("pgd", {"random_start": False}),
        ("pgd", {}),
        ("pgd", {"steps": 7, "step_size": 0.05}),
    ],
)
def test_linf_attacks_find_the_optimal_corner(name, settings, targeted):
    model, x, y = linear(2)
    weight = model.layer.weight
    towards = (weight[1 - y] - weight[y]).view_as(x)
    x_adv = ATTACKS[name](model, x, 1 - y if targeted else y, targeted=targeted, eps=0.1, **settings)
    torch.testing.assert_close(x_adv, x + 0.1 * towards.sign(), atol=1e-6, rtol=0)
    best = (boundaries(model, x, y, 1).amin(1) - 0.1) * norms(towards, 1)  # margin − ε·‖w‖₁
    logits = model(x_adv)
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)
    torch.testing.assert_close(margin, best, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_l2_pgd_goes_the_whole_radius_along_the_normal(random_start, targeted):
    model, x, y = linear(2)
    normal = (model.layer.weight[1 - y] - model.layer.weight[y]).view_as(x)
    settings = {"eps": 0.3, "norm": "l2", "step_size": 0.3, "random_start": random_start}
    x_adv = ATTACKS["pgd"](model, x, 1 - y if targeted else y, targeted=targeted, **settings)
    torch.testing.assert_close(x_adv - x, 0.3 * normal / norms(normal).view(-1, 1, 1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("cw", {"steps": 150, "search_steps": 8, "learning_rate": 0.02, "initial_const": 1.0}),
        ("ddn", {"quantize": False, "steps": 500, "gamma": 0.01}),
    ],
)
def test_minimal_norm_attacks_find_the_nearest_boundary(name, settings, classes, targeted):
    # Steep logits: DDN follows the cross-entropy, which sees the nearest class alone only then.
    model, x, y = linear(classes, scale=20.0)
    nearest, target = boundaries(model, x, y, 2).min(1)
    x_adv = ATTACKS[name](model, x, target if targeted else y, targeted=targeted, **settings)
    assert error(model, x_adv, y) == 1
    torch.testing.assert_close(norms(x_adv - x), nearest, rtol=0.02, atol=0)


def test_cw_goes_beyond_the_boundary_by_its_confidence():
    model, x, y = linear(2)
    weight = norms(model.layer.weight[1:] - model.layer.weight[:1])
    x_adv = ATTACKS["cw"](
        model, x, y, confidence=1.0, steps=200, search_steps=8, learning_rate=0.02, initial_const=1.0
    )
    expected = boundaries(model, x, y, 2).amin(1) + 1 / weight
    torch.testing.assert_close(norms(x_adv - x), expected, rtol=0.02, atol=0)


def test_aa_breaks_exactly_the_images_whose_margin_is_within_reach():
    model, x, y = linear(5, images=12)
    reach = boundaries(model, x, y, 1).amin(1)
    low, high = reach.sort().values[5:7]
    eps = (low + high).item() / 2
    x_adv = ATTACKS["aa"](model, x, y, eps=eps)
    assert torch.equal(model(x_adv).argmax(1) != y, reach < eps)
    assert norms(x_adv - x, torch.inf).max() <= eps + 1e-5
    unbroken = reach >= eps
    assert torch.equal(x_adv[unbroken], x[unbroken])


def test_dlr_is_the_formula():
    logits, y = torch.randn(8, 5), torch.arange(8) % 5
    expected = 0.0
    for z, label in zip(logits.tolist(), y.tolist(), strict=True):
        first, _, third = sorted(z, reverse=True)[:3]
        other = max(value for k, value in enumerate(z) if k != label)
        expected -= (z[label] - other) / (first - third)
    assert dlr_loss(logits, y).item() == pytest.approx(expected, rel=1e-5)


def test_dlr_pgd_breaks_a_model_whose_cross_entropy_has_no_gradient(lenet, digits):
    class Loud(nn.Module):
        def forward(self, x):
            return 1e4 * lenet(x)

    x, y = digits[0][:20], digits[1][:20]
    ce, dlr = (ATTACKS["pgd"](Loud(), x, y, eps=0.3, random_start=False, loss=loss) for loss in ("ce", "dlr"))
    assert error(lenet, ce, y) == 0 and error(lenet, dlr, y) == 1


# --- other libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_pgd_takes_advertorchs_steps(lenet, digits, steps, targeted):
    x, y = digits[0][:8].double(), digits[1][:8]  # in double, so that no gradient's sign is a rounding error
    y = (y + 1) % 10 if targeted else y
    with torch.no_grad():
        model = Linear(10, (1, 28, 28)).to(x) if steps > 5 else copy.deepcopy(lenet).double()
    theirs = (
        library()
        .LinfPGDAttack(model, nb_iter=steps, eps=0.2, eps_iter=0.03, rand_init=False, targeted=targeted)
        .perturb(x, y)
    )
    ours = ATTACKS["pgd"](
        model, x, y, targeted=targeted, eps=0.2, steps=steps, step_size=0.03, random_start=False
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.slow
def test_pgd_succeeds_as_often_as_foolboxs(lenet, digits):
    import foolbox

    x, y = digits[0][:100], digits[1][:100]
    box = foolbox.PyTorchModel(lenet, bounds=(0, 1), device=x.device)
    _, theirs, _ = foolbox.attacks.LinfPGD(steps=40, abs_stepsize=0.01)(box, x, y, epsilons=0.11)
    ours = ATTACKS["pgd"](lenet, x, y, eps=0.11, steps=40, step_size=0.01)
    assert 0.2 < error(lenet, ours, y) < 0.8  # else the comparison says nothing
    assert abs(error(lenet, ours, y) - error(lenet, theirs, y)) <= 0.02


def test_advertorchs_sta_returns_black_images_and_the_adapter_the_natural_ones(robust_lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    with warnings.catch_warnings(), attackable(robust_lenet):
        warnings.simplefilter("ignore")
        attack = library().SpatialTransformAttack(robust_lenet, 10, max_iterations=10, search_steps=5)
        theirs = attack.perturb(x, y)
    black = (theirs == 0).flatten(1).all(1)
    assert black.any() and error(robust_lenet, theirs, y) > 0.8  # and they count as successes
    ours = ATTACKS["sta"](robust_lenet, x, y, steps=10, search_steps=5)
    assert torch.equal(ours[black], x[black]) and torch.equal(ours[~black], theirs[~black])
    assert error(robust_lenet, ours, y) < 0.5


# --- STA and JSMA ----------------------------------------------------------------------------------


def test_warp_by_no_flow_is_the_identity(digits):
    x = digits[0][:3]
    torch.testing.assert_close(warp(x, x.new_zeros(3, 2, 28, 28)), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("right, down", [(1, 0), (0, 1), (-2, 3)])
def test_warp_by_whole_pixels_fetches_exactly_those_pixels(right, down):
    x = torch.rand(2, 3, 7, 9)  # not square: a swap of the axes shows
    flow = torch.tensor([right, down]).float().view(1, 2, 1, 1).expand(2, 2, 7, 9)
    rows, columns = (torch.arange(7) + down).clamp(0, 6), (torch.arange(9) + right).clamp(0, 8)
    torch.testing.assert_close(warp(x, flow), x[:, :, rows][..., columns], atol=1e-5, rtol=0)


def test_total_variation_is_the_sum_over_right_and_lower_neighbours():
    flow = torch.randn(2, 2, 3, 4)
    for one, got in zip(flow.numpy(), total_variation(flow), strict=True):
        pairs = [((i, j), (i, j + 1)) for i in range(3) for j in range(3)]
        pairs += [((i, j), (i + 1, j)) for i in range(2) for j in range(4)]
        expected = sum(np.linalg.norm(one[:, *a] - one[:, *b]) for a, b in pairs)
        assert got.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
def test_sta_fools_the_clean_lenet_with_images_of_the_same_ink(lenet, digits, targeted):
    x, y = digits[0][:20], digits[1][:20]
    goal = random_targets(y, 10) if targeted else y
    x_adv = ATTACKS["sta_own"](lenet, x, goal, targeted=targeted, steps=60)
    assert (1 - error(lenet, x_adv, goal) if targeted else error(lenet, x_adv, y)) >= 0.9
    assert (x_adv.flatten(1).amax(1) > 0.5).all()
    ink = x_adv.flatten(1).sum(1) / x.flatten(1).sum(1)
    assert (ink > 0.5).all() and (ink < 2).all()


def test_sta_where_it_fails_returns_the_warped_image_it_reached(robust_lenet, digits):
    x, y = digits[0][:5], digits[1][:5]
    x_adv = ATTACKS["sta_own"](robust_lenet, x, y, steps=5)
    assert error(robust_lenet, x_adv, y) == 0
    assert (norms(x_adv - x) > 0.1).all() and (x_adv.flatten(1).amax(1) > 0.5).all()


@pytest.mark.parametrize("name", ["sta", "sta_own"])
def test_a_flow_stays_finite_where_logits_are_not(name):
    """A NaN in the flow ends Python itself."""
    model, x, y = linear(3, images=4, shape=(1, 8, 8))

    class Undefined(nn.Module):
        def forward(self, images):
            moved = (images[:1] - x[:1]).abs().amax() > 1e-3
            return torch.cat([model(images[:1]) + (torch.nan if moved else 0), model(images[1:])])

    x_adv = ATTACKS[name](Undefined(), x, y, steps=20)
    assert x_adv.isfinite().all() and x_adv.shape == x.shape


def test_sta_leaves_an_image_that_is_already_misclassified(lenet, digits):
    x, y = digits[0][:5], digits[1][:5]
    x_adv = ATTACKS["sta_own"](lenet, x, (y + 1) % 10, steps=20)
    torch.testing.assert_close(x_adv, x, atol=1e-5, rtol=0)


def test_jsma_reaches_its_target_by_few_pixels(lenet, digits):
    x, y = digits[0][:2], digits[1][:2]
    goal = random_targets(y, 10)
    x_adv = ATTACKS["jsma"](lenet, x, goal, targeted=True)
    assert error(lenet, x_adv, goal) == 0
    assert ((x_adv != x).flatten(1).sum(1) <= 784 // 5).all()


def test_jsma_changes_no_more_than_the_share_gamma(lenet, digits):
    x, y = digits[0][:4], digits[1][:4]
    x_adv = ATTACKS["jsma"](lenet, x, random_targets(y, 10), targeted=True, gamma=0.02)
    changed = (x_adv != x).flatten(1).sum(1)
    assert (changed > 0).all() and (changed <= 0.02 * 784).all()


def test_jsma_goes_through_many_images_in_parts():
    model, x, y = linear(5, images=60)
    settings = {"targeted": True, "gamma": 0.5}
    alone = [ATTACKS["jsma"](model, x[i : i + 1], (y[i : i + 1] + 1) % 5, **settings) for i in range(60)]
    assert torch.equal(ATTACKS["jsma"](model, x, (y + 1) % 5, **settings), torch.cat(alone))


def test_ddn_quantised_lies_on_the_256_levels(lenet, digits):
    x, y = digits[0][:5], digits[1][:5]
    x_adv = ATTACKS["ddn"](lenet, x, y, steps=30)
    assert error(lenet, x_adv, y) == 1
    torch.testing.assert_close(x_adv, (255 * x_adv).round() / 255, atol=1e-6, rtol=0)
    finer = ATTACKS["ddn"](lenet, x, y, steps=30, quantize=False)
    assert not torch.allclose(finer, (255 * finer).round() / 255, atol=1e-4)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("cw", {"steps": 5, "search_steps": 1}),
        ("ddn", {"steps": 3, "init_norm": 0.01}),
    ],
)
def test_a_failed_minimal_norm_attack_hands_the_image_back(lenet, digits, name, settings):
    x, y = digits[0][:5], digits[1][:5]
    torch.testing.assert_close(ATTACKS[name](lenet, x, y, **settings), x, atol=0, rtol=0)


# --- what every attack promises --------------------------------------------------------------------


BOTH = [torch.inf, 2]
# The norms of the balls that an attack may be asked to stay in; None: it promises none.
BALLS = (
    dict.fromkeys(["fgsm", "mi_fgsm", "vni_fgsm", "ti_bim"], [torch.inf])
    | dict.fromkeys(["pgd", "pgd_dlr", "apgd_ce", "apgd_dlr", "fab", "square", "aa", "ensemble"], BOTH)
    | dict.fromkeys(["feature_pgd", "code_pgd", "mask_adaptive", "restored"], BOTH)
    | dict.fromkeys(
        ["cw", "ddn", "jsma", "sta", "sta_own", "fwa", "ba", "lsa", "lsa_own", "rp2", "roa"], [None]
    )
)
# ba: without images to start from
UNTARGETED = {"aa", "ensemble", "apgd_ce", "apgd_dlr", "fab", "square", "feature_pgd", "ba"}


@pytest.mark.parametrize(
    "name, p, targeted",
    [
        # Full AutoAttack takes a while for an image that it cannot break.
        pytest.param(name, p, targeted, marks=[pytest.mark.slow] if name == "aa" else [])
        for name, norms in BALLS.items()
        for p in norms
        for targeted in (False, True)
        if not (targeted and name in UNTARGETED) and (targeted or name != "jsma")
    ],
)
@pytest.mark.parametrize("shape, eps", [((1, 8, 8), 0.5), ((3, 6, 6), 0.03), ((3, 5, 7), 0.2)])
def test_results_stay_in_the_ball_and_in_the_unit_range(name, p, shape, eps, targeted):
    model = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3), nn.ReLU(), Linear(5, (4, shape[1] - 2, shape[2] - 2), 0.5)
    )
    x = (1.5 * torch.rand(5, *shape) - 0.25).clamp(0, 1)  # a third of the values on the border
    y = model(x).argmax(1)
    if (name, p) == ("aa", 2):
        eps *= 4  # an image that nothing breaks is slow
    settings = QUICK[name] | ({} if p is None else {"eps": eps})
    if p == 2:
        settings |= {"norm": "l2"}
    goal = (y + 1) % 5 if targeted else y
    if name == "lsa" and shape[1] != shape[2]:  # the library's limit
        with pytest.raises(ValueError, match="square images only.*use lsa_own"):
            attack(name)(model, x, goal, targeted=targeted, **settings)
        return
    x_adv = attack(name)(model, x, goal, targeted=targeted, **settings)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    if p is not None:
        assert norms(x_adv - x, p).max() <= eps + 1e-5


@pytest.mark.parametrize("norm, p", [("linf", torch.inf), ("l2", 2)])
def test_pgds_random_start_fills_the_ball(norm, p):
    """With a step of nothing the result is the start; far from the borders nothing is clipped."""
    model, x, y = linear(3, images=400, shape=(1, 2, 2))
    start = ATTACKS["pgd"](model, x, y, eps=0.1, steps=1, step_size=1e-12, norm=norm)
    share = (norms(start - x, p) / 0.1).sort().values  # P(‖δ‖ <= r·ε) = r⁴ for a uniform δ in four dimensions
    assert share.max() <= 1 + 1e-5
    quantiles = (torch.arange(400) + 0.5) / 400
    assert (share**4 - quantiles).abs().max() < 0.1  # Kolmogorov-Smirnov: 0.08 at the 1 % level


class Stateful(nn.Module):
    """BatchNorm left in train mode, Dropout in eval mode, one frozen layer: all of it must survive."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.linear = Linear(5, (4, 6, 6))
        self.eval()
        self.norm.train()
        self.conv.requires_grad_(False)

    def forward(self, x):
        return self.linear(self.drop(self.norm(self.conv(x)).relu()))

    def state(self):
        flags = [m.training for m in self.modules()], [p.requires_grad for p in self.parameters()]
        return flags, {name: t.clone() for name, t in self.state_dict().items()}


def scene(model=None):
    """A model of five classes and images that it classifies as their labels say: something to attack."""
    model = model or Linear(5, (1, 8, 8))
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        return model, x, copy.deepcopy(model).eval()(x).argmax(1)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_model_is_left_as_it_was(name):
    model, x, y = scene(Stateful())
    flags, tensors = model.state()
    run(name, model, x, y)
    after, tensors_after = model.state()
    assert after == flags
    assert all(torch.equal(tensors[key], tensors_after[key]) for key in tensors)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "name, bad", [("pgd", {"norm": "l7"}), ("lsa_own", {"rounds": 0}), ("cw", {"nonsense": 1})]
)
def test_the_model_is_left_as_it_was_when_the_attack_raises(name, bad):
    model = Stateful()
    flags, _ = model.state()
    with pytest.raises((ValueError, TypeError)):
        run(name, model, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]), **bad)
    assert model.state()[0] == flags


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_sees_a_model_in_eval_mode_with_frozen_parameters(name):
    class Watched(Stateful):
        def forward(self, x):
            assert not any(m.training for m in self.modules())
            assert not any(p.requires_grad for p in self.parameters())
            return super().forward(x)

    model, (plain, x, y) = Watched(), scene(Stateful())
    model.load_state_dict(plain.state_dict())
    run(name, model, x, y)


@pytest.mark.parametrize("name", ATTACKS)
def test_neither_images_nor_labels_nor_generators_are_touched(name):
    model, x, y = scene()
    x.requires_grad_()
    before, labels, generator = x.detach().clone(), y.clone(), torch.get_rng_state()
    x_adv = run(name, model, x, y)
    assert torch.equal(x, before) and torch.equal(y, labels) and x.grad is None
    assert torch.equal(torch.get_rng_state(), generator)
    x_adv += 1  # nor do they share memory with the result
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_outer_no_grad_changes_nothing(name):
    model, x, y = scene()
    expected = run(name, model, x, y)
    with torch.no_grad():
        got = run(name, model, x, y)
        assert not torch.is_grad_enabled()
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("pgd", {}),
        ("pgd", {"norm": "l2"}),
        ("aa", {"eps": 0.3}),
        ("pgd_dlr", {}),
        ("vni_fgsm", {}),
        ("square", {"eps": 0.4, "queries": 300}),
        ("apgd_ce", {"eps": 0.2}),
        ("feature_pgd", {}),
        ("mask_adaptive", {}),
        ("restored", {}),
        ("ba", {}),
        ("lsa", {"p": 10, "changed": 300, "candidates": 128}),  # else it finds nothing, whatever the seed
        ("lsa_own", {}),
    ],
)
def test_a_seed_makes_an_attack_repeatable_and_another_one_differs(lenet, digits, name, settings):
    x, y = digits[0][:3], digits[1][:3]
    a, b, c = (run(name, lenet, x, y, seed=seed, **settings) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_draws_takes_a_seed_and_the_others_do_not(name):
    model, x, y = scene()
    if draws(name):
        run(name, model, x, y, seed=1)
    else:
        with pytest.raises(TypeError, match="seed"):
            run(name, model, x, y, seed=1)


def test_ddn_is_repeatable_where_the_gradient_vanishes():
    class Rounded(Linear):
        def forward(self, x):
            return super().forward((4 * x).round() / 4)

    model, x = Rounded(5, (1, 8, 8)), torch.rand(4, 1, 8, 8)
    y = model(x).argmax(1)
    first = ATTACKS["ddn"](model, x, y, steps=40)
    torch.manual_seed(1)
    assert torch.equal(ATTACKS["ddn"](model, x, y, steps=40), first)
    assert not torch.equal(first, x)  # its random direction did find something


@pytest.mark.parametrize(
    "name, settings",
    [
        ("pgd", {"eps": 0.1, "steps": 10, "random_start": False}),
        ("pgd", {"eps": 1.0, "steps": 10, "random_start": False, "norm": "l2"}),
        ("cw", {"steps": 100, "search_steps": 2, "learning_rate": 0.1}),
        ("ddn", {"steps": 30, "quantize": False}),
        ("sta_own", {"steps": 30}),
        ("jsma", {"gamma": 0.02}),
        ("mi_fgsm", {"eps": 0.1}),
        ("ti_bim", {"eps": 0.1}),
        ("vni_fgsm", {"eps": 0.1, "samples": 2}),
        ("lsa_own", {"rounds": 5, "candidates": 32}),
        ("ba", {"steps": 20}),
    ],
)
def test_an_images_result_does_not_depend_on_its_neighbours(lenet, digits, name, settings):
    if name == "cw":  # the library's CW is float32 only, and on a LeNet rounding errors grow along its way
        model, x, y = linear(4, images=4)
    else:
        model, x, y = copy.deepcopy(lenet).double(), digits[0][:4].double(), digits[1][:4]
    goal = (y + 1) % 10 if name == "jsma" else y
    settings = settings | {"targeted": name == "jsma"}
    together = ATTACKS[name](model, x, goal, **settings)
    alone = torch.cat([ATTACKS[name](model, x[i : i + 1], goal[i : i + 1], **settings) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_a_stochastic_model_is_attacked_repeatably():
    class Noisy(Linear):
        def forward(self, x):
            return super().forward(x + 0.3 * torch.randn_like(x))

    model = Noisy(5, (1, 8, 8))
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = ATTACKS["pgd"](model, x, y, eps=0.1, steps=5, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(ATTACKS["pgd"](model, x, y, eps=0.1, steps=5, seed=4), first)


@pytest.mark.parametrize("name", ["pgd", "mi_fgsm", "feature_pgd", "square"])
def test_a_network_that_flattens_by_view_can_be_attacked(name):
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.layer = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

        def forward(self, x):
            x = self.conv(x)
            return self.layer(x.view(len(x), -1))

    model, x = Viewed(), torch.rand(3, 3, 8, 8)
    x_adv = run(name, model, x, model(x).argmax(1))
    assert x_adv.is_contiguous()


def test_long_work_shows_its_passes_and_tests_are_silent(monkeypatch, capsys):
    model, x, y = scene()
    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    run("pgd", model, x, y, steps=5)
    assert re.search(r"pgd: .*passes", capsys.readouterr().err)
    assert not model._forward_hooks
    monkeypatch.setenv("TQDM_DISABLE", "1")
    run("pgd", model, x, y, steps=5)
    assert capsys.readouterr().err == ""


def test_short_work_shows_nothing(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    run("pgd", *scene(), steps=5)
    assert capsys.readouterr().err == ""


# --- the registry ----------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """ATTACKS, put back as it was after the test."""
    for name, checked in ATTACKS.items():
        monkeypatch.setitem(ATTACKS, name, checked)
    before = set(ATTACKS)
    yield ATTACKS
    for name in set(ATTACKS) - before:
        del ATTACKS[name]
        source.ELSEWHERE.pop(name, None)


def test_an_attack_of_the_users_is_registered_and_keeps_the_contract(registry):
    def grey(model, x, y, *, targeted, eps, share=1.0, seed=0):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        return x + share * eps * (0.5 - x).sign() + 1e-7

    assert contract.attack(revision=3)(grey) is grey  # training loops take the raw function
    checked = registry["grey"]
    assert checked.function is grey and checked.revision == 3 and draws("grey")
    assert "share" in inspect.signature(checked).parameters
    model, x, y = scene(Stateful())
    flags, _ = model.state()
    x_adv = checked(model, x, y, eps=0.1)
    assert model.state()[0] == flags and x_adv.max() <= 1 and not x_adv.requires_grad
    torch.testing.assert_close(x_adv, x + 0.1 * (0.5 - x).sign())
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        checked(model, x, y, eps=0)
    with pytest.raises(ValueError, match="int64"):
        checked(model, x, y.float(), eps=0.1)
    with pytest.raises(RuntimeError, match=r"grey left \[0,1\]"):
        checked(model, x, y, eps=3.0)


def test_an_attack_may_be_defined_in_any_file_and_again_but_not_under_anothers_name(registry, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from helpers.attacks import attack\n\n\n"
        "@attack(revision=2)\ndef mine(model, x, y, *, targeted, eps):\n    return x\n"
    )
    for _ in range(2):  # a cell is run again, a module is reloaded
        spec = importlib.util.spec_from_file_location("mine", file)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert registry["mine"].revision == 2
    assert inspect.getsourcefile(registry["mine"].function) == str(file)
    file.write_text(file.read_text().replace("mine", "pgd"))
    spec = importlib.util.spec_from_file_location("mine", file)
    with pytest.raises(ValueError, match="there is an attack 'pgd' in helpers.attacks.pgd"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attacks_settings_and_revision_can_be_read_from_its_source(name):
    """All settings are written out with plain defaults, and the revision as a number: keys rest on both."""
    parameters = list(inspect.signature(ATTACKS[name]).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "x", "y", "targeted"]
    for p in parameters[4:]:
        assert p.kind is p.KEYWORD_ONLY
        assert p.default is p.empty or isinstance(p.default, bool | int | float | str | None)
    function = ast.parse(inspect.getsource(ATTACKS[name].function)).body[0]
    (decorator,) = function.decorator_list
    (revision,) = decorator.keywords
    assert decorator.func.id == "attack" and revision.arg == "revision"
    assert ast.literal_eval(revision.value) == ATTACKS[name].revision


# --- bad input -------------------------------------------------------------------------------------

GOOD = torch.full((2, 1, 4, 4), 0.5)
LABELS = torch.tensor([0, 4])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    "x, y, message",
    [
        (GOOD + 0.6, LABELS, r"\[0,1\]"),
        (GOOD - 0.6, LABELS, r"\[0,1\]"),
        ((255 * GOOD).byte(), LABELS, "floating point"),
        (GOOD, torch.tensor([0, 5]), r"0\.\.4, got 0\.\.5"),
        (GOOD, torch.tensor([-1, 0]), "got -1"),
        (GOOD, torch.tensor([0.0, 1.0]), "int64"),
        (GOOD, torch.tensor([1]), r"\(2,\)"),
    ],
)
def test_bad_images_and_labels_are_refused(name, x, y, message):
    with pytest.raises(ValueError, match=message):
        attack(name)(Linear(5, (1, 4, 4)), x, y, targeted=name == "jsma", **QUICK[name])


@pytest.mark.parametrize("name", [name for name in ATTACKS if "eps" in QUICK[name]])
@pytest.mark.parametrize("eps", [0, -0.1, float("nan")])
def test_a_radius_must_be_positive(name, eps):
    with pytest.raises(ValueError, match="eps must be positive"):
        run(name, Linear(5, (1, 4, 4)), GOOD, LABELS, eps=eps)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("pgd", {"norm": "l1"}, "norm is linf or l2.*got l1"),
        ("pgd", {"loss": "mse"}, "loss is one of.*ce.*dlr.*mse"),
        ("pgd", {"steps": 0}, "steps >= 1.*0"),
        ("pgd", {"step_size": -0.01}, "step_size must be positive, got -0.01"),
        ("mi_fgsm", {"steps": 0}, "at least 1, got 0"),
        ("mi_fgsm", {"step_size": 0}, "step_size must be positive, got 0"),
        ("vni_fgsm", {"samples": 0}, "samples must be at least 1, got 0"),
        ("feature_pgd", {"random_start": False}, "needs its random start"),
        ("ti_bim", {"kernel_size": 4}, "odd.*got 4"),
        ("aa", {"norm": "l1"}, "norm is linf or l2.*got 'l1'"),
        ("aa", {"version": "plus"}, "version is standard or rand.*plus"),
        ("apgd_ce", {"steps": 0}, "steps must be at least 1, got 0"),
        ("square", {"queries": 0}, "queries must be at least 1, got 0"),
        ("jsma", {"targeted": False}, "targeted attack"),
        ("lsa_own", {"changed": 0}, "changed.*>= 1.*0"),
        ("ba", {"steps": 0}, "at least 1, got 0"),
        ("ba", {"targeted": True}, "needs starts"),
        ("ba", {"starts": torch.rand(2, 1, 5, 4)}, r"\(2, 1, 5, 4\), the images \(2, 1, 4, 4\)"),
        ("feature_pgd", {"layer": "layr"}, "no layer 'layr'; it has layer"),
        ("feature_pgd", {"distance": "l1"}, "cosine.*l2.*'l1'"),
        ("code_pgd", {"distance": "l1"}, "cosine.*l2.*'l1'"),
        ("code_pgd", {"references": None}, "needs references"),
        ("code_pgd", {"classes": torch.zeros(10, dtype=torch.long)}, "reference of a wanted class"),
        ("restored", {"loss": "mse"}, "ce.*dlr.*'mse'"),
        *(
            (name, {"targeted": True}, "untargeted")
            for name in ("aa", "apgd_ce", "apgd_dlr", "fab", "square")
        ),
        ("feature_pgd", {"targeted": True}, "no target"),
    ],
)
def test_bad_settings_are_refused_with_the_choices(name, settings, message):
    with pytest.raises(ValueError, match=message):
        attack(name)(Linear(5, (1, 4, 4)), GOOD, LABELS, **QUICK[name] | settings)


def test_restored_needs_a_pipeline():
    with pytest.raises(ValueError, match="pipeline with a target and a denoiser, got Linear"):
        ATTACKS["restored"](Linear(5, (1, 4, 4)), GOOD, LABELS, eps=0.1)


@pytest.mark.parametrize(
    "wrapped, given",
    [
        (lambda target: target, "Linear with denoiser NoneType"),
        (lambda target: Defended(target, nn.Identity()), "Defended with denoiser Identity"),
    ],
)
def test_mask_adaptive_needs_a_denoiser_with_masks(wrapped, given):
    with pytest.raises(ValueError, match=f"denoiser that restores `each` mask, got {given}"):
        ATTACKS["mask_adaptive"](wrapped(Linear(5, (1, 4, 4))), GOOD, LABELS, eps=0.1)


class Gives(nn.Module):
    """A model whose answer is given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda x: x, r"logits \(1, classes\), it gave \(1, 1, 4, 4\)"),
        (lambda x: x[0, 0], r"it gave \(4, 4\)"),
        (lambda x: [x], "it gave list"),
        (lambda x: x.flatten(1) / 0, "NaN or infinity"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        ATTACKS["fgsm"](Gives(answer), GOOD, LABELS, eps=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match=f"{dtype}.*model.float"):
        ATTACKS["fgsm"](Linear(5, (1, 4, 4)).to(dtype), GOOD, LABELS, eps=0.1)


@pytest.mark.parametrize("name", ["cw", "aa", "square"])
def test_float32_libraries_say_so(name):
    with pytest.raises(ValueError, match="float32, the images are torch.float64"):
        run(name, Linear(5, (1, 4, 4)).double(), GOOD.double(), LABELS)


def test_true_labels_as_targets_are_refused(lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    with pytest.raises(ValueError, match="10 of 10 images are already classified as their target"):
        ATTACKS["pgd"](lenet, x, y, targeted=True, eps=0.1)


def test_losses_and_attacks_that_need_more_classes_say_so():
    x, y = GOOD, torch.tensor([0, 1])
    with pytest.raises(ValueError, match="three classes, got 2"):
        ATTACKS["pgd"](Linear(2, (1, 4, 4)), x, y, eps=0.1, loss="dlr")
    with pytest.raises(ValueError, match="at least 4 classes, the model has 3"):
        ATTACKS["aa"](Linear(3, (1, 4, 4)), x, y, eps=0.1)


# --- random targets --------------------------------------------------------------------------------


def test_random_targets_are_never_the_label_and_uniform_over_the_others():
    y = torch.arange(10).repeat(900)
    targets = random_targets(y, 10)
    counts = torch.zeros(10, 10).index_put((y, targets), torch.ones(()), accumulate=True)
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(10, dtype=bool)]  # 100 expected in each of 90 cells
    assert ((others - 100).square() / 100).sum() < 140  # χ² with 80 degrees of freedom: 1e-4


def test_random_targets_follow_their_seed():
    y = torch.arange(10).repeat(20)
    assert torch.equal(random_targets(y, 10, seed=1), random_targets(y, 10, seed=1))
    assert not torch.equal(random_targets(y, 10, seed=1), random_targets(y, 10, seed=2))
