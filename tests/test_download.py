"""The real Kaggle client against a server on the loopback interface: what arrives, what is refused."""

import zipfile

import pytest

from ferkit import DataError, download


def packed(tmp_path, data: bytes) -> bytes:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("fer2013.csv", data)
    return (tmp_path / "x.zip").read_bytes()


def test_without_credentials_the_two_ways_are_named(kaggle, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(DataError, match="KAGGLE_API_TOKEN(.|\n)*kaggle.json"):
        download.download("msambare/fer2013", tmp_path)
    assert not kaggle.calls


def test_unknown_source_lists_the_choices(tmp_path):
    with pytest.raises(ValueError, match="unknown source.*msambare/fer2013"):
        download.download("someone/else", tmp_path)


def test_a_download_is_verified_by_checksum_and_counts(kaggle, tmp_path, sample, monkeypatch):
    data = sample.csv(tmp_path / "fer2013.csv").read_bytes()
    kaggle.body = packed(tmp_path, data)
    with pytest.raises(DataError, match="fer2013.csv has MD5 .*The file was removed"):
        download.download("deadskull7/fer2013", tmp_path)
    assert not list((tmp_path / "deadskull7-fer2013").glob("*.zip"))
    monkeypatch.setattr(download, "OFFICIAL_MD5", {})
    with pytest.raises(DataError, match=r"\[2, 2, 2, 2, 2, 2, 2\] images a class in split 0"):
        download.download("deadskull7/fer2013", tmp_path)
    monkeypatch.setattr(download, "OFFICIAL_COUNTS", [[2] * 7] * 3)
    path = download.download("deadskull7/fer2013", tmp_path)
    assert path.read_bytes() == kaggle.body and any("DownloadDataset" in call for call in kaggle.calls)


def test_a_refusal_is_reported(kaggle, tmp_path):
    with pytest.raises(DataError, match="could not fetch challenge.*403"):
        download.download("challenge", tmp_path)


def test_the_client_goes_on_after_a_broken_connection(kaggle, tmp_path, sample, monkeypatch):
    monkeypatch.setattr(download, "OFFICIAL_MD5", {})
    monkeypatch.setattr(download, "OFFICIAL_COUNTS", [[2] * 7] * 3)
    kaggle.body = packed(tmp_path, sample.csv(tmp_path / "fer2013.csv").read_bytes())
    kaggle.trouble = {"archive": "drop"}
    assert download.download("deadskull7/fer2013", tmp_path).read_bytes() == kaggle.body and not kaggle.trouble


def test_a_data_set_that_is_gone_is_told(kaggle, tmp_path):
    kaggle.trouble = {"DownloadDataset": 404}
    with pytest.raises(DataError, match="could not fetch deadskull7/fer2013: Kaggle knows nothing of that name"):
        download.download("deadskull7/fer2013", tmp_path)
