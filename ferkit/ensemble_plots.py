"""Figures of ensembles: how members differ, what more of them bring and cost, how sure they are."""

from functools import partial

import numpy as np
from matplotlib.figure import Figure
from sklearn import metrics as sk

from ferkit.calibration import selective_accuracy
from ferkit.ensemble_study import MethodRow
from ferkit.labels import COLOURS
from ferkit.metrics import softmax
from ferkit.plots import heatmap, hue, new_figure


def member_pairs(tables: dict[str, np.ndarray], names: list[str], title: str) -> Figure:
    """Matrices (M, M) of pairs of members, side by side, as colour and as text; the diagonal is left out."""
    n = len(names)
    side = 0.5 if n < 9 else 0.4
    figure, axes = new_figure(1, len(tables), (side * n * len(tables) + 3, side * n + 1.2))
    for place, (what, table) in zip(axes[0], tables.items(), strict=True):
        shown = np.where(np.eye(n, dtype=bool), np.nan, table)
        texts = np.vectorize(lambda value: "" if np.isnan(value) else f"{value:.2f}".replace("0.", "."))(shown)
        rows = [f"{name}  {i}" for i, name in enumerate(names, 1)] if place is axes[0, 0] else [""] * n
        heatmap(place, shown, texts, rows, range(1, n + 1), cmap="cividis", aspect="equal")
        place.tick_params(labelsize=8)
        place.set_title(what, fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def by_size(curve: list[np.ndarray], costs: dict[str, float], n: int, title: str) -> Figure:
    """diversity.by_size: the mean over drawn ensembles and their range, against members and, above, against what they
    cost: {unit: a member's mean}."""
    sizes = np.arange(1, len(curve) + 1)
    mean, low, high = (100 * np.array([f(values) for values in curve]) for f in (np.mean, np.min, np.max))
    figure, axes = new_figure(size=(7, 3.6 + 0.3 * len(costs)))
    axes = axes[0, 0]
    axes.fill_between(sizes, low, high, alpha=0.2, label="range over draws")
    axes.plot(sizes, mean, marker="o", label="mean over draws")
    axes.set(xlabel="members, drawn at random", ylabel=f"accuracy, %, n {n:,}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    for i, (unit, one) in enumerate(costs.items()):
        above = axes.secondary_xaxis(1 + 0.2 * i, functions=(partial(np.multiply, one), partial(np.multiply, 1 / one)))
        above.set_xlabel(unit)
    axes.legend(loc="lower right")
    figure.suptitle(title, fontsize=10)
    return figure


def optimism(rows: list[MethodRow], chosen: str, title: str) -> Figure:
    """What each method expects, shows where it is fitted, does on PrivateTest, and would show if fitted there."""
    figure, axes = new_figure(size=(8, 0.4 * len(rows) + 1.6))
    axes, at = axes[0, 0], -np.arange(len(rows))
    value, low, high = (100 * np.array([row.private[key] for row in rows]) for key in ("value", "low", "high"))
    axes.errorbar(
        value, at, xerr=[value - low, high - value], fmt="o", color=hue(0), capsize=3, label="PrivateTest (95 %)"
    )
    for name, marker, colour in (("expected", "|", "0.2"), ("public", "s", hue(1)), ("oracle", "x", hue(3))):
        label = {"expected": "expected (nested, PublicTest)", "public": "PublicTest, where it is fitted",
                 "oracle": "fitted on PrivateTest itself: no result"}[name]  # fmt: skip
        axes.plot([100 * getattr(row, name) for row in rows], at, marker, color=colour, label=label, linestyle="none",
                  fillstyle="none", markersize=9 if marker == "|" else 6)  # fmt: skip
    names = [row.method.replace("_", " ") + (" (chosen)" if row.method == chosen else "") for row in rows]
    axes.set_yticks(at, names)
    axes.set(xlabel="accuracy, %", ylim=(0.6 - len(rows), 0.6))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def selective(judges: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """Accuracy of the most confident faces against their share, of (logits, labels) by name."""
    figure, axes = new_figure(size=(6.5, 3.6))
    axes = axes[0, 0]
    for style, (name, (logits, labels)) in zip(("-", "--", ":", "-.") * len(judges), judges.items(), strict=False):
        coverage, accuracy = selective_accuracy(logits, labels)
        shown = coverage >= 0.02  # of fewer faces a share says little
        axes.plot(100 * coverage[shown], 100 * accuracy[shown], style, label=name)
    axes.set(xlabel="faces that are judged, the surest first, %", ylabel="accuracy on them, %")
    axes.legend()
    axes.set_title(title, fontsize=10)
    return figure


def roc_and_pr(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], title: str) -> Figure:
    """Each class against the rest: ROC and precision-recall curves with the areas below them."""
    p = softmax(logits)
    figure, axes = new_figure(1, 2, (11, 4.2))
    for i, name in enumerate(classes):
        if not 0 < (labels == i).sum() < len(labels):
            continue
        how = {"color": COLOURS.get(name, hue(i)), "linestyle": ("-", "--", ":")[i % 3]}
        false, true, _ = sk.roc_curve(labels == i, p[:, i])
        axes[0, 0].plot(false, true, label=f"{name}, area {sk.auc(false, true):.3f}", **how)
        precision, recall, _ = sk.precision_recall_curve(labels == i, p[:, i])
        average = sk.average_precision_score(labels == i, p[:, i])
        told = f"{name}, {average:.3f}, n {(labels == i).sum():,}"
        axes[0, 1].plot(recall, precision, label=told, **how)
    axes[0, 0].plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes[0, 0].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    axes[0, 1].set(xlabel="recall", ylabel="precision", title="Precision–recall, average precision")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    axes[0, 1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, fontsize=10)
    return figure
