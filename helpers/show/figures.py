"""Figures of the notebooks.  Each function draws one and returns the matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

RIGHT, WRONG = "#1a7f37", "#cf222e"

# One name per attack and defense, in all figures and tables.
LABELS = {
    "natural": "natural", "pgd": "PGD$_N$", "pgd_targeted": "PGD$_T$", "cw": "CW$_N$", "ddn": "DDN$_N$",
    "aa": "AA$_N$", "jsma_targeted": "JSMA$_T$", "pgd_big": "PGD$_N$ ε′", "aa_big": "AA$_N$ ε′", "sta": "STA$_N$",
    "sta_targeted": "STA$_T$", "fwa": "FWA$_N$", "fwa_big": "FWA$_N$ ε′",
    "ap1": "AP$_1$", "ap2": "AP$_2$", "ap3": "AP$_3$", "ap4": "AP$_4$",
    "none": "none", "at_pgd": "AT", "doa_7x7": "DOA$_{7×7}$", "ape_gan_pp": "APE-G$_{PP}$", "ape_gan_dp": "APE-G$_{DP}$",
    "hgd_pp": "HGD$_{PP}$", "hgd_dp": "HGD$_{DP}$", "arn_pp": "ARN$_{PP}$", "arn_dp": "ARN$_{DP}$",
    "arn_p": "ARN$_P$", "arn_ps": "ARN$_{PS}$", "arn_dps": "ARN$_{DPS}$", "arn_ap": "ARN", "doa_9x5": "DOA$_{9×5}$",
    "pgd": "PGD$_u$", "cw": "CW$_u$", "cw_targeted": "CW$_T$", "ddn": "DDN$_u$", "ddn_targeted": "DDN$_T$", "ba": "BA$_u$",
    "lsa": "LS$_u$", "sta": "ST$_u$", "sta_targeted": "ST$_T$", "fwa": "SFW$_u$", "fgsm": "FGSM$_u$", "aa": "AA$_u$",
    "add_pp": "ADD$_{PP}$", "add_dd": "ADD$_{DD}$", "add_ap": "ADD", "add_ap_re": "ADD-re", "add_sp": "ADD-S",
    "add_f": "ADD", "add_cc": "ADD$_{CC}$", "add_pp3": "ADD$_{PP}$, ε 0.3",
    "ape_gan_dd": "APE-G$_{DD}$", "ape_gan_d_pp": "APE-GAN-D$_{PP}$", "ape_gan_d_dd": "APE-GAN-D$_{DD}$",
    "ape_gan_ap": "APE-GAN", "at_fgsm": "Def-adv", "rs_1": "RS 1", "rs_2": "RS 2", "rs_3": "RS 3",
    "pgd": "PGD", "dlr": "DLR", "aa": "AA", "fwa": "FWA", "ti_bim": "TI-BIM", "feature": "features", "restored": "restored",
    "ape_gan_p": "APE-G", "hgd_p": "HGD", "nrp": "NRP", "ape_gan_full": "APE-G full", "hgd_full": "HGD full",
    "nrp_full": "NRP full", "jatp": "JATP", "jatp_prime": "JATP′",
    "mi": "MI", "vni": "VNI", "dir": "DIR",
    "standard": "Standard", "trades": "TRADES", "mma": "MMA", "mart": "MART",
    "doa_1": "DOA 1", "doa_2": "DOA 2", "doa_3": "DOA 3", "doa_4": "DOA 4",
}  # fmt: skip


def style():
    """The collection's look; call once at the top of a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.bbox": "tight", "axes.titlesize": "medium"})


def label(name):
    """How a figure writes the attack or defense `name`; names it does not know stay as they are."""
    return LABELS.get(name, name)


def image_grid(rows, predictions=None, labels=None):
    """Images in rows: {row title: images (N,C,H,W) in [0,1]}, all of the same N.

    predictions: {row title: (N,) labels} written under the images, green where they equal
    `labels` (N,), red where not.
    """
    n = max(len(images) for images in rows.values())
    height = 1.3 if predictions else 1.1
    figure, axes = plt.subplots(len(rows), n, figsize=(1.05 * n + 1.3, height * len(rows)), squeeze=False)
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for column, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
            if column < len(images):
                axis.imshow(_pixels(images[column]), cmap="gray", vmin=0, vmax=1)
            if predictions and title in predictions and column < len(images):
                shown, true = int(predictions[title][column]), int(labels[column])
                axis.set_xlabel(str(shown), color=RIGHT if shown == true else WRONG, labelpad=2, fontweight="bold")
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
    figure.tight_layout(pad=0.3)
    return figure


def map_grid(rows, titles):
    """Maps in rows: {row title: list of N maps (H,W)}, `titles` above the N columns.

    Each row has its own colour scale, stated beside it: gray if nothing in it is negative, else
    red and blue around zero.
    """
    n = len(titles)
    figure, axes = plt.subplots(len(rows), n, figsize=(1.5 * n + 1.5, 1.55 * len(rows)), squeeze=False)
    for line, (title, maps) in zip(axes, rows.items(), strict=True):
        peak = max(float(abs(m).max()) for m in maps)
        signed = min(float(m.min()) for m in maps) < 0
        for axis, one in zip(line, maps, strict=True):
            colours = {"cmap": "RdBu_r", "vmin": -peak} if signed else {"cmap": "gray", "vmin": 0}
            axis.imshow(np.asarray(one), vmax=peak, **colours)
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
        scale = f"{'±' if signed else '0 to '}{peak:.2g}"
        line[0].set_ylabel(f"{title}\n{scale}", rotation=0, ha="right", va="center", labelpad=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.tight_layout(pad=0.3)
    return figure


def strip(images, titles):
    """Images (C,H,W) side by side; one with negative values is a difference, red and blue around zero."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.1 * len(images), 2.5))
    for axis, image, title in zip(axes, images, titles, strict=True):
        if image.min() < 0:
            peak = float(image.abs().max())
            axis.imshow(image.mean(0), cmap="RdBu_r", vmin=-peak, vmax=peak)
        else:
            axis.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], title=title)
    figure.tight_layout()
    return figure


def bars(values, ylabel, hue="defense"):
    """Grouped bars: {(group, hue): percent}; groups along the axis, hues as colours, in order of appearance.

    hue: title of the legend.
    """
    groups = list(dict.fromkeys(g for g, _ in values))
    hues = list(dict.fromkeys(h for _, h in values))
    figure, axis = plt.subplots(figsize=(1.1 * len(groups) + 2.2, 3.6))
    sns.barplot(
        x=[label(g) for g, _ in values], y=list(values.values()), hue=[label(h) for _, h in values],
        order=[label(g) for g in groups], hue_order=[label(h) for h in hues], ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel=ylabel, ylim=(0, 105))
    axis.legend(title=hue, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(figure)
    return figure


def curves(series, xlabel, ylabel, xticks=None, **axis_settings):
    """Lines: {name: (xs, ys)}.

    xticks: where the x-axis has ticks; no others, and in plain numbers on a logarithmic scale, too.
    axis_settings: as matplotlib's `Axes.set` takes them.
    """
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for name, (xs, ys) in series.items():
        axis.plot(xs, ys, marker="o", markersize=4, label=label(name))
    axis.set(xlabel=xlabel, ylabel=ylabel, **axis_settings)
    if xticks is not None:
        axis.set_xticks(xticks, [f"{tick:g}" for tick in xticks])
        axis.minorticks_off()
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(figure)
    return figure


def histories(history, titles):
    """Training curves, one panel a loss: `history` as `Experiment.history` gives it, titles: {loss: title}."""
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
    return figure


def heatmap(table, caption, accuracies=False):
    """A table of percentages as colours; NaN cells stay empty.

    Dark is bad for the defense: where the error is high or, of `accuracies`, where they are low.
    """
    figure, axis = plt.subplots(figsize=(0.85 * table.shape[1] + 2.4, 0.42 * table.shape[0] + 1.2))
    sns.heatmap(
        table.rename(index=label, columns=label), annot=True, fmt=".1f", vmin=0, vmax=100,
        cmap="rocket" if accuracies else "rocket_r",
        cbar_kws={"label": caption}, ax=axis,
    )  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.grid(False)  # it would show in the empty cells
    axis.tick_params(axis="y", rotation=0)
    return figure


def radar(series, ylabel, low=0):
    """Percentages on the spokes of a wheel: {name: {spoke: percent}}, the same spokes for all (ADD, Fig. 18).

    low: percentage at the hub; raise it where all values are high.  ValueError if one lies below it.
    """
    spokes = list(next(iter(series.values())))
    smallest = min(min(values.values()) for values in series.values())
    if not low <= smallest:
        raise ValueError(f"the hub is at {low} %, but the smallest value is {smallest:.1f} %; set `low` to that or less")
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    figure, axis = plt.subplots(figsize=(5, 4), subplot_kw={"polar": True})
    for name, values in series.items():
        heights = [values[spoke] for spoke in spokes]
        axis.plot([*angles, angles[0]], [*heights, heights[0]], marker="o", markersize=4, label=label(name))
    axis.set(ylim=(low, 100), theta_offset=np.pi / 2, theta_direction=-1)
    _, names = axis.set_thetagrids(np.degrees(angles), [label(spoke) for spoke in spokes])
    for name, side in zip(names, np.sin(angles).round(6), strict=True):  # written away from the wheel
        name.set_horizontalalignment("left" if side > 0 else "right" if side < 0 else "center")
    axis.set_rlabel_position(180 / len(spokes))
    axis.tick_params(axis="y", labelsize="x-small", labelcolor="gray")
    axis.set_title(ylabel, pad=16)
    figure.legend(loc="upper left", bbox_to_anchor=(1.05, 0.9), frameon=False)
    return figure


def panels(embedded):
    """Point clouds side by side: {title: (points (N,2), classes (N,))}, a class in the same colour everywhere."""
    classes = list(dict.fromkeys(one for _, members in embedded.values() for one in np.asarray(members).tolist()))
    if all(isinstance(one, int) for one in classes):
        classes.sort()
    palette = sns.color_palette("colorblind" if len(classes) <= 10 else "tab20", len(classes))
    figure, axes = plt.subplots(1, len(embedded), figsize=(3.4 * len(embedded), 3.6), squeeze=False)
    for axis, (title, (points, members)) in zip(axes[0], embedded.items(), strict=True):
        for one, colour in zip(classes, palette, strict=True):
            axis.scatter(*points[np.asarray(members) == one].T, s=9, color=colour, linewidths=0, alpha=0.7, label=label(one))
        axis.set(title=title, xticks=[], yticks=[])
    figure.tight_layout()  # before the legend, which would take its room from the last panel
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
    return figure


def _pixels(image):
    pixels = image.detach().cpu().clamp(0, 1)
    return pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
