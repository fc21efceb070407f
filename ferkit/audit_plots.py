"""Figures of an audit: pairs of copies, galleries to judge by eye, doubt of people beside doubt of a model."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ferkit.copies import COPY, Pairs
from ferkit.plots import hue, new_figure, picture


def likeness(pairs: Pairs, n: int, title: str, threshold: float = COPY) -> Figure:
    """How many pairs have which likeness; n is the number of pictures."""
    figure, axes = new_figure(size=(8, 3.2))
    axes, values = axes[0, 0], pairs.likeness.numpy()
    axes.hist(values, bins=np.arange(0.3, 1.0001, 0.02), color="0.6")
    axes.axvline(
        threshold, color=hue(3), label=f"copies from {threshold:.2f} on: {(values >= threshold).sum():,} pairs"
    )
    axes.set(xlabel="likeness of the details", ylabel="pairs", yscale="log", title=f"{title}, n {n:,}")
    axes.legend()
    return figure


def pair_gallery(images: Tensor, bands: list[tuple[str, Pairs]], title: str, n: int = 8) -> Figure:
    """A row of n pairs for each band, drawn at random; mirror images are turned back."""
    figure, axes = new_figure(len(bands), n, (12, 0.95 * len(bands) + 0.5), layout="compressed")
    for row, (name, pairs) in zip(axes, bands, strict=True):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        for place, k in zip(row, order, strict=False):
            a, b = images[pairs.a[k]], images[pairs.b[k]]
            picture(place, torch.cat([a, b.flip(-1) if pairs.mirrored[k] else b], 1))
        for place in row:
            place.axis("off")
        row[0].text(-0.05, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def gallery(images: Tensor, words: list[str], title: str, columns: int = 10) -> Figure:
    """Pictures (N, H, W) with a few words above each."""
    rows = -(-len(images) // columns) or 1
    figure, axes = new_figure(rows, columns, (columns * 1.15, rows * 1.5 + 0.4), layout="compressed")
    for place, image, word in zip(axes.flat, images, words, strict=False):
        picture(place, image, word)
    for place in axes.flat[len(images) :]:
        place.axis("off")
    figure.suptitle(title, fontsize=10)
    return figure


def doubt(entropy: np.ndarray, p: np.ndarray, hit: np.ndarray, title: str, n_bins: int = 6) -> Figure:
    """A model's confidence and accuracy by how much people disagree: entropy (N,) of votes in bits, p (N, C), hits."""
    edges = np.quantile(entropy, np.linspace(0, 1, n_bins + 1))
    index = np.clip(np.searchsorted(edges, entropy, side="right") - 1, 0, n_bins - 1)
    kept = [b for b in range(n_bins) if (index == b).any()]
    x = [entropy[index == b].mean() for b in kept]
    figure, axes = new_figure(size=(6.5, 3.4))
    axes = axes[0, 0]
    for values, name, marker in ((p.max(1), "confidence", "o"), (hit, "accuracy", "s")):
        mean = np.array([values[index == b].mean() for b in kept])
        half = np.array([1.96 * values[index == b].std() / (index == b).sum() ** 0.5 for b in kept])
        axes.errorbar(x, 100 * mean, 100 * half, fmt=f"{marker}-", capsize=3, label=f"{name} of the model")
    axes.set(xlabel="entropy of ten people's votes, bits (mean of a bin)", ylabel="% (95 %)", title=title)
    axes.legend()
    return figure
