"""What each protocol learns from, chooses by and judges: the honest one leaks nothing, the others what they are for."""

from dataclasses import replace

import pytest
import torch

from ferkit import DataError, experiment, records, synthetic
from ferkit.models import create_model
from ferkit.predict import logits
from ferkit.protocols import SORTED, SPLIT_OFF, arrange, balanced, other_protocol
from ferkit.recipe import PROTOCOLS, Recipe

TINY = Recipe("tiny", options={"width": 8, "size": 24}, stages=((2, 24),), lr=0.01, precision="float32")


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


def rows(faces) -> set[int]:
    return set(faces.rows.tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_learned_from_chosen_by_and_judged(protocol, faces):
    there = arrange(faces, replace(TINY, protocol=protocol))
    public, private = rows(faces.split("PublicTest")), rows(faces.split("PrivateTest"))
    assert rows(there.judged["PrivateTest"]) == private
    assert (rows(there.training) & private == private) == (protocol == "test_in_training")
    assert (rows(there.training) & public == public) == (protocol == "with_public")
    assert (rows(there.choosing) & private == private) == (protocol == "choose_on_private")
    assert not rows(there.training) & private or protocol == "test_in_training"
    shared = len(rows(there.training) & rows(there.choosing))
    assert (shared > 0) == (protocol in ("with_public", "augment_first"))


def test_balancing_makes_every_class_as_large_as_the_largest(faces):
    training = faces.split("Training")
    pool = balanced(training)
    assert len(set(pool.labels.bincount().tolist())) == 1
    assert torch.equal(pool.images[: len(training)], training.images)
    labels = dict(zip(training.rows.tolist(), training.labels.tolist(), strict=True))
    assert all(labels[row] == label for row, label in zip(pool.rows.tolist(), pool.labels.tolist(), strict=True))
    assert torch.equal(pool.images, balanced(training).images)


def test_a_sorted_test_set_is_the_same_faces(faces):
    judged = arrange(faces, replace(TINY, protocol="sorted_test")).judged
    assert rows(judged[SORTED]) == rows(judged["PrivateTest"]) and (judged[SORTED].labels.diff() >= 0).all()
    judged = arrange(faces, replace(TINY, protocol="augment_first")).judged
    assert set(judged) == {"PublicTest", "PrivateTest", SPLIT_OFF}


def test_a_leak_is_recorded_as_what_it_is(faces, tmp_path):
    record = experiment.run(replace(TINY, protocol="choose_on_private"), faces, tmp_path / "a")
    assert record["selected"]["by"] == "PrivateTest accuracy"
    assert record["selected"]["accuracy"] == pytest.approx(record["metrics"]["PrivateTest"]["accuracy"]["value"], 1e-5)
    record = experiment.run(replace(TINY, protocol="augment_first"), faces, tmp_path / "b")
    assert record["metrics"][SPLIT_OFF]["n"] == len(arrange(faces, replace(TINY, protocol="augment_first")).choosing)


def test_who_learned_from_a_leaking_run_is_told(faces, tmp_path):
    record = {"recipe": {}, "start": {"file": "compact+protocol=test_in_training-s0/best.safetensors", "sha256": "a"}}
    assert (
        other_protocol(record) == "test_in_training"
        and other_protocol({"recipe": {"protocol": "with_public"}}) == "with_public"
    )
    assert other_protocol({"recipe": {"protocol": "standard"}, "start": {"file": "a+protocol=standard-s0"}}) == ""
    experiment.run(replace(TINY, protocol="with_public"), faces, tmp_path / "run")
    with pytest.raises(DataError, match="parts are those of runs on Training alone"):
        records.measure_parts(tmp_path / "run", {})


def test_attention_over_the_batch_sees_the_company(faces):
    torch.manual_seed(0)
    model, images = create_model("compact", width=8, batch_attention=True), faces.images[:8]
    assert not torch.allclose(logits(model, images, batch_size=1), logits(model, images), atol=1e-3)
    assert torch.allclose(logits(model, images.flip(0)).flip(0), logits(model, images), atol=1e-5)
