"""Methods against maps that know nothing, on the same faces, and what covering a part of the face costs."""

import numpy as np
import torch
from torch import Tensor

from ferkit.comparison import points
from ferkit.corruptions import EYES, MOUTH
from ferkit.faithfulness import BASELINES, energy_inside, filled
from ferkit.judge import Judge
from ferkit.markdown import markdown_table
from ferkit.metrics import holm, paired_difference

Scores = dict[str, np.ndarray]  # of each kind of map, baselines among them, (N,): higher is better
Differences = dict[str, dict[str, dict]]  # {method: {baseline: metrics.paired_difference}}


def difference(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> dict:
    """metrics.paired_difference of one value a face, (N,)."""
    return paired_difference(np.asarray(ours, float)[None], np.asarray(theirs, float)[None], np.asarray(labels))


def against_baselines(scores: Scores, labels: np.ndarray) -> Differences:
    """How much better each method is than each baseline, on the same faces."""
    methods = [name for name in scores if name not in BASELINES]
    return {m: {b: difference(scores[m], scores[b], labels) for b in BASELINES} for m in methods}


def better(tables: dict[str, Differences]) -> dict[tuple[str, str, str], bool]:
    """Whether a method beats a baseline by a measure, for (measure, method, baseline): p < 0.05 after Holm's correction
    for all that is compared by that measure (more would be beyond what a bootstrap's p can say)."""
    won = {}
    for what, table in tables.items():
        each = {(what, m, b): d for m, row in table.items() for b, d in row.items()}
        adjusted = holm([d["p"] for d in each.values()])
        won |= {key: p < 0.05 and d["value"] > 0 for (key, d), p in zip(each.items(), adjusted, strict=True)}
    return won


def unbeaten(tables: dict[str, Differences]) -> dict[str, dict[str, list[str]]]:
    """{baseline: {method: the measures by which it does not beat it}}, without methods that always do."""
    failed: dict[str, dict[str, list[str]]] = {b: {} for b in BASELINES}
    for (what, m, b), won in better(tables).items():
        if not won:
            failed[b].setdefault(m, []).append(what)
    return failed


def verdict_table(tables: dict[str, Differences]) -> str:
    """A row a method: what it beats by each measure, and by how much the stronger baseline, as Markdown."""
    won, lines = better(tables), []
    for m in next(iter(tables.values())):
        cells = []
        for what, table in tables.items():
            beaten = [b for b in BASELINES if won[what, m, b]]
            words = "both" if len(beaten) == len(BASELINES) else f"the {beaten[0]} only" if beaten else "**neither**"
            cells.append(f"{words}: {points(min(table[m].values(), key=lambda d: d['value']))}")
        lines.append([m, *cells])
    return markdown_table(("beats, by", *tables), lines)


def face_parts(faces_name: str) -> dict[str, tuple[float, ...]]:
    """Boxes (top, bottom, left, right, of the side) of five parts, corruptions' EYES and MOUTH among them.

    Brows end and eyes begin by eye, on the mean face: of FER2013, or lower on the drawn ones.
    """
    cut = 0.38 if faces_name == "embedded" else 0.33
    return {"forehead": (0.05, EYES[0], *EYES[2:]), "brows": (EYES[0], cut, *EYES[2:]), "eyes": (cut, *EYES[1:]),
            "nose": (EYES[1], MOUTH[0], *MOUTH[2:]), "mouth": MOUTH}  # fmt: skip


def region(box: tuple[float, ...], images: Tensor) -> Tensor:
    """Whether a pixel lies in the box, bool (N, H, W)."""
    top, bottom, left, right = (round(images.shape[-1] * value) for value in box)
    inside = torch.zeros(images.shape, dtype=torch.bool)
    inside[:, top:bottom, left:right] = True
    return inside


def cover(images: Tensor, box: tuple[float, ...]) -> Tensor:
    """Faces uint8 (N, H, W) whose box has the face's mean grey."""
    return torch.where(region(box, images), filled(images, "grey"), images)


def promised(maps: Tensor, boxes: dict[str, tuple[float, ...]]) -> np.ndarray:
    """The share of each map in each part, (N, parts)."""
    return np.stack([energy_inside(maps, region(box, maps)) for box in boxes.values()], 1)


def lost(judge: Judge, images: Tensor, classes: Tensor, boxes: dict[str, tuple[float, ...]]) -> np.ndarray:
    """By how much the probability of a class (N,) falls where each part is covered, (N, parts)."""
    seen = [images, *(cover(images, box) for box in boxes.values())]
    p = torch.stack([judge(some).softmax(1)[range(len(images)), classes] for some in seen])
    return (p[0] - p[1:]).T.numpy()
