import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from ferkit import DataError, experiment, records, schedule, synthetic, train
from ferkit.atomic import alone
from ferkit.checkpoint import claim
from ferkit.loop import Loop
from ferkit.models import create_model
from ferkit.predict import logits
from ferkit.protocols import arrange
from ferkit.recipe import Recipe
from ferkit.recipes import PROFILE_KINDS, RECIPES, get_recipe, kinds
from ferkit.weights import load_weights, save_weights

TINY = Recipe(
    "tiny", options={"width": 8}, stages=((2, 24), (3, 48)), batch_size=32, policy="heavy", precision="float32"
)


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


@pytest.fixture(scope="module")
def finished(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return folder, experiment.run(TINY, faces, folder)


def fit(recipe, faces, folder):
    return train.fit(recipe, faces.split("Training"), faces.split("PublicTest"), folder)


def test_selected_weights_are_the_reported_ones(finished, faces):
    folder, record = finished
    rows = records.read_log(folder)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    best = max(rows, key=lambda row: float(row["public_accuracy"]))
    assert record["selected"]["epoch"] == int(best["epoch"])
    model, recipe, classes = load_weights(folder / "best.safetensors")
    public = faces.split("PublicTest")
    accuracy = (logits(model, public.images).argmax(1) == public.labels).float().mean().item()
    assert accuracy == pytest.approx(record["selected"]["accuracy"], abs=1e-6)
    assert record["metrics"]["PublicTest"]["accuracy"]["value"] == pytest.approx(accuracy, abs=2 / len(public))
    assert recipe == TINY and classes == faces.classes


def interrupt(recipe, faces, folder, monkeypatch, epochs_before):
    """Train, stop after so many epochs, and go on."""
    real, left = Loop.epoch, [epochs_before]

    def stop_after(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(Loop, "epoch", stop_after)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, faces, folder)
    monkeypatch.undo()
    torch.rand(100)  # whatever else happened in between
    fit(recipe, faces, folder)


@pytest.mark.parametrize("epochs_before", [1, 3])
def test_an_interrupted_run_ends_bit_for_bit_like_the_uninterrupted(
    finished, faces, tmp_path, monkeypatch, epochs_before
):
    interrupt(TINY, faces, tmp_path, monkeypatch, epochs_before)
    ours, theirs = (torch.load(f / "last.pt", weights_only=True) for f in (tmp_path, finished[0]))
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][k], theirs[part][k]) for k in theirs[part])
    best = [load_file(f / "best.safetensors") for f in (tmp_path, finished[0])]
    assert all(torch.equal(best[0][k], best[1][k]) for k in best[1])


def test_a_run_with_phases_and_plateaus_is_resumed_to_the_bit(faces, tmp_path, monkeypatch):
    recipe = Recipe("p", "patt_lite", {"width": 16, "size": 64, "patch": 1}, optimizer="adam", lr=1e-3, clip=3.0,
                    schedule="plateau", plateau=(0.1, 0), frozen=2, thaw=0.1, batch_size=32, stages=((4, 64),),
                    class_weights=True, policy="patt_lite", precision="float32")  # fmt: skip
    fit(recipe, faces, tmp_path / "whole")
    interrupt(recipe, faces, tmp_path / "cut", monkeypatch, 2)
    ours, theirs = (torch.load(tmp_path / f / "last.pt", weights_only=True) for f in ("cut", "whole"))
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][k], theirs[part][k]) for k in theirs[part])


SCRIPT = """
import sys
from pathlib import Path
from ferkit import experiment, synthetic
from ferkit.recipe import Recipe
recipe = Recipe("k", options={"width": 8}, stages=((8, 32),), batch_size=8, policy="heavy", precision="float32")
print("ready", flush=True)
experiment.run(recipe, synthetic.embedded_faces(100), Path(sys.argv[1]), "cpu")
"""


def start(folder, **options) -> subprocess.Popen:
    """A training of eight short epochs in a process of its own, as it begins."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, **options)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_at_any_moment_it_ends_like_the_uninterrupted(tmp_path):
    """kill -9 at random moments, some while a checkpoint is written; then it is left alone to finish."""
    whole, cut, rng = tmp_path / "whole", tmp_path / "cut", random.Random(0)
    process, begun = start(whole), time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    seconds, n_kills = time.monotonic() - begun, 0
    for moment in [*(rng.uniform(0.05, 0.4) for _ in range(3)), "checkpoint"]:
        process = start(cut)
        if moment == "checkpoint":
            while process.poll() is None and not list(cut.glob(".last.pt.*.part")):
                time.sleep(0.0005)
        else:
            time.sleep(moment * seconds)
        n_kills += process.poll() is None
        process.kill()
        process.communicate()
    _, errors = (last := start(cut)).communicate()
    assert last.returncode == 0, errors
    assert n_kills > 1, "the processes had ended before they were killed"
    ours, theirs = (torch.load(folder / "last.pt", weights_only=True) for folder in (cut, whole))
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][k], theirs[part][k]) for k in theirs[part])
    assert str(ours["optimizer"]) == str(theirs["optimizer"])
    best = [load_file(folder / "best.safetensors") for folder in (cut, whole)]
    assert all(torch.equal(best[0][k], best[1][k]) for k in best[1])
    assert records.read_record(cut)["metrics"] == records.read_record(whole)["metrics"]


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are a matter of POSIX")
def test_a_full_disk_is_an_error_that_keeps_the_last_epoch(tmp_path):
    """A file may not grow beyond half a checkpoint, which a full disk looks like; then there is room again."""
    import resource

    first = start(tmp_path)
    while not (tmp_path / "last.pt").exists():
        time.sleep(0.01)
    first.kill()
    first.communicate()
    before, left = (
        (tmp_path / "last.pt").read_bytes(),
        set(tmp_path.glob(".*.part")),
    )  # of a kill in the middle of a file
    limit = len(before) // 2
    full = start(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, errors = full.communicate()
    assert full.returncode == 1 and "could not be saved" in errors.splitlines()[-1]
    assert (tmp_path / "last.pt").read_bytes() == before and set(tmp_path.glob(".*.part")) <= left
    _, errors = (again := start(tmp_path)).communicate()
    assert again.returncode == 0, errors


def test_a_folder_of_another_recipe_or_other_data_is_refused(finished, faces):
    with pytest.raises(DataError, match=r"another recipe \(lr\)"):
        fit(Recipe(**{**TINY.__dict__, "lr": 0.2}), faces, finished[0])
    with pytest.raises(DataError, match="another training data"):
        fit(TINY, synthetic.embedded_faces(200, seed=1), finished[0])


def test_a_damaged_checkpoint_is_named(faces, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="last.pt: damaged checkpoint.*delete it"):
        fit(TINY, faces, tmp_path)
    with pytest.raises(DataError, match="best.safetensors: no readable weights"):
        load_weights(tmp_path / "best.safetensors")


def test_two_processes_do_not_share_a_folder(faces, tmp_path):
    with alone(tmp_path), pytest.raises(DataError, match="another process is at work here"):
        fit(TINY, faces, tmp_path)


def test_unlabelled_faces_and_missing_splits(faces, tmp_path):
    blind = replace(faces.split("Training"), labels=faces.split("Training").labels - 1)
    with pytest.raises(DataError, match="needs labelled ones"):
        train.fit(TINY, blind, faces.split("PublicTest"), tmp_path)
    with pytest.raises(DataError, match="no PublicTest and no PrivateTest images"):
        experiment.run(TINY, faces.split("Training"), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(faces, tmp_path, monkeypatch):
    real = Loop.epoch

    def diverge_in_the_third(loop, tell):
        loss = real(loop, tell)
        return loss if loop.state.epoch < 2 else float("nan")

    monkeypatch.setattr(Loop, "epoch", diverge_in_the_third)
    with pytest.raises(FloatingPointError, match="loss nan in epoch 3; lower lr"):
        fit(TINY, faces, tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2


def test_schedule_and_sides():
    recipe = Recipe("r", stages=((2, 32), (8, 48)), lr=1.0, warmup=2.0)
    rates = [schedule.learning_rate(recipe, e / 10, []) for e in range(101)]
    assert rates[0] < 0.01 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert [recipe.side(e) for e in (0, 1, 2, 9)] == [32, 32, 48, 48]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"policy": "wild"}, "unknown augmentation policy"),
        ({"stages": ()}, "stages must be"),
        ({"precision": "half"}, "unknown precision"),
        ({"ema": 1.5}, r"ema must be in \[0, 1\]"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"seed": -1}, r"seed must be in \[0,"),
    ],
)
def test_recipes_are_validated_when_made(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe("r", **changes)


def test_named_recipes():
    assert all(get_recipe(model, kind) == recipe for (model, kind), recipe in RECIPES.items())
    assert set(kinds("resemotenet")) == {"house", "paper", "cpu", "study", "quick"}
    assert "paper" not in kinds("timm:resnet18")
    assert get_recipe("compact", "cpu").run_name == "compact-s0"
    assert set(PROFILE_KINDS.values()) <= set(kinds("compact"))
    changed = get_recipe("resemotenet", "quick", 1, lr=0.5, options={"width": 4}, stages=((2, 48),))
    assert changed.run_name == "resemotenet-quick+lr=0.5+options=width_4+stages=2_48-s1"
    assert changed.options == {"width": 4, "size": 48} and changed.epochs == 2
    for wrong, message in (
        (dict(model="best"), "no house recipe of 'best'; choose a model from .*compact"),
        (dict(model="compact", kind="paper"), "no paper recipe of 'compact'; it has"),
        (dict(model="compact", learning=1), "no field 'learning'; choose from .*'lr'"),
        (dict(model="compact", lr="fast"), "lr wants a value like 0.1, got 'fast'"),
        (dict(model="compact", stages=3), "stages wants a value like"),
    ):
        with pytest.raises(ValueError, match=message):
            get_recipe(**wrong)


@pytest.mark.parametrize("key", RECIPES, ids="-".join)
def test_recipes_fit_their_models(key):
    recipe = RECIPES[key]
    with torch.device("meta"):
        spec = create_model(recipe.model, **recipe.options).input_spec
        for _, side in recipe.stages:
            spec(torch.empty(1, 1, side, side))
    assert recipe.stages[-1][1] == spec.size  # judged at the size that training ends with


def test_plateaus_floors_cycles_and_stops():
    recipe = Recipe("r", lr=1.0, warmup=0.0, schedule="plateau", plateau=(0.1, 1), patience=4, stages=((99, 48),))
    history = [0.5, 0.6, 0.6, 0.55, 0.7, 0.1, 0.2, 0.3, 0.4]
    rates = [schedule.learning_rate(recipe, n, history[:n]) for n in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert [schedule.is_over(recipe, history[:n]) for n in (0, 8, 9)] == [False, False, True]
    assert schedule.learning_rate(recipe, 50, [0.9] * 50) == 1e-6
    waves = Recipe("r", lr=1.0, warmup=0.0, cycle=3.0, stages=((9, 48),))
    assert [schedule.learning_rate(waves, e, []) for e in (0, 1.5, 3, 4.5)] == pytest.approx([1, 0.5, 1, 0.5])
    phases = Recipe("r", lr=1.0, warmup=0.0, schedule="plateau", plateau=(0.1, 0), frozen=4, thaw=0.5, patience=2,
                    stages=((99, 48),))  # fmt: skip
    stale = [0.5, 0.4, 0.4, 0.4, 0.3, 0.2, 0.2]
    assert [schedule.learning_rate(phases, n, stale[:n]) for n in (3, 4, 6)] == pytest.approx([0.01, 0.5, 0.05])
    assert [schedule.is_over(phases, stale[:n]) for n in (4, 6, 7)] == [False, False, True]
    thawed = Recipe("r", lr=1.0, warmup=0.0, schedule="constant", frozen=2, thaw=0.01)
    assert [schedule.learning_rate(thawed, e, []) for e in (0, 1.9, 2)] == [1, 1, 0.01]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "radam"])
def test_every_optimizer_learns_something(optimizer, faces, tmp_path):
    lr = {"sgd": 0.1, "radam": 0.02}.get(optimizer, 0.005)
    recipe = Recipe("o", options={"width": 8, "drop": 0.0}, optimizer=optimizer, lr=lr, stages=((10, 24),),
                    batch_size=8, policy="none", clip=5.0, class_weights=True, label_smoothing=0.0, precision="float32",
                    schedule="constant", ema=0.0)  # fmt: skip
    fit(recipe, faces, tmp_path)
    losses = [float(row["loss"]) for row in records.read_log(tmp_path)]
    assert losses[-1] < losses[0] - 0.3  # a few faces can be learned by heart


def test_a_frozen_trunk_stays_as_it_started_and_then_thaws(faces, tmp_path):
    torch.manual_seed(5)
    options = {"width": 16, "size": 64, "patch": 1}
    start = create_model("patt_lite", **options)
    save_weights(start, tmp_path / "start.safetensors", Recipe("s", "patt_lite", options), faces.classes)
    recipe = Recipe("f", "patt_lite", options, frozen=1, optimizer="adam", lr=1e-3, warmup=0.0, stages=((2, 64),),
                    batch_size=32, ema=0.0, precision="float32")  # fmt: skip
    states, real = [], Loop.epoch

    def watch(loop, tell):
        loss = real(loop, tell)
        states.append({k: v.clone() for k, v in loop.state.model.state_dict().items()})
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "epoch", watch)
        record = experiment.run(recipe, faces, tmp_path / "run", weights=tmp_path / "start.safetensors")
    trunk = [k for k in start.state_dict() if k.startswith("trunk.") and "num_batches" not in k]
    assert all(torch.equal(states[0][k], start.state_dict()[k]) for k in trunk)
    assert not any(torch.equal(states[1][k], start.state_dict()[k]) for k in trunk if k.endswith("weight"))
    assert not torch.equal(states[0]["head.weight"], start.state_dict()["head.weight"])
    assert record["start"]["file"] == "start.safetensors" and len(record["start"]["sha256"]) == 64


def test_other_weights_are_not_taken_for_the_same_run(faces, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_weights(create_model("compact", width=8), file, Recipe("s", options={"width": 8}), faces.classes)
    recipe = Recipe("w", options={"width": 8}, stages=((1, 24),), batch_size=32, precision="float32")
    record = experiment.run(recipe, faces, tmp_path / "run", weights=files[0])
    assert experiment.run(recipe, faces, tmp_path / "run", weights=files[0]) == record
    with pytest.raises(DataError, match="started from other weights"):
        experiment.run(recipe, faces, tmp_path / "run", weights=files[1])
    with pytest.raises(DataError, match="started from other weights"):
        train.fit(recipe, faces.split("Training"), faces.split("PublicTest"), tmp_path / "run", weights=files[1])


def test_what_started_from_a_leaking_run_cannot_pass_for_an_honest_one(faces, tmp_path):
    learned = replace(TINY, protocol="test_in_training")
    save_weights(create_model("compact", **TINY.options), tmp_path / "mine.safetensors", learned, faces.classes)
    with pytest.raises(DataError, match="learned by the protocol test_in_training, and what starts from it is"):
        experiment.run(TINY, faces, tmp_path / "run", weights=tmp_path / "mine.safetensors")
    assert experiment.run(learned, faces, tmp_path / "same", weights=tmp_path / "mine.safetensors")["start"]


def test_a_run_from_before_a_field_of_the_recipe_goes_on(faces, tmp_path):
    claim(tmp_path, TINY, "faces", {})
    saved = json.loads((tmp_path / "recipe.json").read_text())
    for name in ("fold", "free", "plateau", "snapshots"):
        del saved["recipe"][name]
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    claim(tmp_path, TINY, "faces", {})
    with pytest.raises(DataError, match=r"another recipe \(fold\)"):
        claim(tmp_path, replace(TINY, fold=(0, 3)), "faces", {})
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "recipe.json").write_text(damaged)
        with pytest.raises(DataError, match="recipe.json: damaged .*; delete .* to train again"):
            claim(tmp_path, TINY, "faces", {})


def test_weights_that_are_not_there_leave_no_run_behind(faces, tmp_path):
    with pytest.raises(DataError, match="none.safetensors: no readable weights"):
        experiment.run(TINY, faces, tmp_path / "run", weights=tmp_path / "none.safetensors")
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_recipes_survive_json():
    assert Recipe(**json.loads(json.dumps(TINY.__dict__))) == TINY


def test_snapshots_are_kept_at_the_end_of_each_cycle(faces, tmp_path):
    recipe = replace(TINY, stages=((5, 24),), warmup=1.0, cycle=2.0, snapshots=True)
    assert [schedule.cycles(recipe, epochs) for epochs in range(6)] == [0, 0, 0, 1, 1, 2]
    state = fit(recipe, faces, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("snapshot*")) == [
        "snapshot1.safetensors",
        "snapshot2.safetensors",
    ]
    last = load_weights(tmp_path / "snapshot2.safetensors")[0].state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in state.ema.state_dict().items())


def test_a_fold_is_not_learned_from(faces):
    kept = arrange(faces, replace(TINY, fold=(1, 3))).training
    left_out = faces.split("Training")
    left_out = left_out[left_out.rows % 3 == 1]
    assert len(kept) + len(left_out) == len(faces.split("Training")) and not set(kept.rows.tolist()) & set(
        left_out.rows.tolist()
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fold": (3, 3)}, "fold must be"),
        ({"fold": (0,)}, "fold must be"),
        ({"fold": (0.5, 2)}, "fold must be"),
        ({"stages": ((1.5, 24),)}, "stages must be pairs of whole numbers"),
        ({"stages": (3, 24)}, "stages must be pairs"),
        ({"free": ((1, 2, 3),)}, "free must be pairs"),
        ({"plateau": (0.1,)}, "plateau must be"),
        ({"plateau": ("a", 2)}, "plateau must be"),
        ({"snapshots": True}, "snapshots need a cosine with cycle"),
        ({"snapshots": True, "cycle": 2.5, "warmup": 0.0}, "in whole epochs"),
        ({"snapshots": True, "cycle": 50.0, "warmup": 0.0}, "of 5 epochs"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_a_recipe_is_the_same_after_json():
    recipe = replace(TINY, options={"width": 8, "depths": (1, 2, 2)}, free=((0, 1),), fold=(0, 3))
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
