"""Explorers and tables in JupyterLab and, without a kernel, on the site: by what they show."""

import base64
import json
import time
from io import BytesIO

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import ROOT
from helpers.run import explorers
from helpers.show import figures, widgets


def blank(**choice):
    return figures.strip(list(torch.rand(2, 1, 8, 8)), [" ".join(map(str, choice.values())), ""])


@pytest.mark.parametrize("choices", [{}, {"image": []}])
def test_an_explorer_without_choices_is_an_error(choices):
    with pytest.raises(ValueError, match="at least one choice"):
        widgets.explorer(blank, **choices)


def test_an_explorers_controls_keep_their_keys():
    box = widgets.explorer(blank, eps=[0.1, 0.2, 0.3, 0.4, 0.5], image=[0, 1], attack=["a", "b"])
    kinds = [type(control).__name__ for control in box.children[0].children]
    assert kinds == ["SelectionSlider", "ToggleButtons", "ToggleButtons"]


def test_an_explorers_picture_keeps_its_size():
    (_, picture) = widgets.explorer(blank, image=[0, 1]).children
    assert (picture.layout.width, picture.layout.max_width) == ("auto", "100%")
    assert picture.layout.height == f"{Image.open(BytesIO(picture.value)).height}px"


def test_where_nothing_runs_an_explorer_is_its_first_page_and_says_so():
    box = widgets.explorer(blank, image=[0, 1])
    shown, kept = box._repr_mimebundle_()
    static, live = (Image.open(BytesIO(data)) for data in (shown["image/png"], box.children[1].value))
    assert "application/vnd.jupyter.widget-view+json" in shown and "First page" in shown["text/plain"]
    assert static.height > live.height  # the caption
    assert kept["image/png"]["alt"].startswith("First page")


def test_the_explorer_shows_the_page_of_the_choice_at_once():
    drawn = []

    def page(image, attack, targeted):
        drawn.append((image, attack, targeted))
        return figures.strip(
            [torch.rand(1, 28, 28), torch.rand(3, 28, 28), torch.randn(1, 28, 28)], ["a", "b", "c"]
        )

    box = widgets.explorer(page, image=[0, 1], attack=["pgd", "fgsm"], targeted=[False, True])
    controls, picture = box.children
    image, attack, targeted = controls.children
    first = picture.value
    started = time.perf_counter()
    attack.value = "fgsm"
    assert time.perf_counter() - started < 1
    assert picture.value != first and bytes(picture.value).startswith(b"\x89PNG")
    targeted.value = True
    image.value = 1
    assert drawn == [(0, "pgd", False), (0, "fgsm", False), (0, "fgsm", True), (1, "fgsm", True)]
    image.value, targeted.value, attack.value = 0, False, "pgd"
    assert picture.value == first and drawn.count((0, "pgd", False)) == 1  # kept
    assert not plt.get_fignums()


def test_a_searchable_table_is_a_widget_with_all_its_rows():
    frame = pd.DataFrame({"defense": ["ARN"] * 300, "n": range(300)})
    box = widgets.searchable(frame)
    assert box.df.equals(frame) and "application/vnd.jupyter.widget-view+json" in box._repr_mimebundle_()[0]


# --- the pages that the site shows ---


def left(folder, **choices):
    """What an explorer with these choices leaves when it is shown."""
    widgets.explorer(blank, **choices)._repr_mimebundle_()
    return explorers.read(folder)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(explorers.VARIABLE, str(tmp_path / "left"))
    return tmp_path / "left"


def test_an_explorer_that_nobody_asks_for_pages_draws_the_first_only(monkeypatch):
    monkeypatch.delenv(explorers.VARIABLE, raising=False)
    drawn = []
    widgets.explorer(lambda image: drawn.append(image) or blank(), image=[0, 1, 2])._repr_mimebundle_()
    assert drawn == [0]


def test_few_pages_are_left_all_and_each_is_its_choice(folder):
    (index,) = left(folder, eps=[0.1, 0.2, 0.3, 0.4, 0.5], how=[("at once", 1), ("never", 2)], fast=[False])
    controls = [(c["name"], c["labels"], c["slider"]) for c in index["controls"]]
    assert controls == [
        ("eps", ["0.1", "0.2", "0.3", "0.4", "0.5"], True),
        ("how", ["at once", "never"], False),
        ("fast", ["no"], False),
    ]
    assert [page["choice"] for page in index["pages"]] == [[i, j, 0] for i in range(5) for j in range(2)]
    assert [page["alt"] for page in index["pages"]][3] == "Side by side: 0.2 2 False, ."
    assert len({page["file"] for page in index["pages"]}) == 10
    for page in index["pages"]:
        with Image.open(folder / page["file"]) as picture:
            assert picture.format == "WEBP"


def test_of_many_pages_those_are_left_that_one_control_reaches(folder):
    (index,) = left(folder, image=list(range(8)), eps=list(range(5)))
    reached = [page["choice"] for page in index["pages"]]
    assert len(reached) == 1 + 7 + 4 and reached[0] == [0, 0]
    assert all(0 in choice for choice in reached)


def test_what_follows_in_a_notebook_does_not_see_that_pages_were_left(folder):
    """`blank` draws random numbers, as random defenses do."""
    explorer = widgets.explorer(blank, image=[0, 1, 2])
    before = torch.random.get_rng_state()
    explorer._repr_mimebundle_()
    assert explorers.read(folder) and torch.random.get_rng_state().equal(before)


def test_the_pages_of_two_explorers_stand_in_one_index_under_their_pictures(folder):
    shown = [widgets.explorer(blank, image=[i, i + 1])._repr_mimebundle_()[0]["image/png"] for i in (0, 2)]
    assert [one["first"] for one in explorers.read(folder)] == [explorers.fingerprint(png) for png in shown]


def test_who_keeps_a_runs_outputs_keeps_its_pages_and_no_older_ones(folder, tmp_path, monkeypatch):
    left(folder, image=[0, 1])
    monkeypatch.setattr(explorers, "FOLDER", tmp_path / "kept")
    notebook, executed = tmp_path / "12_a.ipynb", tmp_path / "left.ipynb"
    notebook.write_text("widgets.explorer(page)")
    (tmp_path / "kept" / "12_a").mkdir(parents=True)
    (tmp_path / "kept" / "12_a" / "old.webp").touch()
    explorers.keep(tmp_path / "another.ipynb", notebook)  # was not told to leave any
    assert explorers.missing(notebook, tmp_path / "another.ipynb")
    assert [file.name for file in (tmp_path / "kept" / "12_a").iterdir()] == ["old.webp"]
    explorers.left_by(executed).mkdir()
    for file in folder.iterdir():
        file.rename(explorers.left_by(executed) / file.name)
    explorers.keep(executed, notebook)
    assert not explorers.missing(notebook, executed)
    (index,) = explorers.read(tmp_path / "kept" / "12_a")
    named = {page["file"] for page in index["pages"]}
    assert {file.name for file in (tmp_path / "kept" / "12_a").iterdir()} == named | {"index.json"}
    notebook.write_text("its explorer is gone")
    explorers.keep(tmp_path / "another.ipynb", notebook)
    assert not (tmp_path / "kept" / "12_a").exists()


def notebooks():
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda file: file.stem)
def test_the_pages_kept_for_the_site_belong_to_the_pictures_of_the_notebook(notebook):
    """Otherwise it was run without them: `python -m helpers.run notebooks/NAME.ipynb` keeps both."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    pictures = [d["image/png"] for d in shown if "".join(d.get("text/plain", "")) == explorers.FIRST]
    kept, folder = explorers.read(explorers.FOLDER / notebook.stem), explorers.FOLDER / notebook.stem
    assert [one["first"] for one in kept] == [
        explorers.fingerprint(base64.b64decode("".join(picture))) for picture in pictures
    ]
    named = {page["file"] for one in kept for page in one["pages"]}
    assert {file.name for file in folder.glob("*.webp")} == named
    assert bool(kept) == ("widgets.explorer(" in notebook.read_text(encoding="utf-8"))


def test_the_pages_of_all_explorers_are_small():
    assert sum(file.stat().st_size for file in explorers.FOLDER.rglob("*")) < 2.5e6
    assert {folder.name for folder in explorers.FOLDER.iterdir()} <= {file.stem for file in notebooks()}
