import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ferkit import DataError, audit, experiment, independence, leaderboard, records, synthetic
from ferkit.metrics import HEADLINES
from ferkit.recipe import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "r"
    recipe = Recipe("r", options={"width": 8}, stages=((1, 48),), batch_size=32, precision="float32")
    faces = synthetic.embedded_faces(200)
    return folder, experiment.run(recipe, faces, folder), recipe, faces


def test_a_record_says_what_is_needed_to_believe_it(run):
    _, record, recipe, faces = run
    assert record["data"]["fingerprint"] == faces.fingerprint and record["data"]["official"] is False
    assert record["data"]["n"] == {"Training": 140, "PublicTest": 30, "PrivateTest": 30}
    assert set(record["code"][0]) == {"commit", "dirty"} and torch.__version__.startswith(record["versions"]["torch"])
    assert Recipe(**record["recipe"]) == recipe and record["seconds"]["training"] > 0
    for metrics in record["metrics"].values():
        assert all(metrics[name]["low"] <= metrics[name]["high"] for name in HEADLINES) and metrics["n"]


def test_metrics_are_recomputed_from_logits_alone_and_tampering_is_seen(run, tmp_path):
    folder, record, *_ = run
    assert records.disagreements(record["metrics"], records.measure(folder)) == []
    record = json.loads(json.dumps(record))
    record["metrics"]["PrivateTest"]["accuracy"]["value"] += 0.01
    (line,) = records.disagreements(record["metrics"], records.measure(folder))
    assert line.startswith("PrivateTest/accuracy/value: recorded")
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "logits.npz").write_bytes((folder / "logits.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"logits.npz: no readable logits"):
        records.measure(tmp_path / "copy")


def test_a_finished_run_is_only_read_and_a_record_is_never_overwritten(run):
    folder, record, recipe, faces = run
    before = (folder / "record.json").stat()
    assert experiment.run(recipe, faces, folder) == record
    assert (folder / "record.json").stat() == before
    with pytest.raises(DataError, match="the record of another recipe or other data"):
        experiment.run(replace(recipe, lr=0.2), faces, folder)
    with pytest.raises(FileExistsError):
        state = experiment.fit(recipe, faces.split("Training"), faces.split("PublicTest"), folder)
        experiment.write_record(folder, recipe, faces, state)
    assert records.read_record(folder) == record


def test_what_older_records_say_of_clean_images_is_left_out(run, tmp_path):
    folder, record, *_ = run
    older = shutil.copytree(folder, tmp_path / "older")
    metrics = record["metrics"] | {"PrivateTest clean": record["metrics"]["PrivateTest"]}
    (older / "record.json").write_text(json.dumps(record | {"metrics": metrics}))
    arrays = records.load_logits(folder)
    records.save_arrays(older / "logits.npz", arrays | {"PrivateTest_clean": np.ones(30, bool)})
    assert records.read_record(older) == record and set(records.load_logits(older)) == set(arrays)
    (older / "record.json").write_text(json.dumps(record | {"metrics": []}))
    with pytest.raises(DataError, match="not a record of schema"):
        records.read_record(older)


def test_what_a_run_learned_from_beside_its_training_images_is_named_without_a_digest(run):
    _, record, *_ = run
    assert records.outside(record) == []
    started = record | {"start": {"file": "compact.safetensors", "sha256": "0f"}}
    votes = {"recipe": record["recipe"] | {"targets": "votes"}}
    assert records.outside(started | votes) == ["compact.safetensors", "FER+ votes"]
    assert records.outside(record | votes | {"data": record["data"] | {"name": "ferplus"}}) == []


def test_damaged_records(tmp_path):
    with pytest.raises(DataError, match=r"record.json: no readable record"):
        records.read_record(tmp_path)
    (tmp_path / "record.json").write_text('{"schema": 0}')
    with pytest.raises(DataError, match="not a record of schema 1"):
        records.read_record(tmp_path)
    (tmp_path / "record.json").write_text('{"schema": 1, "metrics": {}, "run": "a", "data": {}, "selected": {}}')
    with pytest.raises(DataError, match="no whole record, it lacks recipe"):
        records.read_record(tmp_path)


def test_logits_that_are_not_there_for_each_label(run, tmp_path):
    arrays = records.load_logits(run[0])
    for name, values in (("PrivateTest_logits", None), ("PublicTest_rows", arrays["PublicTest_rows"][1:])):
        kept = {k: v for k, v in arrays.items() if k != name} | ({name: values} if values is not None else {})
        records.save_arrays(tmp_path / "logits.npz", kept)
        with pytest.raises(DataError, match=f"{name} is not there for each of its 30 labels"):
            records.load_logits(tmp_path)


def test_a_run_on_other_data_never_enters_the_table(run):
    folder, *_ = run
    table = leaderboard.results_table(folder.parent)
    assert len(table.splitlines()) == 2 and "`r`" not in table


def test_rows_are_means_over_seeds_with_links(run, tmp_path):
    folder, record, *_ = run
    for seed in (0, 1):
        shutil.copytree(folder, tmp_path / f"r-s{seed}")
        recipe = record["recipe"] | {"seed": seed}
        if seed:
            del recipe["focal"]  # as a record from before that field
        changed = record | {"recipe": recipe, "data": record["data"] | {"official": True, "name": "fer2013"}}
        (tmp_path / f"r-s{seed}" / "record.json").write_text(json.dumps(changed))
    row = leaderboard.results_table(tmp_path).splitlines()[-1]
    value = 100 * record["metrics"]["PrivateTest"]["accuracy"]["value"]
    assert f"| fer2013 | `r` | single | no | – | {value:.1f} ± 0.0, 2 seeds | " in row and "r-s1/record.json)" in row
    assert leaderboard.results_table(tmp_path, tmp_path).splitlines()[-1] == row  # what is in both counts once
    local = tmp_path / "runs" / "leaks-s0"  # a run of this machine that looks at its batch is left out
    shutil.copytree(tmp_path / "r-s0", local)
    leaking = changed | {"recipe": record["recipe"] | {"name": "leaks"}, "batch_independence": 0.3}
    (local / "record.json").write_text(json.dumps(leaking))
    shutil.move(local.parent, folder.parent / "elsewhere")
    try:
        assert leaderboard.results_table(tmp_path, folder.parent / "elsewhere").splitlines()[-1] == row
    finally:
        shutil.rmtree(folder.parent / "elsewhere")


def test_other_pictures_have_rows_and_runs_of_their_own(tmp_path):
    """As somebody's copy of FER2013 does, whose pictures are not, bit for bit, those of the committed records."""
    results = experiment.project_root() / "results"
    committed = results / "fer2013" / "compact-s0"
    own = shutil.copytree(committed, tmp_path / "runs" / "fer2013" / "compact-s0")
    record = json.loads((own / "record.json").read_text())
    (own / "record.json").write_text(json.dumps(record | {"data": record["data"] | {"fingerprint": "0" * 16}}))
    ours, theirs = (
        [line for line in leaderboard.results_table(*roots).splitlines() if "| `compact` |" in line]
        for roots in ((results,), (results, tmp_path / "runs"))
    )
    (added,) = [line for line in theirs if line not in ours]
    assert len(theirs) == len(ours) + 1
    assert added.startswith("| fer2013 0000000000000000 |") and "1 seed" in added and "not audited" in added
    assert audit.committed_audit("fer2013", record["data"]["fingerprint"]) and not audit.committed_audit("fer2013", "0")
    other = replace(synthetic.embedded_faces(20), name="fer2013")
    assert experiment.place("compact-s0", other) == experiment.project_root() / "runs" / "fer2013" / "compact-s0"


def test_a_quick_run_and_a_model_that_looks_at_its_batch_are_refused(run, tmp_path):
    folder, record, *_ = run
    shutil.copytree(folder, tmp_path / "x")
    official = record | {"data": record["data"] | {"official": True, "name": "fer2013"}}
    for name in ("r-quick", "r-quick+lr=0.2"):
        (tmp_path / "x" / "record.json").write_text(
            json.dumps(official | {"recipe": record["recipe"] | {"name": name}})
        )
        assert "`r-quick" not in leaderboard.results_table(tmp_path)
    assert record["batch_independence"] < independence.INDEPENDENT and record["start"] == {}
    (tmp_path / "x" / "record.json").write_text(json.dumps(official | {"batch_independence": 0.9}))
    with pytest.raises(ValueError, match="compact moves by 90.0% with its batch; take it out"):
        leaderboard.results_table(tmp_path)
    (tmp_path / "x" / "record.json").write_text(json.dumps({k: v for k, v in official.items() if "batch" not in k}))
    with pytest.raises(ValueError, match="no certificate"):
        leaderboard.results_table(tmp_path)


def test_runs_that_are_not_one_recipe_are_not_averaged(run, tmp_path):
    folder, record, *_ = run
    official = record | {"data": record["data"] | {"official": True, "name": "fer2013"}}
    for name, lr in (("a", 0.1), ("b", 0.2)):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "record.json").write_text(json.dumps(official | {"recipe": record["recipe"] | {"lr": lr}}))
    with pytest.raises(ValueError, match="share a recipe's name and differ"):
        leaderboard.results_table(tmp_path)
    (tmp_path / "b" / "record.json").write_text((tmp_path / "a" / "record.json").read_text())
    with pytest.raises(ValueError, match="repeat a seed"):
        leaderboard.results_table(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):  # from the run of the same seed, from a file of that name, from another run
        start = {"file": f"first-s{seed}/best.safetensors", "sha256": name}
        changed = official | {"recipe": record["recipe"] | {"seed": seed}, "start": start}
        (tmp_path / name / "record.json").write_text(json.dumps(changed))
    assert "2 seeds" in leaderboard.results_table(tmp_path)
    for file in ("first-s0/best.safetensors", "other-s1/best.safetensors"):
        start = {"file": file, "sha256": "b"}
        (tmp_path / "b" / "record.json").write_text(json.dumps(changed | {"start": start}))
        with pytest.raises(ValueError, match="started from other weights"):
            leaderboard.results_table(tmp_path)
    with pytest.raises(ValueError, match="no such folder of records"):
        leaderboard.results_table(tmp_path / "nowhere")


def test_mean_accuracy_needs_the_same_images(run, tmp_path):
    folder, record, *_ = run
    other = tmp_path / "other"
    other.mkdir()
    arrays = records.load_logits(folder)
    np.savez(other / "logits.npz", **(arrays | {"PrivateTest_rows": arrays["PrivateTest_rows"][::-1]}))
    with pytest.raises(ValueError, match="different images of PrivateTest"):
        leaderboard.Entry("r", "fer2013", ((folder, record), (other, record))).accuracy()


def test_the_table_goes_between_its_markers(tmp_path):
    page = tmp_path / "README.md"
    start, end = (marker.format("results") for marker in leaderboard.MARKERS)
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    leaderboard.write_between_markers(page, "new")
    assert page.read_text() == f"before\n{start}\nnew\n{end}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="needs the two lines"):
        leaderboard.write_between_markers(page, "new")
