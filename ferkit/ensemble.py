"""Members' saved logits in, one judgement out: ways to combine them, fitted on PublicTest, applied to any split.

A method is a function fit(logits (M, N, C), labels (N,), seed) -> Combination of M members; METHODS names them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ferkit.metrics import log_softmax, softmax

TIE = 0.49  # of the mean probability beside whole and half points: it decides ties and nothing else
RIDGE = 0.01  # pull of class_weights towards equal shares, in nats
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2)  # of stacking, as scikit-learn's C: the larger, the weaker
N_BAGS, N_ROUNDS = 20, 30  # of greedy selection


@dataclass(frozen=True)
class Combination:
    """What a method has learned: call it with logits (M, N, C) of the same members for log-probabilities (N, C).

    weights (M,) sum to 1: the share of each member, by which class-activation maps are averaged too.
    """

    weights: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray]

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        logits = np.asarray(logits, np.float64)
        if logits.ndim != 3 or len(logits) != len(self.weights):
            raise ValueError(f"logits {logits.shape} are not of {len(self.weights)} members: (M, N, C) is wanted")
        return self.combine(logits)


Fit = Callable[..., Combination]  # (logits, labels, seed=0)


def mean_logits(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """The mean of logits: the geometric mean of the members' probabilities, scaled to sum to 1 (Hinton 1999)."""
    return Combination(_equal(logits), lambda x: log_softmax(x.mean(0)))


def mean_probabilities(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """The mean of the members' probabilities."""
    return _pool(_equal(logits))


def majority_vote(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """A vote a member; ties by the mean probability, and shares of the vote for probabilities."""
    return Combination(_equal(logits), lambda x: _points(np.eye(x.shape[2])[x.argmax(2)].sum(0), x))


def borda_count(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """Each member gives a class as many points as it ranks classes below it (Ho et al. 1994); ties as in a vote."""
    from scipy.stats import rankdata

    return Combination(_equal(logits), lambda x: _points((rankdata(x, axis=2) - 1).sum(0), x))


def best_member(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """The one that is right most often (of several, the one of the smaller loss): no ensemble, the baseline."""
    accuracy, loss = (logits.argmax(2) == labels).mean(1), [log_loss(x, labels) for x in logits]
    return _pool(np.eye(len(logits))[max(range(len(logits)), key=lambda m: (accuracy[m], -loss[m]))])


def simplex_weights(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """The mixture of probabilities with the smallest log-loss: a convex problem over weights >= 0 that sum to 1."""
    from scipy.optimize import minimize

    true = np.take_along_axis(softmax(logits), labels[None, :, None].astype(int), 2)[..., 0]  # (M, N)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ true, 1e-12)
        return -np.log(mixed).mean(), -(true / mixed).mean(1)

    found = minimize(
        loss, _equal(logits), jac=True, method="SLSQP", bounds=[(0, 1)] * len(logits),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 500, "ftol": 1e-9},
    ).x.clip(0)  # fmt: skip
    return _pool(found / found.sum())


def class_weights(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """Weights >= 0 of a member's log-probabilities for each class, by the log-loss with a pull towards equal shares."""
    from scipy.optimize import minimize

    n_members, n, n_classes = logits.shape
    log_p, true = log_softmax(logits), np.eye(n_classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(n_members, 1, n_classes)
        combined = log_softmax((weights * log_p).sum(0))
        gradient = (log_p * (np.exp(combined) - true)).sum(1) / n + 2 * RIDGE * (weights[:, 0] - 1 / n_members)
        value = -(combined * true).sum() / n + RIDGE * ((weights - 1 / n_members) ** 2).sum()
        return value, gradient.ravel()

    start = np.full(n_members * n_classes, 1 / n_members)
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start)).x
    weights = weights.reshape(n_members, 1, n_classes)
    return Combination(_shares(weights), lambda x: log_softmax((weights * log_softmax(x)).sum(0)))


def greedy_selection(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """Members added with replacement, each time the one that makes the mean of probabilities right most often, ties by
    log-loss; repeated on random halves of the members, and the choices added up (Caruana et al. 2004)."""
    rng, p, counts = np.random.default_rng(seed), softmax(logits), np.zeros(len(logits))
    for _ in range(N_BAGS if len(logits) > 2 else 1):
        size = -(-len(logits) // 2) if len(logits) > 2 else len(logits)
        counts += _climb(p, labels, rng.permutation(len(logits))[:size])
    return _pool(counts / counts.sum())


def _climb(p: np.ndarray, labels: np.ndarray, bag: np.ndarray) -> np.ndarray:
    """How often each member (M,) was added on the way to the best ensemble of N_ROUNDS, from those in the bag."""
    own, at = p[bag], np.arange(len(labels))
    total, chosen, scores = np.zeros(p.shape[1:]), [], []
    for size in range(1, N_ROUNDS + 1):
        mixed = (total + own) / size  # (bag, N, C)
        accuracy = (mixed.argmax(2) == labels).mean(1)
        loss = -np.log(np.maximum(mixed[:, at, labels], 1e-12)).mean(1)
        best = max(range(len(bag)), key=lambda m: (accuracy[m], -loss[m]))
        total = total + own[best]
        chosen.append(bag[best])
        scores.append((accuracy[best], -loss[best]))
    return np.bincount(chosen[: scores.index(max(scores)) + 1], minlength=len(p))


def stacking(logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """Multinomial logistic regression on the members' log-probabilities (Wolpert 1992), its ridge by cross-validation.

    Where a class has one face alone the ridge is RIDGES' middle. Classes that do not occur get the probability 1e-12.
    Raises ValueError where only one occurs.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    features, (present, sizes) = _features(logits), np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise ValueError(f"stacking needs faces of two classes at least, got {len(labels)} of class {present}")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=RIDGES[len(RIDGES) // 2], tol=1e-3, max_iter=1000))
    with threadpool_limits(1):  # products this small are slower by several threads
        if (n_folds := int(min(5, sizes.min()))) > 1:
            folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
            ridges = {"logisticregression__C": RIDGES}
            search = GridSearchCV(model, ridges, scoring="neg_log_loss", cv=folds, refit=False)
            model.set_params(**search.fit(features, labels).best_params_)
        model.fit(features, labels)
    n_members, _, n_classes = logits.shape

    def combine(x: np.ndarray) -> np.ndarray:
        p = np.full(x.shape[1:], 1e-12)
        p[:, present] = np.maximum(model.predict_proba(_features(x)), 1e-12)
        return np.log(p / p.sum(1, keepdims=True))

    return Combination(_shares(model[-1].coef_.reshape(-1, n_members, n_classes).swapaxes(0, 1)), combine)


METHODS: dict[str, Fit] = {
    "best_member": best_member,
    "mean_logits": mean_logits,
    "mean_probabilities": mean_probabilities,
    "majority_vote": majority_vote,
    "borda_count": borda_count,
    "simplex_weights": simplex_weights,
    "class_weights": class_weights,
    "greedy_selection": greedy_selection,
    "stacking": stacking,
}
ALIASES = {"geometric_mean": "mean_logits"}


def get_method(name: str, tempered: bool = False) -> Fit:
    """The method of that name, `tempered` if wanted; "geometric_mean" is mean_logits. ValueError lists the choices."""
    fit = METHODS.get(ALIASES.get(name, name))
    if fit is None:
        raise ValueError(f"unknown ensemble method {name!r}; choose from {[*METHODS, *ALIASES]}")
    return partial(_fit_tempered, fit) if tempered else fit


def _fit_tempered(fit: Fit, logits: np.ndarray, labels: np.ndarray, seed: int = 0) -> Combination:
    """A method on members that have a temperature each, its result at one more."""
    each = np.array([temperature(member, labels) for member in logits])[:, None, None]
    inner = fit(logits / each, labels, seed)
    whole = temperature(inner(logits / each), labels)
    return Combination(inner.weights, lambda x: log_softmax(inner(x / each) / whole))


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The positive number that logits (N, C) are to be divided by for the smallest log-loss (Guo et al. 2017), within
    1/50 and 50."""
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return log_loss(logits / np.exp(log_t), labels)

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(50), np.log(50)), method="bounded").x))


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the labels (N,) by logits (N, C), in nats."""
    return float(-np.take_along_axis(log_softmax(logits), labels[:, None].astype(int), 1).mean())


def nested(fit: Fit, logits: np.ndarray, labels: np.ndarray, n_repeats: int = 5, seed: int = 0) -> np.ndarray:
    """Accuracies (2 n_repeats,) of what is fitted on one half of the faces and judged on the other, in both directions.

    Halves are stratified and drawn anew each time. Their mean is what a method may expect of new faces, flattered only
    by the members themselves, whose epochs were chosen on the same faces: choose a method by it.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    halves = RepeatedStratifiedKFold(n_splits=2, n_repeats=n_repeats, random_state=seed)
    return np.array(
        [
            (fit(logits[:, ours], labels[ours], seed)(logits[:, others]).argmax(1) == labels[others]).mean()
            for ours, others in halves.split(labels, labels)
        ]
    )


def _equal(logits: np.ndarray) -> np.ndarray:
    return np.full(len(logits), 1 / len(logits))


def _shares(weights: np.ndarray) -> np.ndarray:
    """Sums of absolute weights (M, ...) as shares (M,)."""
    sums = np.abs(weights).reshape(len(weights), -1).sum(1)
    return sums / sums.sum() if sums.sum() else np.full(len(weights), 1 / len(weights))


def _pool(weights: np.ndarray) -> Combination:
    """The mixture of probabilities by weights (M,)."""
    return Combination(weights, lambda x: np.log(np.maximum(np.tensordot(weights, softmax(x), 1), 1e-12)))


def _points(points: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Points (N, C), ties decided by the mean probability, as log-probabilities."""
    points = points + TIE * softmax(logits).mean(0)
    return np.log(np.maximum(points / points.sum(1, keepdims=True), 1e-12))


def _features(logits: np.ndarray) -> np.ndarray:
    """(M, N, C) -> (N, M * C), which are log-probabilities."""
    return log_softmax(logits).transpose(1, 0, 2).reshape(logits.shape[1], -1)
