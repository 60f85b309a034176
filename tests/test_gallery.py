"""The gallery of notebook 01: every attack, made once, with its cost."""

import pytest
import torch
from conftest import error

from helpers.attacks import ATTACKS
from helpers.lab import Experiment
from helpers.show import gallery

QUICK = {
    "fgsm": gallery.Entry("gradient", gallery.BALL, {"eps": 0.2}),
    "jsma": gallery.Entry("gradient", "few pixels", {"gamma": 0.02}, targeted=True),
    "rp2": gallery.Entry("gradient", "a sticker", {"steps": 3, "mask": "mask1"}),
}


def test_the_suite_leaves_out_only_what_needs_a_denoiser_and_what_stands_there_as_our_own():
    assert set(ATTACKS) - set(gallery.SUITE) == {"mask_adaptive", "restored", "code_pgd", "lsa", "sta"}
    assert all(
        entry.settings.get("eps") == gallery.EPS
        for entry in gallery.SUITE.values()
        if entry.changes == gallery.BALL
    )


def test_images_and_passes_are_kept(lenet, digits, monkeypatch):
    monkeypatch.setattr(gallery, "SUITE", QUICK)
    x, y = digits[0][:3], digits[1][:3]
    target = Experiment("arn", "mnist").target()
    shown = gallery.gallery(target, x, y)
    assert list(shown) == list(QUICK)
    images, passes, seconds = shown["fgsm"]
    assert torch.equal(images, ATTACKS["fgsm"](target, x, y, eps=0.2))
    assert (
        passes == pytest.approx(1 + 1 / 3) and seconds >= 0
    )  # one image to check the model, all for the gradient
    assert not target._forward_pre_hooks
    changed = (shown["rp2"][0] != x).flatten(2).any(2).any(1)
    assert changed.all()
    monkeypatch.setattr(gallery, "_run", None)  # nothing is run again
    again = gallery.gallery(target, x, y)
    for name, one in shown.items():
        assert torch.equal(again[name].images, one.images) and again[name][1:] == one[1:]


def test_a_model_of_ones_own_is_attacked_and_not_kept(lenet, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "SUITE", {"fgsm": QUICK["fgsm"]})
    assert gallery.gallery(lenet, digits[0][:3], digits[1][:3])["fgsm"].passes > 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_other_settings_are_another_artifact(digits, monkeypatch, tmp_path):
    target, (x, y) = Experiment("arn", "mnist").target(), (digits[0][:3], digits[1][:3])
    for eps in (0.1, 0.2):
        monkeypatch.setattr(gallery, "SUITE", {"fgsm": gallery.Entry("gradient", "", {"eps": eps})})
        shown = gallery.gallery(target, x, y)["fgsm"]
        assert (shown.images - x).abs().max() == pytest.approx(eps, abs=1e-6)
    assert len(list(tmp_path.rglob("gallery-fgsm-*.safetensors"))) == 2


def test_explored_holds_every_case_an_attack_knows(lenet, digits):
    x, y = digits[0][:3], digits[1][:3]
    cases = gallery.explored(lenet, x, y, ("fgsm", "apgd_ce"), (0.1, 0.3), (False, True))
    assert set(cases) == {
        ("fgsm", 0.1, False),
        ("fgsm", 0.1, True),
        ("fgsm", 0.3, False),
        ("fgsm", 0.3, True),
        ("apgd_ce", 0.1, False),
        ("apgd_ce", 0.3, False),
    }
    assert error(lenet, cases["apgd_ce", 0.3, False], y) == 1
    assert (cases["fgsm", 0.1, True] - x).abs().max() <= 0.1 + 1e-6
