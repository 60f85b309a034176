"""Each published number is on the scoreboard once, and says what has become of it."""

import json

import pytest

from helpers import ledger
from helpers.measure import scoreboard


def row(id, verdict, value=2.0):
    number = {"value": value, "n": 100, "low": 1.0, "high": 3.0}
    return {"id": id, "n": 100, "ours": number, "adaptive": None, "verdict": verdict, "deviation": "short"}


@pytest.fixture
def results(tmp_path):
    def keep(profile, comparable, *rows):
        (tmp_path / profile).mkdir(exist_ok=True)
        content = {"notebook": "23_x", "comparable": comparable, "rows": rows}
        (tmp_path / profile / "23_x.json").write_text(json.dumps(content))

    keep("quick", False, row("arn/t1/lenet/arn_pp/pgd", "gains"), row("arn/t1/lenet/arn_pp/ddn", "gains"))
    keep("cpu", True, row("arn/t1/lenet/arn_pp/pgd", "no difference seen, as claimed", 3.8))
    return tmp_path


def test_every_number_of_the_ledger_is_there_once_and_in_its_order(tmp_path):
    rows = scoreboard.board(tmp_path)
    assert [r["id"] for r in rows] == list(ledger.load()["id"]) and {r["state"] for r in rows} == {"not run"}


def test_the_largest_scale_counts_and_quick_shows_words_only(results):
    rows = {r["id"]: r for r in scoreboard.board(results, quick=True)}
    pgd, ddn = rows["arn/t1/lenet/arn_pp/pgd"], rows["arn/t1/lenet/arn_pp/ddn"]
    assert (pgd["scale"], pgd["ours"], pgd["state"]) == ("cpu", 3.8, "as claimed")
    assert (ddn["scale"], ddn["ours"], ddn["state"]) == ("quick", None, "run, not comparable")
    assert ddn["verdict"] == "gains"
    assert {r["scale"] for r in scoreboard.board(results)} == {"", "cpu"}


@pytest.mark.parametrize(
    "verdict, comparable, state",
    [
        ("loses, worse than claimed", True, "worse than claimed"),
        ("higher than claimed", True, "another number than claimed"),
        ("does not work on natural images", True, "run, no claim judged"),
        ("as claimed", False, "run, not comparable"),
    ],
)
def test_a_state_follows_from_the_words(verdict, comparable, state):
    assert scoreboard._state(verdict, comparable) == state and state in scoreboard.STATES


def test_the_summary_counts_each_number_once(results):
    counts = scoreboard.summary(scoreboard.board(results))
    assert sum(count.total() for count in counts.values()) == len(ledger.load())
    assert counts["arn"]["as claimed"] == 1
    text = scoreboard.markdown(scoreboard.board(results))
    assert "as claimed" in text and "worse than claimed" not in text  # no column without a number
