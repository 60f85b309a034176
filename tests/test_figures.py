"""Figures and explorers, by what they show."""

import time

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from helpers.show import figures, widgets


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def test_wrong_predictions_are_red_and_right_ones_green():
    images = torch.rand(2, 1, 28, 28)
    figure = figures.image_grid({"natural": images}, {"natural": torch.tensor([3, 4])}, torch.tensor([3, 5]))
    captions = [(axis.get_xlabel(), axis.xaxis.label.get_color()) for axis in figure.axes]
    assert captions == [("3", figures.RIGHT), ("4", figures.WRONG)]


def test_image_grid_shows_colour_images_as_they_are():
    images = torch.rand(1, 3, 32, 32)
    shown = figures.image_grid({"natural": images}).axes[0].images[0].get_array()
    assert torch.allclose(torch.as_tensor(shown).float(), images[0].permute(1, 2, 0))


def test_ticks_on_a_logarithmic_axis_are_plain_numbers_and_no_others():
    axis = figures.curves({"a": ([64, 2048], [1, 2])}, "x", "y", xscale="log", xticks=[64, 2048]).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["64", "2048"]
    assert not len(axis.get_xticks(minor=True))


def test_map_grid_centres_signed_maps_at_zero():
    figure = figures.map_grid({"Δ": [torch.tensor([[-1.0, 0.5]])], "ℱ": [torch.tensor([[0.0, 0.5]])]}, ["a"])
    assert [axis.images[0].get_clim() for axis in figure.axes] == [(-1.0, 1.0), (0.0, 0.5)]


def test_bars_have_the_given_heights():
    figure = figures.bars({("pgd", "arn_pp"): 10.0, ("pgd", "hgd_pp"): 30.0, ("aa", "arn_pp"): 20.0}, "errors")
    heights = sorted(bar.get_height() for bar in figure.axes[0].patches if bar.get_height() > 0)
    assert heights == [10.0, 20.0, 30.0]


def test_heatmap_writes_its_numbers():
    figure = figures.heatmap(pd.DataFrame({"pgd": {"arn_pp": 12.34}}), "errors")
    assert [text.get_text() for text in figure.axes[0].texts] == ["12.3"]


def test_heatmap_is_dark_where_the_defense_is_bad():
    def brightness(accuracies):
        mesh = figures.heatmap(pd.DataFrame({"a": [10.0], "b": [90.0]}), "", accuracies=accuracies).axes[0].collections[0]
        return [mesh.to_rgba(value)[:3] for value in (10, 90)]

    low, high = brightness(accuracies=False)
    assert sum(low) > sum(high)
    low, high = brightness(accuracies=True)
    assert sum(low) < sum(high)


def test_radar_closes_its_lines_and_starts_at_the_hub():
    wheel = figures.radar({"add_pp": {"pgd": 90.0, "cw": 95.0, "ddn": 99.0}}, "accuracy", low=80).axes[0]
    assert wheel.lines[0].get_ydata().tolist() == [90.0, 95.0, 99.0, 90.0]
    assert wheel.get_ylim() == (80, 100)
    assert [text.get_text() for text in wheel.get_xticklabels()] == ["PGD$_u$", "CW$_u$", "DDN$_u$"]
    with pytest.raises(ValueError, match="smallest value is 70.0"):
        figures.radar({"add_pp": {"pgd": 70.0}}, "accuracy", low=80)


def test_panels_give_a_class_the_same_colour_everywhere():
    points = torch.rand(3, 2).numpy()
    figure = figures.panels({"before": (points, ["natural", "pgd", "cw"]), "after": (points[:2], ["cw", "natural"])})
    before, after = (
        {cloud.get_label(): (cloud.get_facecolor().tolist(), cloud.get_offsets().tolist()) for cloud in axis.collections}
        for axis in figure.axes
    )
    assert list(before) == ["natural", "PGD$_u$", "CW$_u$"]
    assert before["CW$_u$"] == (after["CW$_u$"][0], points[2:].tolist())
    assert after["CW$_u$"][1] == points[:1].tolist()


def test_histories_draw_one_panel_a_loss():
    figure = figures.histories([{"mse": 2.0, "adv": 1.0}, {"mse": 1.0, "adv": 3.0}], {"mse": "MSE", "adv": "adv"})
    assert [axis.lines[0].get_ydata().tolist() for axis in figure.axes] == [[2.0, 1.0], [1.0, 3.0]]


def test_moving_the_slider_turns_the_page():
    def page(value):
        figure, axis = plt.subplots()
        axis.set_title(str(value))
        return figure

    box = widgets.flip_through({value: page(value) for value in (0.1, 0.2)}, "ε")
    slider, picture = box.children
    first = picture.value
    slider.value = 0.2
    assert picture.value != first and bytes(picture.value).startswith(b"\x89PNG")
    slider.value = 0.1
    assert picture.value == first
    assert not plt.get_fignums(), "rendered figures must be closed, or the notebook shows them twice"


def test_an_explorer_without_pages_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        widgets.flip_through({}, "ε")


def test_the_explorer_shows_the_page_of_the_choice_at_once():
    drawn = []

    def page(image, attack, targeted):
        drawn.append((image, attack, targeted))
        return figures.strip([torch.rand(1, 28, 28), torch.rand(3, 28, 28), torch.randn(1, 28, 28)], ["a", "b", "c"])

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


def test_a_strip_shows_a_difference_around_zero():
    figure = figures.strip([torch.rand(3, 8, 8), -torch.rand(1, 8, 8)], ["natural", "difference"])
    image, difference = (axis.images[0] for axis in figure.axes)
    assert image.get_array().shape == (8, 8, 3)
    low, high = difference.get_clim()
    assert low == -high and low == pytest.approx(difference.get_array().min())
