"""Each published number is on the scoreboard once, and says what has become of it."""

import json

import pytest

from helpers import ledger
from helpers.measure import scoreboard

PGD = "arn/t1/lenet/arn_pp/pgd"


def row(id, verdict, value=2.0, adaptive=None, metric="error_rate"):
    ours, adaptive = (v and {"value": v, "n": 100, "low": 1.0, "high": 3.0} for v in (value, adaptive))
    row = {"id": id, "metric": metric, "n": 100, "ours": ours, "adaptive": adaptive, "verdict": verdict}
    return row | {"deviation": "short"}


def keep(folder, profile, comparable, *rows, notebook="23_x", seed=0):
    (folder / profile).mkdir(exist_ok=True)
    content = {"notebook": notebook, "seed": seed, "comparable": comparable, "rows": rows}
    (folder / profile / f"{notebook}.seed{seed}.json").write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path):
    keep(tmp_path, "quick", False, row(PGD, "gains"), row("arn/t1/lenet/arn_pp/ddn", "gains"))
    keep(tmp_path, "cpu", True, row(PGD, "no difference seen, as claimed", 3.8))
    return tmp_path


def test_every_number_of_the_ledger_is_there_once_and_in_its_order(tmp_path):
    rows = scoreboard.board(tmp_path)
    assert [r["id"] for r in rows] == list(ledger.load()["id"]) and {r["state"] for r in rows} == {"not run"}


def test_the_largest_scale_counts_and_quick_shows_words_only(results):
    rows = {r["id"]: r for r in scoreboard.board(results, quick=True)}
    pgd, ddn = rows[PGD], rows["arn/t1/lenet/arn_pp/ddn"]
    assert (pgd["scale"], pgd["ours"], pgd["state"]) == ("cpu", 3.8, "as claimed")
    assert (ddn["scale"], ddn["ours"], ddn["state"]) == ("quick", None, "run, not comparable")
    assert ddn["verdict"] == "gains"
    assert {r["scale"] for r in scoreboard.board(results)} == {"", "cpu"}


@pytest.mark.parametrize(
    "metric, found, shown",
    [
        ("error_rate", [None, 40.0, 90.0, 60.0], 90.0),
        ("accuracy", [None, 40.0, 10.0, 60.0], 10.0),
        ("accuracy", [None, None], None),
    ],
)
def test_of_several_notebooks_the_one_whose_attackers_found_most_counts(tmp_path, metric, found, shown):
    for i, adaptive in enumerate(found):
        keep(tmp_path, "cpu", True, row(PGD, "gains", 5.0, adaptive, metric), notebook=f"2{i}_x")
    worse = 99.0 if metric == "error_rate" else 1.0
    keep(
        tmp_path, "cpu", True, row(PGD, "gains", 5.0, worse, metric), notebook="20_x", seed=1
    )  # not the first
    (pgd,) = (r for r in scoreboard.board(tmp_path) if r["id"] == PGD)
    assert pgd["adaptive"] == shown and pgd["notebook"] == f"2{found.index(shown)}_x"


def test_of_equals_the_notebook_with_the_whole_table_counts(tmp_path):
    keep(tmp_path, "cpu", True, row(PGD, "gains"), notebook="22_x")
    keep(tmp_path, "cpu", True, row(PGD, "gains"), row("arn/t1/lenet/arn_pp/ddn", "gains"), notebook="23_x")
    assert {r["notebook"] for r in scoreboard.board(tmp_path) if r["scale"]} == {"23_x"}


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
