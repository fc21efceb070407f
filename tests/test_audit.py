"""Planted copies, contradictions and blank pictures are listed where they are; runs are measured on the parts."""

import json

import numpy as np
import pytest
import torch

from ferkit import DataError, atomic, audit, cli, leaderboard, records, synthetic
from ferkit.faces import Faces
from ferkit.protocols import arrange
from ferkit.recipe import Recipe

# Rows: 0 to 19 Training, 20 to 24 PublicTest, 25 to 31 PrivateTest; (row, copy of it, the copy's label is another).
PLANTED = ((0, 1, False), (2, 3, True), (4, 20, False), (5, 25, False), (6, 26, True), (21, 27, False))


def planted() -> Faces:
    noise = torch.randint(0, 256, (32, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 7
    for row, copy, other in PLANTED:
        noise[copy], labels[copy] = noise[row], (labels[row] + other) % 7
    noise[7] = noise[28] = 90  # of one grey: copies of each other, in Training and PrivateTest
    labels[28] = labels[7]
    noise[25] = noise[25].flip(-1)
    usage = torch.tensor([0] * 20 + [1] * 5 + [2] * 7, dtype=torch.uint8)
    return Faces(noise, labels, usage, torch.arange(32) + 100, name="planted")


@pytest.fixture(scope="module")
def found():
    return audit.audit(planted())


def test_what_is_planted_is_listed(found):
    report = found.report()
    assert report["pairs"] == {"equal": 6, "all": 7, "mirrored": 1}
    assert report["groups"] == {"n": 7, "pictures": 14, "largest": 2, "contradicted": 2}
    assert report["with_a_copy"] == {
        "Training in Training": 4, "PublicTest in Training": 1, "PublicTest in PublicTest": 0,
        "PrivateTest in Training": 3, "PrivateTest in PublicTest": 1, "PrivateTest in PrivateTest": 0,
    }  # fmt: skip
    assert report["rows"] == {
        "training_left_out": [101, 102, 103, 104, 105, 106, 107], "one_grey": [107, 128],
        "PublicTest": {"copied": [120], "conflicting": []}, "PrivateTest": {"copied": [125, 128], "conflicting": [126]},
    }  # fmt: skip
    assert found.unlike.isfinite().all()


def test_an_audit_is_saved_and_read(found, tmp_path):
    report, path = found.report(), tmp_path / "a" / "planted.json"
    audit.save_audit(report, path)
    assert audit.load_audit(path) == report and max(map(len, path.read_text().splitlines())) < 1000
    assert audit.part_of_rows(report, "PrivateTest", np.array([124, 125, 126])).tolist() == [0, 1, 2]
    assert "2 groups have more than one label" in audit.told(report)
    with pytest.raises(DataError, match="says nothing of Training"):
        audit.part_of_rows(report, "Training", np.array([1]))
    bad = [
        {},
        {"schema": 1, "rows": {}},
        {"schema": 9, "rows": {"training_left_out": []}, "data": {"fingerprint": "a"}},
    ]
    for text in ("", *map(json.dumps, bad), '{"schema": 1, "rows": {"training_left_out": []}}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"planted\.json: no"):
            audit.load_audit(path)
    with pytest.raises(DataError, match="no faces to audit"):
        audit.audit(planted()[:0])


def test_what_is_left_out_is_not_learned_from(found, tmp_path):
    path, recipe = tmp_path / "planted.json", Recipe("x", exclude=str(tmp_path / "planted.json"))
    audit.save_audit(found.report(), path)
    training = arrange(planted(), recipe).training
    assert training.rows.tolist() == [100, *range(108, 120)]
    with pytest.raises(DataError, match="is an audit of planted .* not of embedded"):
        arrange(synthetic.embedded_faces(40), recipe)


def test_the_commands_work_together(tmp_path, capsys, monkeypatch):
    """Audit, train without what is left out, evaluate on the parts; an audit of other data is refused."""
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    path, out = tmp_path / "embedded.json", tmp_path / "run"
    assert cli.main(["audit", "embedded", "--json", str(path)]) == 0
    said = capsys.readouterr().out
    report = json.loads(path.read_text())
    assert "pictures are in" in said and report["data"]["n"] == synthetic.N_FACES
    quick = ["--model", "compact", "--recipe", "mini", "--set", "stages=((1, 24),)", "--set", "precision='float32'"]
    assert cli.main(["train", *quick, "--data", "embedded", "--exclude", str(path), "--out", str(out)]) == 0
    record = records.read_record(out)
    left = len(report["rows"]["training_left_out"])
    assert record["data"]["n"]["Training"] == synthetic.N_FACES * 0.7 - left and left > 0
    assert record["exclude"]["file"] == "embedded.json" and len(record["exclude"]["sha256"]) == 64
    capsys.readouterr()
    assert cli.main(["evaluate", str(out), "--subset", "clean", "--audit", str(path)]) == 0
    said, metrics = capsys.readouterr().out, records.measure_parts(out, report)
    assert "PrivateTest clean" in said and "PublicTest clean" in said and "copied" not in said
    assert sum(part["n"] for part in metrics.values()) == record["data"]["n"]["PrivateTest"]
    assert cli.main(["evaluate", str(out), "--audit", str(path)]) == 1 and "add --subset" in capsys.readouterr().err
    assert cli.main(["train", *quick, "--data", "embedded", "--exclude", str(path), "--out", str(out)]) == 0
    report["data"]["fingerprint"] = "other"
    audit.save_audit(report, path)
    assert cli.main(["evaluate", str(out), "--subset", "clean", "--audit", str(path)]) == 1
    assert "the audit is of other" in capsys.readouterr().err
    assert cli.main(["train", *quick, "--data", "embedded", "--exclude", str(path), "--out", str(out)]) == 1
    assert "with another audit" in capsys.readouterr().err
    assert (
        cli.main(["train", *quick, "--data", "embedded", "--exclude", str(path), "--set", "protocol='with_public'"])
        == 1
    )
    assert "exclude is for the standard protocol" in capsys.readouterr().err


def test_the_committed_audit_is_that_of_fer2013(real_faces):
    committed = audit.load_audit(audit.audit_file("fer2013"))
    assert committed == json.loads(json.dumps(audit.audit(real_faces).report())), "run ferkit audit --json"
    private = {image.tobytes() for image in real_faces.split("PrivateTest").images.numpy()}
    training = {image.tobytes() for image in real_faces.split("Training").images.numpy()}
    assert len(private & training) == 278


def test_the_table_says_how_clean_runs_are():
    committed = audit.load_audit(audit.audit_file("fer2013"))
    n = 3589 - sum(map(len, committed["rows"]["PrivateTest"].values()))
    table = leaderboard.results_table(atomic.project_root() / "results")
    assert f"({n:,}) |" in table and "not audited" not in table


def test_equal_pictures_are_in_the_description():
    text = audit.describe(planted())
    assert "1 different pictures of PublicTest are in Training to the bit" in text and "no FER+ votes" in text
