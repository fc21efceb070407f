"""FER2013 from Kaggle through the official client, which resumes and shows progress; what arrives is verified."""

import hashlib
from pathlib import Path, PurePosixPath

from ferkit import DataError
from ferkit.kaggle_client import call, check_credentials, failure
from ferkit.labels import OFFICIAL_COUNTS, UNLABELLED
from ferkit.layouts import Raw
from ferkit.sources import read
from ferkit.trees import open_tree

CHALLENGE = "challenges-in-representation-learning-facial-expression-recognition-challenge"
SOURCES = {  # name -> arguments of the client, file it leaves
    "msambare/fer2013": (("datasets", "download", "msambare/fer2013"), "fer2013.zip"),
    "deadskull7/fer2013": (("datasets", "download", "deadskull7/fer2013"), "fer2013.zip"),
    "challenge": (("competitions", "download", CHALLENGE), f"{CHALLENGE}.zip"),
}
OFFICIAL_MD5 = {
    "fer2013.csv": "f8428a1edbd21e88f42c73edd2a14f95",
    "icml_face_data.csv": "b114b9e04e6949e5fe8b6a98b3892b1d",
    "train.csv": "3f0dfb3d3fd99c811a1299cb947e3131",
    "test.csv": "b02c2298636a634e8c2faabbf3ea9a23",
}


def download(source: str, folder: str | Path) -> Path:
    """Fetch one of SOURCES into a folder of its own, go on with a partial file, verify; the archive's path.

    Raises ValueError for an unknown source; DataError without credentials, when the client fails, or when the archive
    is not FER2013 (it is then removed).
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; choose from {list(SOURCES)}")
    check_credentials()
    arguments, name = SOURCES[source]
    folder = Path(folder) / source.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    status, said = call(*arguments, "-p", str(folder))
    path = folder / name
    if status or not path.exists():
        raise failure(f"could not fetch {source}", said)
    try:
        verify(path)
    except DataError as error:
        path.unlink()
        raise DataError(f"{error}. The file was removed; run the download again") from error
    return path


def verify(path: Path) -> Raw:
    """The faces of an archive, when its class counts are the official ones and its known files have their checksums."""
    with open_tree(path) as tree:
        for name in tree.names:
            expected = OFFICIAL_MD5.get(PurePosixPath(name).name)
            if expected:
                with tree.open(name) as file:
                    found = hashlib.file_digest(file, "md5").hexdigest()
                if found != expected:
                    raise DataError(f"{path}: {name} has MD5 {found}, the official file has {expected}")
    raw, _ = read(path)
    for code, official in enumerate(OFFICIAL_COUNTS):
        labels = raw.labels[raw.usage == code]
        counts = [int((labels == label).sum()) for label in range(len(official))]
        if counts != list(official) and not (labels == UNLABELLED).all():
            raise DataError(f"{path}: {counts} images a class in split {code}, FER2013 has {list(official)}")
    return raw
