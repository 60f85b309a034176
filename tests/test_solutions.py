"""Every notebook has solutions; that they run and their checks hold, `make test` shows with the notebooks themselves."""

import nbformat
import pytest
from with_solutions import COMPARED, NOTEBOOKS, ON_CIFAR10, blocks, main, solution

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", FILES, ids=lambda file: file.stem)
def test_a_notebook_has_solutions_with_code(notebook):
    assert blocks(solution(notebook).read_text())


def test_solutions_belong_to_notebooks():
    assert sorted(file.stem for file in (NOTEBOOKS / "solutions").iterdir()) == [file.stem for file in FILES]


def test_the_notebook_comes_first_and_all_of_its_solutions_after_it(tmp_path):
    main(tmp_path / "tested")
    for file in FILES:
        given, written = (nbformat.read(f, as_version=4).cells for f in (file, tmp_path / "tested" / file.name))
        assert [cell.source for cell in written[: len(given)]] == [cell.source for cell in given]
        assert [cell.source for cell in written[len(given) :]] == blocks(solution(file).read_text())


def test_a_second_data_set_is_a_parameter_and_its_outputs_are_compared_with_nothing(tmp_path):
    main(tmp_path / "tested")
    for name in ON_CIFAR10:
        given, written = (nbformat.read(file, as_version=4).cells for file in (
            NOTEBOOKS / f"{name}.ipynb", tmp_path / "tested" / f"{name}.cifar10.ipynb"))
        assert 'dataset: str = "mnist"' in given[1].source and written[2].source == "dataset = 'cifar10'"
        assert [cell.source for cell in written[:2] + written[3:]] == [cell.source for cell in given]
        tags = [tag for cell in written for tag in cell.metadata.get("tags", [])]
        assert COMPARED not in tags and "parameters" in tags
