"""The gallery of notebook 01: every attack, made once, with its cost."""

import pytest
import torch
from conftest import error

from helpers.show import gallery
from helpers.attacks import ATTACKS

QUICK = {
    "fgsm": gallery.Entry("gradient", gallery.BALL, {"eps": 0.2}),
    "jsma": gallery.Entry("gradient", "few pixels", {"gamma": 0.02}, targeted=True),
    "rp2": gallery.Entry("gradient", "a sticker", {"steps": 3, "mask": "bars"}),
}


def test_the_suite_leaves_out_only_what_needs_a_denoiser():
    assert set(ATTACKS) - set(gallery.SUITE) == {"mask_adaptive", "restored"}
    assert all(entry.settings.get("eps") == gallery.EPS for entry in gallery.SUITE.values() if entry.changes == gallery.BALL)


def test_images_and_passes_are_kept(lenet, digits, monkeypatch):
    monkeypatch.setattr(gallery, "SUITE", QUICK)
    x, y = digits[0][:3], digits[1][:3]
    shown = gallery.gallery(lenet, x, y, "lenet")
    assert list(shown) == list(QUICK)
    images, passes, seconds = shown["fgsm"]
    assert torch.equal(images, ATTACKS["fgsm"](lenet, x, y, eps=0.2))
    assert passes == pytest.approx(1 + 1 / 3) and seconds >= 0  # one image to check the model, all for the gradient
    assert not lenet._forward_hooks
    changed = (shown["rp2"][0] != x).flatten(2).any(2).any(1)
    assert changed.all()
    monkeypatch.setattr(gallery, "_run", None)  # nothing is run again
    again = gallery.gallery(lenet, x, y, "lenet")
    assert all(torch.equal(again[name][0], shown[name][0]) and again[name][1:] == shown[name][1:] for name in shown)


def test_explored_holds_every_case_an_attack_knows(lenet, digits):
    x, y = digits[0][:3], digits[1][:3]
    cases = gallery.explored(lenet, x, y, "lenet", ("fgsm", "apgd_ce"), (0.1, 0.3), (False, True))
    assert set(cases) == {
        ("fgsm", 0.1, False), ("fgsm", 0.1, True), ("fgsm", 0.3, False), ("fgsm", 0.3, True),
        ("apgd_ce", 0.1, False), ("apgd_ce", 0.3, False),
    }  # fmt: skip
    assert error(lenet, cases["apgd_ce", 0.3, False], y) == 1
    assert (cases["fgsm", 0.1, True] - x).abs().max() <= 0.1 + 1e-6
