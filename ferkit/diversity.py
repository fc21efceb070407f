"""How differently members err, what each adds, and what more of them cost (Kuncheva and Whitaker 2003)."""

import time
from itertools import combinations
from math import comb

import numpy as np
from torch import Tensor

from ferkit.ensemble import Fit
from ferkit.metrics import softmax
from ferkit.models import create_model
from ferkit.models.outline import cost
from ferkit.predict import logits as judge


def disagreement(predicted: np.ndarray) -> np.ndarray:
    """Shares (M, M) of the faces that two members, predictions (M, N), take for different classes."""
    return (predicted[:, None] != predicted[None]).mean(2)


def q_statistic(hits: np.ndarray) -> np.ndarray:
    """Yule's Q (M, M) of hits (M, N), in [-1, 1]: 0 for members that err independently, 1 where they err together.

    nan where it is undefined, which takes two members of which one is always right or always wrong.
    """
    right, wrong = hits.astype(float), 1.0 - hits
    agree, differ = (right @ right.T) * (wrong @ wrong.T), (right @ wrong.T) * (wrong @ right.T)
    with np.errstate(invalid="ignore"):
        return (agree - differ) / (agree + differ)


def double_fault(hits: np.ndarray) -> np.ndarray:
    """Shares (M, M) of the faces on which both are wrong."""
    wrong = 1.0 - hits
    return wrong @ wrong.T / hits.shape[1]


def error_overlap(hits: np.ndarray) -> np.ndarray:
    """Of the faces that either gets wrong, the share (M, M) that both get wrong; 1 for two that never err."""
    wrong = 1.0 - hits
    both = wrong @ wrong.T
    either = wrong.sum(1)[:, None] + wrong.sum(1)[None] - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def by_size(logits: np.ndarray, labels: np.ndarray, n_draws: int = 30, seed: int = 0) -> list[np.ndarray]:
    """Accuracies of the mean of probabilities of m random members, m = 1 … M: of n_draws ensembles each, or of all that
    there are where they are fewer. Nothing is chosen."""
    p, rng, curve = softmax(logits), np.random.default_rng(seed), []
    for size in range(1, len(p) + 1):
        drawn = set(combinations(range(len(p)), size)) if comb(len(p), size) <= n_draws else set()
        while len(drawn) < min(n_draws, comb(len(p), size)):
            drawn.add(tuple(sorted(rng.permutation(len(p))[:size].tolist())))
        curve.append(np.array([(p[list(some)].mean(0).argmax(1) == labels).mean() for some in sorted(drawn)]))
    return curve


def costs(recipes: list[dict], n_classes: int, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """GFLOPs and milliseconds (M,) a face that each recipe's network takes; the time is of this CPU now, the better of
    two passes over uint8 images (N, H, W)."""
    gflops, milliseconds = [], []
    for recipe in recipes:
        model, seconds = create_model(recipe["model"], n_classes, **recipe["options"]), []
        gflops.append(cost(model)[1])
        for _ in range(2):
            begin = time.perf_counter()
            judge(model, images)
            seconds.append(time.perf_counter() - begin)
        milliseconds.append(1000 * min(seconds) / len(images))
    return np.array(gflops), np.array(milliseconds)


def leave_one_out(
    fit: Fit, logits: tuple[np.ndarray, np.ndarray], labels: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> np.ndarray:
    """What accuracy (M,) falls by without each member; logits (M, N, C) and labels (N,) to fit on and to judge on."""

    def accuracy(rows: np.ndarray) -> float:
        combination = fit(logits[0][rows], labels[0], seed)
        return float((combination(logits[1][rows]).argmax(1) == labels[1]).mean())

    every = np.arange(len(logits[0]))
    return accuracy(every) - np.array([accuracy(every[every != i]) for i in every])
