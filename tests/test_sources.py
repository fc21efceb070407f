import io
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from ferkit import DataError, sources
from ferkit.labels import VOTES


def pack(folder, archive):
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(folder, ".")
    return archive


def layout_csv(sample, root):
    return sample.csv(root / "fer2013.csv")


def layout_icml(sample, root):
    sample.csv(root / "icml_face_data.csv", "eup", header='"emotion"," Usage"," pixels"')
    return root


def layout_challenge(sample, root):
    sample.csv(root / "train.csv", "ep", range(14))
    sample.csv(root / "test.csv", "ep", range(14, 42))
    return root / "train.csv"


def layout_folders(sample, root):
    return sample.folders(root)


def layout_zip(sample, root):
    return pack(sample.folders(root / "x"), root / "faces.zip")


def layout_tar(sample, root):
    (root / "x" / "fer2013").mkdir(parents=True)
    sample.csv(root / "x" / "fer2013" / "fer2013.csv")
    return pack(root / "x", root / "fer2013.tar.gz")


def layout_nested(sample, root):
    (root / "x").mkdir()
    sample.csv(root / "x" / "fer2013.csv")
    (root / "y").mkdir()
    pack(root / "x", root / "y" / "fer2013.tar.gz")
    return pack(root / "y", root / "challenge.zip")


LAYOUTS = [layout_csv, layout_icml, layout_challenge, layout_folders, layout_zip, layout_tar, layout_nested]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_faces(sample, tmp_path, layout):
    faces = sources.load(layout(sample, tmp_path), say=lambda text: None)
    np.testing.assert_array_equal(faces.images, sample.images)
    np.testing.assert_array_equal(faces.labels, sample.labels)
    np.testing.assert_array_equal(faces.usage, sample.usage)
    np.testing.assert_array_equal(faces.rows, np.arange(42))
    reference = sources.load(sample.csv(tmp_path / "again.csv"), say=lambda text: None)
    assert faces.fingerprint == reference.fingerprint


def test_challenge_test_set_without_labels(sample, tmp_path):
    sample.csv(tmp_path / "train.csv", "ep", range(14))
    sample.csv(tmp_path / "test.csv", "p", range(14, 42))
    faces = sources.load(tmp_path, say=lambda text: None)
    assert (faces.split("PrivateTest").labels == -1).all() and len(faces.split("PublicTest")) == 14


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ferplus_votes_are_joined_by_row(sample, tmp_path, layout):
    path = layout(sample, tmp_path)
    sample.ferplus(tmp_path / "fer2013new.csv")
    np.testing.assert_array_equal(sources.load(path, say=lambda text: None).votes, sample.votes)


BROKEN_VOTES = {
    "a row missing": (lambda t: t.rsplit("\n", 2)[0] + "\n", "41 rows of votes for 42 faces"),
    "another order": (lambda t: t.replace("Training", "PublicTest", 1), "line 2: Usage 'PublicTest', the face"),
    "a truncated row": (lambda t: t.rstrip().rsplit(",", 4)[0] + "\n", "line 43: not ten numbers"),
    "no number": (lambda t: t.replace("fer0000003.png,", "fer0000003.png,x"), "line 5: not ten numbers"),
    "columns": (lambda t: t.replace("contempt", "scorn"), "line 1: columns"),
}


@pytest.mark.parametrize("name", BROKEN_VOTES)
def test_votes_that_do_not_match(sample, tmp_path, name):
    breaking, message = BROKEN_VOTES[name]
    sample.csv(tmp_path / "fer2013.csv")
    path = sample.ferplus(tmp_path / "fer2013new.csv")
    path.write_text(breaking(path.read_text()))
    with pytest.raises(DataError, match=f"fer2013new.csv.*{message}"):
        sources.load(tmp_path, say=lambda text: None)


def test_folder_names_without_rows_cannot_take_votes(sample, tmp_path):
    sample.folders(tmp_path)
    path = next(tmp_path.rglob("Training_0.png"))
    path.rename(path.with_name("Training_10118481.png"))
    assert len(sources.load(tmp_path, say=lambda text: None)) == 42
    sample.ferplus(tmp_path / "fer2013new.csv")
    with pytest.raises(DataError, match="no row numbers"):
        sources.load(tmp_path, say=lambda text: None)


def test_broken_folders_and_archives(sample, tmp_path):
    def refuse(path, message):
        with pytest.raises(DataError, match=message):
            sources.read(path)

    for nowhere in (tmp_path / "nowhere.csv", tmp_path / "nowhere" / "pictures"):
        told = f"{nowhere}: no such file or folder; give a FER2013 file, folder or archive with --data"
        refuse(nowhere, f"^{re.escape(told)}$")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "no FER2013 here; looked for")
    root = sample.folders(tmp_path / "pictures")
    broken = next(root.rglob("PrivateTest_*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    refuse(root, f"{broken.name}: not a picture that can be decoded")
    broken.rename(broken.with_name("face_30.png"))
    refuse(root, "is it PublicTest or PrivateTest")
    archive = layout_tar(sample, tmp_path)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    refuse(archive, "fer2013.tar.gz.*(damaged|truncated|cannot be read on).*download")
    archive = layout_zip(sample, tmp_path)
    archive.write_bytes(archive.read_bytes()[:-100])
    refuse(archive, "faces.zip: damaged, truncated or locked archive")
    for name in ("../fer2013.csv", "/etc/fer2013.csv", "a/../../fer2013.csv", "..\\fer2013.csv"):
        with zipfile.ZipFile(tmp_path / "climbs.zip", "w") as file:
            file.writestr(name, "emotion,pixels,Usage\n")
        refuse(tmp_path / "climbs.zip", "climbs out of the archive's folder")
    with tarfile.open(tmp_path / "climbs.tar", "w") as file:
        file.addfile(tarfile.TarInfo("../fer2013.csv"), io.BytesIO(b""))
    refuse(tmp_path / "climbs.tar", "climbs out")
    (tmp_path / "faces.txt").write_text("x")
    refuse(tmp_path / "faces.txt", "faces.txt: neither a folder, nor a .csv, nor")


def test_two_candidates_are_not_guessed_between(sample, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sample.csv(tmp_path / name / "fer2013.csv")
    with pytest.raises(DataError, match="2 candidates, a/fer2013.csv, b/fer2013.csv; name one"):
        sources.read(tmp_path)


def test_links_are_followed_and_broken_ones_ignored(sample, tmp_path):
    real = sample.folders(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for split in ("train", "test"):
        (tmp_path / "linked" / split).symlink_to(real / split)
    (tmp_path / "linked" / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked" / "loop").symlink_to(tmp_path / "linked")
    assert len(sources.read(tmp_path / "linked")[0].images) == 42


def test_a_renamed_class_folder_is_not_read_from_the_cache(sample, tmp_path):
    root = sample.folders(tmp_path)
    before = sources.read(root)[0].labels
    for split in ("train", "test"):
        shutil.rmtree(root / split / "fear")
        (root / split / "happy").rename(root / split / "fear")
    assert (before == 3).any() and not (sources.read(root)[0].labels == 3).any()


def test_wrong_picture_size(sample, tmp_path):
    from PIL import Image

    root = sample.folders(tmp_path)
    path = next(root.rglob("Training_3.png"))
    Image.new("L", (64, 48)).save(path)
    with pytest.raises(DataError, match=r"Training_3.png: 64x48 pixels, expected 48x48"):
        sources.read(root)


def test_the_cache_is_used_and_noticed_stale(sample, tmp_path):
    path = sample.csv(tmp_path / "fer2013.csv")
    (first, cached), (second, again) = sources.read(path), sources.read(path)
    assert (cached, again) == (False, True)
    np.testing.assert_array_equal(first.images, second.images)
    sample.csv(path, rows=range(41))
    assert len(sources.read(path)[0].images) == 41
    sample.ferplus(tmp_path / "fer2013new.csv")
    with pytest.raises(DataError, match="42 rows of votes for 41"):
        sources.read(path)


def test_a_damaged_cache_is_read_anew(sample, tmp_path):
    path = sample.csv(tmp_path / "fer2013.csv")
    sources.read(path)
    (file,) = sources.cache_folder().iterdir()
    file.write_bytes(file.read_bytes()[:500])
    raw, cached = sources.read(path)
    assert not cached and len(raw.images) == 42


def test_a_full_disk_leaves_no_cache_and_says_so(sample, tmp_path, monkeypatch):
    path = sample.csv(tmp_path / "fer2013.csv")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.warns(UserWarning, match="not cached in .*No space left.*FERKIT_CACHE"):
        raw, _ = sources.read(path)
    assert len(raw.images) == 42 and not list(sources.cache_folder().iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("FERKIT_CACHE", str(path))
    with pytest.warns(UserWarning, match="not cached in .*is a file; name a folder"):
        assert len(sources.read(path)[0].images) == 42


def test_where_the_data_is_found(sample, tmp_path, monkeypatch):
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path / "input")
    assert sources.locate()[0] is None
    folder = tmp_path / "input" / "datasets" / "someone" / "fer2013"
    folder.mkdir(parents=True)
    sample.csv(folder / "fer2013.csv")
    assert sources.locate() == (folder, f"found in {tmp_path / 'input'}")
    monkeypatch.setenv("FERKIT_DATA", "elsewhere")
    assert str(sources.locate()[0]) == "elsewhere" and sources.locate("here.csv")[1] == "--data here.csv"
    said = []
    sources.load(folder, say=said.append)
    assert "42 faces; NOT the official FER2013" in said[0]


def test_the_real_data(real_faces):
    """The counts and the votes of the published data, through the whole path."""
    assert real_faces.is_official and len(real_faces) == 35887
    assert real_faces.images.shape[1:] == (48, 48) and real_faces.images.dtype == torch.uint8
    if real_faces.votes is not None:
        assert real_faces.votes.shape[1] == len(VOTES)
