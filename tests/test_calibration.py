import numpy as np
import pytest
from sklearn.metrics import brier_score_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from ferkit import calibration, metrics


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 900)
    return 2 * rng.normal(size=(900, 4)) + 1.5 * np.eye(4)[labels], labels


def adaptive_ece(logits, labels):
    return calibration.calibration(logits, labels, n_resamples=2)["adaptive_ece"]["value"]


def test_brier_is_scikit_learns(case):
    logits, labels = case
    p = metrics.softmax(logits)
    each = [brier_score_loss(labels == c, p[:, c]) for c in range(4)]  # one class against the rest, summed
    assert calibration.brier(logits, labels).mean() == pytest.approx(sum(each))


def test_adaptive_ece_by_a_loop(case):
    logits, labels = case
    p = metrics.softmax(logits)
    order = p.max(1).argsort()
    bins = np.array_split(order, 15)
    gaps = [abs((p[b].argmax(1) == labels[b]).mean() - p[b].max(1).mean()) * len(b) for b in bins]
    assert adaptive_ece(logits, labels) == pytest.approx(sum(gaps) / len(labels))


def test_honest_probabilities_are_calibrated():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(4), 20000)
    labels = (p.cumsum(1) > rng.random((20000, 1))).argmax(1)
    assert adaptive_ece(np.log(p), labels) < 0.015
    assert adaptive_ece(3 * np.log(p), labels) > 0.1  # too sure


def test_intervals_hold_their_values(case):
    found = calibration.calibration(*case, n_resamples=400)
    assert found["brier"]["low"] < found["brier"]["value"] < found["brier"]["high"]
    assert 0 < found["adaptive_ece"]["low"] < found["adaptive_ece"]["high"] < 1


def test_selective_accuracy_on_a_case_worked_by_hand():
    """Confidences 0.9 right, 0.8 twice (right and wrong), 0.6 wrong."""
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    coverage, accuracy = calibration.selective_accuracy(np.log(p), np.array([0, 0, 1, 1]))
    assert coverage == pytest.approx([0.25, 0.75, 1]) and accuracy == pytest.approx([1, 2 / 3, 0.5])


def test_mcnemar_and_holm_are_statsmodels():
    rng = np.random.default_rng(2)
    ours, theirs = rng.random(500) < 0.7, rng.random(500) < 0.6
    table = [[(ours & theirs).sum(), (ours & ~theirs).sum()], [(~ours & theirs).sum(), (~ours & ~theirs).sum()]]
    assert metrics.mcnemar(ours, theirs) == pytest.approx(mcnemar(table, exact=True).pvalue)
    p = rng.random(7) ** 3
    assert metrics.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
