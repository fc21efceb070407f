import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from ferkit import DataError, ensemble_run, ensemble_study, experiment, leaderboard, records, synthetic
from ferkit.cli import main
from ferkit.distillation import teach
from ferkit.ensemble import METHODS
from ferkit.ensemble_run import choose, ensemble
from ferkit.explain import judge_maps
from ferkit.judge import load_judge
from ferkit.losses import teacher_logits
from ferkit.members import load_members, snapshots
from ferkit.models import create_model
from ferkit.predict import logits
from ferkit.protocols import arrange
from ferkit.recipe import Recipe
from ferkit.soups import average, soup
from ferkit.train import silent
from ferkit.weights import load_weights

TINY = Recipe("a", options={"width": 8}, stages=((4, 24),), batch_size=32, policy="flip", precision="float32")
CYCLES = replace(TINY, name="cycles", stages=((6, 24),), warmup=0.0, cycle=2.0, snapshots=True)


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """Three finished runs; the last one keeps three snapshots."""
    root = tmp_path_factory.mktemp("runs")
    for recipe in (TINY, replace(TINY, name="b", seed=1), CYCLES):
        experiment.run(recipe, faces, root / recipe.name, say=silent)
    return root


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of them, to spoil."""
    return shutil.copytree(trained, tmp_path / "runs")


def rewrite(folder, **changes):
    arrays = records.load_logits(folder) | changes
    records.save_arrays(folder / "logits.npz", arrays)


def test_an_ensemble_is_a_run_like_any_other(runs, faces):
    record = ensemble([runs / "a", runs / "b"], runs / "both", "mean_probabilities")
    assert record["recipe"]["members"] == ["a", "b"] and record["weights"] == {"a": 0.5, "b": 0.5}
    assert record["parameters"] == 2 * records.read_record(runs / "a")["parameters"]
    assert records.disagreements(record["metrics"], records.measure(runs / "both")) == []
    assert main(["evaluate", str(runs / "both")]) == 0
    private, judge = faces.split("PrivateTest").images, load_judge(runs / "both")
    saved = records.load_logits(runs / "both")
    for tta, name in (("none", "logits"), ("flip", "logits_flip")):
        assert judge(private, tta).numpy() == pytest.approx(saved[f"PrivateTest_{name}"].astype(float), abs=0.02)
    maps = judge_maps(judge, private[:4])
    assert maps.shape == private[:4].shape and maps.min() >= 0 and maps.max() <= 1


def test_it_is_written_once_and_read_again(runs):
    pair = [runs / "a", runs / "b"]
    record = ensemble(pair, runs / "both", "auto")
    assert record["recipe"]["method"] in METHODS and set(record["selected"]["expected"]) == set(METHODS)
    assert ensemble(pair, runs / "both", "auto") == record
    with pytest.raises(DataError, match="record of another run"):
        ensemble(pair, runs / "both", "borda_count" if record["recipe"]["method"] != "borda_count" else "stacking")
    rewrite(runs / "a", PublicTest_logits=records.load_logits(runs / "b")["PublicTest_logits"])
    with pytest.raises(DataError, match="members changed"):
        ensemble(pair, runs / "both", "auto")
    with pytest.raises(DataError, match="members have changed"):
        load_judge(runs / "both")
    with pytest.raises(DataError, match="is an ensemble that was fitted"):
        load_members([runs / "a", runs / "both"])
    with pytest.raises(DataError, match=r"holds recipe.json of a run without a record"):
        (runs / "b" / "record.json").unlink()
        ensemble([runs / "a"], runs / "b", "mean_logits")


def test_one_that_was_stopped_before_its_record_is_made_anew(runs, faces, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ensemble_run, "save_record", lambda *_: 1 / 0)
        for name, method in (("both", "mean_logits"), ("soup", "uniform_soup")):
            with pytest.raises(ZeroDivisionError):
                ensemble([runs / "a", runs / "b"], runs / name, method, faces)
    assert ensemble([runs / "a", runs / "b"], runs / "both", "mean_logits")["metrics"]
    assert ensemble([runs / "a", runs / "b"], runs / "soup", "uniform_soup", faces)["metrics"]


def test_it_is_read_where_it_was_moved_to(runs):
    pair, made = [runs / "a", runs / "b"], runs.parent / "made" / "both"
    record = ensemble(pair, made, "mean_logits")
    assert record["recipe"]["members"] == ["../runs/a", "../runs/b"]
    shutil.copytree(made, runs / "both")
    assert ensemble(pair, runs / "both", "mean_logits") == record
    with pytest.raises(DataError, match="record of another run"):
        ensemble(pair[:1], runs / "both", "mean_logits")


def test_views_are_members(runs, faces):
    members = load_members([runs / "a", runs / "b"], views=True)
    assert len(members) == 4 and members.names == ["a", "b", "a, mirrored", "b, mirrored"]
    public = faces.split("PublicTest").images
    mirrored = logits(load_weights(runs / "a" / "best.safetensors")[0], public.flip(-1)).numpy()
    assert members.logits("PublicTest")[2] == pytest.approx(mirrored, abs=0.03)  # from float16
    ensemble([runs / "a", runs / "b"], runs / "views", "mean_logits", views=True)
    judged = load_judge(runs / "views")(public).numpy()
    assert judged == pytest.approx(records.load_logits(runs / "views")["PublicTest_logits"].astype(float), abs=0.03)


def test_snapshots_are_measured_and_combined(runs, faces):
    (runs / "cycles" / "snapshot2.npz").unlink()
    for given in (None, faces[:100]):
        with pytest.raises(DataError, match="not measured yet"):
            snapshots(runs / "cycles", given)
    paths = snapshots(runs / "cycles", faces)
    assert (
        [path.name for path in paths]
        == ["snapshot1", "snapshot2", "snapshot3"]
        == [path.name for path in snapshots(runs / "cycles")]
    )
    record = ensemble(paths, runs / "three", "mean_logits")
    one = records.read_record(runs / "cycles")
    assert record["seconds"]["training"] == one["seconds"]["training"] and record["recipe"]["members"][0] == (
        "cycles/snapshot1"
    )
    assert load_judge(runs / "three")(faces.images[:2]).shape == (2, 7)
    with pytest.raises(DataError, match="has no snapshots"):
        snapshots(runs / "a")


@pytest.mark.parametrize("method", ["uniform_soup", "greedy_soup"])
def test_a_soup_is_one_network(runs, faces, method):
    record = ensemble(snapshots(runs / "cycles", faces), runs / "soup", method, faces)
    assert record["parameters"] == records.read_record(runs / "cycles")["parameters"]
    assert sum(record["weights"].values()) == pytest.approx(1, abs=1e-3)
    assert load_judge(runs / "soup").combination is None
    (runs / "soup" / "best.safetensors").unlink()
    with pytest.raises(DataError, match="its weights were not kept"):
        load_judge(runs / "soup")
    with pytest.raises(DataError, match="give the faces"):
        ensemble(snapshots(runs / "cycles"), runs / "other", method)
    (runs / "cycles" / "snapshot2.safetensors").unlink()
    with pytest.raises(DataError, match=r"not there: .*snapshot2"):
        ensemble(snapshots(runs / "cycles"), runs / "other", method, faces)
    assert not (runs / "other").exists()


def test_average_is_the_mean_of_weights_with_its_own_statistics(runs, faces):
    paths = [runs / "cycles" / f"snapshot{n}.safetensors" for n in (1, 3)]
    models = [load_weights(path)[0] for path in paths]
    wanted = {name: (models[0].state_dict()[name] + models[1].state_dict()[name]) / 2 for name in ("head.weight",)}
    mixed = average(models, faces.split("Training").images)
    assert torch.allclose(mixed.state_dict()["head.weight"], wanted["head.weight"])
    fresh = load_weights(paths[0])[0]
    again = average([fresh], faces.split("Training").images)  # of one network only the statistics change
    assert torch.equal(again.state_dict()["head.weight"], load_weights(paths[0])[0].state_dict()["head.weight"])
    assert not torch.equal(again.stem[1][1].running_mean, load_weights(paths[0])[0].stem[1][1].running_mean)
    with pytest.raises(DataError, match="one architecture"):
        average([models[0], create_model("compact", 7, width=4)], faces.images)
    with pytest.raises(ValueError, match="a soup is one of"):
        soup(paths, faces, "thick", runs / "x.safetensors")


def test_members_that_do_not_belong_together(runs):
    pair, arrays = [runs / "a", runs / "b"], records.load_logits(runs / "b")
    with pytest.raises(ValueError, match="needs members"):
        load_members([])
    with pytest.raises(ValueError, match="named more than once"):
        load_members([runs / "a", runs / "b" / ".." / "a"])
    for key, value, message in (
        ("PublicTest_rows", arrays["PublicTest_rows"] + 1, "other faces in PublicTest"),
        ("PrivateTest_labels", arrays["PrivateTest_labels"][::-1], "other labels in PrivateTest"),
        ("PrivateTest_logits", np.full_like(arrays["PrivateTest_logits"], np.nan), "not finite"),
        ("classes", arrays["classes"][::-1], "no ensemble of both"),
    ):
        rewrite(runs / "b", **(arrays | {key: value}))
        with pytest.raises(DataError, match=message) as error:
            load_members(pair)
        assert str(runs / "b") in str(error.value)
    rewrite(runs / "b", **arrays)
    for changes, message in (
        ({"batch_independence": 0.3}, "moves by 30.0% with its batch"),
        ({"recipe": records.read_record(runs / "b")["recipe"] | {"protocol": "with_public"}}, "protocol with_public"),
    ):
        record = records.read_record(runs / "b")
        (runs / "b" / "record.json").write_text(json.dumps(record | changes))
        with pytest.raises(DataError, match=message):
            load_members(pair)
        (runs / "b" / "record.json").write_text(json.dumps(record))
    (runs / "b" / "best.safetensors").unlink()
    ensemble(pair, runs / "both", "mean_logits")
    with pytest.raises(DataError, match=r"not there: .*b/best.safetensors"):
        load_judge(runs / "both")


def test_bad_input_leaves_nothing_behind(runs, capsys):
    assert main(["ensemble", str(runs / "a"), str(runs / "nowhere"), "--out", str(runs / "out")]) == 1
    assert "nowhere" in capsys.readouterr().err and not (runs / "out").exists()
    assert main(["ensemble", str(runs / "a"), "--method", "magic", "--out", str(runs / "out")]) == 1
    assert "choose from" in capsys.readouterr().err and not (runs / "out").exists()


def test_the_plainest_of_equals_is_chosen():
    halves = np.array([0.01, -0.01] * 5)  # as hard for all
    expected = dict.fromkeys(METHODS, 0.6 + halves) | {"stacking": 0.701 + halves, "mean_probabilities": 0.7 - halves}
    assert choose(expected) == "mean_probabilities"
    assert choose(expected | {"mean_probabilities": 0.7 + halves}) == "stacking"  # always worse, if by little


def test_an_ensemble_has_a_row_of_the_results_table(runs):
    record = ensemble([runs / "a", runs / "b"], runs / "results" / "both", "mean_logits")
    record["data"]["official"] = True
    file = runs / "results" / "both" / "record.json"
    for members, is_result in (
        (["../a-study-s0"], False),
        (["../a-study+fold=0_3-s0"], False),
        (["../a-member-s0"], True),
    ):
        file.write_text(json.dumps(record | {"recipe": record["recipe"] | {"members": members}}))
        assert ("both" in leaderboard.results_table(runs / "results", data=(record["data"]["name"],))) is is_result
    file.write_text(json.dumps(record))
    row = leaderboard.results_table(runs / "results", data=(record["data"]["name"],)).splitlines()[-1]
    assert "| `both` | ensemble of 2 | no |" in row and f"{record['parameters']:,}" in row


def test_a_teacher_has_not_seen_what_it_judges(faces, tmp_path):
    folds = [replace(TINY, name=f"fold{k}", fold=(k, 2)) for k in range(2)]
    folders = [tmp_path / recipe.name for recipe in folds]
    for recipe, folder in zip(folds, folders, strict=True):
        experiment.run(recipe, faces, folder, say=silent)
    path, training = tmp_path / "teachers" / "t.npz", faces.split("Training")
    accuracy = teach(folders, faces, path)
    found = teacher_logits(path, training)
    for k, folder in enumerate(folders):
        unseen = training.rows % 2 == k
        model, recipe, _ = load_weights(folder / "best.safetensors")
        assert not set(arrange(faces, recipe).training.rows.tolist()) & set(training.rows[unseen].tolist())
        wanted = logits(model, training.images[unseen]).softmax(1)
        assert torch.allclose(found[unseen].softmax(1), wanted, atol=2e-3)
    assert accuracy == pytest.approx((found.argmax(1) == training.labels).float().mean().item(), abs=0.02)
    with pytest.raises(DataError, match="exists, and students name it"):
        teach(folders, faces, path)
    other = tmp_path / "other.npz"
    with pytest.raises(ValueError, match=r"every fold of its recipes: 2 folds, of which \[1\] are missing"):
        teach(folders[:1], faces, other)
    with pytest.raises(DataError, match="was measured on .*these are"):
        teach(folders, faces[:150], other)
    with pytest.raises(ValueError, match="more than once"):
        teach([*folders, folders[0]], faces, other)
    assert not other.exists()
    taught = experiment.run(replace(TINY, teacher=str(path)), faces, tmp_path / "taught", say=silent)
    assert taught["teacher"]["file"] == "t.npz"


def test_the_table_of_methods_says_what_was_chosen(runs):
    record = ensemble([runs / "a", runs / "b", runs / "cycles"], runs / "results" / "three", "auto")
    text = ensemble_study.page(runs / "results")
    chosen, accuracy = record["recipe"]["method"], record["metrics"]["PrivateTest"]["accuracy"]
    row = next(line for line in text.splitlines() if line.startswith(f"| **{chosen.replace('_', ' ')}** |"))
    assert f"| {100 * accuracy['value']:.1f} ({100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f}) |" in row
    assert f"| {100 * record['selected']['expected'][chosen]:.1f} |" in row
    assert text.count("\n| `") == 3 and text.count("| baseline |") == 1
