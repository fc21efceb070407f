import numpy as np
import pytest
import torch

from ferkit import DataError, experiment, feed, records, sources, synthetic
from ferkit.feed import Feed
from ferkit.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(feed, "CHUNK", 16)
    monkeypatch.setattr(feed, "WINDOW", 3)


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(300)


@pytest.fixture
def folder(faces, tmp_path):
    """The same faces as arrays on disk, split after split."""
    order = faces.usage.argsort(stable=True)
    for name in ("images", "labels", "usage"):
        np.save(tmp_path / f"{name}.npy", getattr(faces, name)[order].numpy())
    return tmp_path


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_shows_every_face_once_with_its_own_row(faces, small_windows, resident):
    training = faces.split("Training")
    loader, seen = Feed(training, 32, CPU, resident), []
    n_batches, batches = loader.epoch(torch.Generator().manual_seed(3))
    sizes = []
    for images, at, rows in batches:
        assert torch.equal(images[at], training.images[rows])
        sizes.append(len(at))
        seen.append(rows)
    assert len(sizes) == n_batches and max(sizes) <= 32 and min(sizes) > 16
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(len(training)))
    again = [rows for _, _, rows in loader.epoch(torch.Generator().manual_seed(3))[1]]
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    other = [rows for _, _, rows in loader.epoch(torch.Generator().manual_seed(4))[1]]
    assert not torch.equal(torch.cat(seen), torch.cat(other))


def test_what_is_left_for_a_last_window_joins_the_one_before(faces, small_windows):
    n_batches, batches = Feed(faces.split("Training")[:49], 32, CPU, False).epoch(torch.Generator().manual_seed(3))
    assert [len(at) for _, at, _ in batches] == [25, 24] and n_batches == 2


def test_pictures_on_disk_are_mapped_and_train(folder, small_windows, monkeypatch, tmp_path):
    faces = sources.load(folder)
    assert faces.name == "custom" and (faces.split("Training").images.data_ptr() - faces.images.data_ptr()) == 0
    monkeypatch.setattr(feed, "memory", lambda _: faces.images.nbytes)  # too little for all of it
    recipe = Recipe("m", options={"width": 8, "drop": 0.0}, stages=((6, 24),), batch_size=16, precision="float32",
                    policy="none", ema=0.9)  # fmt: skip
    record = experiment.run(recipe, faces, tmp_path / "run", "cpu")
    losses = [float(row["loss"]) for row in records.read_log(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.1 and record["data"]["n"]["Training"] == len(faces.split("Training"))


def test_arrays_that_do_not_belong_together_are_named(folder):
    np.save(folder / "usage.npy", np.full(300, 5, np.uint8))
    with pytest.raises(DataError, match=r"usage.npy: splits must be 0, 1 or 2 \(Training"):
        sources.load(folder)
    np.save(folder / "usage.npy", np.full(300, "Training"))
    with pytest.raises(DataError, match="labels.npy and usage.npy hold whole numbers"):
        sources.load(folder)
    (folder / "labels.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="images.npy needs labels.npy and usage.npy beside it"):
        sources.load(folder)
