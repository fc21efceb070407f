"""One function a figure: it returns the figure, names its axes, units, n and split, and styles nothing globally."""

import textwrap
from itertools import pairwise

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ferkit.augment import POLICIES, augment, draw_mixing, get_policy
from ferkit.faces import Faces
from ferkit.labels import COLOURS, FERPLUS_CLASSES, FERPLUS_TO_FER, USAGES, ferplus_targets
from ferkit.metrics import N_BINS, softmax

# Okabe and Ito (2008): colours that people tell apart who do not see red, green or blue as others do.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#4d4d4d")


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
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, **text)


def _heatmap(axes: Axes, shares: np.ndarray, counts: np.ndarray, rows: tuple, columns: tuple) -> None:
    """Shares as colour, counts as text."""
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(
            j, i, f"{count:,}", ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black", fontsize=8
        )
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)


def class_balance(faces: Faces) -> Figure:
    """Share of each class in each split, with counts."""
    figure, axes = new_figure(size=(9, 3.6))
    axes, counts, width = axes[0, 0], faces.counts().numpy(), 0.27
    for i, usage in enumerate(USAGES):
        shares = counts[i] / max(counts[i].sum(), 1) * 100
        bars = axes.bar(np.arange(len(faces.classes)) + (i - 1) * width, shares, width, color=hue(i))
        axes.bar_label(bars, labels=[f"{c:,}" for c in counts[i]], fontsize=6, rotation=90, padding=2)
        bars.set_label(f"{usage} (n {counts[i].sum():,})")
    axes.set_xticks(range(len(faces.classes)), faces.classes)
    axes.set(
        ylabel="share of the split, %", title=f"Class balance of {faces.name}", ylim=(0, axes.get_ylim()[1] * 1.18)
    )
    axes.legend()
    return figure


def sample_grid(faces: Faces, usage: str = "Training", per_class: int = 12, seed: int = 0) -> Figure:
    """A contact sheet: one row a class, pictures drawn at random."""
    split, rng = faces.split(usage), np.random.default_rng(seed)
    figure, axes = new_figure(len(faces.classes), per_class, (per_class * 0.8, len(faces.classes) * 0.83))
    for label, row in enumerate(axes):
        members = np.flatnonzero((split.labels == label).numpy())
        for k, place in zip(rng.permutation(members)[:per_class], row, strict=False):
            picture(place, split.images[int(k)])
        for place in row:
            place.axis("off")
        row[0].text(-0.1, 0.5, faces.classes[label], transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(f"{usage} of {faces.name}, {per_class} random faces a class (seed {seed})", fontsize=10)
    return figure


def mean_faces(faces: Faces, usage: str = "Training") -> Figure:
    """The mean picture of every class, and how it differs from the mean of all."""
    split = faces.split(usage)
    figure, axes = new_figure(2, len(faces.classes), (10, 3.4), layout="compressed")
    overall = split.images.float().mean(0)
    for label, name in enumerate(faces.classes):
        members = split.images[split.labels == label].float()
        mean = members.mean(0) if len(members) else overall
        picture(axes[0, label], mean, f"{name}\nn {len(members):,}")
        shown = axes[1, label].imshow(mean - overall, cmap="RdBu_r", vmin=-40, vmax=40)
        axes[1, label].set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1], label="difference, grey levels", shrink=0.9)
    figure.suptitle(
        f"Mean face of each class (top) and its difference from the mean of all (bottom), {usage}", fontsize=10
    )
    return figure


def pixel_statistics(faces: Faces) -> Figure:
    """Distribution of each picture's mean and spread of grey, by split."""
    figure, axes = new_figure(1, 2, (9, 3.2))
    for usage in USAGES:
        split = faces.split(usage)
        pixels = split.images.flatten(1).float()
        for place, values in zip(axes[0], (pixels.mean(1), pixels.std(1)), strict=True):
            label = f"{usage} (n {len(split):,})"
            place.hist(values.numpy(), bins=64, range=(0, 255 if place is axes[0, 0] else 128), histtype="step",
                       density=True, label=label)  # fmt: skip
    axes[0, 0].set(xlabel="mean grey of a picture (0..255)", ylabel="density", title="Brightness")
    axes[0, 1].set(xlabel="standard deviation of grey in a picture", title="Contrast")
    axes[0, 1].legend(fontsize=8)
    return figure


def vote_entropy(faces: Faces, usage: str = "Training") -> Figure:
    """How much ten people disagree about a picture: entropy of its FER+ votes in bits, by FER2013 class."""
    split = faces.split(usage)
    share = split.votes.double() / split.votes.sum(1, keepdim=True).clamp_min(1)
    entropy = -(share * torch.log2(share.clamp_min(1e-12))).sum(1).numpy()
    figure, axes = new_figure(1, 2, (10, 3.4))
    axes[0, 0].hist(entropy, bins=40, color="0.45")
    axes[0, 0].set(
        xlabel="entropy of the votes, bits", ylabel="pictures", title=f"All classes, {usage}, n {len(split):,}"
    )
    groups = [entropy[(split.labels == label).numpy()] for label in range(len(faces.classes))]
    boxes = axes[0, 1].boxplot(groups, showfliers=False, patch_artist=True, medianprops={"color": "black"})
    for box, name in zip(boxes["boxes"], faces.classes, strict=True):
        box.set_facecolor(COLOURS.get(name, "0.7"))
    axes[0, 1].set_xticks(range(1, len(faces.classes) + 1), faces.classes, rotation=30)
    axes[0, 1].set(ylabel="entropy, bits", title="By FER2013 class (box: quartiles)")
    return figure


def ferplus_confusion(faces: Faces) -> Figure:
    """FER2013's label against FER+'s majority, over all splits; colour is the share of the FER2013 class."""
    targets, keep = ferplus_targets(faces.votes.numpy(), "majority")
    counts = np.zeros((len(faces.classes), len(FERPLUS_CLASSES)), int)
    np.add.at(counts, (faces.labels.numpy()[keep], targets[keep].argmax(1)), 1)
    figure, axes = new_figure(size=(7, 4.6))
    order = [FERPLUS_TO_FER.index(label) for label in range(len(faces.classes))]  # agreement on the diagonal
    order += [FERPLUS_TO_FER.index(None)]
    counts, columns = counts[:, order], tuple(FERPLUS_CLASSES[i] for i in order)
    _heatmap(axes[0, 0], counts / np.maximum(counts.sum(1, keepdims=True), 1), counts, faces.classes, columns)
    axes[0, 0].set(xlabel="FER+ majority", ylabel="FER2013 label", title=f"Two labellings of {keep.sum():,} faces")
    return figure


def policies(
    image: torch.Tensor, n: int = 10, seed: int = 0, names: tuple[str, ...] = tuple(POLICIES),
    partner: torch.Tensor | None = None,
) -> Figure:  # fmt: skip
    """Policies on the same face, uint8 (H, W), n draws each; mixed with a partner (H, W) where there is one."""
    figure, axes = new_figure(len(names), n, (n * 0.85, len(names) * 0.9 + 0.4))
    for name, row in zip(names, axes, strict=True):
        policy, generator = get_policy(name), torch.Generator().manual_seed(seed)
        drawn = augment(image.expand(n, -1, -1), policy, generator)
        for i, place in enumerate(row):
            mixing = draw_mixing(policy, 2, len(image), generator) if partner is not None else None
            other = drawn[i] if mixing is None else augment(partner[None], policy, generator)[0]
            picture(place, (drawn[i] if mixing is None else mixing.images(drawn[i], other))[0] * 255)
            place.axis("off")
        row[0].text(-0.1, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=9)
    told = "" if partner is not None else " (mixup and CutMix, which need a second face, are not shown)"
    figure.suptitle(f"One face under {len(names)} policies{told}", fontsize=9)
    return figure


def learning_curves(rows: list[dict], title: str) -> Figure:
    """Training loss and PublicTest accuracy by epoch, from log.csv; the selected epoch is marked."""
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
    _heatmap(axes[0, 0], counts / np.maximum(counts.sum(1, keepdims=True), 1), counts, classes, classes)
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
    worst = np.argsort(np.where(predicted != labels, -confidence, 0))[:n]
    figure, axes = new_figure(2, (n + 1) // 2, (10, 3.6))
    for place, k in zip(axes.flat, worst, strict=False):
        said = f"{faces.classes[predicted[k]]} {confidence[k]:.0%}"
        picture(place, faces.images[int(k)], f"{said}\nlabel: {faces.classes[labels[k]]}")
    for place in axes.flat[len(worst) :]:
        place.axis("off")
    figure.suptitle(f"The {n} most confident mistakes among {len(labels):,} images", fontsize=10)
    return figure


def intervals(rows: list[tuple[str, dict, int]], title: str, quantity: str = "accuracy") -> Figure:
    """Accuracies, or another share, with their 95 % intervals: (name, {value, low, high}, n) a row.

    Rows whose names are the same before a comma have one colour.
    """
    figure, axes = new_figure(size=(7.5, 0.5 * len(rows) + 1.2))
    axes, of = axes[0, 0], [name.split(",")[0] for name, _, _ in rows]
    colours = {name: hue(i) for i, name in enumerate(dict.fromkeys(of))}
    for i, (_, headline, _) in enumerate(rows):
        value, low, high = (headline[key] * 100 for key in ("value", "low", "high"))
        axes.errorbar(value, -i, xerr=[[value - low], [high - value]], fmt="o", color=colours[of[i]], capsize=4)
        axes.annotate(f"{value:.1f}", (value, -i), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks([-i for i in range(len(rows))], [f"{folded(name)}\nn {n:,}" for name, _, n in rows])
    axes.set(xlabel=f"{quantity}, % (95 % bootstrap interval)", title=title, ylim=(-len(rows) + 0.4, 0.7))
    return figure


def recalls(rows: dict[str, np.ndarray], classes: tuple[str, ...], title: str) -> Figure:
    """Recalls (C,) of each class, a row a model."""
    names, shares = tuple(rows), np.stack(list(rows.values()))
    figure, axes = new_figure(size=(8, 0.55 * len(rows) + 1.4))
    axes = axes[0, 0]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.6 else "black", fontsize=9)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(names)), [folded(name) for name in names])
    axes.set_title(title)
    return figure


def accuracy_and_cost(rows: list[tuple[str, dict, float, float]], title: str) -> Figure:
    """(name, accuracy {value, low, high}, million parameters, minutes of training) on two logarithmic axes."""
    figure, axes = new_figure(1, 2, (10, 4), sharey=True)
    for column, label in enumerate(("parameters, million", "minutes of training")):
        axis = axes[0, column]
        for i, (name, accuracy, *costs) in enumerate(rows):
            value, low, high = (100 * accuracy[key] for key in ("value", "low", "high"))
            yerr = [[value - low], [high - value]]
            marker = "os^D"[i // len(PALETTE) % 4]  # another shape when the colours start again
            axis.errorbar(costs[column], value, yerr=yerr, fmt=marker, color=hue(i), capsize=4, label=folded(name))
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    axes[0, 0].set_ylabel("accuracy, % (95 % interval)")
    axes[0, 1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(title)
    return figure
