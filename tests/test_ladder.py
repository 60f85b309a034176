"""The ladder and its alarms: broken defenses are unmasked, an adversarially trained net is not accused."""

import pytest
import torch
from conftest import error
from torch import nn

from helpers import threats
from helpers.measure import ladder
from helpers.threats import Defended


class FourLevels(nn.Module):
    """Kills the gradient by quantisation."""

    def forward(self, x):
        return (3 * x).round() / 3


class Loud(nn.Module):
    """Kills the gradient by saturation: logits so large that the cross-entropy rounds to zero."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return 1e4 * self.net(x)


class Dropped(nn.Module):
    """Kills the gradient by randomness: half of the pixels, and of the gradient, are gone in each pass."""

    def forward(self, x):
        return x * (torch.rand_like(x) < 0.5)


class NoGradient(nn.Module):
    def forward(self, x):
        return (0.9 * x).detach()


def climbed(target, denoiser, digits, n=40, **settings):
    defended, x, y = Defended(target, denoiser), digits[0][:n], digits[1][:n]
    rungs = ladder.climb(defended, x, y, queries=100, **settings)
    return rungs, ladder.alarms(defended, x, y, rungs)


def test_the_report_is_one_page_with_the_verdict_and_the_evidence(lenet, digits, tmp_path):
    defended, x, y = Defended(lenet, FourLevels()), digits[0][:10], digits[1][:10]
    rungs = ladder.climb(defended, x, y, eps=0.3, steps=3, queries=10)
    checks = ladder.checklist(defended, x, y, rungs)
    file = ladder.report(
        tmp_path / "new" / "page.html", "<b>My</b> defense", rungs, checks, {"data": "digits"}
    )
    text = file.read_text()
    assert "&lt;b&gt;My" in text and "data: <b>digits</b>" in text
    assert (
        all(check.evidence in text for check in checks)
        and text.count("✗") == sum(not c.holds for c in checks) > 0
    )
    assert f"Robust error <b>{ladder.strongest(rungs)}</b>" in text
    assert all(f"<td>{rung.threat}</td><td>{rung.attack}</td>" in text for rung in rungs)


def of(rungs, threat):
    return max(rung.error.value for rung in rungs if rung.threat == threat)


def test_an_adversarially_trained_net_raises_no_alarm(robust_lenet, lenet, digits):
    rungs, found = climbed(
        robust_lenet, nn.Identity(), digits, eps=0.3, surrogate=lenet, substitute=nn.Identity()
    )
    assert found == []
    known = ["none", "oblivious", "gray box", *["white box"] * 3]
    assert [rung.threat for rung in rungs] == [*known, "transfer", "BPDA", "black box", "no budget"]
    assert 0 < ladder.strongest(rungs).value < 40


def test_quantisation_is_unmasked(lenet, digits):
    rungs, found = climbed(lenet, FourLevels(), digits, eps=0.3, steps=10)
    assert of(rungs, "white box") < 10 and of(rungs, "BPDA") > 90
    text = "\n".join(found)
    assert "at 100 % of the images" in text and "BPDA finds" in text and "gradients are masked" in text
    assert ladder.strongest(rungs).value > 90


def test_saturation_is_unmasked(lenet, digits):
    rungs, found = climbed(Loud(lenet), nn.Identity(), digits, eps=0.3, steps=10)
    assert rungs[2].attack == "pgd" and rungs[2].error.value < 10
    assert any("the gradient is exactly zero" in sentence for sentence in found)
    assert ladder.strongest(rungs).value > 90  # the dlr loss sees through it


def test_randomness_is_unmasked(lenet, digits):
    rungs, found = climbed(lenet, Dropped(), digits, eps=0.1, steps=10, samples=(5,))
    assert any("EOT finds" in sentence and "randomness hid" in sentence for sentence in found)
    assert {"EOT 5", "fixed mask"} <= {rung.threat for rung in rungs}
    natural = rungs[0]
    assert natural.vote.value <= natural.error.value < natural.worst.value


def test_a_pipeline_without_any_gradient_is_told_apart(lenet, digits):
    rungs, found = climbed(lenet, NoGradient(), digits, n=20, eps=0.3, steps=5)
    assert "white box" not in {rung.threat for rung in rungs}
    assert "no gradient at all" in found[0] and any("BPDA finds" in sentence for sentence in found)


def test_a_rung_is_what_its_attack_does(lenet, digits):
    from helpers.attacks import ATTACKS

    x, y = digits[0][:20], digits[1][:20]
    rungs = ladder.climb(Defended(lenet, FourLevels()), x, y, eps=0.25, steps=3, queries=20, seed=3)
    rung = next(rung for rung in rungs if rung.threat == "BPDA")
    x_adv = ATTACKS["pgd"](threats.bpda(Defended(lenet, FourLevels())), x, y, eps=0.25, steps=3, seed=3)
    assert rung.error.count == round(20 * error(Defended(lenet, FourLevels()), x_adv, y)) == rung.worst.count
    assert rung.error.count > 0


def test_the_strongest_error_is_the_union_of_what_the_attackers_broke():
    def rung(threat, *broken):
        broken = torch.tensor(broken)
        rate = ladder.Rate(int(broken.sum()), len(broken))
        return ladder.Rung(threat, "pgd", rate, rate, rate, broken, 0.0)

    rungs = [
        rung("white box", True, False, False, False),
        rung("black box", False, True, False, False),
        rung("fixed mask", False, False, True, False),
        rung("no budget", True, True, True, True),
    ]
    assert ladder.strongest(rungs).count == 2 == int((~ladder.withstands(rungs)).sum())


def test_a_weaker_attacker_must_win_by_a_margin_to_raise_an_alarm(lenet, digits):
    x, y = digits[0][:4], digits[1][:4]

    def rung(threat, count):
        rate = ladder.Rate(count, 100)
        return ladder.Rung(threat, "pgd", rate, rate, rate, torch.zeros(100, dtype=torch.bool), 0.0)

    defended = Defended(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(x.device), nn.Identity())
    for threat in ("oblivious", "gray box", "transfer", "BPDA", "black box"):
        near, far = ([rung("none", 1), rung("white box", 50), rung(threat, count)] for count in (55, 56))
        assert ladder.alarms(defended, x, y, near) == []
        assert threat in ladder.alarms(defended, x, y, far)[0]
    stuck = [rung("none", 1), rung("white box", 50), rung("no budget", 94)]
    assert "stuck" in ladder.alarms(defended, x, y, stuck)[0]


@pytest.mark.parametrize("denoiser, expected", [(nn.Identity(), False), (Dropped(), True)])
def test_stochastic_is_measured(lenet, digits, denoiser, expected):
    assert ladder.is_stochastic(Defended(lenet, denoiser), digits[0][:4]) == expected


def test_the_vote_is_for_the_label_that_most_passes_give(digits):
    """Wrong in three passes of five, but each time another label: the vote is right."""

    class Torn(nn.Module):
        def __init__(self):
            super().__init__()
            self.answers = [0, 0, 1, 2, 3]

        def forward(self, x):
            self.answers = self.answers[1:] + self.answers[:1]
            return nn.functional.one_hot(torch.tensor([self.answers[-1]] * len(x)), 4).float()

    rung = ladder._judge(
        Torn(), torch.zeros(2, dtype=torch.long), "none", "natural", lambda: torch.rand(2, 1, 4, 4), 0
    )
    assert rung.error.count == 1  # three passes of five on both: 1.2 of two images, rounded
    assert rung.vote.count == 0 and rung.worst.count == 2


def test_two_classes_and_an_unruly_denoiser_do_not_stop_the_ladder():
    class Unruly(nn.Module):
        def forward(self, x):
            return x if (x + torch.rand_like(x)).mean().item() > 9 else x + 0.01 * torch.randn_like(x)

    target = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(4, 1, 4, 4)
    y = target(x).argmax(1)
    rungs = ladder.climb(
        Defended(target, Unruly()), x, y, eps=0.3, steps=3, queries=5, samples=(2,), autoattack=True
    )
    assert [r.attack for r in rungs if r.threat == "white box"] == ["pgd", "apgd_ce"]
    assert not any(r.threat == "fixed mask" for r in rungs)


def test_the_same_seed_gives_the_same_rungs_for_a_stochastic_defense(lenet, digits):
    x, y = digits[0][:10], digits[1][:10]
    settings = {"eps": 0.1, "steps": 3, "queries": 5, "samples": (2,)}
    torch.manual_seed(1)
    first = ladder.climb(Defended(lenet, Dropped()), x, y, **settings)
    torch.manual_seed(2)
    again = ladder.climb(Defended(lenet, Dropped()), x, y, **settings)
    assert [r.error for r in first] == [r.error for r in again]


def test_an_eot_curve_that_still_rises_is_an_alarm(lenet, digits):
    def rung(threat, count):
        rate = ladder.Rate(count, 100)
        return ladder.Rung(threat, "pgd", rate, rate, rate, torch.zeros(100, dtype=torch.bool), 0.0)

    rungs = [rung("none", 1), rung("white box", 70), rung("EOT 2", 60), rung("EOT 5", 66)]
    assert (
        "still rising"
        in ladder.alarms(Defended(lenet, nn.Identity()), digits[0][:4], digits[1][:4], rungs)[0]
    )
    rungs[-1] = rung("EOT 5", 65)
    assert ladder.alarms(Defended(lenet, nn.Identity()), digits[0][:4], digits[1][:4], rungs) == []
