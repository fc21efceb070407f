import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ferkit import synthetic
from ferkit.drawing import UNITS
from ferkit.labels import CLASSES, ferplus_targets


@pytest.fixture(scope="module")
def drawn():
    return synthetic.embedded_truth(600)


def test_same_seed_same_bytes(drawn):
    again, other = synthetic.embedded_faces(600), synthetic.embedded_faces(600, seed=1)
    for part in ("images", "labels", "usage", "votes"):
        assert torch.equal(getattr(drawn[0], part), getattr(again, part))
    assert not torch.equal(drawn[0].images, other.images)


def test_it_is_an_ordinary_faces_with_every_class_in_every_split(drawn):
    faces, _ = drawn
    assert faces.images.shape == (600, 48, 48) and faces.images.dtype == torch.uint8
    assert (faces.counts() > 0).all() and not faces.is_official
    assert (faces.votes.sum(1) == 10).all()


def test_labels_follow_the_action_units_but_for_the_noise(drawn):
    faces, truth = drawn
    names = np.array([name if name in CLASSES else "neutral" for name in synthetic.EMOTIONS])[truth.emotion]
    agree = np.array(CLASSES)[faces.labels] == names
    assert 0.93 < agree.mean() < 1
    smile = truth.units[:, UNITS.index(12)]
    assert smile[names == "happy"].mean() > 5 * smile[names == "angry"].mean()


def test_votes_mostly_say_what_was_drawn(drawn):
    faces, truth = drawn
    targets, keep = ferplus_targets(faces.votes.numpy(), "majority")
    happy = truth.emotion == synthetic.EMOTIONS.index("happy")
    assert keep.mean() > 0.7 and (targets[keep & happy].argmax(1) == 1).mean() > 0.9


def test_an_action_unit_changes_the_picture_where_it_is_said_to():
    """Draw the same people with one unit at rest and pulled: the change lies mostly in the unit's place."""
    from ferkit.drawing import draw

    _, truth = synthetic.embedded_truth(60)
    n = len(truth.units)
    rest = {unit: np.zeros((n, 1, 1), np.float32) for unit in UNITS}
    before = draw(truth.who, rest)
    for unit in UNITS:
        change = np.abs(draw(truth.who, rest | {unit: np.ones((n, 1, 1), np.float32)}) - before)
        place = truth.place(unit)
        inside = (change * place).sum() / change.sum()
        assert inside > 2 * place.mean() and inside > 0.45, f"action unit {unit}: {inside:.2f} of its change inside"


def test_a_linear_model_on_pixels_is_far_from_the_labels():
    faces = synthetic.embedded_faces()
    training, test = faces.split("Training"), faces.split("PrivateTest")
    model = LogisticRegression(max_iter=1000, tol=0.01, C=0.01)
    model.fit(training.images.flatten(1) / 255, training.labels)
    assert model.score(test.images.flatten(1) / 255, test.labels) < 0.65


def test_too_few_faces():
    with pytest.raises(ValueError, match="at least 20"):
        synthetic.embedded_faces(5)
