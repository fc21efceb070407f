"""Weights for the package and their card: written from a result, refused from anything else, read by predict."""

import json

import pytest
import torch
from PIL import Image

from ferkit import DataError, atomic, audit, cli, model_card, records, shipping
from ferkit.labels import CLASSES
from ferkit.models import create_model
from ferkit.predict import logits
from ferkit.recipe import Recipe
from ferkit.synthetic import embedded_faces
from ferkit.weights import load_weights, save_weights

ROOT = atomic.project_root()
COMMITTED = ROOT / "results" / "fer2013" / "compact-s0"


@pytest.fixture
def run(tmp_path):
    """A folder as of a finished run: the committed record, its data's fingerprint that of drawn faces, and weights."""
    faces, record = embedded_faces(60, seed=0), records.read_record(COMMITTED)
    record["data"]["fingerprint"] = faces.fingerprint
    folder = tmp_path / "compact-s0"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(record))
    torch.manual_seed(0)
    save_weights(create_model("compact"), folder / "best.safetensors", Recipe(**record["recipe"]), CLASSES)
    return folder, faces, record


def test_shipped_weights_are_small_and_judge_as_the_run(run, tmp_path, monkeypatch, capsys):
    folder, faces, record = run
    place = tmp_path / "assets" / "compact.safetensors"
    assert shipping.ship(folder, faces, place) <= shipping.TOLERANCE
    assert place.stat().st_size < 2_000_000
    model, recipe, classes = load_weights(place)
    assert classes == CLASSES and recipe == Recipe(**record["recipe"])
    images = faces.split("PublicTest").images
    wanted = logits(load_weights(folder / "best.safetensors")[0], images)
    torch.testing.assert_close(logits(model, images), wanted, atol=shipping.TOLERANCE, rtol=0)
    Image.fromarray(images[0].numpy()).save(tmp_path / "face.png")
    monkeypatch.setattr("ferkit.weights.SHIPPED", place)
    assert cli.main(["predict", str(tmp_path / "face.png"), "--no-detect"]) == 0
    assert "face.png     1  0,0 48x48" in capsys.readouterr().out
    shipping.write_card(place)
    assert place.with_suffix(".md").read_text() == shipping.shipped_card(place)


def test_what_is_no_result_is_not_shipped(run, tmp_path):
    folder, faces, record = run
    place = tmp_path / "compact.safetensors"
    with pytest.raises(DataError, match="was measured on .*these are"):
        shipping.ship(folder, embedded_faces(60, seed=1), place)
    (folder / "record.json").write_text(json.dumps(record | {"recipe": record["recipe"] | {"seed": 5}}))
    with pytest.raises(DataError, match="of another recipe than its record"):
        shipping.ship(folder, faces, place)
    for changed in ({"recipe": record["recipe"] | {"name": "compact-quick"}}, {"batch_independence": 0.1}):
        (folder / "record.json").write_text(json.dumps(record | changed))
        with pytest.raises(ValueError, match="compact-s0: no result.*it is not shipped"):
            shipping.ship(folder, faces, place)
    assert not place.exists()


def test_what_float16_changes_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "TOLERANCE", 0.0)
    with pytest.raises(DataError, match="in float16 a logit moves by"):
        shipping.ship(*run[:2], tmp_path / "a.safetensors")
    monkeypatch.setattr(shipping, "TOLERANCE", 0.02)
    monkeypatch.setattr(shipping, "LARGEST", 1_000_000)
    with pytest.raises(DataError, match="2.0 MB of weights; at most 1 MB are shipped"):
        shipping.ship(*run[:2], tmp_path / "a.safetensors")


def test_a_card_says_what_its_record_says():
    record, report = records.read_record(COMMITTED), audit.load_audit(audit.audit_file("fer2013"))
    text = model_card.card(record, "results/fer2013/compact-s0/record.json", records.measure_parts(COMMITTED, report))
    for part in (
        "28,709 of Training, 3,589 of PublicTest, 3,589 of PrivateTest", "| PrivateTest | 3,589 | 68.2 (66.8–69.8) |",
        "| of these without a copy in Training | 2,865 | ", "| disgust | 55 | 52.7 (39.8–65.3) |", "angry 24%",
        "fear (45% recognised) and sad (50% recognised) are its weakest", "Article 5(1)(f)", "Outside data: none",
        "`results/fer2013/compact-s0/record.json`",
    ):  # fmt: skip
        assert part in text
    assert max(len(line) for line in text.splitlines() if line[:1] != "|") <= 120
    assert "its detector finds" not in text
    share = {"value": 75.04, "low": 70.0, "high": 80.0}
    found = {
        "n": 9,
        "weights": "x",
        "found, %": share,
        "found by class, %": {"sad": share, "happy": share | {"value": 80}},
    }
    found |= {"accuracy on the faces found, %": {"given": share, "cut out": share | {"value": 66.6}}}
    told = model_card.card(record, "x", {}, found)
    assert "faces its detector finds 75.0 % (70.0–80.0), of sad 75 %" in told and "66.6 % (70.0–80.0) are read" in told
    assert "are read rightly" not in model_card.card(record, "other weights", {}, found)
    other = model_card.card(record | {"recipe": record["recipe"] | {"targets": "votes"}}, "x", {})
    assert "Outside data: FER+ votes" in other and "copies in Training" not in other


def test_the_committed_card_is_what_the_record_gives():
    if not shipping.SHIPPED.exists():
        pytest.skip("no weights are in the package yet")
    card = shipping.SHIPPED.with_suffix(".md")
    assert card.read_text() == shipping.shipped_card(), "run `make tables`"
