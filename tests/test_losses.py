from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ferkit import DataError, experiment, records, schedule, synthetic
from ferkit.augment import Mixing
from ferkit.loop import Average, _decay
from ferkit.losses import Objective, cross_entropy, teacher_logits, vote_targets
from ferkit.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def training():
    return synthetic.embedded_faces(100).split("Training")


def test_cross_entropy_and_its_focal_form():
    torch.manual_seed(0)
    logits, targets, weight = torch.randn(5, 7), torch.rand(5, 7).softmax(1), torch.rand(7)
    expected = -(targets * logits.log_softmax(1) * weight).sum()
    torch.testing.assert_close(cross_entropy(logits, targets, weight), expected)
    torch.testing.assert_close(cross_entropy(logits, targets, weight, 0.1, focal=1e-6),
                               cross_entropy(logits, targets, weight, 0.1), atol=1e-4, rtol=0)  # fmt: skip
    hard, p = F.one_hot(torch.arange(5), 7).float(), logits.softmax(1).diagonal()
    torch.testing.assert_close(cross_entropy(logits, hard, focal=2.0), -((1 - p) ** 2 * p.log()).sum())


def test_votes_become_distributions_and_labels_where_there_is_no_majority(training):
    votes = torch.zeros(len(training), 10, dtype=torch.uint8)
    votes[:, 8] = 10  # unknown: dropped by FER+, so the label stays
    votes[0] = torch.tensor([6, 4, 0, 0, 0, 0, 0, 0, 0, 0])  # neutral 6, happiness 4
    votes[1] = torch.tensor([0, 0, 0, 0, 0, 0, 0, 10, 0, 0])  # contempt alone has no class here
    targets = vote_targets(replace(training, votes=votes))
    torch.testing.assert_close(targets[0], torch.tensor([0, 0, 0, 0.4, 0, 0, 0.6]))
    assert torch.equal(targets[1:], F.one_hot(training.labels, 7)[1:].float())
    with pytest.raises(DataError, match="no FER\\+ votes; put fer2013new.csv"):
        vote_targets(replace(training, votes=None))


def save_teacher(path, training, **changes):
    torch.manual_seed(1)
    order = torch.randperm(len(training))
    arrays = {"Training_logits": torch.randn(len(training), 7)[order].numpy().astype(np.float16),
              "Training_rows": training.rows[order].numpy(), "classes": np.array(training.classes)}  # fmt: skip
    np.savez(path, **(arrays | changes))
    return arrays, order


def test_a_teacher_is_followed_at_its_temperature(training, tmp_path):
    arrays, order = save_teacher(tmp_path / "t.npz", training)
    taught = teacher_logits(tmp_path / "t.npz", training)
    np.testing.assert_array_equal(taught[order].numpy(), arrays["Training_logits"].astype(np.float32))
    recipe = Recipe("d", teacher=str(tmp_path / "t.npz"), teacher_weight=0.7, temperature=3.0, label_smoothing=0.0)
    logits, rows = torch.randn(4, 7), torch.tensor([9, 2, 5, 0])
    alone = F.cross_entropy(logits, training.labels[rows], reduction="sum")
    divergence = F.kl_div((logits / 3).log_softmax(1), (taught[rows] / 3).softmax(1), reduction="sum")
    entropy = -((taught[rows] / 3).softmax(1) * (taught[rows] / 3).log_softmax(1)).sum()
    expected = 0.3 * alone + 0.7 * 9 * (divergence + entropy)
    torch.testing.assert_close(Objective(recipe, training, CPU)(logits, rows, rows, None), expected)


def test_mixed_pictures_have_mixed_targets(training):
    objective, rows, partners = Objective(Recipe("m", label_smoothing=0.0), training, CPU), *torch.arange(6).view(2, 3)
    logits = torch.randn(3, 7)
    one, other = (F.cross_entropy(logits, training.labels[at], reduction="sum") for at in (rows, partners))
    torch.testing.assert_close(objective(logits, rows, partners, Mixing(partners, 0.8)), 0.8 * one + 0.2 * other)


@pytest.mark.parametrize("changes, message", [
    ({"Training_rows": np.arange(70) + 1000}, "has not judged 70 of the 70 training faces"),
    ({"classes": np.array(list("abcdefg"))}, "logits .* of .*'a'"),
    ({"Training_logits": np.zeros((3, 7))}, r"logits \(3, 7\)"),
])  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(training, tmp_path, changes, message):
    save_teacher(tmp_path / "t.npz", training, **changes)
    with pytest.raises(DataError, match=message):
        teacher_logits(tmp_path / "t.npz", training)
    with pytest.raises(DataError, match="none.npz: no readable Training_logits"):
        teacher_logits(tmp_path / "none.npz", training)


def test_the_one_cycle_is_torchs():
    recipe = Recipe("o", schedule="one_cycle", stages=((10, 48),), lr=0.4)
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=1001, cycle_momentum=False)
    for step in range(0, 1001):
        # torch turns at step 299.3 of 1000 where we turn at 300
        if step % 50 == 0:
            ours = schedule.learning_rate(recipe, step / 100, [])
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=2e-3)
        optimizer.step()
        theirs.step() if step < 1000 else None


def test_swa_is_the_mean_of_the_weights_of_its_steps():
    recipe, model, ema = Recipe("s", stages=((5, 48),), swa=2), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    seen, average = [], Average(ema, model)
    for epoch in range(5):
        for step in range(3):
            torch.nn.init.normal_(model.weight)
            average.update(_decay(recipe, epoch, step, 3))
            seen.append(model.weight.clone())
    torch.testing.assert_close(ema.weight, torch.stack(seen[-6:]).mean(0))
    assert _decay(Recipe("s", stages=((5, 48),), swa=9), 0, 0, 3) == 0  # of all epochs, where there are fewer


@pytest.mark.parametrize("changes", [
    dict(targets="votes"), dict(focal=2.0), dict(precision="float16"), dict(precision="bfloat16"), dict(swa=3),
    dict(schedule="one_cycle"),
], ids=str)  # fmt: skip
def test_every_way_of_training_learns(changes, tmp_path):
    faces = synthetic.embedded_faces(200)
    recipe = Recipe("w", options={"width": 8, "drop": 0.0}, batch_size=16, policy="none", ema=0.9, stages=((8, 24),),
                    **({"precision": "float32"} | changes))  # fmt: skip
    record = experiment.run(recipe, faces, tmp_path, "cpu")
    losses = [float(row["loss"]) for row in records.read_log(tmp_path)]
    assert losses[-1] < losses[0] - 0.1
    assert record["precision"]["used"] == recipe.precision


def test_compiled_training_is_the_same_training(tmp_path, monkeypatch):
    """By the eager backend: whether dynamo captures the step, not whether this machine has a compiler."""
    real, captured = torch.compile, []

    def compile_eagerly(module, **options):
        captured.append(module)
        return real(module, backend="eager", fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    faces = synthetic.embedded_faces(100)
    recipe = Recipe("c", options={"width": 8}, batch_size=16, stages=((1, 24), (1, 32)), precision="float32")
    experiment.run(recipe, faces, tmp_path / "plain", "cpu")
    experiment.run(recipe, faces, tmp_path / "compiled", "cpu", compiled=True)
    losses = [[row["loss"] for row in records.read_log(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == losses[1] and len(captured) == 1


def test_out_of_time_keeps_what_is_done(tmp_path, monkeypatch):
    import time

    from ferkit.train import OutOfTime

    faces = synthetic.embedded_faces(100)
    recipe = Recipe("t", options={"width": 8}, batch_size=16, stages=((3, 24),), precision="float32")
    with pytest.raises(OutOfTime, match="t-s0: out of time after epoch 0 of 3"):
        monkeypatch.setenv("FERKIT_UNTIL", str(time.time() - 1))
        experiment.run(recipe, faces, tmp_path, "cpu")
    assert not (tmp_path / "record.json").exists()
    monkeypatch.setenv("FERKIT_UNTIL", str(time.time() + 600))
    assert experiment.run(recipe, faces, tmp_path, "cpu")["selected"]["epoch"]
