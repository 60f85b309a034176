"""The suite attack by attack: each against the formula of its paper, a closed form, or a second library."""

import inspect
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from conftest import Linear, error
from scipy.ndimage import correlate
from torch import nn
from torch.nn import functional as F

from helpers import data
from helpers.attacks import ATTACKS, attackable, random_targets
from helpers.attacks.advertorch import library
from helpers.attacks.pgd import dlr_loss
from helpers.lab.experiment import Experiment
from helpers.lab.profiles import TRUTH, load, papers
from helpers.networks.zoo import load_target
from helpers.threats import Defended


@pytest.fixture(scope="module")
def adv_lib():
    """adv-lib's attacks.  Its dependency visdom, for plots nobody asks for, does not build everywhere."""
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    return pytest.importorskip("adv_lib.attacks", reason="pip install --no-deps adv-lib")


def norms(difference, p=2):
    return difference.flatten(1).norm(p, dim=1)


def linear(classes, images=6, shape=(1, 4, 4), scale=1.0):
    """Model, images far from 0 and 1, the labels it gives them, and each image's distances to its
    class's boundaries in ℓ2 and ℓ∞."""
    model = Linear(classes, shape, scale)
    x = 0.45 + 0.1 * torch.rand(images, *shape)
    logits, weight = model(x).detach(), model.layer.weight.detach()
    y = logits.argmax(1)
    lead = logits.gather(1, y[:, None]) - logits
    distance = {
        p: (lead / (weight[y][:, None] - weight).norm(dual, dim=2)).scatter(1, y[:, None], torch.inf).amin(1)
        for p, dual in ((2, 2), (torch.inf, 1))
    }
    return model, x, y, distance


# --- signed iterations -----------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("mi_fgsm", {}),
        ("vni_fgsm", {"samples": 3}),
        ("ti_bim", {"kernel_size": 1}),
        ("pgd_dlr", {}),
    ],
)
def test_signed_iterations_find_the_optimal_corner(name, settings, targeted):
    model, x, y, _ = linear(3 if name == "pgd_dlr" else 2)
    if name == "pgd_dlr":  # of three classes the last has no part in it
        model.layer.weight.data[2], model.layer.bias.data[2] = 0, -100
        y = model(x).argmax(1)
    towards = (model.layer.weight[1 - y] - model.layer.weight[y]).view_as(x)
    x_adv = ATTACKS[name](model, x, 1 - y if targeted else y, targeted=targeted, eps=0.1, **settings)
    torch.testing.assert_close(x_adv, x + 0.1 * towards.sign(), atol=1e-6, rtol=0)


def gradient(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


@pytest.mark.parametrize("targeted", [False, True])
def test_mi_fgsm_takes_advertorchs_steps(lenet, digits, targeted):
    x, y = digits[0][:8], digits[1][:8]
    y = random_targets(y, 10) if targeted else y
    with attackable(lenet):
        theirs = (
            library()
            .LinfMomentumIterativeAttack(
                lenet,
                loss_fn=nn.CrossEntropyLoss(reduction="sum"),
                eps=0.2,
                decay_factor=0.7,
                nb_iter=4,
                eps_iter=0.05,
                targeted=targeted,
            )
            .perturb(x, y)
        )
    ours = ATTACKS["mi_fgsm"](lenet, x, y, targeted=targeted, eps=0.2, decay=0.7, steps=4)
    # A gradient of nothing has a sign by rounding: all but one pixel in a thousand.
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 1e-3
    assert not torch.equal(
        ours, ATTACKS["mi_fgsm"](lenet, x, y, targeted=targeted, eps=0.2, decay=0.0, steps=4)
    )


def test_mi_fgsm_goes_on_after_a_zero_gradient():
    class Flat(Linear):  # no gradient where the image is still grey
        def forward(self, x):
            return super().forward(x) * (x.flatten(1).std(dim=1, keepdim=True) > 0.01)

    model, y = Flat(2, (1, 4, 4)), torch.zeros(1, dtype=torch.long)
    x_adv = ATTACKS["mi_fgsm"](model, torch.full((1, 1, 4, 4), 0.5), y, eps=0.1, steps=3)
    assert x_adv.isfinite().all()


def test_vni_fgsm_is_algorithm_1_of_its_paper(lenet, digits):
    x, y = digits[0][:3], digits[1][:3]
    eps, steps, decay, radius, samples = 0.2, 3, 0.9, 1.5, 4
    generator = torch.Generator(x.device).manual_seed(5)
    x_adv, g, v = x, torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        ahead = gradient(lenet, x_adv + eps / steps * decay * g, y)
        corrected = ahead + v
        g = decay * g + corrected / norms(corrected, 1).view(-1, 1, 1, 1)
        around = []
        for _ in range(samples):
            noise = 2 * torch.rand(x.shape[1:], generator=generator, device=x.device) - 1
            around.append(gradient(lenet, x_adv + radius * eps * noise, y))
        v = torch.stack(around).mean(0) - ahead
        x_adv = (x_adv + eps / steps * g.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    ours = ATTACKS["vni_fgsm"](
        lenet, x, y, eps=eps, steps=steps, decay=decay, radius=radius, samples=samples, seed=5
    )
    assert ((ours - x_adv).abs() > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_ti_bim_smooths_each_channels_gradient(channels):
    model, x = Linear(2, (channels, 9, 8), 0.1), torch.full((1, channels, 9, 8), 0.5)
    y = model(x).argmax(1)
    bell = np.exp(-(np.linspace(-3, 3, 5) ** 2) / 2)
    kernel = np.outer(bell, bell)
    step = (model.layer.weight[1 - y] - model.layer.weight[y]).detach().view(channels, 9, 8).numpy()
    smooth = np.array([correlate(channel.astype(float), kernel, mode="constant") for channel in step])
    expected = np.sign(smooth)
    x_adv = ATTACKS["ti_bim"](model, x, y, eps=0.1, steps=1, kernel_size=5)
    clear = np.abs(smooth) > 1e-4  # a sum of almost nothing has the sign of its rounding
    np.testing.assert_allclose((x_adv - x)[0].numpy()[clear], 0.1 * expected[clear], atol=1e-6)
    assert clear.mean() > 0.9 and not (expected == np.sign(step)).all()  # the smoothing does something


def test_pgd_dlr_is_pgd_on_the_dlr_loss(lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    settings = {"eps": 0.1, "steps": 5, "seed": 3}
    ours = ATTACKS["pgd_dlr"](lenet, x, y, **settings)
    assert torch.equal(ours, ATTACKS["pgd"](lenet, x, y, loss="dlr", **settings))
    assert not torch.equal(ours, ATTACKS["pgd"](lenet, x, y, **settings))


# --- AutoAttack's parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm, p", [("linf", torch.inf), ("l2", 2)])
@pytest.mark.parametrize(
    "name, settings",
    [
        ("apgd_ce", {}),
        ("apgd_dlr", {}),
        ("fab", {"steps": 50}),
        ("square", {"queries": 1000}),
    ],
)
def test_autoattacks_parts_break_what_is_within_reach_and_leave_the_rest(name, settings, norm, p):
    model, x, y, distance = linear(5, images=12, shape=(1, 8, 8))  # Square's ℓ2 windows need some room
    low, high = distance[p].sort().values[5:7]
    eps = (0.1 * low + 0.9 * high).item()
    x_adv = ATTACKS[name](model, x, y, eps=eps, norm=norm, **settings)
    broken = model(x_adv).argmax(1) != y
    beyond = distance[p] > eps
    assert torch.equal(x_adv[beyond], x[beyond]) and not broken[beyond].any()
    # Square's random search comes near the best corner, not to it.
    assert broken[~beyond].sum() >= (6 if name != "square" else 2)


@pytest.mark.parametrize("norm, p", [("linf", torch.inf), ("l2", 2)])
def test_fab_finds_the_nearest_boundary(norm, p):
    model, x, y, distance = linear(4, images=8)
    x_adv = ATTACKS["fab"](model, x, y, eps=1.0 if p > 2 else 10.0, norm=norm, steps=100)
    assert error(model, x_adv, y) == 1
    torch.testing.assert_close(norms(x_adv - x, p), distance[p], rtol=0.02, atol=0)


def test_apgd_averages_the_gradients_of_a_stochastic_model():
    calls = []

    class Counted(Linear):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    model, x, y, _ = linear(3)
    counted = Counted(3, (1, 4, 4))
    counted.load_state_dict(model.state_dict())
    passes = {}
    for samples in (1, 4):
        calls.clear()
        ATTACKS["apgd_ce"](counted, x, y, eps=1e-4, steps=10, samples=samples)
        passes[samples] = len(calls)
    assert passes[4] > 3 * passes[1]


@pytest.mark.slow
def test_aa_is_the_librarys_own_ensemble():
    """The adapter changes nothing: the same verdict on every image as the package called directly."""
    from pyautoattack import AutoAttack

    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Linear(12, (4, 6, 6), 0.3))
    x = torch.rand(12, 1, 8, 8)
    y = model(x).argmax(1)
    ours = ATTACKS["aa"](model, x, y, eps=0.03, seed=2)
    with attackable(model):
        original = AutoAttack(model, norm="Linf", eps=0.03, version="standard", seed=2)
        theirs, _ = original.run_standard_evaluation(x, y, batch_size=500)
    assert 0.2 < error(model, ours, y) < 0.8
    assert torch.equal(model(ours).argmax(1), model(theirs).argmax(1))


# --- the ensemble ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def robust_resnet():
    """ResNet-18 of an eighth of the width, adversarially trained, for CIFAR-10."""
    return load_target("resnet18_eighth_at").cpu()


class Counted(Linear):
    """Keeps the number of images in each pass."""

    def __init__(self, like):
        super().__init__(like.layer.out_features, (1, 8, 8))
        self.load_state_dict(like.state_dict())
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize("norm, p", [("linf", torch.inf), ("l2", 2)])
def test_the_ensemble_breaks_what_is_within_reach_and_spends_its_passes_on_the_rest(norm, p):
    model, x, y, distance = linear(5, images=12, shape=(1, 8, 8))
    low, high = distance[p].sort().values[5:7]
    eps = (low + high).item() / 2
    model = Counted(model)
    x_adv = ATTACKS["ensemble"](model, x, y, eps=eps, norm=norm, steps=50, classes=3, queries=20)
    passes = list(model.passes)
    unbroken = distance[p] > eps
    assert torch.equal(model(x_adv).argmax(1) == y, unbroken) and unbroken.sum() == 6
    assert torch.equal(x_adv[unbroken], x[unbroken])
    # APGD-CE sees all twelve; then six are dropped, and no pass of the two others shows a broken image.
    later = passes[passes.index(6) :]
    assert set(later) == {6} and len(later) >= 3 * 50 + 20
    assert set(passes[2 : passes.index(6)]) == {12}


def test_the_ensemble_takes_a_tenth_of_autoattacks_passes_on_images_that_nothing_breaks():
    model, x, y, distance = linear(10, images=2, shape=(1, 8, 8))
    model, passes = Counted(model), {}
    for name in ("ensemble", "aa"):
        model.passes.clear()
        x_adv = ATTACKS[name](model, x, y, eps=distance[torch.inf].min().item() / 2)
        assert torch.equal(x_adv, x)
        passes[name] = len(model.passes)
    assert 10 * passes["ensemble"] <= passes["aa"]


def test_the_ensemble_is_never_weaker_than_its_apgd_ce(robust_lenet, digits):
    x, y = some(digits, 60)
    settings = {"eps": 0.33, "steps": 20, "seed": 1}
    part = ATTACKS["apgd_ce"](robust_lenet, x, y, **settings)
    whole = ATTACKS["ensemble"](robust_lenet, x, y, queries=1, **settings)
    broken = robust_lenet(part).argmax(1) != y
    assert 0.05 < broken.float().mean() < 0.95
    assert torch.equal(whole[broken], part[broken])


def test_the_ensembles_square_breaks_a_model_without_gradients(lenet, digits):
    class Rounded(nn.Module):
        def forward(self, x):
            return lenet((4 * x).round() / 4)

    x, y = some(digits, 20)
    settings = {"eps": 0.4, "steps": 5, "classes": 1}
    few, many = (ATTACKS["ensemble"](Rounded(), x, y, queries=queries, **settings) for queries in (1, 200))
    assert error(Rounded(), many, y) > error(Rounded(), few, y) + 0.3


@pytest.mark.slow
def test_the_ensemble_breaks_what_autoattack_breaks_but_for_one_image_in_fifty(robust_resnet):
    x, y = data.load("cifar10", "test", n=50)
    broken = {
        name: robust_resnet(ATTACKS[name](robust_resnet, x, y, eps=8 / 255)).argmax(1) != y
        for name in ("aa", "ensemble")
    }
    natural = robust_resnet(x).argmax(1) != y
    assert natural.sum() + 10 < broken["aa"].sum() < 45  # else the comparison says nothing
    assert (broken["aa"] != broken["ensemble"]).sum() <= 1


# --- boundary attack -------------------------------------------------------------------------------


def test_ba_walks_to_the_nearest_boundary():
    model, x, y, distance = linear(2, images=4)
    x_adv = ATTACKS["ba"](model, x, y, steps=3000)
    assert error(model, x_adv, y) == 1
    torch.testing.assert_close(norms(x_adv - x), distance[2], rtol=0.02, atol=0)


def test_ba_comes_closer_with_more_steps_and_fools_the_lenet(lenet, digits):
    x, y = digits[0][:5], digits[1][:5]
    near, far = (ATTACKS["ba"](lenet, x, y, steps=steps) for steps in (600, 60))
    assert error(lenet, near, y) == 1 and error(lenet, far, y) == 1
    assert (norms(near - x) < norms(far - x)).all()


def test_ba_targeted_starts_from_the_images_it_is_given(lenet, digits):
    x, y = digits[0][:4], digits[1][:4]
    goal = random_targets(y, 10)
    starts = torch.stack(
        [digits[0][(digits[1] == label) & (lenet(digits[0]).argmax(1) == label)][0] for label in goal]
    )
    x_adv = ATTACKS["ba"](lenet, x, goal, targeted=True, steps=100, starts=starts)
    assert error(lenet, x_adv, goal) == 0
    assert (norms(x_adv - x) < norms(starts - x)).all()


def test_ba_leaves_what_is_misclassified_and_what_it_cannot_start(lenet, digits):
    x, y = digits[0][:3], digits[1][:3]
    wrong = (y + 1) % 10
    assert torch.equal(ATTACKS["ba"](lenet, x, wrong, steps=5), x)

    class Stubborn(Linear):
        def forward(self, x):
            return super().forward(x) * 0 + torch.eye(3)[0]

    x, y = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    assert torch.equal(ATTACKS["ba"](Stubborn(3, (1, 4, 4)), x, y, steps=5), x)


# --- local search ----------------------------------------------------------------------------------


def test_lsa_own_changes_the_pixel_that_matters_most():
    """Logit 0 hangs on three pixels; each round changes the best two, as the formulas say."""
    model = Linear(2, (1, 5, 5))
    with torch.no_grad():
        model.layer.weight.zero_(), model.layer.bias.copy_(torch.tensor([50.0, 0.0]))
        for pixel, weight in ((3, 9.0), (11, 5.0), (20, -1.0)):
            model.layer.weight[0, pixel] = weight
    x, y = torch.full((1, 1, 5, 5), 0.6), torch.zeros(1, dtype=torch.long)
    x_adv = ATTACKS["lsa_own"](model, x, y, rounds=1, changed=2, candidates=25)
    assert (x_adv != x).flatten().nonzero().flatten().tolist() == [3, 11]
    assert x_adv.flatten()[3].item() == pytest.approx(0.5 + 1.5 * 0.1)
    again = ATTACKS["lsa_own"](model, x, y, rounds=1, changed=2, candidates=25, r=6.0)
    assert again.flatten()[3].item() == pytest.approx(0.5 + 6 * 0.1 - 1, abs=1e-5)  # wraps around


def test_lsa_own_stays_near_the_pixels_it_has_changed():
    model = Linear(2, (1, 9, 9))
    with torch.no_grad():
        model.layer.weight.zero_(), model.layer.bias.copy_(torch.tensor([50.0, 0.0]))
        model.layer.weight[0, 40] = 9.0  # the centre, in the first round; then nothing matters
    x, y = torch.full((1, 1, 9, 9), 0.6), torch.zeros(1, dtype=torch.long)
    x_adv = ATTACKS["lsa_own"](model, x, y, rounds=2, changed=1, candidates=81, reach=1)
    rows, columns = (x_adv != x)[0, 0].nonzero(as_tuple=True)
    assert len(rows) >= 1 and ((rows - 4).abs() <= 1).all() and ((columns - 4).abs() <= 1).all()


@pytest.mark.parametrize("targeted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_lsa_own_fools_the_lenet_by_few_pixels(lenet, digits, targeted):
    x, y = digits[0][:5], digits[1][:5]
    goal = random_targets(y, 10) if targeted else y
    x_adv = ATTACKS["lsa_own"](lenet, x, goal, targeted=targeted, rounds=40)
    assert (1 - error(lenet, x_adv, goal) if targeted else error(lenet, x_adv, y)) >= 0.7
    assert ((x_adv != x).flatten(1).sum(1) <= 40 * 5).all()


@pytest.mark.slow
def test_adds_local_search_is_advertorchs_and_breaks_half_of_the_digits(lenet, digits):
    """ADD, C.1.4: the library's attack with p = 10, r = 1.5, t = 300, which ours exceeds by far."""
    x, y = digits[0][:20], digits[1][:20]
    settings = load("add", TRUTH)["mnist"].attacks
    assert (settings["lsa"].attack, settings["lsa_own"].attack) == ("lsa", "lsa_own")
    theirs = ATTACKS["lsa"](lenet, x, y, **settings["lsa"].settings)
    ours = ATTACKS["lsa_own"](lenet, x, y, **settings["lsa_own"].settings)
    assert error(lenet, theirs, y) == 0.5 and error(lenet, ours, y) == 1
    changed = [((x_adv - x).abs() > 1e-3).flatten(1).sum(1).float().mean() for x_adv in (theirs, ours)]
    assert 50 <= changed[0] <= 75 and changed[1] >= 300
    assert norms(theirs - x).mean() == pytest.approx(4.1, abs=0.2) and norms(ours - x).mean() > 10
    whole = norms(theirs - x) > 0
    assert error(lenet, theirs[~whole], y[~whole]) == 0  # failures are the natural images


# --- inside a defense ------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_feature_pgd_moves_the_named_layers_features_and_no_others(lenet, digits, distance):
    x, y = digits[0][:10], digits[1][:10]
    layer = [name for name, module in lenet.named_modules() if isinstance(module, nn.Conv2d)][1]
    kept = []
    handle = dict(lenet.named_modules())[layer].register_forward_hook(
        lambda m, i, out: kept.append(out.flatten(1))
    )
    lenet(x)
    x_adv = ATTACKS["feature_pgd"](lenet, x, y, layer=layer, eps=0.2, steps=20, distance=distance)
    lenet(x_adv)
    lenet((x + 0.2 * torch.randn_like(x).sign()).clamp(0, 1))
    handle.remove()
    natural, moved, noisy = kept[0], kept[-2], kept[-1]
    if distance == "l2":
        assert (norms(moved - natural) > 1.5 * norms(noisy - natural)).all()
    else:
        near, far = (torch.cosine_similarity(natural, other) for other in (noisy, moved))
        assert (far < near).all()
    assert not dict(lenet.named_modules())[layer]._forward_hooks


def test_feature_pgd_finds_the_optimum_of_one_linear_feature():
    x = torch.full((3, 1, 4, 4), 0.5)
    features = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Linear(1, 2))
    x_adv = ATTACKS["feature_pgd"](
        features, x, torch.zeros(3, dtype=torch.long), layer="1", eps=0.1, steps=10
    )
    weight = features[1].weight.view(1, 1, 4, 4)
    away = (x_adv - x).mul(weight).sum((1, 2, 3)).abs()
    torch.testing.assert_close(away, 0.1 * weight.abs().sum().expand(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("targeted", [False, True])
def test_code_pgd_reaches_the_nearest_code_of_a_wanted_class(targeted, distance):
    """Three linear codes of sixteen pixels: each code is within reach."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 4))
    encoder = model[:2].requires_grad_(False)
    x, y = 0.4 + 0.2 * torch.rand(5, 1, 4, 4), torch.arange(5) % 4
    references, classes = 0.3 + 0.4 * torch.rand(12, 1, 4, 4), torch.arange(12) % 4
    goal = (y + 1) % 4 if targeted else y
    wanted = (classes == goal[:, None]) if targeted else (classes != goal[:, None])

    def apart(one, other):
        if distance == "l2":
            return norms(encoder(one) - encoder(other))
        return 1 - torch.cosine_similarity(encoder(one), encoder(other))

    each = torch.stack([apart(one[None].expand_as(references), references) for one in x])
    before, nearest = each.masked_fill(~wanted, torch.inf).min(1)
    settings = {"references": references, "classes": classes, "distance": distance, "layer": "1"}
    settings |= {"eps": 0.5, "steps": 400, "step_size": 0.001, "random_start": False}
    x_adv = ATTACKS["code_pgd"](model, x, goal, targeted=targeted, **settings)
    assert (apart(x_adv, references[nearest]) < 0.05 * before + 1e-3).all()


def test_code_pgd_reads_a_class_where_feature_pgd_only_leaves_one(lenet, digits):
    x, y = digits[0][:20], digits[1][:20]
    settings = {"layer": "linear1", "eps": 0.3, "steps": 40}
    goal = random_targets(y, 10)
    given = {"references": digits[0][100:], "classes": digits[1][100:]}
    x_adv = ATTACKS["code_pgd"](lenet, x, goal, targeted=True, **settings, **given)
    anywhere = ATTACKS["feature_pgd"](lenet, x, y, **settings)
    reached = [(lenet(images).argmax(1) == goal).float().mean().item() for images in (x_adv, anywhere)]
    assert reached[0] > 0.6 and reached[1] < 0.4


def test_the_lab_takes_references_by_the_name_of_a_split():
    lab = Experiment("arn", "mnist", "quick")
    settings = {"layer": "conv2", "steps": 2}
    kept = lab.attack("code", lab.target(), n=3, **settings)
    x, y = lab.images("test", 3)
    images, labels = lab.images("train")
    whole = lab.attack_settings("code") | settings | {"references": images, "classes": labels}
    assert torch.equal(ATTACKS["code_pgd"](lab.target(), x, y, **whole), kept)
    keys = {lab.recipes.attack("code", None, references=split).key for split in ("train", "test")}
    assert len(keys) == 2


# --- defaults, and the papers' settings ------------------------------------------------------------

LIBRARY = {
    "cw": ("CarliniWagnerL2Attack", {"search_steps": "binary_search_steps"}, {"steps"}),
    "ddn": ("DDNL2Attack", {"steps": "nb_iter"}, set()),
    "jsma": ("JacobianSaliencyMapAttack", {}, set()),
    "sta": ("SpatialTransformAttack", {"steps": "max_iterations"}, set()),
    "lsa": (
        "LocalSearchAttack",
        {"rounds": "round_ub", "changed": "t", "reach": "d", "candidates": "max_nb_seeds"},
        {"seed"},
    ),
}


def settings_of(name):
    return {key: p.default for key, p in list(inspect.signature(ATTACKS[name]).parameters.items())[4:]}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_defaults_are_the_librarys_and_belong_to_no_paper(name):
    attack, names, apart = LIBRARY[name]
    theirs = inspect.signature(getattr(library(), attack)).parameters
    for setting, default in settings_of(name).items():
        if setting not in apart:
            assert theirs[names.get(setting, setting)].default == default, setting


def test_the_boundary_attack_takes_foolboxs_steps():
    foolbox = pytest.importorskip("foolbox")
    theirs = inspect.signature(foolbox.attacks.BoundaryAttack).parameters["steps"].default
    assert settings_of("ba")["steps"] == theirs


@pytest.mark.parametrize("paper", papers())
def test_a_papers_settings_of_the_librarys_attacks_are_written_out(paper):
    for dataset, spec in load(paper, TRUTH).items():
        for name, attack in spec.attacks.items():
            if attack.attack in (*LIBRARY, "ba"):
                left = (
                    set(settings_of(attack.attack))
                    - set(attack.settings)
                    - {"seed", "starts", "quantize", "init_norm"}
                )
                assert not left, (dataset, name, left)


class Shown(nn.Module):
    """Restores nothing, and shows what its masks leave; the pipeline sees the mean."""

    def __init__(self, *masks):
        super().__init__()
        self.masks = masks

    def each(self, x):
        return torch.stack([x * mask for mask in self.masks])

    def forward(self, x):
        return self.each(x).mean(0)


def columns(x):
    """Complementary masks of an image's even and odd columns."""
    even = torch.zeros_like(x[:1, :1])
    even[..., ::2] = 1
    return even, 1 - even


@pytest.mark.parametrize("targeted", [False, True])
def test_mask_adaptive_makes_each_patchs_noise_for_the_mask_that_shows_it(lenet, digits, targeted):
    x, y = digits[0][:5], digits[1][:5]
    y = random_targets(y, 10) if targeted else y
    settings = {"targeted": targeted, "eps": 0.2, "steps": 5}
    both = columns(x)
    ours = ATTACKS["mask_adaptive"](Defended(lenet, Shown(*both)), x, y, **settings)
    alone = [ATTACKS["pgd"](Defended(lenet, Shown(mask)), x, y, **settings) for mask in both]
    torch.testing.assert_close(ours, torch.where(both[0].bool(), *alone))
    mean = ATTACKS["pgd"](Defended(lenet, Shown(*both)), x, y, **settings)
    assert ((ours - mean).abs() > 0.1).float().mean() > 0.01  # plain PGD's noise is another


def test_mask_adaptive_leaves_hidden_pixels_alone_and_without_a_mask_is_pgd(lenet, digits):
    x, y = digits[0][:5], digits[1][:5]
    settings = {"eps": 0.2, "steps": 5, "random_start": False}
    x_adv = ATTACKS["mask_adaptive"](Defended(lenet, Shown(columns(x)[0])), x, y, **settings)
    assert torch.equal(x_adv[..., 1::2], x[..., 1::2]) and not torch.equal(x_adv, x)
    everything = ATTACKS["mask_adaptive"](Defended(lenet, Shown(torch.ones_like(x[:1]))), x, y, **settings)
    torch.testing.assert_close(everything, ATTACKS["pgd"](lenet, x, y, **settings))


def test_mask_adaptive_draws_masks_in_each_step():
    class Random(nn.Identity):
        drawn = []

        def each(self, x):
            self.drawn.append((torch.rand_like(x) < 0.5).to(x))
            return torch.stack([x * self.drawn[-1], x * (1 - self.drawn[-1])])

    model, x = Linear(2, (1, 4, 4)), torch.full((2, 1, 4, 4), 0.5)
    y = model(x).argmax(1)
    x_adv = ATTACKS["mask_adaptive"](Defended(model, Random()), x, y, eps=0.1, steps=4, random_start=False)
    assert len(Random.drawn) == 4 and not torch.equal(*Random.drawn[:2])
    towards = (model.layer.weight[1 - y] - model.layer.weight[y]).view_as(x)
    torch.testing.assert_close(x_adv, x + 0.1 * towards.sign())


@pytest.mark.parametrize("targeted", [False, True])
def test_restored_is_pgd_on_the_target_around_the_restored_image(lenet, digits, targeted):
    class Fade(nn.Module):
        def forward(self, x):
            return 0.5 * x + 0.2

    x, y = digits[0][:5], digits[1][:5]
    y = random_targets(y, 10) if targeted else y
    settings = {"targeted": targeted, "eps": 0.1, "steps": 5}
    ours = ATTACKS["restored"](Defended(lenet, Fade()), x, y, **settings)
    assert torch.equal(ours, ATTACKS["pgd"](lenet, 0.5 * x + 0.2, y, **settings))


def test_restored_goes_round_one_restoration_of_a_stochastic_denoiser():
    class Grain(nn.Module):
        def forward(self, x):
            drawn.append(x + 0.3 * torch.rand_like(x))
            return drawn[-1]

    drawn, model, x = [], Defended(Linear(3, (1, 4, 4)), Grain()), torch.rand(4, 1, 4, 4) / 2
    x_adv = ATTACKS["restored"](model, x, torch.arange(4) % 3, eps=0.01, steps=5, seed=1)
    assert len(drawn) == 2  # the first, of one image, is the check of the model
    assert (x_adv - drawn[-1]).abs().max() <= 0.01 + 1e-6


# --- second opinions -------------------------------------------------------------------------------


def some(digits, n):
    return digits[0][:n], digits[1][:n]


def test_fgsm_is_foolboxs(lenet, digits):
    import foolbox

    x, y = some(digits, 50)
    box = foolbox.PyTorchModel(lenet, bounds=(0, 1), device=x.device)
    _, theirs, _ = foolbox.attacks.FGSM(random_start=False)(box, x, y, epsilons=0.1)
    ours = ATTACKS["fgsm"](lenet, x, y, eps=0.1)
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 1e-3


@pytest.mark.slow
def test_ddn_and_cw_agree_with_adv_lib(lenet, digits, adv_lib):
    """Median norms within 2 %: both libraries start and step in the same way."""
    x, y = some(digits, 10)
    with attackable(lenet):
        theirs = {
            "ddn": adv_lib.ddn(lenet, x, y, steps=100, levels=None),
            "cw": adv_lib.carlini_wagner_l2(
                lenet,
                x,
                y,
                confidence=0,
                learning_rate=0.05,
                initial_const=1.0,
                binary_search_steps=5,
                max_iterations=200,
                abort_early=False,
            ),
        }
    ours = {
        "ddn": ATTACKS["ddn"](lenet, x, y, steps=100, quantize=False),
        "cw": ATTACKS["cw"](lenet, x, y, learning_rate=0.05, search_steps=5, steps=200, initial_const=1.0),
    }
    for name in ours:
        assert error(lenet, ours[name], y) == error(lenet, theirs[name], y) == 1
        ratio = norms(ours[name] - x).median() / norms(theirs[name] - x).median()
        assert abs(ratio - 1) <= 0.02, (name, ratio)


@pytest.mark.slow
def test_dlr_pgd_agrees_with_adv_libs(lenet, digits, adv_lib):
    x, y = some(digits, 100)
    with attackable(lenet):
        theirs = adv_lib.pgd_linf(lenet, x, y, 0.11, steps=40, absolute_step_size=0.01, loss_function="dlr")
    ours = ATTACKS["pgd_dlr"](lenet, x, y, eps=0.11, steps=40, step_size=0.01)
    assert 0.2 < error(lenet, ours, y) < 0.95
    assert abs(error(lenet, ours, y) - error(lenet, theirs, y)) <= 0.02


@pytest.mark.slow
def test_apgd_agrees_with_adv_libs(lenet, digits, adv_lib):
    x, y = some(digits, 100)  # all classified rightly: adv-lib's would repair the others
    ours = ATTACKS["apgd_dlr"](lenet, x, y, eps=0.1, steps=50)
    with attackable(lenet):
        theirs = adv_lib.apgd(lenet, x, y, eps=0.1, norm=float("inf"), n_iter=50)
    assert 0.2 < error(lenet, ours, y) < 0.95
    assert abs(error(lenet, ours, y) - error(lenet, theirs, y)) <= 0.02


@pytest.mark.slow
def test_fab_agrees_with_adv_libs(lenet, digits, adv_lib):
    x, y = some(digits, 20)
    ours = ATTACKS["fab"](lenet, x, y, eps=1.0, steps=50)
    with attackable(lenet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = adv_lib.fab(lenet, x, y, norm=float("inf"), n_iter=50, targeted_restarts=True)
    assert error(lenet, ours, y) == error(lenet, theirs, y) == 1
    ratio = norms(ours - x, torch.inf).median() / norms(theirs - x, torch.inf).median()
    assert abs(ratio - 1) <= 0.02


def test_the_dlr_loss_is_autoattacks(lenet, digits):
    from pyautoattack.autopgd_base import APGDAttack

    x, y = some(digits, 30)
    logits = lenet(x)
    theirs = APGDAttack(lenet, eps=0.1, device=x.device).dlr_loss(logits, y).sum()
    torch.testing.assert_close(dlr_loss(logits, y), theirs, rtol=1e-5, atol=0)
