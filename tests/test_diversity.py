import numpy as np
import pytest

from ferkit import diversity
from ferkit.ensemble import METHODS


def test_pairs_on_a_case_worked_by_hand():
    """Two members on ten faces: both right on 5, one alone on 2, the other alone on 1, both wrong on 2."""
    hits = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 1, 0, 0]], bool)
    assert diversity.double_fault(hits)[0, 1] == pytest.approx(0.2)
    assert diversity.error_overlap(hits)[0, 1] == pytest.approx(2 / 5)
    assert diversity.q_statistic(hits)[0, 1] == pytest.approx((5 * 2 - 2 * 1) / (5 * 2 + 2 * 1))
    predicted = np.array([[0, 1, 2], [0, 2, 2]])
    assert diversity.disagreement(predicted).tolist() == [[0, 1 / 3], [1 / 3, 0]]


def test_q_of_independent_members_is_near_zero_and_of_identical_ones_is_one():
    hits = np.random.default_rng(0).random((2, 20000)) < 0.7
    q = diversity.q_statistic(hits)
    assert abs(q[0, 1]) < 0.05 and q[0, 0] == 1
    assert diversity.error_overlap(np.ones((2, 5), bool)).tolist() == [[1, 1], [1, 1]]


def test_leaving_out_the_only_member_that_knows_costs_the_most():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = rng.normal(size=(4, 300, 3))
    logits[2] += 2.5 * np.eye(3)[labels]
    loss = diversity.leave_one_out(METHODS["simplex_weights"], (logits, logits), (labels, labels))
    assert loss.argmax() == 2 and loss[2] > 0.3 and np.abs(np.delete(loss, 2)).max() < 0.05


def test_by_size_draws_each_ensemble_once():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 200), rng.normal(size=(5, 200, 3))
    curve = diversity.by_size(logits, labels, n_draws=200)
    assert (
        [len(values) for values in curve]
        == [5, 10, 10, 5, 1]
        == [len(values) for values in diversity.by_size(logits, labels, n_draws=10)]
    )
    assert sorted(curve[0]) == sorted((logits.argmax(2) == labels).mean(1))
