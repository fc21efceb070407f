"""Four ways in which published numbers went wrong, each reproduced with compact: what is reported, and what is true.

Each is a protocol of protocols.py at one small budget, beside what an honest measurement gives: of the honest run of
the same recipe and seed, or of the same run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.comparison import hits, points
from ferkit.markdown import markdown_table
from ferkit.metrics import mean_accuracy, paired_difference
from ferkit.protocols import SORTED, SPLIT_OFF
from ferkit.recipe import Recipe
from ferkit.recipes import get_recipe
from ferkit.records import interval, load_logits

BUDGETS = {
    "study": ("12 epochs at 32 pixels, mirror images", {"policy": "flip", "stages": ((12, 32),)}),
    "mini": ("20 epochs at 24 pixels, mirror images", {"stages": ((20, 24),)}),
}
PRIVATE = "PrivateTest"


@dataclass(frozen=True)
class Leak:
    """A mistake: `reported` and `honest` say which protocol's run is judged on which images."""

    title: str
    who: str
    reported: tuple[str, str]
    honest: tuple[str, str]
    one_training: bool = True  # whether both are judged by the same course of training

    @property
    def protocols(self) -> set[str]:
        return {self.reported[0], self.honest[0]}


LEAKS = (
    Leak("test images in the training folder", "ResEmoteNet 79.8; a student ensemble 95.1",
         ("test_in_training", PRIVATE), ("standard", PRIVATE), one_training=False),
    Leak("augmented and balanced before the split", "many notebooks; reported on what was split off",
         ("augment_first", SPLIT_OFF), ("augment_first", PRIVATE)),
    Leak("the epoch chosen on PrivateTest", "VGG 73.3, ResNet-18 73.7; most FER+ results",
         ("choose_on_private", PRIVATE), ("standard", PRIVATE)),
    Leak("attention over batches of 64, test images sorted by class", "PAtt-Lite 92.5",
         ("sorted_test", SORTED), ("sorted_test", PRIVATE)),
)  # fmt: skip
PROTOCOLS = tuple(dict.fromkeys(protocol for leak in LEAKS for protocol in (leak.honest[0], leak.reported[0])))


def leaking(protocol: str, kind: str = "study", seed: int = 0) -> Recipe:
    """The recipe that commits the mistake, at the budget of that kind."""
    attention = {"options": {"batch_attention": True}} if protocol == "sorted_test" else {}
    return get_recipe("compact", kind, seed, **BUDGETS[kind][1], protocol=protocol, **attention)


def table(runs: dict[str, list[Path]]) -> str:
    """The mistakes as a Markdown table, from the run folders of each protocol, one a seed; what lacks runs is left out.

    Of two protocols, the seeds that both have are compared. A difference's interval is _difference's.
    """
    titles = ("mistake", "in", "seeds", "reported, % (95 %)", "n", "honest, % (95 %)", "n", "difference, points (95 %)")
    return markdown_table(titles, [_row(leak, runs) for leak in LEAKS if any(_shared(leak, runs).values())])


def gap(leak: Leak, runs: dict[str, list[Path]]) -> dict[str, float]:
    """How much too much is reported, {value, low, high} as a share, by the run folders of each protocol."""
    return _difference(leak, *_sides(leak, runs))


def _shared(leak: Leak, runs: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """The run folders of a mistake's protocols, of the seeds that all of them have."""
    seeds = {protocol: {folder.name.rpartition("-s")[2]: folder for folder in runs.get(protocol, [])}
             for protocol in leak.protocols}  # fmt: skip
    shared = sorted(set.intersection(*map(set, seeds.values())))
    return {protocol: [folders[seed] for seed in shared] for protocol, folders in seeds.items()}


def _sides(leak: Leak, runs: dict[str, list[Path]]) -> list[tuple]:
    """`_right` of what is reported, and of what is honest."""
    shared = _shared(leak, runs)
    return [_right(shared[protocol], usage) for protocol, usage in (leak.reported, leak.honest)]


def _row(leak: Leak, runs: dict[str, list[Path]]) -> list[str]:
    reported, honest = _sides(leak, runs)
    cells = [leak.title, leak.who, str(len(reported[0]))]
    for right, labels, _ in (reported, honest):
        cells += [interval(mean_accuracy(right, labels)), f"{len(labels):,}"]
    return [*cells, points(_difference(leak, reported, honest))]


def _right(folders: list[Path], usage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits of each seed, bool (S, N), labels and rows (N,), in the order of the rows."""
    right, labels = hits(folders, usage)
    rows = load_logits(folders[0])[f"{usage}_rows"]
    order = rows.argsort(kind="stable")
    return right[:, order], labels[order], rows[order]


def _difference(leak: Leak, ours: tuple, theirs: tuple) -> dict:
    """The difference in accuracy of two (hits, labels, rows), {value, low, high}.

    On the same images metrics.paired_difference, over images and seeds; where both are of one training,
    seed by seed, over images; on other images from the two intervals, over images (MOVER: Donner & Zou 2012).
    """
    if np.array_equal(ours[2], theirs[2]):
        if leak.one_training:
            return mean_accuracy(ours[0].astype(float) - theirs[0], ours[1])
        return paired_difference(ours[0], theirs[0], ours[1])
    a, b = (mean_accuracy(right, labels) for right, labels, _ in (ours, theirs))
    value = a["value"] - b["value"]
    down = np.hypot(a["value"] - a["low"], b["high"] - b["value"])
    up = np.hypot(a["high"] - a["value"], b["value"] - b["low"])
    return {"value": value, "low": value - down, "high": value + up}


def recorded(root: Path) -> dict[str, list[Path]]:
    """The run folders of each protocol below root/fer2013, at the studies' budget."""
    return {protocol: sorted((root / "fer2013").glob(f"{leaking(protocol).name}-s[0-9]*")) for protocol in PROTOCOLS}


def page(root: Path) -> str:
    """The committed runs as Markdown; without any the table is empty."""
    return (
        "# Leaks of the literature\n\nWritten by `make tables` from the records beside this page. compact on FER2013, "
        f"{BUDGETS['study'][0]},\neach beside an honest measurement: of the same run (second and last row), or of the "
        "honest run of its seeds.\nIntervals are bootstraps over images, that of the first difference over seeds too. "
        f"The third difference cannot be\nnegative: a maximum of a curve.\n\n{table(recorded(root))}\n"
    )
