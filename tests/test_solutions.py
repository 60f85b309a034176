"""Every notebook has solutions; that they run and their checks hold, `make test-all` shows."""

import json

import nbformat
import pytest

from helpers.run import plan
from notebooks import COMPARED, NOTEBOOKS, ON_CIFAR10, blocks, solution, stale, write

FILES = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def cells(file):
    return nbformat.read(file, as_version=4).cells


@pytest.mark.parametrize("notebook", FILES, ids=lambda file: file.stem)
def test_a_notebook_has_solutions_with_code(notebook):
    assert blocks(solution(notebook).read_text())


def test_solutions_belong_to_notebooks():
    assert sorted(file.stem for file in (NOTEBOOKS / "solutions").iterdir()) == [file.stem for file in FILES]


def test_without_more_the_notebooks_are_tested_as_they_are(tmp_path):
    for written, given in zip(write(tmp_path / "tested"), FILES, strict=True):
        assert written.name == given.name and cells(written) == cells(given)


def test_the_notebook_comes_first_and_all_of_its_solutions_after_it(tmp_path):
    write(tmp_path / "tested", everything=True)
    for file in FILES:
        given, written = cells(file), cells(tmp_path / "tested" / file.name)
        assert [cell.source for cell in written[: len(given)]] == [cell.source for cell in given]
        assert [cell.source for cell in written[len(given) :]] == blocks(solution(file).read_text())


def test_a_second_data_set_is_a_parameter_and_its_outputs_are_compared_with_nothing(tmp_path):
    write(tmp_path / "tested", ["21", "23"], everything=True)
    for name in ON_CIFAR10:
        given, written = (
            cells(NOTEBOOKS / f"{name}.ipynb"),
            cells(tmp_path / "tested" / f"{name}.cifar10.ipynb"),
        )
        (place,) = (i for i, cell in enumerate(given) if "parameters" in cell.metadata.get("tags", []))
        assert 'dataset: str = "mnist"' in given[place].source
        assert written.pop(place + 1).source == "dataset = 'cifar10'"
        assert [cell.source for cell in written] == [cell.source for cell in given]
        tags = [tag for cell in written for tag in cell.metadata.get("tags", [])]
        assert COMPARED not in tags and "parameters" in tags


def test_needs_that_differ_from_the_committed_ones_are_told_in_any_order(tmp_path, monkeypatch):
    committed = {"22_a": [{"attack": "cw"}, {"attack": "pgd"}], "23_b": [{"attack": "pgd"}]}
    monkeypatch.setattr(plan, "NEEDS", tmp_path / "needs.json")
    plan.NEEDS.write_text(json.dumps(committed))
    twice_and_turned = '{"attack": "pgd"}\n{"attack": "cw"}\n{"attack": "pgd"}\n'
    (tmp_path / "22_a.needs.jsonl").write_text(twice_and_turned)
    (tmp_path / "23_b.needs.jsonl").write_text(twice_and_turned)
    (told,) = stale(tmp_path, ["22_a", "23_b"])
    assert told.startswith("23_b ") and "make notebooks" in told
