"""Figures of networks: their parts, what they look at, and how their accuracy stands beside what was claimed."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ferkit.claims import Claim
from ferkit.models.outline import Part
from ferkit.plots import folded, hue, new_figure, whisker


def architecture(parts: list[Part], title: str) -> Figure:
    """A box a part (height: side of its map, width: channels, on root scales) above its share of the parameters."""
    figure, axes = new_figure(2, 1, (10, 4.6), height_ratios=(3, 2), sharex=True)
    drawing, bars = axes[:, 0]
    total = sum(part.parameters for part in parts)
    for i, part in enumerate(parts):
        channels, *sides = part.shape or (0,)
        height, width = (max(sides, default=1) or 1) ** 0.5, 0.12 + min(channels, 4096) ** 0.5 / 90
        drawing.add_patch(
            Rectangle((i - width / 2, -height / 2), width, height, facecolor=hue(0), alpha=0.35, edgecolor=hue(0))
        )
        shape = "×".join(map(str, part.shape)) or ("inside the others" if part.gflops else "not used at test")
        drawing.text(i, -height / 2 - 0.6, shape, ha="center", va="top", fontsize=7, wrap=True)
    tallest = max((max(part.shape[1:], default=1) for part in parts if part.shape), default=1) ** 0.5
    drawing.set(xlim=(-0.6, len(parts) - 0.4), ylim=(-tallest / 2 - 3, tallest / 2 + 1), title=title, yticks=[])
    drawing.set_ylabel("map (channels × side × side)", fontsize=8)
    shown = bars.bar(range(len(parts)), [100 * part.parameters / total for part in parts], 0.6, color="0.6")
    bars.bar_label(shown, [f"{part.parameters:,}" for part in parts], fontsize=7, padding=2)
    bars.set_xticks(range(len(parts)), [part.name for part in parts])
    bars.set(ylabel="parameters, %", ylim=(0, 115 * max(part.parameters for part in parts) / total))
    return figure


def costs(values: dict[str, tuple[int, float]], title: str) -> Figure:
    """Each network's (parameters, GFLOPs) as a named point on two logarithmic axes; timm's are grey squares."""
    figure, axes = new_figure(size=(9, 5.5))
    axes = axes[0, 0]
    for i, (name, (parameters, gflops)) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        theirs = name.startswith("timm:")
        axes.plot(parameters / 1e6, gflops, "s" if theirs else "o", color="0.6" if theirs else hue(0))
        where = {"xytext": (-5, 3 + 8 * (i % 2)), "ha": "right", "color": "0.4"} if theirs else {"xytext": (6, 4)}
        label = name.removeprefix("timm:")
        axes.annotate(label, (parameters / 1e6, gflops), textcoords="offset points", fontsize=8, **where)
    axes.set(xscale="log", yscale="log", xlabel="parameters, million", title=title)
    axes.set_ylabel("GFLOPs a face (a multiply-add is two)")
    axes.margins(0.12)
    return figure


def claimed_and_measured(claims: list[Claim], measured: list[tuple[str, dict, int]], title: str) -> Figure:
    """Claims as hollow points (crosses where unsound), measured (name, {value, low, high}, n) with intervals."""
    figure, axes = new_figure(size=(9, 0.55 * (len(claims) + len(measured)) + 1.2))
    axes, names = axes[0, 0], []
    for claim in claims:
        axes.plot(claim.percent, -len(names), "o" if claim.sound else "x", color="0.4", fillstyle="none", markersize=8)
        names.append(folded(f"claimed: {claim.name}" + ("" if claim.sound else " (unsound)")))
    for name, headline, n in measured:
        whisker(axes, -len(names), headline)
        names.append(folded(f"measured: {name}, n {n:,}"))
    axes.set_yticks([-i for i in range(len(names))], names)
    axes.set(xlabel="accuracy, % (measured: 95 % bootstrap interval)", title=title, ylim=(-len(names) + 0.4, 0.6))
    axes.grid(axis="x", color="0.9")
    return figure


def batch_leak(curves: dict[str, list[float]], sizes: list[int], n: int, title: str) -> Figure:
    """Accuracy of the same weights against the size of the test batch, a curve an order and model."""
    figure, axes = new_figure(size=(8, 4))
    axes = axes[0, 0]
    for i, (name, values) in enumerate(curves.items()):
        axes.plot(sizes, [100 * value for value in values], marker="os^v"[i % 4], color=hue(i), label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="images in a test batch", ylabel="accuracy, %", title=f"{title}, n {n:,}", ylim=(0, 103))
    axes.legend(loc="lower right", fontsize=8)
    return figure


def spread(values: dict[str, Tensor], title: str) -> Figure:
    """A histogram for each named quantity, side by side."""
    figure, axes = new_figure(1, len(values), (3.1 * len(values), 2.8))
    for place, (name, numbers) in zip(axes[0], values.items(), strict=True):
        place.hist(np.asarray(numbers), bins=40, color="0.5")
        place.set(xlabel=name)
    axes[0, 0].set_ylabel("faces")
    figure.suptitle(title, fontsize=10)
    return figure
