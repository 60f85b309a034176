"""Drawings of ideas: what an attacker knows, and whose gradient goes where.

Dark arrows run forward.  Below the boxes each loss has a dashed line, its gradient: ● what it changes, ○
what it passes and leaves as it is.  Each function returns a figure with its `alt`, for those who do not
see it.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from torch import Tensor

from helpers.attacks.pgd import ascend
from helpers.defenses.dir import DIR, DIRPretraining, Discard, to_images
from helpers.show.figures import PALETTE, described, image_grid

PANELS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

INK, GRADIENT, FAINT = "#222222", PALETTE[3], "#999999"
DEFENSE, SUBSTITUTE, JUDGE, TARGET = (
    sns.light_palette(colour, 10).as_hex()[3] for colour in (PALETTE[0], PALETTE[1], PALETTE[2], "#7f7f7f")
)
# The colours of networks; every other box holds data.
FACES = dict.fromkeys(("denoiser", "E", "G", "P", "g", "masks"), DEFENSE) | {"substitute": SUBSTITUTE}
FACES |= dict.fromkeys(("D_A", "D_P", "D_I", "C"), JUDGE) | dict.fromkeys(("target", "T", "h"), TARGET)

# In inches: between boxes, their height, from line to line, by how much a box is raised, room for notes.
GAP, HEIGHT, LINE, RAISED, NOTES = 0.23, 0.38, 0.33, 0.55, 3.7


def threats(*names: str) -> Figure:
    """The pipeline under the threat models `names`, of oblivious, gray_box, white_box, bpda, eot; or all."""
    known = PANELS["threats"]
    return _drawing([known[name] for name in names or known])


def networks(paper: str) -> Figure:
    """The networks of "add" or "arn", and what each loss changes."""
    return _drawing(PANELS["networks"][paper])


def training_loop(paper: str) -> Figure:
    """One round of the training of "jatp" or "dir": who attacks, who learns."""
    return _drawing(PANELS["loops"][paper], loop=True)


def lanes(panel: Mapping) -> list[tuple[str, str, list[str], str]]:
    """Name, place, stops and note of each loss of a panel."""
    parts = [loss.split(" | ") for loss in panel["losses"]]
    return [(name, start, stops.split(), note) for name, start, stops, note in parts]


def _drawing(panels: Sequence[Mapping], loop: bool = False) -> Figure:
    """The panels one below the other; with `loop` all are repeated that have a number from 1 on."""
    rows = [panel["boxes"].split() for panel in panels]
    width = 0.94 if any(len(name) > 5 for row in rows for name in row) else 0.62
    notes = 0.15 + (width + GAP) * max(map(len, rows)) + 0.3
    heights = [0.95 + _raised(panel["boxes"]) + LINE * len(panel["losses"]) for panel in panels]
    right, height = notes + NOTES, sum(heights) + 0.35
    figure = plt.figure(figsize=(right, height), facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, right), ylim=(0, height))
    axis.set_axis_off()
    tops = height - np.cumsum([0, *heights])
    for panel, top in zip(panels, tops, strict=False):
        _panel(axis, panel, top, width, notes)
    if loop:
        first = next(top for panel, top in zip(panels, tops, strict=False) if panel["title"][0] == "1")
        x, low, high = right - 0.12, tops[-1] + 0.25, first - 0.22
        axis.plot([x - 0.25, x, x], [low, low, high], color=INK, linewidth=1)
        _arrow(axis, (x, high), (x - 0.3, high))
        axis.text(x - 0.08, (low + high) / 2, "next batch", rotation=90, ha="right", va="center")
    dot = {"color": GRADIENT, "linestyle": "", "marker": "o"}
    key = [
        Line2D([], [], color=INK, label="forward"),
        Line2D([], [], color=GRADIENT, linestyle="--", label="gradient of a loss:"),
        Line2D([], [], **dot, label="changes this"),
        Line2D([], [], **dot, markerfacecolor="white", label="passes this, leaves it as it is"),
    ]
    figure.legend(handles=key, loc="lower left", ncols=4, frameon=False, fontsize="small")
    return described(figure, "  ".join(_told(panel) for panel in panels))


def _told(panel: Mapping) -> str:
    """A panel in words."""
    marks = {"●": "changes ", "○": "passes ", "=": "passes a stand-in for "}
    losses = [
        f"{loss}: {', '.join(marks[stop[0]] + stop[1:] for stop in stops)} ({note})"
        for loss, _, stops, note in lanes(panel)
    ]
    forward = "; ".join(" → ".join(chain.split()) for chain in panel["arrows"])
    return f"{panel['title']}.  Forward: {forward}.  Gradients: {'; '.join(losses)}."


def _raised(boxes: str) -> float:
    """How much room a raised box, one with a ^, takes upwards; 0 without one."""
    return RAISED if "^" in boxes else 0.0


def _panel(axis: Axes, panel: Mapping, top: float, width: float, notes: float) -> None:
    """One panel below `top`, its boxes of this width."""
    axis.text(0.15, top - 0.22, _maths(panel["title"]), va="center", color=INK, fontweight="bold")
    row, places = top - 0.65 - _raised(panel["boxes"]), {}
    for column, word in enumerate(panel["boxes"].split()):
        name = word.lstrip("^#")
        places[name] = 0.15 + width / 2 + (width + GAP) * column, row + _raised(word)
        _box(axis, *places[name], width, name, copies=3 if word.startswith("#") else 1)
    for chain in panel["arrows"]:
        for a, b in pairwise(chain.split()):
            _forward(axis, places, width, a, b)
    for line, (loss, start, stops, note) in enumerate(lanes(panel)):
        y = row - HEIGHT / 2 - 0.27 - LINE * line
        begin = places[start][0] + (width + GAP) / 2
        _gradient(axis, places, begin, y, loss, stops)
        axis.text(notes, y, _maths(note), va="center", color=INK, fontsize="small")


def _box(axis: Axes, x: float, y: float, width: float, name: str, copies: int = 1) -> None:
    """A box around (x, y) in front of its copies; one in brackets is there, but not known."""
    colour, line = (FAINT, ":") if name.startswith("(") else (INK, "-")
    for copy in reversed(range(copies)):
        corner = x - width / 2 + 0.05 * copy, y - HEIGHT / 2 + 0.05 * copy
        style = {"facecolor": FACES.get(name, "white"), "edgecolor": colour, "linestyle": line}
        axis.add_patch(FancyBboxPatch(corner, width, HEIGHT, "round,pad=0,rounding_size=0.06", **style))
    axis.text(x, y, _maths(name), ha="center", va="center", color=colour)


def _forward(axis: Axes, places: Mapping, width: float, a: str, b: str) -> None:
    """An arrow from box to box; it goes round what stands between them in the row."""
    (xa, ya), (xb, yb) = places[a], places[b]
    side = np.sign(xb - xa) * width / 2
    if any(min(xa, xb) < x < max(xa, xb) and y == ya == yb for x, y in places.values()):
        _arrow(axis, (xa, ya + HEIGHT / 2), (xb, yb + HEIGHT / 2), bend=-0.09)
    elif yb > ya:
        _arrow(axis, (xa, ya + HEIGHT / 2), (xb, yb - HEIGHT / 2))
    else:
        _arrow(axis, (xa + side, ya), (xb - side, yb))


def _arrow(axis: Axes, start: tuple, end: tuple, bend: float = 0) -> None:
    look = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=look | {"connectionstyle": f"arc3,rad={bend}"})


def _gradient(axis: Axes, places: Mapping, begin: float, y: float, loss: str, stops: list[str]) -> None:
    """The line of one gradient at the height y, from where its loss is taken to the last stop."""
    axis.plot([begin, places[stops[-1][1:]][0]], [y, y], "--", color=GRADIENT, linewidth=1.5, zorder=0.5)
    frame = {"facecolor": "white", "edgecolor": GRADIENT, "boxstyle": "round,pad=0.2"}
    axis.text(begin, y, _maths(loss), ha="center", va="center", fontsize="small", bbox=frame)
    for stop in stops:
        x, above = places[stop[1:]]
        axis.plot([x, x], [y, above - HEIGHT / 2], ":", color=FAINT, linewidth=1, zorder=0)
        if stop[0] == "=":
            frame |= {"facecolor": SUBSTITUTE, "edgecolor": INK}
            axis.text(x, y, "stand-in", ha="center", va="center", fontsize="small", bbox=frame)
        else:
            face = GRADIENT if stop[0] == "●" else "white"
            axis.plot(x, y, "o", markersize=8, markerfacecolor=face, markeredgecolor=GRADIENT)


def _maths(text: str) -> str:
    """With indices below the line: x_k, D_A, ℒ_mse."""
    return re.sub(r"([^\W_][\u0302\u0303]?)_(\w+)", r"$\1_{\\mathrm{\2}}$", text)


# Computed ----------------------------------------------------------------------------------------


def pgd_in_its_ball(eps: float = 0.25, steps: int = 8) -> Figure:
    """PGD (`helpers.attacks.pgd.ascend`) on an image of two pixels: a toy loss, two balls, three starts.

    eps: radius.
    steps: of length eps/3.
    """
    x = torch.tensor([0.42, 0.5]).expand(3, 1, 1, 2)
    angles = torch.tensor([0.6, 2.3, 4.0])
    start = x + 0.5 * eps * torch.stack([angles.cos(), angles.sin()], -1).view(x.shape)
    grid = torch.linspace(0, 1, 101)
    plane = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), facecolor="white")
    told = []
    for axis, norm, name in zip(axes, ("linf", "l2"), ("ℓ∞", "ℓ2"), strict=True):
        path = [start]
        for _ in range(steps):
            path.append(ascend(_toy_loss, x, eps=eps, steps=1, step_size=eps / 3, norm=norm, start=path[-1]))
        axis.contourf(grid, grid, _hills(plane), 12, cmap="Greys", alpha=0.7)
        middle = x[0].flatten().tolist()
        square = Rectangle([value - eps for value in middle], 2 * eps, 2 * eps)
        ball = square if norm == "linf" else Circle(middle, eps)
        ball.set(fill=False, edgecolor=INK, linewidth=2)
        axis.add_patch(ball)
        for number, points in enumerate(torch.stack(path, 1).flatten(2)):
            reached = f"start {number + 1}: loss {_hills(points[-1]):.2f}"
            axis.plot(*points.T, "-o", color=PALETTE[number], markersize=4, label=reached)
            axis.plot(*points[-1], "*", color=PALETTE[number], markeredgecolor="white", markersize=15)
            told.append(f"{name}, {reached}")
        axis.plot(*middle, "x", color=INK, markersize=9, markeredgewidth=2)
        axis.set(
            title=f"{name} ball, radius {eps:g}", xlabel="first pixel", ylabel="second pixel", aspect="equal"
        )
        axis.legend(loc="lower right", fontsize="small")
        axis.grid(False)
    figure.suptitle(
        "× natural image    ★ where PGD ends    the darker, the higher the loss", fontsize="small"
    )
    figure.tight_layout()
    return described(
        figure,
        "An image of two pixels as a point in the plane, a loss as shades behind it, and the paths that PGD "
        f"takes in {steps} steps from three starts, inside the ball.  Reached: {'; '.join(told)}.",
    )


def _hills(points: Tensor) -> Tensor:
    """The toy loss at points (…,2): two hills, one higher than the other."""
    high = (-(points - torch.tensor([0.85, 0.7])).square().sum(-1) / 0.06).exp()
    low = (-(points - torch.tensor([0.1, 0.35])).square().sum(-1) / 0.04).exp()
    return high + 0.6 * low


def _toy_loss(x: Tensor) -> Tensor:
    return _hills(x.flatten(1)).sum()


def masks(denoiser: DIR | DIRPretraining | Discard, image: Tensor) -> Figure:
    """What each mask of a group shows of an image (C,S,S), and what `denoiser` draws behind it."""
    discard = denoiser if isinstance(denoiser, Discard) else denoiser.denoiser
    patch, places = discard.vit.patch, discard.vit.places
    with torch.no_grad():
        visible = discard.masks(image[None])  # (K,1,V)
        drawn = discard.each(image[None], visible)[:, 0]
    k, _, count = visible.shape
    shown = torch.zeros(k, places, device=image.device).scatter_(1, visible[:, 0], 1)
    shown = to_images(shown[..., None].expand(-1, -1, patch**2), patch, 1)
    seen = image * shown + (1 - shown)  # hidden patches are white
    rows = {"shown": torch.cat([image[None], seen]), "drawn": torch.cat([drawn.mean(0)[None], drawn])}
    figure = image_grid(rows)
    for axis, title in zip(figure.axes, ["image", *(f"mask {i + 1}" for i in range(k))], strict=False):
        axis.set_title(title)
    figure.axes[k + 1].set_xlabel("mean of all")
    return described(
        figure,
        f"An image, and what each of {k} masks shows of it: {count} of {places} patches of {patch}×{patch} "
        "pixels.  Below, what the denoiser draws behind each mask, and the mean of these drawings.",
    )
