"""Figures of studies over many runs: robustness under corruptions."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ferkit.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ferkit.plots import new_figure, picture


def corruptions(image: Tensor) -> Figure:
    """One face, uint8 (H, H), clean and under all fifteen corruptions at every severity."""
    n, names = len(SEVERITIES), ["clean", *CORRUPTIONS]
    half = -(-len(names) // 2)  # two blocks of rows side by side, a column between them for the names
    figure, axes = new_figure(half, 2 * n + 2, (11, 7.4), layout=None, width_ratios=2 * [1.5, *[1] * n])
    figure.subplots_adjust(0.01, 0.04, 0.99, 0.93, wspace=0.06, hspace=0.06)
    for place in axes.flat:
        place.axis("off")
    for i, name in enumerate(names):
        row = axes[i % half, (n + 1) * (i // half) :][: n + 1]
        row[0].text(0.95, 0.5, name.replace("_", "\n"), transform=row[0].transAxes, ha="right", va="center", fontsize=9)
        for severity, place in zip(SEVERITIES, row[1:], strict=True):
            title = f"severity {severity}" if i % half == half - 1 else ""  # below the last row
            if name != "clean":
                picture(place, corrupt(image[None], name, severity)[0].numpy(), title, y=-0.24)
            elif severity == SEVERITIES[0]:
                picture(place, image.numpy())
    figure.suptitle("One face under the fifteen corruptions of FER2013-C, severities 1 to 5", fontsize=10, y=0.98)
    return figure


def robustness_heatmap(values: dict[str, np.ndarray], names: list[str], title: str) -> Figure:
    """Accuracies in [0, 1] as colour and, in percent, as text: a row a model or policy, (15,) each; a column a name."""
    table = 100 * np.stack(list(values.values()))
    figure, axes = new_figure(size=(0.55 * len(names) + 2.5, 0.36 * len(values) + 1.9))
    axes, middle = axes[0, 0], (table.min() + table.max()) / 2
    shown = axes.imshow(table, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8,
                  color="white" if value < middle else "black")  # fmt: skip
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, label="accuracy, %", pad=0.02)
    return figure
