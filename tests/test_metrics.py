import numpy as np
import pytest
from sklearn import metrics as sk

from ferkit.labels import CLASSES
from ferkit.metrics import evaluate, resamples, softmax


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    labels = rng.choice(7, 500, p=[0.1, 0.02, 0.15, 0.3, 0.2, 0.1, 0.13])
    logits = rng.normal(size=(500, 7)) + 1.5 * np.eye(7)[labels]
    return logits, labels, evaluate(logits, labels, CLASSES)


def test_headlines_are_scikit_learns(example):
    logits, labels, result = example
    predicted = logits.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_f1": sk.f1_score(labels, predicted, average="macro"),
        "nll": sk.log_loss(labels, softmax(logits)),
    }
    for name, value in expected.items():
        assert result[name]["value"] == pytest.approx(value, abs=1e-6)
    assert result["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    precision, recall, f1, n = sk.precision_recall_fscore_support(labels, predicted)
    for i, name in enumerate(CLASSES):
        found = result["per_class"][name]
        wanted = {"precision": precision[i], "recall": recall[i], "f1": f1[i], "n": n[i]}
        assert found == pytest.approx(wanted, abs=1e-6)


def test_ece_is_the_papers_sum_over_bins(example):
    logits, labels, result = example
    p = softmax(logits)
    confidence, hit = p.max(1), p.argmax(1) == labels
    total = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert result["ece"]["value"] == pytest.approx(total, abs=1e-6)


def test_intervals_hold_the_value_and_shrink_with_n(example):
    logits, labels, result = example
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll"):
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]
    large = evaluate(np.tile(logits, (4, 1)), np.tile(labels, 4), CLASSES)
    widths = [r["accuracy"]["high"] - r["accuracy"]["low"] for r in (result, large)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.15)


def test_accuracy_interval_is_near_the_normal_one():
    """74 % of 3,589 images: +-1.4 points, whatever the method."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, 3589)
    predicted = np.where(rng.random(3589) < 0.74, labels, (labels + 1) % 7)
    accuracy = evaluate(np.eye(7)[predicted] * 5, labels, CLASSES)["accuracy"]
    half = 1.96 * np.sqrt(accuracy["value"] * (1 - accuracy["value"]) / 3589)
    assert (accuracy["high"] - accuracy["low"]) / 2 == pytest.approx(half, rel=0.06)


def test_resamples_keep_class_sizes():
    labels = np.array([0] * 5 + [1] * 3)
    drawn = labels[next(resamples(labels, 10))]
    assert (np.sort(drawn, 1) == labels).all()


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (np.zeros((0, 7)), np.zeros(0, int), "do not fit 0 labels"),
        (np.zeros((2, 6)), np.zeros(2, int), "do not fit 2 labels of 7 classes"),
        (np.full((2, 7), np.nan), np.zeros(2, int), "2 images have logits that are not finite"),
    ],
)
def test_impossible_logits_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluate(logits, labels, CLASSES)
