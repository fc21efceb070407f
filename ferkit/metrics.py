"""Logits in, numbers out: accuracy, balanced accuracy, macro F1, calibration, per class, bootstrap intervals."""

from collections.abc import Callable, Iterator

import numpy as np

N_BINS = 15  # of the expected calibration error (Guo et al. 2017, arXiv 1706.04599)
N_RESAMPLES = 2000
HEADLINES = ("accuracy", "balanced_accuracy", "macro_f1", "ece", "nll")


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., C) -> probabilities (..., C), float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(..., C) -> log-probabilities (..., C), float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def confusion(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (n_classes, n_classes): rows are the true class, columns the predicted one."""
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 (..., C) of confusion matrices (..., C, C); 0 where a class never occurs."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(float)
    predicted, true = matrix.sum(-2), matrix.sum(-1)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(predicted + true, 1),
    }


def _headlines(labels: np.ndarray, probabilities: np.ndarray) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from resamples (B, N) of row numbers to each headline (B,); the per-image work is done once."""
    n, n_classes = probabilities.shape
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    cell = labels * n_classes + predicted
    error = (predicted == labels) - confidence
    bins = np.minimum((np.ceil(confidence * N_BINS) - 1).astype(int), N_BINS - 1)
    loss = -np.log(np.maximum(probabilities[np.arange(n), labels], 1e-12))
    present = np.bincount(labels, minlength=n_classes) > 0

    def compute(resampled: np.ndarray) -> dict[str, np.ndarray]:
        b = len(resampled)
        offset = np.arange(b)[:, None]
        cells = np.bincount((cell[resampled] + offset * n_classes**2).ravel(), minlength=b * n_classes**2)
        matrix = cells.reshape(b, n_classes, n_classes)
        scores = per_class(matrix)
        gap = np.bincount((bins[resampled] + offset * N_BINS).ravel(), error[resampled].ravel(), b * N_BINS)
        return {
            "accuracy": np.trace(matrix, axis1=1, axis2=2) / n,
            "balanced_accuracy": scores["recall"][:, present].mean(1),
            "macro_f1": scores["f1"][:, present].mean(1),
            "ece": np.abs(gap.reshape(b, N_BINS)).sum(1) / n,
            "nll": loss[resampled].mean(1),
        }

    return compute


def resamples(labels: np.ndarray, n_resamples: int = N_RESAMPLES, chunk: int = 250) -> Iterator[np.ndarray]:
    """The bootstrap's row numbers (up to `chunk`, N) a turn, the same whenever asked for the same labels.

    Stratified: every class is resampled within itself, so that class sizes stay (Efron 1979).
    """
    rng, strata = np.random.default_rng(0), [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        yield np.concatenate([rows[rng.integers(0, len(rows), (size, len(rows)))] for rows in strata], 1)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of a bootstrap's values: the ends of a 95 % interval."""
    low, high = np.percentile(values, (2.5, 97.5))
    return round(float(low), 6), round(float(high), 6)


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], n_resamples: int = N_RESAMPLES) -> dict:
    """Every metric of logits (N, C) against labels (N,), as plain JSON values; each headline as {value, low, high}.

    low and high are the ends of a stratified bootstrap's 95 % interval: they speak of the images that were drawn, not
    of the seeds of training; those of ECE lie high, since a resample's bins are noisier. ECE has 15 equal bins; nll is
    in nats; macro means go over the classes that occur. Raises ValueError for no images, a shape mismatch or infinite
    logits.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.shape != (len(labels), len(classes)) or not len(labels):
        raise ValueError(f"logits {logits.shape} do not fit {len(labels)} labels of {len(classes)} classes")
    if not np.isfinite(logits).all():
        raise ValueError(f"{(~np.isfinite(logits)).any(1).sum()} images have logits that are not finite")
    compute = _headlines(labels, softmax(logits))
    point = compute(np.arange(len(labels))[None])
    chunks = [compute(rows) for rows in resamples(labels, n_resamples)]
    matrix = confusion(labels, logits.argmax(1), len(classes))
    scores = per_class(matrix)
    result: dict = {"n": len(labels)}
    for name in HEADLINES:
        low, high = percentiles(np.concatenate([chunk[name] for chunk in chunks]))
        result[name] = {"value": round(float(point[name][0]), 6), "low": low, "high": high}
    result["per_class"] = {
        name: {key: round(float(scores[key][i]), 6) for key in scores} | {"n": int(matrix[i].sum())}
        for i, name in enumerate(classes)
    }
    result["confusion"] = matrix.tolist()
    return result


def mean_accuracy(hits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean accuracy of several seeds' hits (S, N) on the same images, {value, low, high}: a stratified bootstrap."""
    mean = hits.mean(0)
    low, high = percentiles(np.concatenate([mean[rows].mean(1) for rows in resamples(labels)]))
    return {"value": float(mean.mean()), "low": low, "high": high}


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The exact two-sided p of two classifiers' hits, bool (N,) each, on the same images (McNemar 1947)."""
    from scipy.stats import binomtest

    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(only_ours, only_ours + only_theirs).pvalue) if only_ours + only_theirs else 1.0


def paired_difference(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, n_resamples: int = N_RESAMPLES) -> dict:
    """The difference in accuracy of two recipes on the same images, {value, low, high, p}.

    ours (S, N) and theirs (T, N): hits of each seed. The 95 % interval and the two-sided p are a bootstrap's that draws
    images, the same for both (stratified), and seeds, for each recipe on its own: with one seed it speaks of the images
    alone, with a few it is somewhat too narrow. Raises ValueError for shapes that do not fit.
    """
    if ours.shape[1:] != labels.shape or theirs.shape[1:] != labels.shape:
        raise ValueError(f"hits {ours.shape} and {theirs.shape} do not fit {len(labels)} labels")
    rng, differences = np.random.default_rng(1), []
    for rows in resamples(labels, n_resamples):
        drawn = []
        for hits in (ours, theirs):
            weights = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), len(rows)) / len(hits)
            per_seed = np.stack([seed[rows].mean(1) for seed in hits.astype(np.float32)], 1)  # (B, S)
            drawn.append((weights * per_seed).sum(1))
        differences.append(drawn[0] - drawn[1])
    values = np.concatenate(differences)
    low, high = percentiles(values)
    tail = min((values <= 0).mean(), (values >= 0).mean())
    p = min(1.0, 2 * max(tail, 1 / len(values)))
    return {"value": float(ours.mean() - theirs.mean()), "low": low, "high": high, "p": float(p)}


def t_interval(values: list[float]) -> dict[str, float]:
    """Mean of independent values, one a seed, with the 95 % interval of Student's t; infinite for a single one."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else np.inf
    return {"value": mean, "low": mean - half, "high": mean + half}


def holm(p_values: list[float]) -> list[float]:
    """p values of a family, adjusted so that the chance of any false alarm in it stays below the level (Holm 1979)."""
    order, adjusted, largest = np.argsort(p_values), np.empty(len(p_values)), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted.tolist()
