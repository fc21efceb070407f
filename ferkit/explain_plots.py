"""Figures of where models look: faces under maps, averages of maps, and how faithful they are."""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ferkit.faces import Faces
from ferkit.faithfulness import BASELINES
from ferkit.metrics import mean_accuracy
from ferkit.plots import heatmap, hue, new_figure, picture

STYLES = dict(
    zip(BASELINES, (("0.55", "--"), ("black", ":")), strict=True)
)  # colour and line of what methods must beat


def face_rows(rows: list[tuple[str, list, Tensor | None, list[str] | None]], title: str) -> Figure:
    """Rows (name, faces (H, W) of 0..255 or None for a gap, maps (K, H, W) in [0, 1] over them or None, captions)."""
    k, told = len(rows[0][1]), sum(captions is not None for *_, captions in rows)
    figure, axes = new_figure(len(rows), k, (1.15 * k + 1.1, 1.15 * len(rows) + 0.25 * told + 0.4), layout="compressed")
    for row, (name, faces, maps, captions) in zip(axes, rows, strict=True):
        for i, place in enumerate(row):
            place.set(xticks=[], yticks=[], frame_on=faces[i] is not None)
            place.set_title(captions[i] if captions else "", fontsize=8)
            if faces[i] is not None:
                picture(place, faces[i], place.get_title())
            if faces[i] is not None and maps is not None:
                place.imshow(np.asarray(maps[i]), cmap="inferno", alpha=0.5, vmin=0, vmax=1)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def examples(
    faces: Faces, probabilities: Tensor, of_said: Tensor, of_label: Tensor, title: str, seed: int = 0
) -> Figure:
    """A random face of each class that is judged right, and one that is judged wrong, with maps of the predicted class
    and of the label (N, H, W); a class without one has a gap."""
    said, order = probabilities.argmax(1), np.random.default_rng(seed).permutation(len(faces))
    found = []
    for right in (True, False):
        fits = [(faces.labels == c) & ((said == faces.labels) == right) for c in range(len(faces.classes))]
        found.append([next((int(i) for i in order if fit[i]), None) for fit in fits])
    shown = [[None if i is None else faces.images[i] for i in picks] for picks in found]
    told = [["" if i is None else f"{faces.classes[said[i]]} {probabilities[i].max():.0%}" for i in p] for p in found]
    right, wrong = ([i or 0 for i in picks] for picks in found)
    rows = [
        ("label", shown[0], None, list(faces.classes)),
        ("judged right", shown[0], of_said[right], told[0]),
        ("judged wrong", shown[1], None, told[1]),
        ("map of what\nwas said", shown[1], of_said[wrong], None),
        ("map of\nthe label", shown[1], of_label[wrong], None),
    ]
    return face_rows(rows, title)


def group_means(values: Tensor, groups: list[Tensor]) -> Tensor:
    """Means (K, H, W) of values (N, H, W) over groups, bool (N,) each; nan for an empty one."""
    return torch.stack([values[group].float().mean(0) for group in groups])


def mean_maps(
    images: Tensor, rows: dict[str, tuple[Tensor, list[Tensor]]], names: tuple[str, ...], title: str
) -> Figure:
    """Maps (N, H, W) averaged over a group of faces for each name, bool (N,), a row each, on the groups' mean faces.

    The last row is a difference: of two rows, the second's from the first; of one, from the mean over its groups.
    """
    means = {row: group_means(maps, groups) for row, (maps, groups) in rows.items()}
    by_name = list(zip(*(groups for _, groups in rows.values()), strict=True))  # one group a row, for each name
    sizes = [
        f"{int(some[0].sum()):,}" + (f" and {int(some[-1].sum()):,}" if not torch.equal(some[0], some[-1]) else "")
        for some in by_name
    ]
    backs = group_means(images, [torch.stack(some).any(0) for some in by_name])
    first, last = list(means), list(means.values())
    if len(rows) == 1:
        less, difference = "less the mean\nof the classes", last[0] - last[0].nanmean(0)
    else:
        less, difference = f"{first[1]}\nless {first[0]}", last[1] - last[0]
    figure, axes = new_figure(
        len(rows) + 1, len(names), (1.2 * len(names) + 2, 1.25 * len(rows) + 2), layout="compressed"
    )
    for line, (name, some) in enumerate([*means.items(), (less, difference)]):
        signed = name == less
        reach = max(float((some.abs() if signed else torch.cat(last)).nan_to_num().max()), 1e-6)
        for i, place in enumerate(axes[line]):
            picture(place, backs[i], f"{names[i]}\nn {sizes[i]}" if line == 0 else "")
            scale = {"cmap": "RdBu_r", "vmin": -reach} if signed else {"cmap": "inferno", "vmin": 0}
            drawn = place.imshow(np.asarray(some[i]), alpha=0.6, vmax=reach, **scale)
        axes[line, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        figure.colorbar(drawn, ax=axes[line], shrink=0.8, label="difference" if signed else "mean map")
    figure.suptitle(title, fontsize=10)
    return figure


def perturbation_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Mean deletion and insertion curves (N, K) of each kind of map; baselines in grey and black."""
    figure, axes = new_figure(1, 2, (10, 4), sharey=True)
    for i, (name, both) in enumerate(curves.items()):
        colour, line = STYLES.get(name, (hue(i), "-"))
        width = max(5 - 0.6 * i, 1.4)  # the first ones show behind others that are the same
        for place, curve in zip(axes[0], both, strict=True):
            shares = np.linspace(0, 100, curve.shape[1])
            place.plot(shares, curve.mean(0), line, color=colour, label=name, linewidth=width)
    axes[0, 0].set(xlabel="pixels deleted, the map's highest first, %", title="Deletion: lower is better")
    axes[0, 1].set(xlabel="pixels put back, the map's highest first, %", title="Insertion: higher is better")
    axes[0, 0].set_ylabel("mean probability of the class")
    axes[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def against_baselines(tables: dict[str, dict[str, dict[str, dict]]], title: str) -> Figure:
    """{measure: {method: {baseline: metrics.paired_difference}}}: a panel a measure; right of the line is better."""
    methods = list(next(iter(tables.values())))
    figure, axes = new_figure(1, len(tables), (2.6 * len(tables) + 1.6, 0.42 * len(methods) + 1.6), sharey=True)
    for place, (measure, table) in zip(axes[0], tables.items(), strict=True):
        place.axvline(0, color="0.7", linewidth=1)
        for i, (baseline, marker, shift) in enumerate(zip(BASELINES, ("o", "s"), (0.13, -0.13), strict=True)):
            value, low, high = (
                np.array([table[m][baseline][key] for m in methods]) for key in ("value", "low", "high")
            )
            place.errorbar(
                value, shift - np.arange(len(methods)), xerr=[value - low, high - value], fmt=marker, markersize=5,
                color=hue(i), capsize=3, label=f"against the {baseline}",
            )  # fmt: skip
        place.set_title(measure, fontsize=9)
    axes[0, 0].set_yticks(-np.arange(len(methods)), methods)
    axes[0, 0].set_ylim(-len(methods) + 0.4, 0.6)
    figure.supxlabel("difference, right is better (95 % bootstrap interval over faces)", fontsize=9)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def sanity_check(checks: dict[str, dict[str, np.ndarray]], title: str) -> Figure:
    """faithfulness.randomised of each method: the mean rank correlation with the trained network's maps."""
    figure, axes = new_figure(size=(8.5, 3.8))
    axes = axes[0, 0]
    for i, (name, values) in enumerate(checks.items()):  # thinner and thinner: methods that are the same stay visible
        left = [1.0, *(part.mean() for part in values.values())]
        axes.plot(left, marker=".", color=hue(i), label=name, linewidth=max(5 - 0.7 * i, 1.4))
    parts = list(next(iter(checks.values())))
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xticks(range(len(parts) + 1), ["trained", *parts], rotation=30, ha="right", fontsize=8)
    axes.set(xlabel="made random down to this block", ylabel="rank correlation of maps", ylim=(-0.4, 1.05))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def right_and_wrong(
    tables: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], labels: np.ndarray, title: str
) -> Figure:
    """{measure: {method: (asked for the right class (N,), for a wrong one)}} in [0, 1], with intervals over faces."""
    names = list(next(iter(tables.values())))
    figure, axes = new_figure(1, len(tables), (3.8 * len(tables) + 1.8, 0.4 * len(names) + 1.6), sharey=True)
    for place, (measure, table) in zip(axes[0], tables.items(), strict=True):
        for which, (label, fill, shift) in enumerate(
            (("the right class", "full", 0.1), ("a wrong class", "none", -0.1))
        ):
            found = [mean_accuracy(table[name][which][None], labels) for name in names]
            value, low, high = (100 * np.array([f[key] for f in found]) for key in ("value", "low", "high"))
            place.errorbar(
                value, shift - np.arange(len(names)), xerr=[value - low, high - value], fmt="o", color=hue(3 * which),
                fillstyle=fill, capsize=3, label=f"asked for {label}",
            )  # fmt: skip
        place.set(xlabel="% (95 % interval)")
        place.set_title(measure, fontsize=9)
        place.grid(axis="x", color="0.9")
    axes[0, 0].set_yticks(-np.arange(len(names)), names)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def parts_of_a_face(
    face: Tensor, boxes: dict[str, tuple[float, ...]], covered: dict[str, Tensor], title: str
) -> Figure:
    """Boxes (top, bottom, left, right, of the side) on a face (H, W), and a face with each of them covered."""
    figure, axes = new_figure(1, 1 + len(boxes), (1.5 * len(boxes) + 1.5, 2.1), layout="compressed")
    picture(axes[0, 0], face, "boxes on the mean face")
    for i, (top, bottom, left, right) in enumerate(boxes.values()):
        side, (x, y) = len(face), (len(face) * left - 0.5, len(face) * top - 0.5)
        box = Rectangle((x, y), side * (right - left), side * (bottom - top), fill=False, edgecolor=hue(i), linewidth=2)
        axes[0, 0].add_patch(box)
    for place, (name, image) in zip(axes[0, 1:], covered.items(), strict=True):
        picture(place, image, name)
    figure.suptitle(title, fontsize=10)
    return figure


def promised_and_lost(
    promised: np.ndarray, lost: np.ndarray, said: np.ndarray, classes: tuple[str, ...], parts: list[str], title: str
) -> Figure:
    """Means by predicted class of explain_study.promised and lost, (N, parts): does the map foretell the loss?"""
    there = [c for c in range(len(classes)) if (said == c).any()]
    rows = [f"{classes[c]}, n {(said == c).sum():,}" for c in there]
    figure, axes = new_figure(1, 2, (10, 0.38 * len(there) + 1.5), sharey=True)
    names = ("promised: share of the map, %", "lost when covered, points")
    for place, values, name in zip(axes[0], (promised, lost), names, strict=True):
        table = np.stack([100 * values[said == c].mean(0) for c in there])
        heatmap(place, table, "{:z.0f}", rows, parts, vmin=min(0, table.min()), vmax=table.max())
        place.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure
