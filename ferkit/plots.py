"""Figures of one run or several, and what every figure is made of.

One function a figure, here and in the other modules of figures: it returns the figure, names its axes, units, n and
split, and styles nothing globally.
"""

import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator

from ferkit.faces import Faces
from ferkit.metrics import N_BINS, softmax

# Okabe and Ito (2008): colours that people tell apart who do not see red, green or blue as others do.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#4d4d4d")
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green and blue


class NotebookFigure(Figure):
    """A figure that a notebook shows sharp: twice the pixels, at the size that it would have had."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        from IPython.core.pylabtools import retina_figure

        png, size = retina_figure(self)
        return {"image/png": png, "text/plain": repr(self)}, {"image/png": size}


def new_figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 4), **options
) -> tuple[Figure, np.ndarray]:
    """Axes in an array (rows, columns), with PALETTE; the figure is shown where it is returned, and only there."""
    layout = options.pop("layout", "constrained")
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout=layout, squeeze=False, FigureClass=NotebookFigure, **options
    )
    plt.close(figure)
    for place in axes.flat:
        place.set_prop_cycle(color=PALETTE)
    return figure, axes


def hue(i: int) -> str:
    """The i-th colour of PALETTE, which starts again at its end."""
    return PALETTE[i % len(PALETTE)]


def folded(name: str) -> str:
    """A run's name for a figure, a long one on several lines, each of which begins with a "+"."""
    return textwrap.fill(name.replace("+", " +"), 56, break_long_words=False).replace(" +", "+")


def picture(axes: Axes, image, title: str = "", **text) -> None:
    """A grey picture of 0..255 without ticks."""
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, **text)


def heatmap(
    axes: Axes, values: np.ndarray, text: str | np.ndarray, rows: Sequence, columns: Sequence, slanted: bool = False,
    **how,
) -> AxesImage:  # fmt: skip
    """Values (R, C) as colour and text in them, black or white, whichever has more contrast (WCAG 2).

    text: a format of the values, or other texts (R, C). slanted: the columns' names. `how` is imshow's.
    """
    texts = np.vectorize(text.format)(values) if isinstance(text, str) else text
    shown = axes.imshow(values, **{"cmap": "Blues", "aspect": "auto"} | how)
    for (i, j), text in np.ndenumerate(texts):
        rgb = np.array(shown.to_rgba(values[i, j])[:3])
        dark = LUMINANCE @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) < 0.179
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), columns, **({"rotation": 45, "ha": "right"} if slanted else {}))
    axes.set_yticks(range(len(rows)), rows)
    return shown


def counted(axes: Axes, counts: np.ndarray, rows: tuple, columns: tuple) -> None:
    """Counts (R, C) as text; colour is the share of the row."""
    shares, texts = counts / np.maximum(counts.sum(1, keepdims=True), 1), np.vectorize("{:,}".format)(counts)
    heatmap(axes, shares, texts, rows, columns, slanted=True, vmin=0, vmax=1, aspect="equal")


def whisker(axes: Axes, at: float, headline: dict, upright: bool = False, **style) -> float:
    """A point with its interval, {value, low, high}, in percent at that height, or upright there; the percentage."""
    value, low, high = (100 * headline[key] for key in ("value", "low", "high"))
    error, style = [[value - low], [high - value]], {"fmt": "o", "color": hue(0), "capsize": 4} | style
    axes.errorbar(*((at, value) if upright else (value, at)), **{"yerr" if upright else "xerr": error}, **style)
    return value


def learning_curves(rows: list[dict], title: str) -> Figure:
    """Training loss and PublicTest accuracy by epoch, from the log.csv of a run by the standard protocol.

    The epoch that it selects, PublicTest's highest, is marked.
    """
    epochs = [int(row["epoch"]) for row in rows]
    accuracy = [float(row["public_accuracy"]) * 100 for row in rows]
    best = int(np.argmax(accuracy))
    figure, axes = new_figure(1, 2, (9, 3.2))
    axes[0, 0].plot(epochs, [float(row["loss"]) for row in rows], color="0.3")
    axes[0, 0].set(xlabel="epoch", ylabel="training loss, nats", title=title)
    axes[0, 1].plot(epochs, accuracy, color=hue(0))
    axes[0, 1].plot(epochs[best], accuracy[best], "o", color=hue(3), label=f"selected: epoch {epochs[best]}")
    axes[0, 1].set(xlabel="epoch", ylabel="PublicTest accuracy, %", title="Averaged weights, no augmentation")
    axes[0, 1].legend()
    for place in axes[0]:
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
        for before, row in pairwise(rows):
            if before["side"] != row["side"]:
                place.axvline(int(row["epoch"]) - 0.5, color="0.7", linestyle=":")
    return figure


def confusion_matrix(metrics: dict, title: str) -> Figure:
    """Rows: the true class; colour: share of that class; text: images."""
    counts, classes = np.array(metrics["confusion"]), tuple(metrics["per_class"])
    figure, axes = new_figure(size=(6, 4.8))
    counted(axes[0, 0], counts, classes, classes)
    axes[0, 0].set(xlabel="predicted", ylabel="true", title=f"{title}, n {metrics['n']:,}")
    return figure


def per_class(metrics: dict, title: str) -> Figure:
    """Precision and recall of every class."""
    figure, axes = new_figure(size=(8, 3.2))
    axes, names = axes[0, 0], list(metrics["per_class"])
    for i, score in enumerate(("precision", "recall")):
        values = [metrics["per_class"][name][score] * 100 for name in names]
        axes.bar(np.arange(len(names)) + (i - 0.5) * 0.38, values, 0.38, label=score)
    axes.set_xticks(range(len(names)), [f"{name}\nn {metrics['per_class'][name]['n']}" for name in names])
    axes.set(ylabel="%", ylim=(0, 100), title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def reliability(logits: np.ndarray, labels: np.ndarray, title: str) -> Figure:
    """Accuracy against confidence in 15 bins, and how many images are in each."""
    p = softmax(logits)
    confidence, hit = p.max(1), p.argmax(1) == labels
    edges = np.linspace(0, 1, N_BINS + 1)
    index = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, N_BINS - 1)
    n = np.bincount(index, minlength=N_BINS)
    accuracy, mean = (np.bincount(index, v, N_BINS) / np.maximum(n, 1) for v in (hit, confidence))
    figure, axes = new_figure(2, 1, (5, 4.6), height_ratios=(3, 1), sharex=True)
    axes[0, 0].plot([0, 1], [0, 1], color="0.7", linestyle=":")
    axes[0, 0].plot(mean[n > 0], accuracy[n > 0], "o-", color=hue(0))
    axes[0, 0].set(ylabel="accuracy", title=f"{title}, n {len(labels):,}")
    axes[1, 0].bar(edges[:-1], n, 1 / N_BINS, align="edge", color="0.6")
    axes[1, 0].set(xlabel="confidence", ylabel="images")
    return figure


def mistakes(faces: Faces, logits: np.ndarray, n: int = 14) -> Figure:
    """The faces a model is most confidently wrong about; faces and logits in the same order."""
    p, labels = softmax(logits), faces.labels.numpy()
    predicted, confidence = p.argmax(1), p.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:n]
    figure, axes = new_figure(2, (n + 1) // 2, (10, 3.6))
    for place, k in zip(axes.flat, worst, strict=False):
        said = f"{faces.classes[predicted[k]]} {confidence[k]:.0%}"
        picture(place, faces.images[int(k)], f"{said}\nlabel: {faces.classes[labels[k]]}")
    for place in axes.flat[len(worst) :]:
        place.axis("off")
    figure.suptitle(f"The {len(worst)} most confident mistakes among {len(labels):,} images", fontsize=10)
    return figure


def intervals(rows: list[tuple[str, dict, int]], title: str, quantity: str = "accuracy") -> Figure:
    """Accuracies, or another share, with their 95 % intervals: (name, {value, low, high}, n) a row.

    Rows whose names are the same before a comma have one colour.
    """
    figure, axes = new_figure(size=(7.5, 0.5 * len(rows) + 1.2))
    axes, of = axes[0, 0], [name.split(",")[0] for name, _, _ in rows]
    colours = {name: hue(i) for i, name in enumerate(dict.fromkeys(of))}
    for i, (_, headline, _) in enumerate(rows):
        value = whisker(axes, -i, headline, color=colours[of[i]])
        axes.annotate(f"{value:.1f}", (value, -i), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks([-i for i in range(len(rows))], [f"{folded(name)}\nn {n:,}" for name, _, n in rows])
    axes.set(xlabel=f"{quantity}, % (95 % bootstrap interval)", title=title, ylim=(-len(rows) + 0.4, 0.7))
    return figure


def recalls(rows: dict[str, np.ndarray], classes: tuple[str, ...], title: str) -> Figure:
    """Recalls (C,) of each class, a row a model."""
    names, shares = tuple(rows), np.stack(list(rows.values()))
    figure, axes = new_figure(size=(8, 0.55 * len(rows) + 1.4))
    axes = axes[0, 0]
    heatmap(axes, shares, "{:.0%}", [folded(name) for name in names], classes, slanted=True, vmin=0, vmax=1)
    axes.set_title(title)
    return figure


def accuracy_and_cost(rows: list[tuple[str, dict, float, float]], title: str) -> Figure:
    """(name, accuracy {value, low, high}, million parameters, minutes of training) on two logarithmic axes."""
    figure, axes = new_figure(1, 2, (10, 4), sharey=True)
    for column, label in enumerate(("parameters, million", "minutes of training")):
        axis = axes[0, column]
        for i, (name, accuracy, *costs) in enumerate(rows):
            marker = "os^D"[i // len(PALETTE) % 4]  # another shape when the colours start again
            whisker(axis, costs[column], accuracy, upright=True, fmt=marker, color=hue(i), label=folded(name))
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    axes[0, 0].set_ylabel("accuracy, % (95 % interval)")
    axes[0, 1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(title)
    return figure
