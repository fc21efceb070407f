"""Whether confidence means something: calibration beside metrics.py's ECE, and accuracy where a model is sure."""

import numpy as np

from ferkit.metrics import N_BINS, N_RESAMPLES, percentiles, resamples, softmax


def brier(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distance (N,), in [0, 2], of the probabilities from the truth; its mean is Brier's score (Brier 1950)."""
    p = softmax(logits)
    return ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1)


def _adaptive(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The calibration error over 15 bins with as many faces each (Nguyen and O'Connor 2015), in [0, 1].

    Of confidences and hits (N,), or of B resamples of them (B, N): (B,).
    """
    confidence, right = np.atleast_2d(confidence), np.atleast_2d(right)
    order = confidence.argsort(1, kind="stable")
    gap = np.take_along_axis(right - confidence, order, 1)
    edges = np.linspace(0, gap.shape[1], N_BINS + 1).astype(int)
    sums = np.diff(np.concatenate([np.zeros((len(gap), 1)), gap.cumsum(1)], 1)[:, edges], axis=1)
    return np.abs(sums).sum(1) / gap.shape[1]


def _sure(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and hits (N,)."""
    p = softmax(logits)
    return p.max(1), (p.argmax(1) == labels).astype(float)


def calibration(logits: np.ndarray, labels: np.ndarray, n_resamples: int = N_RESAMPLES) -> dict[str, dict[str, float]]:
    """Brier's score and the adaptive ECE, {value, low, high} each, with a stratified bootstrap's 95 % interval."""
    distance, (confidence, right) = brier(logits, labels), _sure(logits, labels)
    scores, errors = [], []
    for rows in resamples(labels, n_resamples):
        scores.append(distance[rows].mean(1))
        errors.append(_adaptive(confidence[rows], right[rows]))
    found = {"brier": (distance.mean(), scores), "adaptive_ece": (_adaptive(confidence, right)[0], errors)}
    return {
        name: {"value": float(value), **dict(zip(("low", "high"), percentiles(np.concatenate(drawn)), strict=True))}
        for name, (value, drawn) in found.items()
    }


def selective_accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverages in (0, 1] and the accuracy of the most confident faces at each (K,): one minus the risk-coverage curve
    (Geifman and El-Yaniv 2017, arXiv 1705.08500). Faces of equal confidence come together."""
    confidence, right = _sure(logits, labels)
    order = (-confidence).argsort(kind="stable")
    last = np.append(np.diff(confidence[order]) != 0, True)  # of each group of equals
    n = np.arange(1, len(right) + 1)
    return (n / len(right))[last], (right[order].cumsum() / n)[last]
