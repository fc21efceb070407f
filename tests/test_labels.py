import numpy as np
import pytest

from ferkit import labels


@pytest.mark.parametrize("name, label", [("angry", 0), ("Happiness", 3), (" SAD ", 4), ("surprised", 5), ("6", 6)])
def test_class_names_in_the_spellings_of_folders(name, label):
    assert labels.class_index(name) == label


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match="unknown class 'joyful'.*happy"):
        labels.class_index("joyful")
    with pytest.raises(ValueError, match="unknown FER.* rule 'mean'.*majority"):
        labels.ferplus_targets(np.zeros((1, 10), int), "mean")
    with pytest.raises(ValueError, match=r"votes must be \(N, 10\)"):
        labels.ferplus_targets(np.zeros((1, 8), int), "majority")


def test_ferplus_classes_have_their_fer2013_names():
    pairs = dict(zip(labels.FERPLUS_CLASSES, labels.FERPLUS_TO_FER, strict=True))
    assert {name: labels.class_index(name) for name in pairs if name != "contempt"} == {
        name: code for name, code in pairs.items() if name != "contempt"
    }


# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF -> targets, None: dropped
CASES = [
    ("majority", [6, 3, 1, 0, 0, 0, 0, 0, 0, 0], {0: 1}),  # the single vote goes first: 6 of 9
    ("majority", [5, 5, 0, 0, 0, 0, 0, 0, 0, 0], None),  # not more than half
    ("majority", [2, 0, 0, 0, 0, 0, 0, 0, 8, 0], None),  # unknown wins
    ("crossentropy", [6, 3, 1, 0, 0, 0, 0, 0, 0, 0], {0: 6 / 9, 1: 3 / 9}),
    ("crossentropy", [8, 2, 0, 0, 0, 0, 0, 0, 0, 0], {0: 1}),  # 80 % is enough
    ("crossentropy", [4, 0, 0, 0, 0, 0, 0, 0, 3, 3], None),  # stops at unknown with 40 %
    ("crossentropy", [0, 0, 2, 2, 2, 2, 2, 0, 0, 0], None),  # a tie of five is too many
    ("multi_target", [4, 4, 2, 0, 0, 0, 0, 0, 0, 0], {0: 0.5, 1: 0.5}),
    ("multi_target", [3, 2, 2, 2, 0, 0, 0, 0, 0, 0], None),  # only one class has 30 %, and that is not half
]


@pytest.mark.parametrize("rule, votes, expected", CASES)
def test_ferplus_rules(rule, votes, expected):
    targets, keep = labels.ferplus_targets(np.array([votes]), rule)
    assert keep[0] == (expected is not None)
    wanted = [(expected or {}).get(i, 0) for i in range(8)]
    np.testing.assert_allclose(targets[0], wanted, rtol=1e-6)


def test_probability_shares_the_targets_of_crossentropy():
    votes = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), 500)
    for a, b in zip(*(labels.ferplus_targets(votes, rule) for rule in ("crossentropy", "probability")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_published_sizes_of_the_test_sets(real_faces):
    if real_faces.votes is None:
        pytest.skip("no fer2013new.csv beside FERKIT_DATA")
    sizes = labels.rule_sizes(real_faces.votes.numpy(), real_faces.usage.numpy())
    assert sizes["majority"][2] == 3153 and sizes["argmax"][2] == 3573
