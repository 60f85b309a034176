"""Every exercise has a solution; that its check tells one from the other, `make test-all` shows."""

import json
import re

import nbformat
import pytest

from helpers.run import exercises, plan
from notebooks import COMPARED, NOTEBOOKS, ON_CIFAR10, stale, write

FILES = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


def cells(file):
    return nbformat.read(file, as_version=4).cells


def solutions(file):
    return exercises.solutions(exercises.solution_of(file).read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_exercise_has_a_solution_that_sets_what_the_stub_names_and_says_what_to_expect(file):
    notebook, given = nbformat.read(file, as_version=4), solutions(file)
    assert given and all(exercises.blocks(parts) for parts in given.values())
    if not (found := exercises.exercises(notebook)):
        pytest.skip("not yet in cells")
    assert 2 <= len(found) <= 4 and list(given) == [each.number for each in found]
    for each in found:
        stubs = "\n".join(notebook.cells[i].source for i in each.stubs)
        names = re.findall(r"^(\w+) = None$", stubs, flags=re.MULTILINE)
        code = "\n".join(exercises.blocks(given[each.number]))
        assert names and all(re.search(rf"\b{name}\b", code) for name in names)
        assert all(name in notebook.cells[each.check].source for name in names)
        assert any("Expected:" in part.source for part in given[each.number] if not part.code)


def test_solutions_belong_to_notebooks():
    assert sorted(file.stem for file in exercises.SOLUTIONS.iterdir()) == [file.stem for file in FILES]


def test_without_more_the_notebooks_are_tested_as_they_are(tmp_path):
    for written, given in zip(write(tmp_path / "tested"), FILES, strict=True):
        assert written.name == given.name and cells(written) == cells(given)


def test_the_cells_of_a_notebook_are_all_there_and_all_of_its_solutions(tmp_path):
    write(tmp_path / "tested", everything=True)
    for file in FILES:
        given, written = cells(file), cells(tmp_path / "tested" / file.name)
        left = iter([cell.source for cell in written])
        assert all(cell.source in left for cell in given)  # in this order
        code = [block for parts in solutions(file).values() for block in exercises.blocks(parts)]
        left = iter([cell.source for cell in written])
        assert all(block in left for block in code)


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


# --- the machinery ---

TASK = "### Exercise {} · Half\n\n*Level 2 of 3 · 15 minutes · You learn to halve.*\n\nSet `half`."
CHECK = (
    "from helpers.show import exercises\n\nexercises.check({}, half, (lambda a: a == 0.5, 'Half of one.'))"
)
SOLUTION = "# Solutions\n\n**1. Half.**\n\n```python\n{}\n```\n\nExpected: 0.5, exactly.\n"


def notebook(stub="half = None", numbers=(1,), end=True):
    made = nbformat.v4.new_notebook()
    for number in numbers:
        text = nbformat.v4.new_markdown_cell(TASK.format(number), metadata={"tags": ["exercise"]})
        stubs = nbformat.v4.new_code_cell(stub, metadata={"tags": ["stub"]})
        check = nbformat.v4.new_code_cell(CHECK.format(number), metadata={"tags": ["check"]})
        made.cells += [text, stubs, check][: 3 if end else 2]
    return made


def test_an_exercise_is_read_from_its_cells():
    (found,) = exercises.exercises(notebook())
    assert found == exercises.Exercise(1, "Half", 2, 15, "to halve.", 0, (1,), 2)
    (parts,) = exercises.solutions(SOLUTION.format("half = 1 / 2")).values()
    assert parts[1] == exercises.Part(True, "half = 1 / 2") and parts[2].source == "Expected: 0.5, exactly."


@pytest.mark.parametrize(
    "wrong, told",
    [
        (notebook(numbers=(2,)), "cell 0 begins with `### Exercise 1 · Title`"),
        (notebook(end=False), "exercise 1: its text is followed by"),
        (nbformat.v4.new_notebook(cells=notebook().cells[1:]), "cell 0 belongs to no exercise"),
    ],
)
def test_cells_that_make_no_exercise_are_told(wrong, told):
    with pytest.raises(ValueError, match=told):
        exercises.exercises(wrong)


def test_exercises_without_their_solutions_are_told():
    with pytest.raises(ValueError, match=r"2 exercises, and solutions of \[1\]"):
        exercises.woven(notebook(numbers=(1, 2)), SOLUTION.format("half = 1 / 2"))


@pytest.mark.parametrize(
    "stub, solution, told",
    [
        ("half = None", "half = 1 / 2", None),
        ("half = None", "half = 2", "the solution is refused: ✗ Exercise 1: Half of one."),
        ("half = 0.5", "half = 1 / 2", "the stub is accepted"),
    ],
)
def test_a_stub_must_fail_its_check_and_a_solution_pass_it(stub, solution, told):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()  # numbers its cells and keeps their values, as a kernel does
    made = exercises.woven(notebook(stub), SOLUTION.format(solution))
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    assert code[3] == solution and code[1] == code[4]
    errors = [shell.run_cell(source, store_history=True).error_in_exec for source in code]
    raised = [str(error) for error in errors if error]
    assert raised == [] if told is None else told in raised[0]


def test_a_check_that_ends_in_something_else_is_told():
    with pytest.raises(AssertionError, match="ends in None"):
        exercises.verify(1, None, right=True)
