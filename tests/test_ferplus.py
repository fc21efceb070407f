from dataclasses import replace

import pytest
import torch

from ferkit import DataError, experiment, ferplus, records, sources, synthetic
from ferkit.labels import FERPLUS_CLASSES, UNLABELLED
from ferkit.losses import vote_targets
from ferkit.recipe import Recipe


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(300)


def test_each_split_follows_its_rule():
    # one face a split and kind: a clear majority, a tie, nobody agrees, not a face
    kinds = [[0, 9, 1, 0, 0, 0, 0, 0, 0, 0], [0, 5, 5, 0, 0, 0, 0, 0, 0, 0], [1] * 10, [0] * 9 + [10]]
    votes = torch.tensor(kinds * 3, dtype=torch.uint8)
    faces = replace(synthetic.embedded_faces(20)[:12], votes=votes, usage=torch.arange(3).repeat_interleave(4).byte())
    ours = ferplus.as_ferplus(faces)
    assert ours.classes == FERPLUS_CLASSES and ours.name == "embedded-ferplus"
    assert [len(ours.split(usage)) for usage in ("Training", "PublicTest", "PrivateTest")] == [2, 1, 3]
    training = ours.split("Training")
    assert ferplus.learnable(training, "labels").rows.tolist() == [0]
    assert ferplus.learnable(training, "votes").rows.tolist() == [0, 1]
    assert vote_targets(training)[1].tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0]
    assert ferplus.strict(ours.split("PrivateTest")).labels.tolist() == [1]


def test_a_record_of_ferplus_has_both_test_sets(faces, tmp_path):
    ours = ferplus.as_ferplus(faces)
    recipe = Recipe("f", options={"width": 8}, targets="votes", stages=((1, 24),), batch_size=32, precision="float32")
    record = experiment.run(recipe, ours, tmp_path / "run")
    n = record["data"]["n"]
    assert record["metrics"]["PrivateTest"]["n"] == n["PrivateTest"] < n["PrivateTest argmax"]
    assert record["metrics"]["PrivateTest argmax"]["n"] == n["PrivateTest argmax"] == len(ours.split("PrivateTest"))
    assert n["Training"] == len(ferplus.learnable(ours.split("Training"), "votes"))
    assert records.disagreements(record["metrics"], records.measure(tmp_path / "run")) == []


def test_votes_and_a_known_labelling_are_needed(faces):
    with pytest.raises(DataError, match="has no FER\\+ votes; put fer2013new.csv beside"):
        ferplus.as_ferplus(replace(faces, votes=None))
    with pytest.raises(ValueError, match="unknown labels 'affectnet'; choose from"):
        sources.load(labels="affectnet")


def test_the_published_sizes(real_faces):
    if real_faces.votes is None:
        pytest.skip("no fer2013new.csv beside FERKIT_DATA")
    ours = ferplus.as_ferplus(real_faces)
    assert ours.is_official and ours.name == "ferplus" and (ours.labels != UNLABELLED).all()
    assert [len(ferplus.learnable(ours.split("Training"), t)) for t in ("labels", "votes")] == [25060, 27956]
    private = ours.split("PrivateTest")
    assert (len(ours.split("PublicTest")), len(private), len(ferplus.strict(private))) == (3199, 3573, 3153)
