"""RP2 and ROA: against closed forms, brute force, models that see one region only, and on digits."""

import copy

import pytest
import torch
from conftest import Linear, error
from torch import nn

from helpers.attacks import ATTACKS, attackable, random_targets
from helpers.attacks.physical import rectangle

rp2, roa = ATTACKS["rp2"], ATTACKS["roa"]


def bars(h, w):
    """A mask (h,w): two bars, as on Eykholt et al.'s stop sign."""
    mask = torch.zeros(h, w)
    mask[h // 4 : h // 4 + 3, 1:-1] = mask[-h // 4 - 1 : -h // 4 + 2, 2:-1] = 1
    return mask


# Settings that make both quick on tiny images.
QUICK = {rp2: {"mask": bars(8, 8), "steps": 3}, roa: {"height": 3, "width": 2, "steps": 3}}


class Window(nn.Module):
    """Two classes, told apart by the mean of one rectangle; white there is class 0."""

    def __init__(self, top, left, height, width):
        super().__init__()
        self.rows, self.columns = slice(top, top + height), slice(left, left + width)

    def forward(self, x):
        mean = x[:, :, self.rows, self.columns].mean((1, 2, 3))
        return torch.stack([20 * mean, 20 - 20 * mean], 1)


class Scaled(nn.Module):
    """The same decisions, with logits `factor` times as large."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


def linear(shape, classes=2, images=6):
    """Model, images, and the labels it gives them."""
    model = Linear(classes, shape, 0.1)
    x = torch.rand(images, *shape)
    return model, x, model(x).argmax(1)


def corner(model, x, y, mask):
    """`x` with the pixels under `mask` at 0 or 1, as they lead a two-class linear model away from `y`."""
    away = (model.layer.weight[1 - y] - model.layer.weight[y]).view_as(x)
    return torch.where(mask.bool(), (away > 0).float(), x)


def places(x, height, width, stride):
    """Every rectangle's rows and columns, one after the other."""
    h, w = x.shape[2:]
    for top in {*range(0, h - height + 1, stride), h - height}:
        for left in {*range(0, w - width + 1, stride), w - width}:
            yield slice(top, top + height), slice(left, left + width)


def box(mask):
    """(top, left, height, width) of the one rectangle that `mask` (1,H,W) is."""
    rows, columns = mask[0].any(1).nonzero().flatten().tolist(), mask[0].any(0).nonzero().flatten().tolist()
    assert mask.sum() == len(rows) * len(columns)  # else it has holes
    assert rows[-1] - rows[0] == len(rows) - 1 and columns[-1] - columns[0] == len(columns) - 1
    return rows[0], columns[0], len(rows), len(columns)


def margin(model, x, y):
    """Logit of the strongest other class less that of `y`; (N,)."""
    with torch.no_grad():
        logits = model(x)
    own = logits.gather(1, y[:, None])
    return (logits.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True) - own).squeeze(1)


# --- where they may change the image ---------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 11), (3, 12, 7)])
def test_rp2_changes_nothing_outside_its_mask(shape, targeted):
    model, x, y = linear(shape, classes=4)
    mask = bars(*shape[1:])
    x_adv = rp2(model, x, (y + 1) % 4 if targeted else y, targeted=targeted, mask=mask, steps=5)
    outside = (mask == 0).expand_as(x)
    assert torch.equal(x_adv[outside], x[outside])
    assert (x_adv != x)[~outside].float().mean() > 0.9
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("search", ["exhaustive", "gradient"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 11), (3, 12, 7)])
def test_roa_changes_one_rectangle(shape, search, targeted):
    model, x, y = linear(shape, classes=4)
    goal = (y + 1) % 4 if targeted else y
    x_adv = roa(model, x, goal, targeted=targeted, height=3, width=5, search=search, steps=5)
    changed = (x_adv != x).any(1, keepdim=True)
    for one in changed:  # random pixels, so that none happens to keep its value
        assert box(one)[2:] == (3, 5)
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_each_image_may_have_a_mask_of_its_own():
    model, x, y = linear((3, 8, 11), images=3)
    masks = torch.stack([bars(8, 11), 1 - bars(8, 11), torch.ones(8, 11)])[:, None]
    alone = [rp2(model, x[i : i + 1], y[i : i + 1], mask=masks[i, 0], steps=5) for i in range(3)]
    torch.testing.assert_close(rp2(model, x, y, mask=masks, steps=5), torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_a_mask_for_all_images_may_have_either_shape_and_any_type(kind):
    model, x, y = linear((3, 8, 11))
    mask = bars(8, 11)
    expected = rp2(model, x, y, mask=mask, steps=3)
    assert torch.equal(rp2(model, x, y, mask=mask[None, None].to(kind), steps=3), expected)


# --- the linear model: the optimum is a corner -----------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("settings", [{"steps": 30}, {"steps": 1, "learning_rate": 1.0}])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 11)])
def test_rp2_without_regularisation_finds_the_best_corner(shape, settings, targeted):
    model, x, y = linear(shape)
    x_adv = rp2(model, x, 1 - y if targeted else y, targeted=targeted, mask=bars(*shape[1:]), **settings)
    torch.testing.assert_close(x_adv, corner(model, x, y, bars(*shape[1:])), atol=1e-5, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"steps": 4}, {"steps": 1, "step_size": 0.5}, {"search": "gradient"}]
)
def test_roa_finds_the_best_corner_of_its_rectangle(settings, targeted):
    model, x, y = linear((3, 8, 11))
    goal, settings = 1 - y if targeted else y, settings | {"height": 3, "width": 5, "targeted": targeted}
    x_adv = roa(model, x, goal, **settings)
    mask = (x_adv != x).any(1, keepdim=True)
    torch.testing.assert_close(x_adv, corner(model, x, y, mask), atol=1e-6, rtol=0)


def test_l1_regularisation_moves_only_pixels_worth_their_price():
    """Where the model is wrong for sure, a pixel of weight w gains |w|·|δ| and costs λ·|δ|."""
    model = Linear(2, (1, 8, 8), 0.3)
    x, y = 0.5 + 0.1 * torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    with torch.no_grad():
        model.layer.bias[:] = torch.tensor([0.0, 10.0])
        y = 0 * y  # misclassified: the bias says 1
    weight = (model.layer.weight[1] - model.layer.weight[0]).view(1, 8, 8).detach()
    x_adv = rp2(
        model, x, y, mask=torch.ones(8, 8), norm="l1", regularisation=0.4, steps=400, learning_rate=0.01
    )
    worth, not_worth = (weight.abs() > 0.45).expand_as(x), (weight.abs() < 0.35).expand_as(x)
    assert worth.sum() > 40 and not_worth.sum() > 40  # else the comparison says nothing
    best = (weight > 0).float().expand_as(x)
    torch.testing.assert_close(x_adv[worth], best[worth], atol=1e-3, rtol=0)
    torch.testing.assert_close(x_adv[not_worth], x[not_worth], atol=0.02, rtol=0)


@pytest.mark.parametrize("norm, p, weights", [("l1", 1, (0, 0.03, 0.3)), ("l2", 2, (0, 0.1, 0.5))])
def test_more_regularisation_gives_smaller_stickers(lenet, digits, norm, p, weights):
    x, y = digits[0][:10], digits[1][:10]
    sizes = []
    for weight in weights:
        x_adv = rp2(lenet, x, y, mask=bars(28, 28), regularisation=weight, norm=norm, steps=40)
        sizes.append((x_adv - x).flatten(1).norm(p, dim=1).mean().item())
    assert sizes[0] > 1.1 * sizes[1] > 1.1**2 * sizes[2]


@pytest.mark.parametrize("other", [1.0, 10.0])  # the grey start alone succeeds, or everything does
def test_rp2_keeps_the_best_of_the_iterates_that_succeed(other):
    """A model that is worst on grey, and steps so long that the first leads from grey to black or white."""

    class Valley(nn.Module):
        def forward(self, x):
            away = 10 * (x.mean((1, 2, 3)) - 0.5).abs()
            return torch.stack([away, torch.full_like(away, other)], 1)

    x, y, mask = torch.ones(1, 1, 4, 4), torch.tensor([0]), torch.ones(4, 4)
    start = rp2(Valley(), x, y, mask=mask, steps=1, learning_rate=1e-6)
    assert (start.mean() - 0.5).abs() < 0.1 and error(Valley(), start, y) == 1
    x_adv = rp2(Valley(), x, y, mask=mask, steps=2, learning_rate=1.0)
    torch.testing.assert_close(x_adv, start, atol=1e-5, rtol=0)


# --- where ROA puts the rectangle ------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, 50])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 12)])
def test_exhaustive_search_finds_the_best_place(shape, stride, targeted):
    model, x, y = linear(shape)
    goal = 1 - y if targeted else y
    with attackable(model):
        found = rectangle(model, x, goal, targeted=targeted, height=4, width=3, stride=stride)
    assert found.shape == (len(x), 1, *shape[1:]) and found.dtype == torch.bool
    highest = torch.full((len(x),), -torch.inf)
    for rows, columns in places(x, 4, 3, stride):
        grey = x.clone()
        grey[:, :, rows, columns] = 0.5
        highest = torch.maximum(highest, margin(model, grey, y))
    torch.testing.assert_close(margin(model, torch.where(found, 0.5, x), y), highest, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 12)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_gradient_search_with_one_candidate_takes_the_largest_sum_of_squares(shape, stride):
    model, x, y = linear(shape)
    with attackable(model):
        found = rectangle(model, x, y, search="gradient", candidates=1, height=4, width=3, stride=stride)
    energy = (model.layer.weight[1] - model.layer.weight[0]).detach().view(shape).square()
    best = max(places(x, 4, 3, stride), key=lambda place: energy[:, *place].sum())
    expected = torch.zeros(shape[1:], dtype=bool)
    expected[best] = True
    assert torch.equal(found, expected.expand(len(x), 1, *shape[1:]))


@pytest.mark.parametrize("search", ["exhaustive", "gradient"])
@pytest.mark.parametrize(
    "place", [(0, 0), (2, 4), (5, 9), (5, 4), (4, 9)]
)  # height 5: the borders are off the stride
def test_both_searches_find_the_one_region_that_matters(search, place):
    x, y = torch.ones(2, 3, 8, 11), torch.tensor([0, 0])
    with attackable(Window(*place, 3, 2)) as model:
        found = rectangle(model, x, y, search=search, height=3, width=2, stride=2, candidates=1)
    assert [box(one) for one in found] == [(*place, 3, 2)] * 2
    x_adv = roa(model, x, y, search=search, height=3, width=2, stride=2, candidates=1)
    assert error(model, x_adv, y) == 1 and torch.equal(x_adv, torch.where(found, 0.0, x))


def test_more_candidates_find_a_worse_place_for_the_model_and_exhaustive_search_the_worst(lenet, digits):
    x, y = digits[0][:20], digits[1][:20]

    def loss(**settings):
        with attackable(lenet):
            found = rectangle(lenet, x, y, stride=3, **settings)
        with torch.no_grad():
            return nn.functional.cross_entropy(
                lenet(torch.where(found, 0.5, x)).double(), y, reduction="none"
            )

    few, many, all_of_them = (loss(search="gradient", candidates=c) for c in (1, 5, 1000))
    exhaustive = loss(search="exhaustive")
    assert (few <= many + 1e-6).all() and (many <= exhaustive + 1e-6).all()
    assert few.mean() < many.mean() < exhaustive.mean()
    torch.testing.assert_close(all_of_them, exhaustive, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("search", ["exhaustive", "gradient"])
def test_the_place_is_found_also_where_the_cross_entropy_rounds_to_zero(search):
    x, y = torch.ones(2, 1, 8, 11), torch.tensor([0, 0])
    model = Scaled(Window(2, 4, 3, 2), 100)
    logits = model(x.where(torch.rand(8, 11) > 0.1, 0.9))
    assert nn.functional.cross_entropy(logits, y) == 0
    with attackable(model):
        found = rectangle(model, x, y, search=search, height=3, width=1, candidates=3)
    assert all(box(one)[:2] in {(2, 4)} for one in found)


# --- digits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "attack, settings",
    [
        (rp2, {"mask": bars(28, 28), "steps": 30}),
        (roa, {"stride": 4}),
        (roa, {"search": "gradient"}),
        (roa, {"search": "gradient", "height": 10, "width": 5}),
    ],
)
def test_they_fool_the_clean_lenet(lenet, digits, attack, settings, targeted):
    x, y = digits[0][:40], digits[1][:40]
    goal = random_targets(y, 10) if targeted else y
    x_adv = attack(lenet, x, goal, targeted=targeted, **settings)
    if targeted:
        assert 1 - error(lenet, x_adv, goal) > 0.25 and error(lenet, x, goal) == 1
    else:
        assert error(lenet, x_adv, y) > 0.8 and error(lenet, x, y) < 0.05


def test_the_pixels_inside_matter_not_only_the_occlusion(lenet, digits):
    x, y = digits[0][:40], digits[1][:40]
    with attackable(lenet):
        grey = torch.where(rectangle(lenet, x, y, stride=4), 0.5, x)
    assert error(lenet, roa(lenet, x, y, stride=4), y) > error(lenet, grey, y) + 0.3


def test_rp2_gets_going_where_the_model_is_sure(lenet, digits):
    """Logits five times as large: tiny gradients, at which Adam with its usual eps stands still."""
    x, y = digits[0][:20], digits[1][:20]
    x_adv = rp2(Scaled(lenet, 5), x, y, mask=bars(28, 28), steps=30)
    assert error(lenet, x_adv, y) >= error(lenet, rp2(lenet, x, y, mask=bars(28, 28), steps=30), y) - 0.1


def test_roa_breaks_a_model_whose_cross_entropy_has_no_gradient(lenet, digits):
    x, y = digits[0][:20], digits[1][:20]
    assert error(lenet, roa(Scaled(lenet, 1e4), x, y, stride=4), y) > 0.8


# --- what every attack promises --------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack, settings",
    [
        (rp2, {"mask": bars(28, 28), "steps": 20}),
        (rp2, {"mask": bars(28, 28), "steps": 20, "regularisation": 0.1}),
        (roa, {"stride": 5, "steps": 10}),
        (roa, {"search": "gradient", "steps": 10}),
    ],
)
def test_an_images_result_does_not_depend_on_its_neighbours(lenet, digits, attack, settings):
    model, x, y = copy.deepcopy(lenet).double(), digits[0][:4].double(), digits[1][:4]
    together = attack(model, x, y, **settings)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], **settings) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", QUICK)
def test_results_repeat_and_leave_input_and_generators_alone(attack):
    model, x, y = linear((1, 8, 8))
    before, labels, generator = x.clone(), y.clone(), torch.get_rng_state()
    first = attack(model, x, y, **QUICK[attack])
    torch.manual_seed(1)
    with torch.no_grad():
        again = attack(model, x, y, **QUICK[attack])
    torch.set_rng_state(generator)
    assert torch.equal(first, again) and not first.requires_grad and first.dtype == x.dtype
    first += 1  # the result shares no memory with the images
    assert torch.equal(x, before) and torch.equal(y, labels)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_rp2_starts_elsewhere_with_another_seed():
    model, x, y = linear((1, 8, 8))
    assert not torch.equal(*(rp2(model, x, y, seed=seed, **QUICK[rp2]) for seed in (0, 1)))


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(8, 9), r"shape \(8, 8\), .*got \(8, 9\): resize"),
        (torch.ones(4, 1, 8, 8), r"\(6, 1, 8, 8\), got \(4, 1, 8, 8\)"),
        (torch.ones(1, 3, 8, 8), r"got \(1, 3, 8, 8\).*one channel"),
        (255 * bars(8, 8), r"0 and 1.*\[0, 255\]: threshold"),
        (0.5 * bars(8, 8), r"\[0, 0\.5\]"),
        (bars(8, 8) * torch.nan, "0 and 1"),
        (torch.zeros(8, 8), "empty.*set to 1"),
        (torch.eye(6)[0].view(6, 1, 1, 1).expand(6, 1, 8, 8), "empty"),
    ],
)
def test_bad_masks_are_refused(mask, message):
    model, x, y = linear((1, 8, 8))
    with pytest.raises(ValueError, match=message):
        rp2(model, x, y, mask=mask)


@pytest.mark.parametrize(
    "attack, settings, message",
    [
        (rp2, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (rp2, {"steps": 2.5}, r"steps.*2\.5"),
        (rp2, {"learning_rate": 0}, "learning_rate > 0.*got 0"),
        (rp2, {"regularisation": -1}, "regularisation >= 0.*-1"),
        (rp2, {"norm": "linf"}, "'l1' or 'l2'.*'linf'"),
        (roa, {"steps": 0}, "steps.*0"),
        (roa, {"step_size": 0.0}, r"step_size must be positive, got 0\.0: leave it out"),
        (roa, {"height": 0}, "height.*0"),
        (roa, {"height": 9}, "height 9 and width 2 does not fit.*height 8.*smaller"),
        (roa, {"width": 9}, "height 3 and width 9 does not fit.*smaller"),
        (roa, {"stride": 0}, "stride.*0"),
        (roa, {"candidates": 0, "search": "gradient"}, "candidates.*0"),
        (roa, {"search": "random"}, "'exhaustive' or 'gradient', got 'random'"),
    ],
)
def test_bad_settings_are_refused_with_the_choices(attack, settings, message):
    model, x, y = linear((1, 8, 8))
    with pytest.raises(ValueError, match=message):
        attack(model, x, y, **QUICK[attack] | settings)
