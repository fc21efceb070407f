"""Figures of studies over many runs: policies and corruptions, differences to a baseline, curves, searches."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Generator, Tensor

from ferkit.augment import POLICIES, augment, draw_mixing, get_policy
from ferkit.comparison import Row
from ferkit.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ferkit.plots import heatmap, hue, new_figure, picture, whisker


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


def policies(
    image: Tensor, n: int = 10, seed: int = 0, names: tuple[str, ...] = tuple(POLICIES),
    partner: Tensor | None = None,
) -> Figure:  # fmt: skip
    """Policies on the same face, uint8 (H, W), n draws each; mixed with a partner (H, W) where there is one."""
    figure, axes = new_figure(len(names), n, (n * 0.85, len(names) * 0.9 + 0.4))
    for name, row in zip(names, axes, strict=True):
        policy, generator = get_policy(name), Generator().manual_seed(seed)
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


def robustness_heatmap(values: dict[str, np.ndarray], names: list[str], title: str) -> Figure:
    """Accuracies in [0, 1] as colour and, in percent, as text: a row a model or policy, (15,) each; a column a name."""
    table = 100 * np.stack(list(values.values()))
    figure, axes = new_figure(size=(0.55 * len(names) + 2.5, 0.36 * len(values) + 1.9))
    axes, columns = axes[0, 0], [name.replace("_", " ") for name in names]
    shown = heatmap(axes, table, "{:.1f}", list(values), columns, slanted=True, cmap="viridis")
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, label="accuracy, %", pad=0.02)
    return figure


def differences(rows: list[Row], title: str) -> Figure:
    """Each choice's difference to the baseline in accuracy, with its interval; filled where it is more than noise."""
    shown = [row for row in rows if row.difference]
    figure, axes = new_figure(size=(8, 0.36 * len(shown) + 1.5))
    axes = axes[0, 0]
    for i, row in enumerate(shown):
        whisker(axes, -i, row.difference, fillstyle="full" if row.adjusted < 0.05 else "none")
    axes.axvline(0, color="0.6", linestyle=":")
    names = [f"{row.name} ({len(row.accuracies)} seed{'s' * (len(row.accuracies) > 1)})" for row in shown]
    axes.set_yticks([-i for i in range(len(shown))], names)
    axes.set(
        xlabel="difference in accuracy, points (95 %); filled: p below 0.05 after Holm", ylim=(0.6 - len(shown), 0.6)
    )
    axes.set_title(title, fontsize=10)
    return figure


def class_effects(values: dict[str, np.ndarray], classes: tuple[str, ...], title: str) -> Figure:
    """Differences in recall, (C,) each in -1..1, as colour and in points: a row a choice, a column a class."""
    table = 100 * np.stack(list(values.values()))
    figure, axes = new_figure(size=(0.85 * len(classes) + 2.6, 0.36 * len(values) + 1.7))
    axes, limit = axes[0, 0], max(1.0, np.abs(table).max())
    shown = heatmap(axes, table, "{:+.1f}", list(values), classes, cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=10)
    figure.colorbar(shown, label="recall, points", pad=0.02)
    return figure


def training_curves(runs: dict[str, list[list[dict]]], title: str) -> Figure:
    """Training loss and PublicTest accuracy by epoch, a line a choice, the mean of its runs' log.csv rows."""
    figure, axes = new_figure(1, 2, (10, 3.8))
    markers = "os^vD<>pP*Xh"
    for i, (name, logs) in enumerate(runs.items()):
        style = {"color": hue(i), "marker": markers[i % len(markers)], "markersize": 4, "label": name}
        for place, key, scale in ((axes[0, 0], "loss", 1), (axes[0, 1], "public_accuracy", 100)):
            values = scale * np.mean([[float(row[key]) for row in rows] for rows in logs], 0)
            place.plot(range(1, len(values) + 1), values, **style)
    axes[0, 0].set(xlabel="epoch", ylabel="training loss, nats", title=title)
    axes[0, 1].set(xlabel="epoch", ylabel="PublicTest accuracy, %", title="Averaged weights, no augmentation")
    for place in axes[0]:
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def search_history(report: dict) -> Figure:
    """Every trial of a study by number, and by epoch: what was stopped early, and the best so far."""
    figure, axes = new_figure(1, 2, (10, 3.6))
    trials = sorted(report["trials"], key=lambda trial: trial["number"])
    best = 0.0
    for trial in trials:
        values = [100 * value for value in trial["public_accuracy"]]
        if not values:
            continue
        complete = trial["state"] == "complete"
        colour, top = (hue(0) if complete else "0.6"), max(values)
        axes[0, 0].plot(trial["number"], top, "o" if complete else "x", color=colour)
        axes[0, 1].plot(range(1, len(values) + 1), values, "-" if complete else ":", color=colour, alpha=0.7)
        axes[0, 1].plot(len(values), values[-1], "o" if complete else "x", color=colour, markersize=4)
        if complete and top > best:
            best = top
            axes[0, 0].annotate(f"{top:.1f}", (trial["number"], top), xytext=(0, 6), textcoords="offset points",
                                ha="center", fontsize=8)  # fmt: skip
    n = report["n"]["PublicTest"]
    axes[0, 0].set(
        xlabel="trial", ylabel="PublicTest accuracy, %", title=f"Circles: to the end; crosses: stopped (n {n:,})"
    )
    axes[0, 1].set(xlabel="epoch", ylabel="PublicTest accuracy, %", title="The same trials by epoch")
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].margins(y=0.12)
    return figure


def search_values(report: dict) -> Figure:
    """Accuracy against every value that was searched, with its importance; complete trials as circles."""
    names = list(report["trials"][0]["values"])
    figure, axes = new_figure(2, -(-len(names) // 2), (2.1 * -(-len(names) // 2) + 0.5, 4.6), sharey=True)
    trials = [trial for trial in report["trials"] if trial["public_accuracy"]]
    for place, name in zip(axes.flat, names, strict=False):
        values = [trial["values"][name] for trial in trials]
        kinds = sorted(set(values), key=str) if isinstance(values[0], str) else None
        x = [kinds.index(value) for value in values] if kinds else values
        for at, trial in zip(x, trials, strict=True):
            complete = trial["state"] == "complete"
            place.plot(at, 100 * max(trial["public_accuracy"]), "o" if complete else "x",
                       color=hue(0) if complete else "0.6", markersize=4)  # fmt: skip
        if kinds:
            place.set_xticks(range(len(kinds)), kinds)
        if name in ("lr", "weight_decay"):
            place.set_xscale("log")
        share = report["importance"].get(name)
        place.set_xlabel(name.replace("_", " "))
        place.set_title("" if share is None else f"importance {share:.2f}", fontsize=8)
        place.tick_params(labelsize=7)
    for place in axes.flat[len(names) :]:
        place.axis("off")
    for place in axes[:, 0]:
        place.set_ylabel("PublicTest, %", fontsize=8)
    return figure
