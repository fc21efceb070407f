"""Figures of a data set: its classes, faces, pixels, and how people disagree about them."""

import numpy as np
import torch
from matplotlib.figure import Figure

from ferkit.faces import Faces
from ferkit.labels import COLOURS, FERPLUS_CLASSES, FERPLUS_TO_FER, USAGES, ferplus_targets
from ferkit.plots import counted, hue, new_figure, picture


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
    counted(axes[0, 0], counts, faces.classes, columns)
    axes[0, 0].set(xlabel="FER+ majority", ylabel="FER2013 label", title=f"Two labellings of {keep.sum():,} faces")
    return figure
