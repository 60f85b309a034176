"""The README says what `results/` holds, and nothing else."""

import json

import pytest

from helpers.run import scales


def test_the_readme_says_what_has_been_run():
    text = scales.README.read_text(encoding="utf-8")
    assert scales.written(text, scales.section()) == text, "run: python -m helpers.run.scales"


@pytest.fixture
def results(tmp_path):
    def rate(value):
        return {"value": value, "n": 1000, "low": value - 1, "high": value + 1}

    def row(defense, attack, paper, ours, adaptive):
        name = f"arn/t1/lenet/{defense}/{attack}"
        there = {"ours": ours and rate(ours), "adaptive": adaptive and rate(adaptive), "n": 1000}
        there |= {"verdict": "as claimed", "deviation": ""}
        there |= {"metric": "error_rate", "paper": paper}
        return {"id": name, "defense": defense, "attack": attack, **there}

    rows = [
        row("none", "pgd", 100.0, 100.0, 100.0),
        row("arn_pp", "natural", 1.16, 1.3, None),
        row("arn_pp", "ddn", 1.28, 1.9, None),
        row("arn_pp", "pgd", 1.85, 3.94, 97.4),
        row("arn_pp", "ddn@1.5", None, 3.0, None),
        row("doa_7x7", "pgd", 50.0, None, None),
    ]
    content = {"notebook": "23_a", "paper": "arn", "seed": 0, "comparable": True, "rows": rows}
    for profile in ("quick", "cpu"):
        (tmp_path / profile).mkdir()
        (tmp_path / profile / "23_a.json").write_text(json.dumps(content | {"profile": profile}))
    return tmp_path


def test_a_line_counts_what_is_published_and_shows_the_papers_own_defense(results):
    *_, line = scales.section(results).splitlines()
    assert (
        line == "| ARN | cpu | `23_a`, seed 0 | 4 | `arn/t1/lenet/arn_pp/pgd` | error rate "
        "| 3.9 (n = 1000) | 1.9 | 97.4 |"
    )
    assert "quick" not in scales.section(results)


def test_what_was_printed_is_linked(results):
    (results / "cpu" / "34_a.md").write_text("# 34_a")
    (results / "cpu" / "23_a.md").write_text("# 23_a")
    text = scales.section(results)
    assert "| [`23_a`](results/cpu/23_a.md), seed 0 |" in text
    assert text.endswith(": [`34_a`](results/cpu/34_a.md).")


def test_what_must_not_be_compared_is_told(results):
    file = results / "cpu" / "23_a.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"comparable": False}))
    assert "| cpu, not comparable |" in scales.section(results)


def test_an_empty_folder_is_told_and_missing_marks_are_refused(tmp_path):
    assert scales.section(tmp_path) == scales.NOTHING
    with pytest.raises(ValueError, match="marks .* are missing"):
        scales.written("# Title\n", "text")
