import numpy as np
import pytest
from scipy.optimize import minimize

from ferkit import ensemble
from ferkit.ensemble import METHODS, get_method, nested, temperature
from ferkit.metrics import log_softmax, softmax

N_CLASSES = 4


def noisy(n, skill, seed, labels):
    """Logits (n, C) that are right the more often the larger `skill` is."""
    return np.random.default_rng(seed).normal(size=(n, N_CLASSES)) + skill * np.eye(N_CLASSES)[labels]


@pytest.fixture(scope="module")
def case():
    """Two useful members and one that knows nothing; half of the faces to fit on, half to judge on."""
    labels = np.random.default_rng(0).integers(0, N_CLASSES, 800)
    logits = np.stack([noisy(800, skill, seed, labels) for seed, skill in enumerate((1.5, 1.2, 0.0))])
    return logits[:, :400], labels[:400], logits[:, 400:], labels[400:]


def accuracy(scores, labels):
    return (scores.argmax(1) == labels).mean()


@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_distributions_and_shares(case, method, tempered):
    logits, labels, others, _ = case
    combination = get_method(method, tempered)(logits, labels)
    assert combination.weights.shape == (3,) and combination.weights.sum() == pytest.approx(1)
    assert (combination.weights >= 0).all()
    scores = combination(others)
    assert scores.shape == others.shape[1:] and np.exp(scores).sum(1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_member_and_identical_members_say_what_it_says(case, method):
    logits, labels, others, _ = case
    for copies in (1, 3):
        combination = get_method(method)(np.repeat(logits[:1], copies, 0), labels)
        same = (combination(np.repeat(others[:1], copies, 0)).argmax(1) == others[0].argmax(1)).mean()
        assert same == 1 if method not in ("stacking", "class_weights") else same > 0.9  # these shift classes


@pytest.mark.parametrize("method", ["simplex_weights", "class_weights", "greedy_selection", "stacking"])
def test_useless_members_are_found_out(case, method):
    """Fitted methods give them the least; the plain mean does not, and is worse."""
    logits, labels, others, truth = case
    noise = np.random.default_rng(5).normal(size=(4, 800, N_CLASSES))
    logits, others = np.concatenate([logits, noise[:, :400]]), np.concatenate([others, noise[:, 400:]])
    combination = get_method(method)(logits, labels)
    assert combination.weights[2:].max() < combination.weights[:2].min()
    assert accuracy(combination(others), truth) >= accuracy(
        get_method("mean_probabilities")(logits, labels)(others), truth
    )


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("best_member", "majority_vote")])
def test_members_that_complement_each_other_are_right_together(method):
    """Each knows half of the classes and is indifferent between the others; of a vote that would be a tie too many."""
    labels = np.random.default_rng(1).integers(0, N_CLASSES, 400)
    sure = 6.0 * np.eye(N_CLASSES)[labels]
    members = np.stack([np.where((labels < 2)[:, None], sure, 0.0), np.where((labels >= 2)[:, None], sure, 0.0)])
    assert accuracy(get_method(method)(members, labels)(members), labels) == 1
    assert accuracy(get_method("best_member")(members, labels)(members), labels) < 0.8


def test_mean_of_logits_is_the_geometric_mean(case):
    logits, labels, others, _ = case
    p = softmax(others).prod(0) ** (1 / 3)
    for name in ("mean_logits", "geometric_mean"):
        assert np.exp(get_method(name)(logits, labels)(others)) == pytest.approx(p / p.sum(1, keepdims=True))


def test_ties_go_to_the_higher_mean_probability():
    """Two votes for class 0, two for class 1, and those for 1 are surer."""
    votes = np.log([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])[:, None]
    for name in ("majority_vote", "borda_count"):
        assert METHODS[name](votes, np.array([0]))(votes).argmax(1) == [1]
    sure = np.log([[0.34, 0.33, 0.33], [0.34, 0.33, 0.33], [0.005, 0.99, 0.005]])[:, None]
    assert METHODS["majority_vote"](sure, np.array([0]))(sure).argmax(1) == [0]  # two votes beat one, however sure


def test_borda_counts_ranks():
    """First, last and last against three times second: 2 + 0 + 0 against 3 points."""
    ranks = np.log([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])[:, None]
    points = np.exp(METHODS["borda_count"](ranks, np.array([0]))(ranks))[0]
    assert points.argsort().tolist() == [0, 1, 2]  # 2, 3 and 4 points


def test_simplex_weights_are_the_optimum(case):
    logits, labels, *_ = case
    true = softmax(logits)[:, np.arange(len(labels)), labels]

    def loss(free):
        weights = softmax(free)
        return -np.log(weights @ true).mean()

    found = METHODS["simplex_weights"](logits, labels).weights
    assert -np.log(found @ true).mean() == pytest.approx(minimize(loss, np.zeros(3)).fun, abs=1e-5)


def test_class_weights_are_the_optimum(case):
    """By a search that is not told the gradient."""
    logits, labels, *_ = case

    def loss(flat):
        weights = flat.reshape(3, 1, N_CLASSES)
        scores = log_softmax((weights * log_softmax(logits)).sum(0))
        return ensemble.log_loss(scores, labels) + ensemble.RIDGE * ((weights - 1 / 3) ** 2).sum()

    wanted = minimize(loss, np.full(12, 1 / 3), method="L-BFGS-B", bounds=[(0, None)] * 12).x.reshape(3, 1, N_CLASSES)
    found = METHODS["class_weights"](logits, labels)(logits)
    assert found == pytest.approx(log_softmax((wanted * log_softmax(logits)).sum(0)), abs=0.01)


def test_temperature_undoes_a_scale(case):
    logits, labels, *_ = case
    calibrated = log_softmax(logits[0]) / temperature(logits[0], labels)
    assert temperature(calibrated, labels) == pytest.approx(1, abs=1e-3)
    assert temperature(3 * calibrated, labels) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_never_occurs(case, method):
    logits, labels, others, truth = case
    there = labels != 3
    scores = get_method(method)(logits[:, there], labels[there])(others)
    assert np.isfinite(scores).all() and accuracy(scores[truth != 3], truth[truth != 3]) > 0.5


def test_what_is_fitted_is_judged_on_other_faces():
    """Members of pure noise: fitted on all faces the choice looks better than chance, nested it does not."""
    rng = np.random.default_rng(3)
    labels, logits = rng.integers(0, N_CLASSES, 400), rng.normal(size=(30, 400, N_CLASSES))
    fitted = accuracy(METHODS["best_member"](logits, labels)(logits), labels)
    expected = nested(METHODS["best_member"], logits, labels, 10)
    assert len(expected) == 20 and fitted > 0.28 and abs(expected.mean() - 0.25) < 0.02


def test_errors_say_what_is_wrong(case):
    logits, labels, *_ = case
    with pytest.raises(ValueError, match="unknown ensemble method 'best'; choose from"):
        get_method("best")
    with pytest.raises(ValueError, match="are not of 3 members"):
        METHODS["mean_logits"](logits, labels)(logits[:2])
    with pytest.raises(ValueError, match="two classes at least, got 1 of class"):
        METHODS["stacking"](logits[:, :1], labels[:1])
