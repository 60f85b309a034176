"""Figures, by what they show."""

from io import BytesIO

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import data
from helpers.measure.labels import label
from helpers.measure.rates import Rate, Score, gain
from helpers.show import figures
from helpers.threats import Defended


@pytest.fixture(autouse=True)
def close_all():
    yield
    plt.close("all")


def test_wrong_predictions_are_red_and_right_ones_green():
    images = torch.rand(2, 1, 28, 28)
    figure = figures.image_grid({"natural": images}, {"natural": torch.tensor([3, 4])}, torch.tensor([3, 5]))
    captions = [(axis.get_xlabel(), axis.xaxis.label.get_color()) for axis in figure.axes]
    assert captions == [("3 ✓", figures.RIGHT), ("4 ✗", figures.WRONG)]


def test_image_grid_asks_a_classifier_and_writes_class_names():
    class Second(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([1, 0])
    figure = figures.image_grid({"natural": images}, labels=labels, target=Second(), classes=["cat", "dog"])
    assert [axis.get_xlabel() for axis in figure.axes] == ["dog ✓", "dog ✗"]


def test_restored_images_stand_below_the_attacked_ones_with_the_pipelines_answers():
    class Inverted(torch.nn.Module):
        def forward(self, images):
            return 1 - images

    class Bright(torch.nn.Module):
        def forward(self, images):
            return torch.stack([0 * images.mean((1, 2, 3)) + 0.5, images.mean((1, 2, 3))], 1)

    pipeline, dark = Defended(Bright(), Inverted()), torch.full((2, 1, 4, 4), 0.1)
    figure = figures.restored_grid(pipeline, dark, dark + 0.1, torch.zeros(5, dtype=torch.int64))
    assert figure.axes[4].images[0].get_array()[0, 0] == pytest.approx(0.8)  # third row, first column
    captions = [axis.get_xlabel() for axis in figure.axes]
    assert captions == ["0 ✓"] * 4 + ["1 ✗"] * 2


def test_long_names_of_classes_stand_beside_each_other():
    """Those of traffic signs are wider than the images above them."""
    names = data.DATASETS["lisa"].classes
    longest = torch.tensor(sorted(range(16), key=lambda i: -len(names[i]))[:4])
    figure = figures.image_grid(
        {"natural": torch.rand(4, 3, 32, 32)}, {"natural": longest}, longest, None, names
    )
    figure.draw_without_rendering()
    boxes = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(one.x1 < other.x0 for one, other in zip(boxes, boxes[1:], strict=False))


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
    figure = figures.bars(
        {("pgd", "arn_pp"): 10.0, ("pgd", "hgd_pp"): 30.0, ("aa", "arn_pp"): 20.0}, "errors"
    )
    heights = sorted(bar.get_height() for bar in figure.axes[0].patches if bar.get_height() > 0)
    assert heights == [10.0, 20.0, 30.0]
    assert len(figure.axes[0].patches) == 3  # HGD against AA was not measured


def test_bars_write_their_zeros_and_draw_the_intervals_of_rates():
    rates = {"arn_pp": Rate(5, 50), "add_pp": Rate(0, 50)}
    values = {("pgd", "none"): 0} | {("pgd", name): rate for name, rate in rates.items()}
    axis = figures.bars(values, "errors").axes[0]
    written = [(text.get_text(), text.get_position()[1]) for text in axis.texts]
    assert written == [("0", 1), ("0", Rate(0, 50).interval[1] + 1)]
    assert [tuple(line.get_ydata()) for line in axis.lines] == [rate.interval for rate in rates.values()]


def test_curves_have_a_band_where_intervals_are_known():
    rates = [Rate(5, 50), Rate(9, 50)]
    axis = figures.curves({"arn_pp": ([1, 2], rates), "hgd_pp": ([1, 2], [3.0, 4.0])}, "x", "y").axes[0]
    assert axis.lines[0].get_ydata().tolist() == [10.0, 18.0] and len(axis.collections) == 1
    corners = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == rates[0].interval[0] and corners.max() == rates[1].interval[1]


def test_a_dotted_line_takes_the_colour_of_another():
    line = [1, 2], [3.0, 4.0]
    series = {"add_pp": line, "target alone": line, "bare target": line, "other": line}
    dotted = {"target alone": "add_pp", "bare target": "none"}
    add, alone, bare, other = figures.curves(series, "x", "y", dotted=dotted).axes[0].get_lines()
    assert [one.get_linestyle() for one in (add, alone, bare, other)] == ["-", ":", ":", "-"]
    assert add.get_color() == alone.get_color()
    assert bare.get_color() == figures.COLOURS["none"]
    assert len({one.get_color() for one in (alone, bare, other)}) == 3


def test_a_defense_has_one_colour_everywhere_and_its_variants_are_shades():
    pair, alone = (
        figures.colours(["hgd_pp", "arn_pp", "arn_dp", "title"]),
        figures.colours(["arn_dp", "none"]),
    )
    assert (
        pair["arn_pp"] == alone["arn_dp"] == figures.COLOURS["arn"]
        and alone["none"] == figures.COLOURS["none"]
    )
    assert len(set(pair.values())) == 4
    drawn = figures.bars({("pgd", "arn_pp"): 1.0, ("pgd", "hgd_pp"): 2.0}, "errors").axes[0].patches[0]
    assert matplotlib.colors.to_hex(drawn.get_facecolor()) == figures.COLOURS["arn"]


def test_every_method_has_a_colour_of_its_own():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_the_published_table_stands_above_ours_and_may_lack_columns():
    published, ours = (
        pd.DataFrame({"pgd": {"none": 100.0}}),
        pd.DataFrame({"pgd": {"none": Rate(9, 10)}, "mine": 50.0}),
    )
    axis = figures.beside(published, ours, "errors", comparable=True).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["none, published", "none, ours"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["PGD", "mine"]
    assert sorted(text.get_text() for text in axis.texts) == ["100.0", "50.0", "90.0", "–"]
    axis = figures.beside(published, ours, "errors").axes[0]  # ours may not be held against a paper's
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["none"]


def test_published_bars_stand_beside_comparable_ones_only():
    values = {("pgd", "ours"): 10.0, ("pgd", "published"): 30.0}
    for comparable, heights in ((True, [10.0, 30.0]), (False, [10.0])):
        drawn = figures.bars(values, "errors", comparable=comparable).axes[0].patches
        assert [bar.get_height() for bar in drawn] == heights


def test_gains_are_told_by_marker_and_colour_and_say_on_how_many_images():
    scores = {
        ("trades", "hgd_p"): Score(9.0, (2.0, 16.0), 100, "points"),
        ("trades", "arn_pp"): Score(-9.0, (-16.0, -2.0), 100, "points"),
        ("mart", "hgd_p"): Score(3.0, (2.0, 4.0), 50, "points"),
        ("mart", "arn_pp"): Score(3.0, (-40.0, 46.0), 50, "points"),
    }
    figure = figures.gains(scores, yardstick={"mart": 3.5})
    first, second = figure.axes
    assert first.get_title() == "TRADES\n100 images" and second.get_title() == "MART\n50 images"
    markers = [(line.get_marker(), line.get_color()) for line in (*first.lines, *second.lines)]
    assert [one for one in markers if one[0] != "None"] == [
        (">", figures.RIGHT),
        ("<", figures.WRONG),
        ("o", "gray"),
        ("D", "gray"),
    ]


def test_heatmap_writes_its_numbers():
    figure = figures.heatmap(pd.DataFrame({"pgd": {"arn_pp": 12.34}}), "errors")
    assert [text.get_text() for text in figure.axes[0].texts] == ["12.3"]


def test_heatmap_is_dark_where_the_defense_is_bad():
    def brightness(accuracies):
        mesh = (
            figures.heatmap(pd.DataFrame({"a": [10.0], "b": [90.0]}), "", accuracies=accuracies)
            .axes[0]
            .collections[0]
        )
        return [mesh.to_rgba(value)[:3] for value in (10, 90)]

    low, high = brightness(accuracies=False)
    assert sum(low) > sum(high)
    low, high = brightness(accuracies=True)
    assert sum(low) < sum(high)


def test_radar_closes_its_lines_and_starts_at_the_hub():
    wheel = figures.radar({"add_pp": {"pgd": 90.0, "cw": 95.0, "ddn": 99.0}}, "accuracy").axes[0]
    assert wheel.lines[0].get_ydata().tolist() == [90.0, 95.0, 99.0, 90.0]
    assert wheel.get_ylim() == (90, 100)
    assert [text.get_text() for text in wheel.get_xticklabels()] == ["PGD", "CW", "DDN"]


def test_panels_give_a_class_the_same_colour_everywhere():
    points = torch.rand(3, 2).numpy()
    figure = figures.panels(
        {"before": (points, ["natural", "pgd", "cw"]), "after": (points[:2], ["cw", "natural"])}
    )
    before, after = (
        {
            cloud.get_label(): (cloud.get_facecolor().tolist(), cloud.get_offsets().tolist())
            for cloud in axis.collections
        }
        for axis in figure.axes
    )
    assert list(before) == ["natural", "PGD", "CW"]
    assert before["CW"] == (after["CW"][0], points[2:].tolist())
    assert after["CW"][1] == points[:1].tolist()


def test_marked_points_are_larger():
    points, marked = torch.rand(3, 2), [False, True, False]
    axis = figures.panels({"a": (points, [0, 0, 1])}, large={"a": marked}).axes[0]
    assert [cloud.get_sizes().tolist() for cloud in axis.collections] == [[9, 34], [9]]


def test_the_hub_is_below_all_values():
    values = {"add_pp": {"pgd": Rate(9, 10), "cw": 63.0, "ddn": 99.0}}
    assert figures.radar(values, "accuracy").axes[0].get_ylim() == (60, 100)


def test_a_figure_becomes_a_small_picture_with_a_palette():
    figure = figures.heatmap(pd.DataFrame({f"a{i}": [10.0 * i, 5.0] for i in range(9)}), "errors")
    plain = BytesIO()
    figure.savefig(plain, format="png")
    picture = figures.png(figure)
    assert Image.open(BytesIO(picture)).mode == "P" and len(picture) < 0.6 * len(plain.getvalue())


def test_the_colours_of_right_and_wrong_survive_the_palette():
    images, said = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    figure = figures.image_grid({"natural": images}, {"natural": said}, torch.zeros(4))
    kept = Image.open(BytesIO(figures.png(figure))).convert("RGB").getcolors(10**6)
    shown = {matplotlib.colors.to_hex([part / 255 for part in colour]) for _, colour in kept}
    assert {figures.RIGHT, figures.WRONG, "#ffffff"} <= shown


@pytest.mark.slow
def test_a_notebook_shows_its_figures_so():
    import base64

    import nbformat
    from nbclient import NotebookClient

    cells = [
        "from helpers.show import figures\nfigures.style()",
        "figures.bars({('pgd', 'none'): 1.0}, 'errors');",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[1].outputs
    assert Image.open(BytesIO(base64.b64decode(output.data["image/png"]))).mode == "P"
    assert output.metadata["image/png"]["alt"] == "Bars, errors: PGD, none 1.0."


@pytest.mark.parametrize(
    "name, shown",
    [
        ("pgd_targeted", "PGD-T"),
        ("aa_big", "AA ε′"),
        ("arn_pp", "ARN-PP"),
        ("ape_gan_d_dd", "APE-GAN-D-DD"),
        ("hgd_full", "HGD full"),
        ("ape_gan_full_p", "APE-GAN full"),
        ("x_full_p", "x_full_p"),
        ("sta_own_targeted", "STA-T (ours)"),
        ("pgd-fooling", "PGD, fooling rate"),
        ("resnet18_eighth_mart", "slim ResNet-18, MART"),
        ("add_ap_re", "ADD-AP-re"),
        ("jatp_prime", "JATP′"),
        ("doa_2", "DOA 2"),
        ("hidden_30", "DIR, 30 % hidden"),
        ("12_4", "DIR, 12 + 4 blocks"),
        ("ddn@1.5", "DDN, ℓ2 ≤ 1.5"),
        ("pgd_targeted-eps0.3-ite40-from-ape_gan", "PGD-T, ε = 0.3, 40 steps, made for APE-GAN"),
        ("home@1.5", "home@1.5"),
        ("a title_of mine", "a title_of mine"),
        (7, 7),
    ],
)
def test_labels(name, shown):
    assert label(name) == shown


def test_no_name_of_the_ledger_is_shown_as_a_key():
    from helpers import ledger

    kinds = ("dataset", "target", "defense", "attack", "threat")
    keys = {name for kind in kinds for name in ledger.VOCABULARY[kind] if name}
    plain = {"natural", "none", "restored", "oblivious"}
    assert {name for name in keys if "_" in str(label(name)) or label(name) == name} <= plain


def test_no_attack_and_no_defense_of_a_profile_is_shown_as_a_key():
    from helpers.lab import profiles

    for paper in ("add", "arn", "jatp", "dir"):
        for spec in profiles.load(paper, "paper").values():
            names = {*spec.attacks, *spec.methods, *spec.targets}
            assert {name for name in names if "_" in str(label(name))} == set(), paper


def test_histories_draw_one_panel_a_loss():
    figure = figures.histories(
        [{"mse": 2.0, "adv": 1.0}, {"mse": 1.0, "adv": 3.0}], {"mse": "MSE", "adv": "adv"}
    )
    assert [axis.lines[0].get_ydata().tolist() for axis in figure.axes] == [[2.0, 1.0], [1.0, 3.0]]


def test_a_strip_shows_a_difference_around_zero():
    figure = figures.strip([torch.rand(3, 8, 8), -torch.rand(1, 8, 8)], ["natural", "difference"])
    image, difference = (axis.images[0] for axis in figure.axes)
    assert image.get_array().shape == (8, 8, 3)
    low, high = difference.get_clim()
    assert low == -high and low == pytest.approx(difference.get_array().min())


@pytest.mark.parametrize("panels, rows", [(4, 1), (5, 2), (10, 3)])
def test_many_panels_of_gains_are_folded(panels, rows):
    one = gain(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
    figure = figures.gains({(f"attack {k}", "ARN"): one for k in range(panels)})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == panels and len({axes.get_position().y0 for axes in shown}) == rows
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] < 12


def test_long_names_of_groups_stand_beside_each_other():
    names = ["local search", "local search (ours)"]
    figure = figures.bars({(name, "none"): 50.0 for name in names}, "accuracy, %")
    figure.draw_without_rendering()
    one, other = (text.get_window_extent() for text in figure.axes[0].get_xticklabels())
    assert one.x1 < other.x0
