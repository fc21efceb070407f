"""A study is shared by processes, survives the death of one, and its best recipe can be trained."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ferkit import DataError, recipes, search, synthetic
from ferkit.atomic import project_root
from ferkit.recipe import Recipe

BASE = Recipe("tiny-quick", options={"width": 8}, stages=((3, 24),), batch_size=32, precision="float32")
SCRIPT = """
import sys
from pathlib import Path
from ferkit import search, synthetic
from tests.test_search import BASE
search.search("s", BASE, synthetic.embedded_faces(100), int(sys.argv[2]), Path(sys.argv[1]), "cpu")
"""


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(100)


@pytest.fixture(scope="module")
def studied(faces, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    return root, search.search("s", BASE, faces, 6, root, "cpu", seed=0)


def test_a_study_says_what_it_tried(studied, faces):
    root, report = studied
    assert json.loads((root / "runs/studies/embedded/s/study.json").read_text()) == json.loads(json.dumps(report))
    assert len(report["trials"]) == 6 and report["n"] == {"Training": 70, "PublicTest": 15}
    best = max((t for t in report["trials"] if t["state"] == "complete"), key=lambda t: max(t["public_accuracy"]))
    assert max(best["public_accuracy"]) == max(
        max(t["public_accuracy"]) for t in report["trials"] if t["number"] == report["best_trial"]
    )
    assert not list(root.rglob("logits.npz"))  # PrivateTest was not touched
    assert search.search("s", BASE, faces, 6, root, "cpu")["trials"] == report["trials"]  # nothing left to do


def test_the_best_recipe_has_a_name(studied, monkeypatch):
    root, report = studied
    monkeypatch.setattr(recipes, "project_root", lambda: root)
    recipe = recipes.get_recipe("compact", "study:s", 3, stages=((1, 24),))
    assert recipe.name == "tiny-quick+study=s+stages=1_24" and recipe.lr == report["best"]["lr"] and recipe.seed == 3
    with pytest.raises(ValueError, match="no study 'gone'; run one with: ferkit search gone"):
        recipes.get_recipe("compact", "study:gone")
    for data in ("fer2013", "ferplus"):
        shutil.copytree(next(root.glob("runs/studies/*/s")), root / "runs" / "studies" / data / "twice")
    with pytest.raises(ValueError, match="twice.study.json are studies of one name"):
        recipes.get_recipe("compact", "study:twice")
    with pytest.raises(ValueError, match="is a study of compact, not of vgg_fer"):
        recipes.get_recipe("vgg_fer", "study:s")


def test_another_recipe_is_another_study(studied, faces):
    with pytest.raises(DataError, match="study s is of another base"):
        search.search("s", replace(BASE, lr=0.2), faces, 7, studied[0], "cpu")
    with pytest.raises(DataError, match="study s is of another fingerprint"):
        search.search("s", BASE, synthetic.embedded_faces(100, seed=1), 7, studied[0], "cpu")


def test_a_search_chooses_on_public_test_only(faces, tmp_path):
    with pytest.raises(ValueError, match="got choose_on_private"):
        search.search("s", replace(BASE, protocol="choose_on_private"), faces, 1, tmp_path, "cpu")
    assert not list(tmp_path.iterdir())


def start(root, n_trials):
    command = [sys.executable, "-c", SCRIPT, str(root), str(n_trials)]
    return subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_trial_that_was_killed_after_its_last_epoch_has_its_curve(faces, tmp_path):
    study, train = search.optuna.create_study(direction="maximize"), search._trainer(BASE, faces, tmp_path, "cpu")
    first = study.ask()
    train(first)
    study.enqueue_trial(first.params, user_attrs={"goes_on": first.number})
    train(study.ask())
    before, after = (trial.intermediate_values for trial in study.trials)
    assert before == after and len(after) == BASE.epochs


def test_a_recipe_outside_the_space_is_no_first_trial():
    base = replace(BASE, stages=((2, 44),), weight_decay=0.05, label_smoothing=0.07)
    drawn = {"weight_decay": 1e-4, "label_smoothing": 0.1, "schedule": "cosine", "batch_size": 64, "drop": 0.0}
    space = search.suggest(search.optuna.trial.FixedTrial(search._values(base) | drawn), base)
    assert space["side"] == 44 and not {"weight_decay", "label_smoothing"} & set(search._values(base))


def test_two_processes_share_a_study_and_one_that_is_killed_is_made_good(tmp_path):
    """One of two is killed in the middle of a trial; the other takes that trial up again and ends the study."""
    processes, folder = [start(tmp_path, 6) for _ in range(2)], tmp_path / "runs/studies/embedded/s"
    while len(list(folder.glob("trial*/last.pt"))) < 2 and all(p.poll() is None for p in processes):
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGKILL)
    said, _ = processes[1].communicate(timeout=240)
    assert processes[0].wait() == -signal.SIGKILL and processes[1].returncode == 0, said
    report = json.loads((folder / "study.json").read_text())
    assert len(report["trials"]) >= 6
    (journal,) = folder.glob("journal.log")
    assert '"goes_on"' in journal.read_text()


def test_a_policy_may_be_changed_in_place():
    from ferkit.augment import POLICIES, get_policy

    assert get_policy("flip+mixup=0.3+rotate=5") == replace(POLICIES["flip"], mixup=0.3, rotate=5.0)
    for wrong in ("flip+mix=0.3", "flip+mixup=much", "flip+mixup", "best+mixup=0.3"):
        with pytest.raises(ValueError, match="policy"):
            get_policy(wrong)
