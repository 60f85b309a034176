"""Figures of the notebooks.  Each function draws one, says in words what is on it (`alt`), and returns it.

Where a function takes numbers in percent it takes the Rates and Scores of `helpers.measure.rates`, too;
`bars` and `curves` then draw their 95 % intervals.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial import KDTree
from torch import Tensor, nn

from helpers import seeded
from helpers.measure.labels import label as label  # a notebook says figures.label
from helpers.measure.rates import Rate, Score, in_parts, predict
from helpers.measure.verdicts import gain_verdict

Number = float | Rate | Score

RIGHT, WRONG = "#1a7f37", "#cf222e"

# A figure is shown at this many dots per inch, in this many colours: half of a notebook's bytes are figures.
DPI, SHADES = 80, 80
ABREAST = 4  # panels of `gains` that can be read beside each other
WORDS = 16  # letters of a line that have room below a group of bars
WIDEST = 11  # letters of a class's name that have room below an image
# Colours that it keeps, however few of its points have them: of small words, and of their edges on white.
KEPT = ("#000000", "#ffffff", RIGHT, WRONG, "#66aa79", "#e07a82", "#b3d4bc", "#f0bcc0")

PALETTE = sns.color_palette("colorblind").as_hex()

# One colour for each method in the whole collection; variants of one in a figure are shades of it, and from
# the third on, which shade alone does not tell, bars have a pattern, too.
COLOURS = {
    "none": "#7f7f7f",
    "arn": PALETTE[0],
    "ape_gan": PALETTE[1],
    "hgd": PALETTE[2],
    "add": PALETTE[3],
    "at": PALETTE[4],
    "doa": PALETTE[5],
    "nrp": PALETTE[9],
    "jatp": "#882255",
    "jatp_prime": "#cc6677",
    "dir": "#332288",
    "me_net": "#999933",
    "rs": "#44aa99",
}

PATTERNS = ("", "", "///", "...", "xxx")

# A gain is told by its marker as well as by its colour.
GAINS = {
    "gains": (RIGHT, ">"),
    "loses": (WRONG, "<"),
    "no difference seen": ("gray", "o"),
    "undecided": ("gray", "D"),
}


def style() -> None:
    """The collection's look; call once at the top of a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({"figure.dpi": DPI, "savefig.bbox": "tight", "axes.titlesize": "medium"})
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        plt.switch_backend(plt.get_backend())  # first: loading the notebook's puts its own formatter in place
        shell.display_formatter.formatters["image/png"].for_type(Figure, _shown)


def described(figure: Figure, alt: str) -> Figure:
    """The figure, with what is drawn on it in words, which a notebook keeps beside the picture."""
    figure.alt = " ".join(alt.split())  # titles may have several lines
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file with a palette, a third of the size of one in full colour."""
    return shaded(full_png(figure))


def full_png(figure: Figure) -> bytes:
    """The figure as a PNG file in full colour, which is drawn in half the time."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def shaded(full: bytes) -> bytes:
    """A PNG file in full colour as one with a palette."""
    picture = Image.open(BytesIO(full)).convert("RGB")
    free = 3 * (SHADES - len(KEPT))
    palette = picture.quantize(SHADES - len(KEPT)).getpalette()[:free]
    palette += [round(255 * part) for colour in KEPT for part in to_rgb(colour)]
    _, nearest = KDTree(np.reshape(palette, (-1, 3))).query(
        np.asarray(picture)
    )  # Pillow's is not the nearest
    picture = Image.fromarray(nearest.astype(np.uint8))
    picture.putpalette(palette)
    buffer = BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each of the defenses `names`; other names take the palette's colours in their order."""
    names, found = list(names), {}
    for name, (method, before) in _variants(names).items():
        white = min(0.3 * before, 0.75)
        found[name] = to_hex([white + (1 - white) * part for part in to_rgb(COLOURS[method])])
    free = cycle([colour for colour in PALETTE if colour not in found.values()])
    return {name: found.get(name) or next(free) for name in names}


def _variants(names):
    """{defense: (its method in COLOURS, how many before it have the same)} of those that have one."""
    seen, found = Counter(), {}
    for name in names:
        methods = [m for m in COLOURS if name == m or name.startswith(f"{m}_")]
        if methods:
            method = max(methods, key=len)
            found[name] = method, seen[method]
            seen[method] += 1
    return found


# Images ------------------------------------------------------------------------------------------


def image_grid(
    rows: Mapping[str, Tensor],
    predictions: Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
    target: nn.Module | None = None,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Images in rows: {row title: images (N,C,H,W) in [0,1]}, all of the same N.

    labels: (≥ N,), the true ones.
    predictions: {row title: (N,) labels} written under the images, with ✓ in green where they equal
        `labels`, with ✗ in red where not.
    target: a classifier whose predictions are written under all images, instead of `predictions`.
    classes: names to be written for the labels' numbers.
    """
    if target is not None:
        predictions = {title: predict(target, images) for title, images in rows.items()}
    n = max(len(images) for images in rows.values())
    height = 1.3 if predictions else 1.1
    height += 0.25 * any("\n" in _folded(name) for name in classes or ())
    figure, axes = plt.subplots(len(rows), n, figsize=(1.05 * n + 1.3, height * len(rows)), squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for column, axis in enumerate(line):
            _bare(axis)
            if column >= len(images):
                continue
            axis.imshow(_pixels(images[column]), cmap="gray", vmin=0, vmax=1)
            if predictions and title in predictions:
                said, true = int(predictions[title][column]), int(labels[column])
                mark, colour = ("✓", RIGHT) if said == true else ("✗", WRONG)
                caption = f"{_folded(classes[said]) if classes else said} {mark}"
                axis.set_xlabel(caption, color=colour, labelpad=2, fontweight="bold", fontsize="small")
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
    figure.tight_layout(pad=0.3)
    right = {
        title: f" ({int((_host(said) == _host(labels[: len(said)])).sum())} of {len(said)} right)"
        for title, said in (predictions or {}).items()
    }
    return described(figure, f"Images in rows: {', '.join(title + right.get(title, '') for title in rows)}.")


def _folded(name):
    """The name of a class, in two lines where it is wider than an image: speedLimit / 35."""
    places = [hump.start() for hump in re.finditer(r"(?<=[a-z])[A-Z\d]", name)]
    if len(name) <= WIDEST or not places:
        return name
    middle = min(places, key=lambda place: abs(place - len(name) / 2))
    return f"{name[:middle]}\n{name[middle:]}"


def restored_grid(
    pipeline: nn.Module,
    natural: Tensor,
    attacked: Tensor,
    labels: Tensor,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Natural images, attacked ones and what the denoiser of `pipeline` draws of these, in three rows.

    Below them stands what the bare target says, which below the restored ones is what the pipeline says.

    pipeline: target ∘ denoiser, as in `helpers.threats`; a stochastic one shows one draw, always the same.
    natural, attacked: (N,C,H,W), row by row the same images.  labels, classes: as in `image_grid`.
    """
    with seeded(0):
        restored = in_parts(pipeline.denoiser, attacked)
    rows = {"natural": natural, "attacked": attacked, "restored": restored}
    return image_grid(rows, labels=labels, target=pipeline.target, classes=classes)


def map_grid(rows: Mapping[str, Sequence[Tensor]], titles: Sequence[object]) -> Figure:
    """Maps in rows: {row title: list of N maps (H,W)}, `titles` above the N columns.

    Each row has its own colour scale, stated beside it: gray if nothing in it is negative, else
    red and blue around zero.
    """
    n = len(titles)
    figure, axes = plt.subplots(len(rows), n, figsize=(1.5 * n + 1.5, 1.55 * len(rows)), squeeze=False)
    for line, (title, maps) in zip(axes, rows.items(), strict=True):
        peak = max(float(abs(m).max()) for m in maps)
        signed = min(float(m.min()) for m in maps) < 0
        scale = {"cmap": "RdBu_r", "vmin": -peak} if signed else {"cmap": "gray", "vmin": 0}
        for axis, one in zip(line, maps, strict=True):
            axis.imshow(_host(one), vmax=peak, **scale)
            _bare(axis)
        extent = f"{'±' if signed else '0 to '}{peak:.2g}"
        line[0].set_ylabel(f"{title}\n{extent}", rotation=0, ha="right", va="center", labelpad=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.tight_layout(pad=0.3)
    return described(figure, f"Maps of {', '.join(rows)}, each of {', '.join(map(str, titles))}.")


def strip(images: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Images (C,H,W) side by side; one with negative values is a difference, red and blue around zero."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.1 * len(images), 2.5))
    for axis, image, title in zip(axes, images, titles, strict=True):
        if image.min() < 0:
            peak = float(image.abs().max())
            axis.imshow(_host(image.mean(0)), cmap="RdBu_r", vmin=-peak, vmax=peak)
        else:
            axis.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], title=title)
    figure.tight_layout()
    return described(figure, f"Side by side: {', '.join(titles)}.")


# Numbers -----------------------------------------------------------------------------------------


def bars(
    values: Mapping[tuple[str, str], Number], ylabel: str, hue: str = "defense", comparable: bool = False
) -> Figure:
    """Grouped bars: {(group, hue): percent}; groups along the axis, hues as colours, in order of appearance.

    A bar of height zero has its 0 written, above its interval; a bar that is not there was not measured.
    hue: title of the legend.
    comparable: whether ours may stand beside bars of the hue "published"; else those are left out.
    """
    values = {place: value for place, value in values.items() if comparable or place[1] != "published"}
    groups = list(dict.fromkeys(group for group, _ in values))
    hues = list(dict.fromkeys(one for _, one in values))
    figure, axis = plt.subplots(figsize=(1.1 * len(groups) + 2.2, 3.6))
    width, palette, variants = 0.8 / len(hues), colours(hues), _variants(hues)
    for place, one in enumerate(hues):
        there = [group for group in groups if (group, one) in values]
        numbers = [values[group, one] for group in there]
        xs = [groups.index(group) + (place + 0.5) * width - 0.4 for group in there]
        method, before = variants.get(one, (None, 0))
        pattern = PATTERNS[min(before, len(PATTERNS) - 1)]
        heights = [_value(n) for n in numbers]
        looks = {"color": palette[one], "hatch": pattern, "hatchcolor": COLOURS.get(method, "black")}
        axis.bar(xs, heights, 0.96 * width, linewidth=0, label=label(one), **looks)
        for x, number in zip(xs, numbers, strict=True):
            low, high = number.interval if isinstance(number, Rate | Score) else (0, 0)
            if high > low:
                axis.plot([x, x], (low, high), color="black", linewidth=1)
            if _value(number) == 0:
                axis.text(x, high + 1, "0", ha="center", fontsize="small")
    axis.set(ylabel=ylabel, ylim=(0, 105), xticks=range(len(groups)))
    names = [str(label(group)) for group in groups]  # a name that is wider than its group runs into the next
    axis.set_xticklabels([fill(one, WORDS) if len(one) > WORDS and "\n" not in one else one for one in names])
    axis.grid(axis="x", visible=False)
    axis.legend(title=hue, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(figure)
    told = [f"{label(group)}, {label(one)} {_value(value):.1f}" for (group, one), value in values.items()]
    return described(figure, f"Bars, {ylabel}: {'; '.join(told)}.")


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[Number]]],
    xlabel: str,
    ylabel: str,
    xticks: Sequence[float] | None = None,
    dotted: Mapping[str, str] | None = None,
    **axis_settings,
) -> Figure:
    """Lines: {name: (xs, ys)}, with a band of the 95 % intervals where the ys are Rates or Scores.

    xticks: where the x-axis has ticks; no others, and in plain numbers on a logarithmic scale, too.
    dotted: {line: the line, or the defense, whose colour it takes}, of those that are drawn dotted.
    axis_settings: as matplotlib's `Axes.set` takes them.
    """
    figure, axis = plt.subplots(figsize=(6, 3.6))
    dotted = dotted or {}
    coloured_as = {name: dotted.get(name, name) for name in series}
    palette = colours(dict.fromkeys(coloured_as.values()))
    for name, (xs, ys) in series.items():
        numbers, colour = [_value(y) for y in ys], palette[coloured_as[name]]
        pattern = ":" if name in dotted else "-"
        axis.plot(xs, numbers, pattern, marker="o", markersize=4, color=colour, label=label(name))
        if all(isinstance(y, Rate | Score) for y in ys):
            low, high = zip(*(y.interval for y in ys), strict=True)
            axis.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel, **axis_settings)
    if xticks is not None:
        axis.set_xticks(xticks, [f"{tick:g}" for tick in xticks])
        axis.minorticks_off()
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(figure)
    told = [
        f"{label(name)} from {_value(ys[0]):.3g} at {xs[0]:.3g} to {_value(ys[-1]):.3g} at {xs[-1]:.3g}"
        for name, (xs, ys) in series.items()
    ]
    return described(figure, f"Lines, {ylabel} over {xlabel}: {'; '.join(told)}.")


def histories(history: Sequence[Mapping[str, float]], titles: Mapping[str, str]) -> Figure:
    """Training curves, one panel a loss: `history` as a handle of the lab has it, titles: {loss: title}."""
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.6 * columns, 2.5 * lines), squeeze=False)
    for axis, (name, title) in zip(axes.flat, titles.items(), strict=False):
        axis.plot(range(1, len(history) + 1), [epoch[name] for epoch in history])
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    sns.despine(figure)
    figure.tight_layout()
    told = [f"{title} from {history[0][n]:.3g} to {history[-1][n]:.3g}" for n, title in titles.items()]
    return described(figure, f"Training over {len(history)} epochs: {'; '.join(told)}.")


def heatmap(table: pd.DataFrame, caption: str, accuracies: bool = False) -> Figure:
    """A table of percentages as colours: defenses down, attacks across; "–" for what is missing (NaN).

    table: numbers, Rates or Scores.  caption: of the colour bar, "errors, % (ours)".
    accuracies: dark is bad for the defense, which is where accuracies are low and errors are high.
    """
    numbers = table.map(_value).astype(float).rename(index=label, columns=label)
    figure, axis = plt.subplots(figsize=(0.85 * table.shape[1] + 2.4, 0.42 * table.shape[0] + 1.2))
    sns.heatmap(
        numbers,
        annot=numbers.map(lambda value: "–" if np.isnan(value) else f"{value:.1f}"),
        fmt="",
        vmin=0,
        vmax=100,
        cmap="rocket" if accuracies else "rocket_r",
        cbar_kws={"label": caption},
        ax=axis,
    )
    for row, column in np.argwhere(numbers.isna().to_numpy()):  # seaborn writes nothing there
        axis.text(column + 0.5, row + 0.5, "–", ha="center", va="center", color="gray")
    axis.set(xlabel="", ylabel="")
    axis.grid(False)
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0 if table.shape[1] < 10 else 45, labelsize="small")
    told = [
        f"{name}: {', '.join(f'{column} {value:.1f}' for column, value in row.dropna().items())}"
        for name, row in numbers.iterrows()
    ]
    return described(figure, f"Table in colours, {caption}. {'; '.join(told)}.")


def beside(
    published: pd.DataFrame,
    ours: pd.DataFrame,
    caption: str,
    comparable: bool = False,
    accuracies: bool = False,
) -> Figure:
    """One heatmap: the published table above ours.

    published, ours: defenses down, attacks across, by the ledger's names; numbers, Rates or Scores.  Rows and
        columns that only one of them has are shown, empty in the other.
    comparable: whether ours may be held against a paper's (`Experiment.comparable`); else ours stand alone.
    caption, accuracies: as in `heatmap`.
    """
    if not comparable:
        return heatmap(ours, f"{caption} (ours)", accuracies)
    columns = list(dict.fromkeys([*published.columns, *ours.columns]))
    table = pd.concat([published.reindex(columns=columns), ours.reindex(columns=columns)])
    whose = ["published"] * len(published) + ["ours"] * len(ours)
    table.index = [f"{label(name)}, {who}" for name, who in zip(table.index, whose, strict=True)]
    if isinstance(columns[0], tuple):
        table.columns = ["\n".join(str(label(part)) for part in column) for column in columns]
    figure = heatmap(table, caption, accuracies)
    figure.axes[0].axhline(len(published), color="white", linewidth=4)
    return figure


def radar(series: Mapping[str, Mapping[str, Number]], ylabel: str) -> Figure:
    """Percentages on the spokes of a wheel: {name: {spoke: percent}}, the same spokes for all (ADD, Fig. 18).

    At the hub is 90, or the ten below the smallest value.
    """
    spokes = list(next(iter(series.values())))
    smallest = min(_value(number) for values in series.values() for number in values.values())
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    figure, axis = plt.subplots(figsize=(5, 4), subplot_kw={"polar": True})
    palette = colours(series)
    for name, values in series.items():
        heights = [_value(values[spoke]) for spoke in spokes]
        closed = [*angles, angles[0]], [*heights, heights[0]]
        axis.plot(*closed, marker="o", markersize=4, color=palette[name], label=label(name))
    axis.set(ylim=(min(90, smallest // 10 * 10), 100), theta_offset=np.pi / 2, theta_direction=-1)
    _, names = axis.set_thetagrids(np.degrees(angles), [label(spoke) for spoke in spokes])
    for name, side in zip(names, np.sin(angles).round(6), strict=True):  # written away from the wheel
        name.set_horizontalalignment("left" if side > 0 else "right" if side < 0 else "center")
    axis.set_rlabel_position(180 / len(spokes))
    axis.tick_params(axis="y", labelsize="x-small", labelcolor="gray")
    axis.set_title(ylabel, pad=16)
    figure.legend(loc="upper left", bbox_to_anchor=(1.05, 0.9), frameon=False)
    told = [
        f"{label(name)}: {', '.join(f'{label(spoke)} {_value(values[spoke]):.1f}' for spoke in spokes)}"
        for name, values in series.items()
    ]
    return described(figure, f"Wheel, {ylabel}. {'; '.join(told)}.")


def gains(
    scores: Mapping[tuple[str, str], Score],
    xlabel: str = "gain over the bare target, points",
    yardstick: Mapping[str, float] | None = None,
) -> Figure:
    """Dots with 95 % intervals, a panel for each group: {(panel, line): `gain`}, in order of appearance.

    ▶ green gains, ◀ red loses, ● gray shows no difference, ◆ gray is undecided.  Panel titles say on
    how many images.
    yardstick: {panel: points}, a gray band for what chance alone moves, such as another seed.
    """
    titles = list(dict.fromkeys(panel for panel, _ in scores))
    lines = list(dict.fromkeys(line for _, line in scores))
    high = -(-len(titles) // ABREAST)
    wide = -(-len(titles) // high)
    size = (2.3 * wide + 1.8, (0.32 * len(lines) + 1.1) * high + 0.5)
    figure, axes = plt.subplots(high, wide, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, titles, strict=False):
        around = (yardstick or {}).get(title, 0)
        axis.axvspan(-around, around, color="gray", alpha=0.25, linewidth=0)
        axis.axvline(0, color="black", linewidth=1)
        shown = {line: scores[title, line] for line in lines if (title, line) in scores}
        for line, score in shown.items():
            colour, marker = GAINS[gain_verdict(score, around)]
            height = lines.index(line)
            axis.plot(score.interval, [height, height], color=colour, linewidth=2)
            axis.plot(score.value, height, marker, color=colour, markersize=7)
        counts = sorted({score.n for score in shown.values()})
        axis.set_title(f"{label(title)}\n{'–'.join(map(str, counts[:: max(1, len(counts) - 1)]))} images")
    for axis in axes.flat[len(titles) - wide : len(titles)]:
        axis.tick_params(labelbottom=True)
    axes[0, 0].set(yticks=range(len(lines)), ylim=(len(lines) - 0.5, -0.5))
    axes[0, 0].set_yticklabels([label(line) for line in lines])
    marks = "▶ gains, ◀ loses, ● no difference seen, ◆ undecided"
    figure.supxlabel(f"{xlabel}  ({marks})", fontsize="medium")
    figure.tight_layout()
    told = [f"{label(panel)}, {label(line)} {score.value:+.1f}" for (panel, line), score in scores.items()]
    return described(figure, f"Dots with intervals, {xlabel}: {'; '.join(told)}.")


def panels(embedded: Mapping[str, tuple], large: Mapping[str, Sequence[bool]] | None = None) -> Figure:
    """Point clouds side by side: {title: (points (N,2), classes (N,))}, a class in one colour everywhere.

    large: {title: bool (N,)}, points to be drawn larger, such as the adversarial ones among natural ones.
    """
    listed = [one for _, members in embedded.values() for one in _host(members).tolist()]
    classes = list(dict.fromkeys(listed))
    if all(isinstance(one, int) for one in classes):
        classes.sort()
    palette = sns.color_palette("colorblind" if len(classes) <= 10 else "tab20", len(classes))
    figure, axes = plt.subplots(1, len(embedded), figsize=(3.4 * len(embedded), 3.6), squeeze=False)
    for axis, (title, (points, members)) in zip(axes[0], embedded.items(), strict=True):
        sizes = np.where((large or {}).get(title, np.zeros(len(points), dtype=bool)), 34, 9)
        for one, colour in zip(classes, palette, strict=True):
            chosen = _host(members) == one
            cloud = _host(points)[chosen].T
            axis.scatter(*cloud, s=sizes[chosen], color=colour, linewidths=0, alpha=0.7, label=label(one))
        axis.set(title=title, xticks=[], yticks=[])
    figure.tight_layout()  # before the legend, which would take its room from the last panel
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
    named = ", ".join(str(label(one)) for one in classes)
    return described(figure, f"Clouds of points, {', '.join(embedded)}; classes {named}.")


def _shown(figure: Figure) -> tuple[bytes, dict[str, str]]:
    """What a notebook keeps of a figure: its picture, and the words that stand for it."""
    return png(figure), {"alt": getattr(figure, "alt", "")}


def _value(number: Number) -> float:
    return number.value if isinstance(number, Rate | Score) else number


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    sns.despine(ax=axis, left=True, bottom=True)


def _host(values: object) -> np.ndarray:
    """Numbers as an array, from whatever device."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _pixels(image: Tensor) -> Tensor:
    pixels = image.detach().cpu().clamp(0, 1)
    return pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
