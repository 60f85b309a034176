"""The Wasserstein attack: against linear programs that know the best plan and the true distance."""

import copy

import numpy as np
import pytest
import torch
from conftest import Linear, error
from scipy.optimize import linprog
from scipy.sparse import coo_array

from helpers.attacks import attackable, random_targets
from helpers.attacks.pgd import margin
from helpers.attacks.wasserstein import (
    METHODS,
    Window,
    admit,
    attack_plan,
    best_plan,
    fwa,
    project,
    to_simplex,
)


def images(n, shape, low=0.0, high=1.0):
    return (low + (high - low) * torch.rand(n, *shape)).double()


def mass(x, by=(1, 2, 3)):
    return x.sum(by)


# --- the oracle: linear programs, which share nothing with the module -----------------------------------


class Moves:
    """All moves (channel, source, target) within an image of `shape`, at most `reach` rows or columns."""

    def __init__(self, shape, reach=99):
        pixels = np.argwhere(np.ones(shape))
        pairs = [
            (s, t)
            for s in range(len(pixels))
            for t in range(len(pixels))
            if pixels[s][0] == pixels[t][0] and abs(pixels[s] - pixels[t]).max() <= reach
        ]
        self.source, self.target = np.array(pairs).T
        self.cost = np.linalg.norm(pixels[self.source] - pixels[self.target], axis=1)
        self.leaves, self.arrives = (
            coo_array((np.ones(len(pairs)), (end, np.arange(len(pairs))))).tocsr()
            for end in (self.source, self.target)
        )

    def distance(self, x, z):
        """The Wasserstein distance of two images (C,H,W), in mass · pixels."""
        a, b = x.numpy().ravel(), z.numpy().ravel()
        b = b * (a.sum() / b.sum())  # so that a rounding error does not make it infeasible
        solution = linprog(
            self.cost, A_eq=np.r_["0", self.leaves.toarray(), self.arrives.toarray()], b_eq=np.r_[a, b]
        )
        assert solution.status == 0, solution.message
        return solution.fun

    def best(self, x, gain, budget, capacity=None):
        """max Σ Π·gain of the plans of image x within the budget, where each pixel holds `capacity`."""
        a_ub, b_ub = [self.cost[None]], [[budget]]
        if capacity is not None:
            a_ub, b_ub = a_ub + [self.arrives.toarray()], b_ub + [np.full(x.numel(), capacity)]
        solution = linprog(
            -gain, np.concatenate(a_ub), np.concatenate(b_ub), self.leaves.toarray(), x.numpy().ravel()
        )
        assert solution.status == 0, solution.message
        return -solution.fun

    def entries(self, plan):
        """The entries of one plan (C,25,H,W) in the order of the moves, whose reach must be 2."""
        c, _, h, w = plan.shape
        (k, si, sj), (_, ti, tj) = (np.unravel_index(end, (c, h, w)) for end in (self.source, self.target))
        return plan.numpy()[k, (ti - si + 2) * 5 + tj - sj + 2, si, sj]


# --- what every result promises ---------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape, low, eps, kernel_size",
    [
        ((1, 6, 6), 0.0, 0.3, 5),
        ((3, 5, 7), 0.0, 1.0, 5),
        ((3, 5, 7), 0.6, 0.2, 3),
        ((1, 3, 8), 0.9, 3.0, 5),
    ],
)
def test_plans_keep_to_the_budget_the_mass_and_the_unit_range(method, shape, low, eps, kernel_size, targeted):
    model, x = Linear(5, shape), images(4, shape, low).float()
    x[0] = (x[0] > 0.5).float()  # black and full pixels only
    y = model(x).argmax(1)
    settings = {"targeted": targeted, "eps": eps, "steps": 15, "method": method, "kernel_size": kernel_size}
    plan = attack_plan(model, x, (y + 1) % 5 if targeted else y, **settings)
    x_adv = fwa(model, x, (y + 1) % 5 if targeted else y, **settings)
    window = Window(kernel_size, x)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and not torch.equal(x_adv, x)
    assert plan.min() >= 0
    torch.testing.assert_close(plan.sum(2), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(x_adv, window.receive(plan), atol=1e-5, rtol=0)
    torch.testing.assert_close(mass(x_adv, (2, 3)), mass(x, (2, 3)), rtol=1e-5, atol=0)
    assert (window.spent(plan) <= eps * mass(x) * (1 + 1e-5)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape, eps", [((1, 6, 6), 0.4), ((3, 4, 5), 0.2)])
def test_the_true_distance_is_no_more_than_the_plan_says(method, shape, eps):
    model, x = Linear(5, shape).double(), images(3, shape)
    settings = {"targeted": False, "eps": eps, "steps": 20, "method": method}
    y = model(x).argmax(1)
    plan, x_adv = attack_plan(model, x, y, **settings), fwa(model, x, y, **settings)
    moves = Moves(shape)
    for one, z, cost in zip(x, x_adv, Window(5, x).spent(plan), strict=True):
        distance = moves.distance(one, z)
        assert 0.5 * eps * one.sum() < distance <= cost + 1e-6
        assert cost <= eps * one.sum() + 1e-9


# --- what it does is the best ---------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "method, steps, share", [("frank_wolfe", 250, 0.98), ("projected_gradient", 150, 0.95)]
)
@pytest.mark.parametrize(
    "shape, low, high, eps",
    [
        ((1, 6, 6), 0.0, 0.3, 0.1),
        ((3, 5, 7), 0.1, 0.9, 0.2),
        ((3, 5, 7), 0.5, 1.0, 0.3),
        ((1, 3, 8), 0.5, 1.0, 0.3),
    ],
)
def test_the_attack_on_a_linear_model_comes_near_the_optimum(
    shape, low, high, eps, method, steps, share, targeted
):
    """The brighter the images, the more pixels are full at the optimum, which the fees alone can find."""
    model, x = Linear(2, shape, 0.1).double(), images(2, shape, low, high)
    y = model(x).argmax(1)
    weight = (model.layer.weight[1 - y] - model.layer.weight[y]).detach().numpy()
    x_adv = fwa(model, x, 1 - y if targeted else y, targeted=targeted, eps=eps, steps=steps, method=method)
    gained = (margin(model(x), y) - margin(model(x_adv), y)).tolist()
    moves = Moves(shape, reach=2)
    for one, w, got in zip(x, weight, gained, strict=True):
        optimum = moves.best(one, w[moves.target] - w[moves.source], eps * one.sum().item(), capacity=1)
        assert share * optimum <= got <= optimum + 1e-6


@pytest.mark.parametrize("shape, eps", [((1, 6, 6), 0.3), ((3, 5, 7), 0.05), ((1, 3, 8), 5.0)])
def test_the_oracle_finds_the_best_plan(shape, eps):
    x, value = images(3, shape), torch.randn(3, *shape).double()
    window, moves = Window(5, x), Moves(shape, reach=2)
    plan = best_plan(value, x, eps * mass(x), window)
    torch.testing.assert_close(plan.sum(2), x)
    assert plan.min() >= 0 and (window.spent(plan) <= eps * mass(x) + 1e-9).all()
    for one, v, got in zip(x, value, mass(window.receive(plan) * value), strict=True):
        optimum = moves.best(one, v.numpy().ravel()[moves.target], eps * one.sum().item())
        assert got.item() == pytest.approx(optimum, abs=1e-4)


def test_at_equal_values_the_oracle_does_not_pay_for_distance():
    x = images(2, (1, 6, 6))
    window, budget = Window(5, x), 0.2 * mass(x)
    value = torch.zeros_like(x)
    value[:, :, ::2] = (
        1.0  # every pixel has a best one at no more than one pixel's distance, and further ones
    )
    plan = best_plan(value, x, 10 * budget, window)
    assert (window.spent(plan) <= mass(x)).all()
    assert (window.spent(best_plan(value, x, budget, window)) <= budget + 1e-9).all()


@pytest.mark.parametrize("shape, eps", [((1, 6, 6), 0.3), ((3, 5, 7), 0.05), ((1, 3, 8), 5.0)])
def test_the_projection_is_the_nearest_plan(shape, eps):
    """P is nearest to T exactly if ⟨T − P, Π − P⟩ <= 0 for all plans Π, as a linear program tells."""
    x = images(3, shape)
    window, moves = Window(5, x), Moves(shape, reach=2)
    target = 0.2 * torch.randn(3, shape[0], 25, *shape[1:]).double()
    target[:, :, window.middle] += x
    target = torch.where(window.look(torch.ones_like(x)) > 0, target, -torch.inf)
    plan = project(target, x, eps * mass(x), window)
    torch.testing.assert_close(plan.sum(2), x)
    assert plan.min() >= 0 and (window.spent(plan) <= eps * mass(x) + 1e-9).all()
    for one, t, p in zip(x, target, plan, strict=True):
        gain, taken = moves.entries(t) - moves.entries(p), moves.entries(p)
        assert moves.best(one, gain, eps * one.sum().item()) - gain @ taken < 1e-3


def test_the_simplex_projection_is_the_one_by_sorting():
    x = images(3, (2, 5, 5))
    x[0, 0, 0] = 0
    target = torch.randn(3, 2, 25, 5, 5).double()
    ordered = target.sort(2, descending=True).values
    excess = ordered.cumsum(2) - x[:, :, None]
    level = (excess / torch.arange(1, 26).view(-1, 1, 1)).amax(
        2, keepdim=True
    )  # the largest level over all supports
    torch.testing.assert_close(to_simplex(target, x), (target - level).clamp(min=0))


# --- full pixels --------------------------------------------------------------------------------------------


def test_what_does_not_fit_goes_back_where_it_came_from():
    x = images(5, (3, 5, 7))
    window = Window(5, x)
    wish = torch.rand(5, 3, 25, 5, 7).double() * (window.look(torch.ones_like(x)) > 0)
    wish = wish * (x[:, :, None] / wish.sum(2, keepdim=True))
    value = torch.randn_like(x)
    for plan in (wish, best_plan(value, x, 3 * mass(x), window)):
        assert window.receive(plan).max() > 1.1  # else the test says nothing
        got = admit(plan, x, window)
        torch.testing.assert_close(got.sum(2), x)
        assert got.min() >= 0 and window.receive(got).max() <= 1 + 1e-12
        moved = window.cost > 0
        assert (got * moved <= plan * moved + 1e-12).all()
        assert (got * moved).sum() > 0.1 * (plan * moved).sum()


def test_a_full_pixel_admits_as_much_as_leaves_it():
    x = torch.tensor([0.0, 1.0, 1.0, 0.5]).double().view(1, 1, 1, 4)
    plan = torch.zeros(1, 1, 25, 1, 4).double()
    plan[0, 0, 12, 0] = x.flatten() * torch.tensor([1, 0, 0.2, 1])
    plan[0, 0, 13, 0, 1] = 1.0  # all of the second pixel wants to the third,
    plan[0, 0, 13, 0, 2] = 0.8  # of which 0.8 want to the fourth, where there is room for 0.5
    got = Window(5, x).receive(admit(plan, x, Window(5, x)))
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 0.5, 1.0, 1.0]).double())


def test_a_plan_that_fits_is_admitted_as_it_is():
    x = images(3, (1, 6, 6), 0.0, 0.1)
    window = Window(5, x)
    plan = best_plan(torch.randn_like(x), x, 0.2 * mass(x), window)
    assert window.receive(plan).max() < 1
    torch.testing.assert_close(admit(plan, x, window), plan)


# --- networks --------------------------------------------------------------------------------------


def accuracy(model, x, y, eps, **settings):
    with attackable(model):
        return 1 - error(model, fwa(model, x, y, targeted=False, eps=eps, **settings), y)


@pytest.mark.parametrize(
    "which, method, radii, steps, left",
    [
        ("lenet", "frank_wolfe", (0.02, 0.1, 0.3), 30, 0.1),
        pytest.param("lenet", "projected_gradient", (0.02, 0.1, 0.3), 12, 0.2, marks=pytest.mark.slow),
        ("robust_lenet", "frank_wolfe", (0.1, 0.8, 3.0), 30, 0.5),
    ],
)
def test_accuracy_falls_as_the_radius_grows(which, method, radii, steps, left, digits, request):
    model, x, y = request.getfixturevalue(which), digits[0][:20], digits[1][:20]
    small, medium, large = (accuracy(model, x, y, eps, steps=steps, method=method) for eps in radii)
    assert small >= 0.8 and large <= left
    assert large - 0.05 <= medium <= small + 0.05  # no attack is perfect: one image may go the other way


@pytest.mark.parametrize(
    "which, eps, steps", [("robust_lenet", 1.5, 20), pytest.param("lenet", 0.1, 60, marks=pytest.mark.slow)]
)
def test_frank_wolfe_is_at_least_as_strong_as_projected_gradient(which, eps, steps, digits, request):
    """On the robust net in as many steps: the projected gradient has to walk, step_size by step_size.

    On the clean net in three times as many, which take it less time than the projections do.
    """
    model, x, y = request.getfixturevalue(which), digits[0][:20], digits[1][:20]
    frank_wolfe = accuracy(model, x, y, eps, steps=steps, method="frank_wolfe")
    projected_gradient = accuracy(model, x, y, eps, steps=20, method="projected_gradient")
    assert frank_wolfe <= projected_gradient and frank_wolfe < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_targets_are_reached(lenet, digits, method):
    x, y = digits[0][:15], digits[1][:15]
    goal = random_targets(y, 10)
    with attackable(lenet):
        x_adv = fwa(lenet, x, goal, targeted=True, eps=0.5, steps=40, method=method)
    assert error(lenet, x_adv, goal) <= 0.1


def test_the_best_iterate_is_returned(robust_lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    reached = []

    def watched(images):
        logits = robust_lenet(images)
        reached.append(margin(logits.detach(), y))
        return logits

    with attackable(robust_lenet):
        x_adv = fwa(watched, x, y, targeted=False, eps=0.5, steps=12)
    least, when = torch.stack(reached).min(0)
    assert (when < 12).any()  # else it is the last one
    torch.testing.assert_close(margin(robust_lenet(x_adv), y), least, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_an_images_result_does_not_depend_on_its_neighbours(lenet, digits, method):
    x, y, model = digits[0][:3].double(), digits[1][:3], copy.deepcopy(lenet).double()
    settings = {"targeted": False, "eps": 0.2, "steps": 8, "method": method}
    together = fwa(model, x, y, **settings)
    alone = torch.cat([fwa(model, x[i : i + 1], y[i : i + 1], **settings) for i in range(3)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
    assert torch.equal(fwa(model, x, y, **settings), together)


@pytest.mark.parametrize("method", METHODS)
def test_a_black_image_and_one_without_a_gradient_stay_as_they_are(method):
    model, x = Linear(3, (1, 6, 6)), images(2, (1, 6, 6)).float()
    x[0] = 0
    y = model(x).argmax(1)
    x_adv = fwa(model, x, y, targeted=False, eps=1.0, steps=5, method=method)
    assert torch.equal(x_adv[0], x[0]) and not torch.equal(x_adv[1], x[1])
    model.layer.weight.data.zero_()
    torch.testing.assert_close(fwa(model, x, y, targeted=False, eps=1.0, steps=5, method=method), x)


# --- bad settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "sinkhorn"}, "frank_wolfe.*projected_gradient.*got 'sinkhorn'"),
        ({"steps": 0}, "steps >= 1.*got 0"),
        ({"kernel_size": 4}, "kernel_size odd.*4"),
        ({"kernel_size": 1}, "kernel_size.*>= 3.*1"),
        ({"step_size": 0.1}, "no step_size, got 0.1.*projected_gradient"),
        ({"step_size": -0.1, "method": "projected_gradient"}, "step_size must be positive, got -0.1"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        fwa(
            Linear(2, (1, 4, 4)),
            torch.rand(1, 1, 4, 4),
            torch.tensor([0]),
            targeted=False,
            eps=0.1,
            **settings,
        )
