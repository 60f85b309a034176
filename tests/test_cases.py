"""What people's own models and inputs do to attacks and evaluation: the right number, or an error that helps.

Each case was reported for some attack library.  Never a silent success.
"""

import copy
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import InPlace, Linear, error
from test_attacks import BALLS, QUICK, attack, run
from torch import nn

from helpers import threats
from helpers.attacks import ATTACKS, NoGradient, draws
from helpers.lab import bring
from helpers.measure import ladder, rates
from helpers.threats import Defended

# Attacks that look at scores or decisions alone.
BLACK_BOX = {"square", "ba", "lsa", "lsa_own"}
WHITE_BOX = [name for name in ATTACKS if name not in BLACK_BOX]
RADIUS = [name for name in BALLS if torch.inf in BALLS[name]]


def scene(classes=5, shape=(1, 8, 8), images=4):
    """A model and images, clear of the borders, to which it gives the labels."""
    model = Linear(classes, shape)
    x = 0.3 + 0.4 * torch.rand(images, *shape)
    return model, x, model(x).argmax(1).detach()


def behind(denoiser, name, model):
    """`denoiser` before `model`, also for attacks that call `each` of its masks."""
    if name == "mask_adaptive":
        denoiser.each = lambda x: torch.stack([denoiser(x), denoiser(x)])
    return Defended(model, denoiser)


def attacked(name, model, x, y, **settings):
    """The attack with its quick settings, on a pipeline as it is."""
    if name in ("mask_adaptive", "restored"):
        return ATTACKS[name](model, x, y, **QUICK[name] | settings)
    return run(name, model, x, y, **settings)


# --- gradients that are not finite -----------------------------------------------------------------


class Undefined(nn.Module):
    """The identity, with a gradient that is NaN: everywhere, or but at images whose first pixel is light."""

    def __init__(self, everywhere=True):
        super().__init__()
        self.everywhere = everywhere

    def forward(self, x):
        light = (x[:, :1, :1, :1].detach() > 0.5) * (not self.everywhere)
        return x + 0 * torch.sqrt((x - x).abs() + light)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_a_gradient_that_is_nowhere_finite_is_an_error(name):
    model, x, y = scene()
    # Around the restored image the denoiser has no part, so that there the target is what is wrong.
    model = Defended(nn.Sequential(Undefined(), model), behind(Undefined(), name, model).denoiser)
    with pytest.raises(NoGradient, match=rf"{name}: .*NaN or infinite at all images.*bpda.*square and ba"):
        attacked(name, model, x, y)


@pytest.mark.parametrize("name", ["pgd", "mi_fgsm", "apgd_dlr", "fab", "ddn", "cw", "fwa"])
def test_a_gradient_that_is_not_finite_at_some_images_is_told_with_their_share(name):
    model, x, y = scene()
    x[:, :, 0, 0] = torch.tensor([0.02, 0.9, 0.9, 0.9])[:, None]
    model = nn.Sequential(Undefined(everywhere=False), model)
    settings = {"eps": 0.05} if "eps" in QUICK[name] else {}
    with pytest.warns(UserWarning, match=rf"{name}: .*NaN or infinite at \d+% of"):
        x_adv = attacked(name, model, x, y, **settings)
    assert x_adv.isfinite().all()


def test_an_infinite_gradient_leads_the_way():
    class Root(Linear):
        def forward(self, x):
            return super().forward(x.sqrt())

    model = Root(2, (1, 4, 4))
    x = torch.full((2, 1, 4, 4), 0.5)
    x[1, 0, 0, 0] = 0  # where the root has an infinite slope
    y = model(x).argmax(1)
    expected = x + 0.1 * (model.layer.weight[1 - y] - model.layer.weight[y]).view_as(x).sign()
    with pytest.warns(UserWarning, match="NaN or infinite at 50% of"):
        x_adv = ATTACKS["fgsm"](model, x, y, eps=0.1)
    torch.testing.assert_close(x_adv, expected.clamp(0, 1))
    with pytest.warns(UserWarning, match="50%"):
        ATTACKS["pgd"](model, x, y, eps=0.1, norm="l2", random_start=False)


def test_the_ladder_climbs_where_gradients_are_undefined_and_raises_its_alarm(lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    defended = Defended(lenet, Undefined())
    rungs = ladder.climb(defended, x, y, eps=0.3, steps=3, queries=50)
    found = {(rung.threat, rung.attack) for rung in rungs}
    assert ("oblivious", "pgd") in found and ("BPDA", "pgd") in found and ("black box", "square") in found
    assert not any(threat == "white box" for threat, _ in found)
    (alarm,) = (text for text in ladder.alarms(defended, x, y, rungs) if "gradient is exactly zero" in text)
    assert "at 100 % of the images" in alarm and ladder.strongest(rungs).value > 50


# --- models that leave torch, or work in place -----------------------------------------------------


class Rounded(nn.Module):
    def forward(self, x):
        return torch.from_numpy((x.detach().numpy() * 4).round() / 4)


@pytest.mark.parametrize("name", WHITE_BOX)
def test_a_model_that_leaves_torch_is_told_what_to_do(name):
    model, x, y = scene()
    model = Defended(nn.Sequential(Rounded(), model), behind(Rounded(), name, model).denoiser)
    with pytest.raises(NoGradient, match=rf"{name}: .*gives no gradient.*numpy.*bpda.*square and ba"):
        attacked(name, model, x, y)


def test_bpda_and_black_boxes_attack_a_model_that_leaves_torch():
    class Doubles(nn.Module):  # numpy's own type, in place
        def forward(self, x):
            x *= 4
            return torch.from_numpy(np.round(x.numpy()) / 4.0)

    model, x, y = scene(2)
    before = x.clone()
    x_adv = ATTACKS["pgd"](threats.bpda(Defended(model, Doubles())), x, y, eps=0.3)
    assert error(model, x_adv, y) == 1 and torch.equal(x, before)
    assert ATTACKS["square"](Defended(model, Rounded()), x, y, eps=0.3, queries=20).shape == x.shape


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_works_in_place_gets_the_right_number_and_changes_nothing(name):
    model, x, y = scene()
    before, labels = x.clone(), y.clone()
    expected = run(name, nn.Sequential(model), x, y)
    found = run(name, InPlace(model), x, y, **({"layer": "model.layer"} if "layer" in extra(name) else {}))
    assert torch.equal(x, before) and torch.equal(y, labels)
    if name not in ("cw", "fab", "aa", "ba"):  # on these a rounding error grows along the way
        assert ((found - expected).abs() > 1e-4).float().mean() < 0.05


def extra(name):
    import inspect

    return inspect.signature(ATTACKS[name]).parameters


def test_evaluation_threats_ladder_and_bring_leave_images_alone(lenet, digits):
    x, y = digits[0][:10].clone(), digits[1][:10]
    model, before = InPlace(lenet), x.clone()
    assert rates.error_rate(model, x, y).count == rates.error_rate(lenet, before, y).count
    passes = threats.eot(model, 3)(x.clone())
    torch.testing.assert_close(passes, lenet(x).log_softmax(1), atol=1e-4, rtol=1e-4)
    threats.fixed_mask(model, 0)(x)
    assert (
        not ladder.is_stochastic(model, x)
        and ladder.has_gradient(model, x)
        and ladder.vanished(model, x, y) == 0
    )
    bring.check_target(model, x)
    denoiser = InPlace(nn.Identity())
    denoiser.stochastic = False
    bring.check_denoiser(denoiser, x)
    ladder.climb(Defended(lenet, denoiser), x, y, eps=0.1, steps=2, queries=5)
    assert torch.equal(x, before)


# --- what is given as model, labels and radius -----------------------------------------------------


@pytest.mark.parametrize(
    "name", [n for n in ATTACKS if n not in ("feature_pgd", "code_pgd", "mask_adaptive", "restored")]
)
def test_a_plain_function_is_a_model(name):
    model, x, y = scene()
    model.requires_grad_(False)
    assert torch.equal(run(name, lambda images: model(images), x, y), run(name, model, x, y))


@pytest.mark.parametrize("given", [None, "lenet", nn.Linear])
def test_what_is_no_model_is_refused(given):
    _, x, y = scene()
    with pytest.raises(TypeError, match="torch.nn.Module, or a function"):
        ATTACKS["pgd"](given, x, y, eps=0.1)


@pytest.mark.parametrize(
    "convert", [torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.byte, torch.Tensor.int]
)
def test_labels_may_be_arrays_lists_and_of_any_whole_type(convert):
    model, x, y = scene()
    given = convert(y)
    assert torch.equal(ATTACKS["pgd"](model, x, given, eps=0.1), ATTACKS["pgd"](model, x, y, eps=0.1))
    assert rates.accuracy(model, x, given).count == len(x)
    rungs = ladder.climb(Defended(model, nn.Identity()), x, given, eps=0.1, steps=1, queries=1)
    assert (
        rungs[0].error.count == 0 and ladder.alarms(Defended(model, nn.Identity()), x, given, rungs[:1]) == []
    )


@pytest.mark.parametrize("given", [None, "seven", [0, "a"], object()])
def test_what_are_no_labels_is_refused(given):
    model, x, _ = scene()
    with pytest.raises(ValueError, match="labels must be class numbers, int64"):
        ATTACKS["pgd"](model, x, given, eps=0.1)


@pytest.mark.parametrize("name", RADIUS)
@pytest.mark.parametrize("eps", [8, 1.01])
def test_a_radius_in_255ths_is_refused(name, eps):
    model, x, y = scene()
    with pytest.raises(ValueError, match=f"eps={eps} is more than the whole range.*did you mean {eps}/255"):
        run(name, model, x, y, eps=eps)


def test_the_whole_range_is_a_radius():
    model, x, y = scene()
    assert error(model, ATTACKS["pgd"](model, x, y, eps=1), y) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"eps": "0.1"}, "eps must be a number, got '0.1'"),
        ({"eps": None}, "eps must be a number, got None"),
        ({"eps": 0.1, "steps": "5"}, "steps must be a whole number, got '5'"),
        ({"eps": 0.1, "steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"eps": 0.1, "step_size": "0.1"}, "step_size must be a number, got '0.1'"),
    ],
)
def test_a_setting_that_is_no_number_is_named(settings, message):
    model, x, y = scene()
    for name in ("pgd", "mi_fgsm", "pgd_dlr"):
        with pytest.raises(ValueError, match=message):
            ATTACKS[name](model, x, y, **settings)
    assert ATTACKS["pgd"](model, x, y, eps=np.float32(0.1), steps=np.int64(2)).shape == x.shape


# --- types, strides, shapes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type, image_type", [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
def test_a_model_of_another_type_than_the_images_is_named(model_type, image_type):
    model, x, y = scene()
    with pytest.raises(ValueError, match=f"computes in {model_type}, the images are {image_type}"):
        ATTACKS["pgd"](model.to(model_type), x.to(image_type), y, eps=0.1)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_default_type_makes_no_difference(name, request):
    model, x, y = scene()
    expected = run(name, model, x, y)
    request.getfixturevalue("doubles")
    found = run(name, model, x, y)
    assert torch.get_default_dtype() == torch.float64 and found.dtype == torch.float32
    if name != "code_pgd":  # whose references the test draws
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ATTACKS)
def test_strides_make_no_difference(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Linear(5, (4, 6, 6))).eval()
    x = torch.rand(3, 3, 8, 8)
    y = model(x).argmax(1)
    others = [x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)]
    expected = run(name, model, x, y)
    assert all(torch.equal(run(name, model, other, y), expected) for other in others)
    run(name, copy.deepcopy(model).to(memory_format=torch.channels_last), others[0], y)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_that_are_not_square_are_attacked_or_refused_by_name(name, norm):
    if norm == "l2" and "norm" not in extra(name):
        pytest.skip("one norm only")
    if name == "mask_adaptive" and norm == "l2":
        pytest.skip("as pgd")
    model, x, y = scene(shape=(1, 12, 40), images=2)
    settings = {"norm": norm} if name in BALLS and len(BALLS[name]) == 2 else {}
    try:
        x_adv = attack(name)(
            model, x, (y + 1) % 5 if name == "jsma" else y, targeted=name == "jsma", **QUICK[name] | settings
        )
    except ValueError as refused:
        assert (
            name in ("square", "aa", "ensemble")
            and norm == "l2"
            and "cannot cover 12×40 pixels" in str(refused)
            or (name == "lsa" and "square images only" in str(refused))
        )
    else:
        assert x_adv.shape == x.shape


def test_two_classes_one_image_and_half_precision_stay_clear():
    model, x, y = scene(2, images=1)
    assert error(model, ATTACKS["pgd"](model, x, y, eps=0.5), y) == 1
    assert error(model, ATTACKS["apgd_ce"](model, x, y, eps=0.5, steps=5), y) == 1
    with pytest.raises(ValueError, match="float16, too coarse.*model.float"):
        ATTACKS["pgd"](copy.deepcopy(model).half(), x, y, eps=0.5)
    with pytest.raises(ValueError, match="probabilities.*drop its softmax"):
        bring.check_target(nn.Sequential(model, nn.Softmax(1)), x)
    for answer, given in ((lambda z: (model(z), z), "tuple"), (lambda z: {"logits": model(z)}, "dict")):
        with pytest.raises(ValueError, match=f"it gave {given}"):
            ATTACKS["pgd"](answer, x, y, eps=0.5)
        with pytest.raises(ValueError, match=f"logits .*it gave {given}"):
            rates.accuracy(answer, x, y)
        with pytest.raises(ValueError, match=f"logits .*it gave {given}"):
            ladder.climb(Defended(answer, nn.Identity()), x, y, eps=0.1)


# --- the caller's process --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_inference_mode_makes_no_difference(name):
    model, x, y = scene()
    expected = run(name, model, x, y)
    with torch.inference_mode():
        assert torch.equal(run(name, model, x.clone(), y.clone()), expected)
        assert torch.is_inference_mode_enabled()


def test_a_model_made_under_inference_mode_is_named(lenet, digits):
    with torch.inference_mode():
        model = Linear(5, (1, 8, 8))
        _, x, y = scene()
        with pytest.raises(ValueError, match="made under torch.inference_mode"):
            ATTACKS["pgd"](model, x, y, eps=0.1)
        assert (
            ladder.has_gradient(lenet, digits[0][:1])
            and ladder.vanished(lenet, digits[0][:2], digits[1][:2]) == 0
        )


class Noisy(Linear):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


def states():
    return [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(int)), random.getstate()]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_callers_generators_stay_and_a_stochastic_models_result_repeats(name):
    model, (_, x, y) = Noisy(5, (1, 8, 8)), scene()
    before = states()
    first, again = (run(name, model, x, y) for _ in range(2))
    assert torch.equal(first, again)
    assert all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, states(), strict=True)
    )


def test_neither_the_ladder_nor_evaluation_move_the_callers_generators():
    model, (_, x, y) = Noisy(5, (1, 8, 8)), scene()
    defended, before = Defended(model, nn.Identity()), torch.get_rng_state()
    rungs = ladder.climb(defended, x, y, eps=0.1, steps=1, queries=1, samples=(2,))
    ladder.checklist(defended, x, y, rungs)
    rates.accuracy(defended, x, y)
    assert torch.equal(before, torch.get_rng_state())


def test_the_callers_trace_function_is_still_there_after_autoattack():
    def tracer(frame, event, argument):
        return None

    model, x, y = scene()
    outer = sys.gettrace()
    sys.settrace(tracer)
    try:
        ATTACKS["aa"](model, x[:2], y[:2], eps=0.9)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(outer)


# --- evaluation ------------------------------------------------------------------------------------


class Saturates(nn.Module):
    """NaN on images with many gray pixels: fine on natural digits, not on attacked ones."""

    def forward(self, x):
        gray = ((x > 0) & (x < 1)).float().mean((1, 2, 3), keepdim=True)
        return torch.where(gray > 0.35, x * float("nan"), x)


def test_nan_is_no_answer(lenet, digits):
    x, y = digits[0][:20], digits[1][:20]
    assert (y == 0).any()  # of which argmax would be right
    defended, x_adv = Defended(lenet, Saturates()), ATTACKS["pgd"](lenet, x, y, eps=0.1, steps=3)
    unanswered = int(defended(x_adv).isnan().any(1).sum())
    assert unanswered == 20
    with pytest.warns(UserWarning, match="20 of 20 predictions are NaN, which counts as wrong"):
        assert rates.error_rate(defended, x_adv, y).count == 20
    with pytest.warns(UserWarning, match="counts as wrong"):
        assert rates.fooling_rate(defended, x_adv, x_adv).count == 20  # as it was before, and yet no answer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates.error_rate(defended, x, y).count == 0


def test_a_denoiser_of_another_type_is_named():
    class Doubles(nn.Module):
        def forward(self, x):
            return x.double()

    with pytest.raises(ValueError, match="keep the type torch.float32, it gave torch.float64"):
        bring.check_denoiser(Doubles(), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize("threat", [threats.oblivious, threats.bpda])
def test_a_threat_that_needs_a_pipeline_says_so(threat):
    with pytest.raises(ValueError, match="a pipeline is wanted, Defended.*got Linear"):
        threat(Linear(3, (1, 4, 4)))


@pytest.mark.parametrize("name", [name for name in ATTACKS if draws(name)])
def test_shift_tab_shows_what_an_attack_takes(name):
    assert "seed" in extra(name) and not any(p.kind is p.VAR_KEYWORD for p in extra(name).values())
