"""Every layout FER2013 and FER+ come in, recognised by its names and parsed into arrays.

First match wins: fer2013.csv, icml_face_data.csv, the challenge's train.csv + test.csv, class folders (train/<class>/*
and test/<class>/* with PublicTest_ or PrivateTest_ in the names, or a folder a split), the .zip or .tar.gz of any of
them, also inside the challenge's own archive; FER+'s fer2013new.csv beside any of them.
"""

import csv
import hashlib
import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from ferkit import DataError
from ferkit.labels import OFFICIAL_COUNTS, USAGES, VOTES, class_index
from ferkit.pixels import AGAIN, SIDE, Table, number_below, parse
from ferkit.trees import ARCHIVES, Tree, open_archive

CSVS = ("fer2013.csv", "icml_face_data.csv")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
VOTES_FILE = "fer2013new.csv"
FOLDERS = {  # name of the folder above a class folder -> split; None: the file names tell
    "train": "Training", "training": "Training", "test": None, "val": "PublicTest", "valid": "PublicTest",
    "validation": "PublicTest", "publictest": "PublicTest", "privatetest": "PrivateTest",
}  # fmt: skip
N_OFFICIAL = sum(map(sum, OFFICIAL_COUNTS))
FERPLUS_NAMES_MD5 = (
    "b6dd84ab09a4845d936211a7737310d4"  # of the picture names of fer2013new.csv: its rows, in their order
)


def detect(names: list[str]) -> tuple[str, list[str]]:
    """The layout of a list of relative names, and the names it takes: (csv | challenge | folders | archive, names)."""
    by_base: dict[str, list[str]] = {}
    names = [name for name in names if not PurePosixPath(name).name.startswith(".")]  # also macOS's ._ files
    for name in names:
        by_base.setdefault(PurePosixPath(name).name.lower(), []).append(name)
    for base in CSVS:
        if base in by_base:
            return "csv", by_base[base]
    if "train.csv" in by_base:
        return "challenge", by_base["train.csv"][:1] + by_base.get("test.csv", [])[:1]
    pictures = [n for n in names if n.lower().endswith(PICTURES) and _split_folder(n)]
    if pictures:
        return "folders", pictures
    inner = [n for n in names if n.lower().endswith(ARCHIVES)]
    ranked = sorted(inner, key=lambda n: ("fer2013" not in n.lower(), "facial" not in n.lower(), n))
    if ranked:
        return "archive", ranked[:1]
    if len(names) == 1 and names[0].lower().endswith(".csv"):
        return "csv", names
    return "unknown", []


def _split_folder(name: str) -> str | None:
    """The split folder above a picture's class folder, lower case, or None."""
    parts = PurePosixPath(name).parts
    return parts[-3].lower() if len(parts) >= 3 and parts[-3].lower() in FOLDERS else None


@dataclass(frozen=True)
class Raw:
    """A parsed source in numpy: images (N, 48, 48), labels, usage, rows (N,), votes (N, 10) or None."""

    layout: str
    images: np.ndarray
    labels: np.ndarray
    usage: np.ndarray
    rows: np.ndarray
    votes: np.ndarray | None = None


def read_tree(tree: Tree) -> Raw:
    """Parse a tree by its layout and join FER+ votes that lie beside it."""
    layout, names = detect([n for n in tree.names if PurePosixPath(n).name != VOTES_FILE])
    if layout == "unknown":
        raise DataError(
            f"{tree.root}: no FER2013 here; looked for fer2013.csv, icml_face_data.csv, train.csv, class folders "
            f"train/<class>/ and test/<class>/, or an archive of one"
        )
    if layout == "archive":
        with tree.open(names[0]) as file:
            stream = file if file.seekable() else io.BytesIO(file.read())
            with open_archive(stream, tree.root / names[0]) as inner:
                raw = read_tree(inner)
    elif layout == "folders":
        raw = _read_folders(tree, names)
    else:
        raw = _read_csv(tree, layout, names)
    votes = next((n for n in tree.names if PurePosixPath(n).name == VOTES_FILE), None)
    if votes is None or raw.votes is not None:
        return raw
    outside = tree.root.is_file() and (tree.root.parent / votes).is_file()  # beside an archive, not in it
    place = str((tree.root.parent if outside else tree.root) / votes)
    with tree.open(votes) as file:
        return replace(raw, votes=join_votes(file, place, raw.usage, raw.rows))


def _read_csv(tree: Tree, layout: str, names: list[str]) -> Raw:
    if layout == "csv" and len(names) > 1:
        raise DataError(f"{tree.root}: {len(names)} candidates, {', '.join(names[:3])}; name one of them with --data")
    tables = []
    for name in names:
        with tree.open(name) as file:
            tables.append(parse(file, str(tree.root / name)))
    usages = [table.usage for table in tables]
    if layout == "challenge":
        halves = [np.zeros(len(tables[0].images), np.uint8), *(_halves(table) for table in tables[1:])]
        usages = [half if usage is None else usage for usage, half in zip(usages, halves, strict=True)]
    for name, usage in zip(names, usages, strict=True):
        if usage is None:
            raise DataError(f"{tree.root / name}, line 1: no Usage column, so the splits are unknown; use fer2013.csv")
    images, labels = (np.concatenate([getattr(t, k) for t in tables]) if tables[1:] else getattr(tables[0], k)
                      for k in ("images", "labels"))  # fmt: skip
    return Raw(layout, images, labels, np.concatenate(usages), np.arange(len(images)))


def _halves(table: Table) -> np.ndarray:
    """The challenge's test.csv holds PublicTest, then PrivateTest, 3,589 each, and says so nowhere."""
    usage = np.full(len(table.images), 2, np.uint8)
    usage[: (len(usage) + 1) // 2] = 1
    return usage


def _read_folders(tree: Tree, names: list[str]) -> Raw:
    from PIL import Image

    usage = np.array([USAGES.index(_folder_usage(name, tree.root)) for name in names], np.uint8)
    labels = np.array([_folder_label(name, tree.root) for name in names])

    def decode(data: bytes, name: str) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(data)) as picture:
                pixels = np.asarray(picture.convert("L"))
        except Exception as error:  # Pillow raises many kinds for a damaged picture
            raise DataError(f"{tree.root / name}: not a picture that can be decoded ({error}); {AGAIN}") from error
        if pixels.shape != (SIDE, SIDE):
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise DataError(f"{tree.root / name}: {size} pixels, expected {SIDE}x{SIDE}; resize it or remove it")
        return pixels

    def fetch(name: str) -> bytes:
        with tree.open(name) as file:
            return file.read()

    images = np.empty((len(names), SIDE, SIDE), np.uint8)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), 1024):  # archives are read in one thread, decoded in several
            some = names[start : start + 1024]
            images[start : start + len(some)] = list(pool.map(decode, map(fetch, some), some))
    order, rows = _rows(names, usage)
    return Raw("folders", images[order], labels[order], usage[order], rows)


def _folder_usage(name: str, root: Path) -> str:
    stem = PurePosixPath(name).name.lower()
    told = next((usage for usage in USAGES if stem.startswith(usage.lower())), None)
    folder = FOLDERS[_split_folder(name)]
    if (folder or told) is None:
        raise DataError(
            f"{root / name}: is it PublicTest or PrivateTest? Name test pictures PublicTest_… and PrivateTest_…, or "
            f"put those for choosing into val/ and rename the rest PrivateTest_…"
        )
    if folder and told and folder != told:
        raise DataError(f"{root / name}: a {told} picture in the {folder} folder; {AGAIN}")
    return folder or told


def _folder_label(name: str, root: Path) -> int:
    try:
        return class_index(PurePosixPath(name).parts[-2])
    except ValueError as error:
        raise DataError(f"{root / name}: {error}") from None


def _rows(names: list[str], usage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order and rows of pictures: the numbers in their names where these number all of them from 0, else by name."""
    numbers = [re.search(r"(\d+)\.\w+$", name) for name in names]
    if all(numbers):
        rows = np.array([int(match.group(1)) for match in numbers])
        order = rows.argsort()
        if np.array_equal(rows[order], np.arange(len(rows))):
            return order, rows[order]
    order = np.lexsort((names, usage))
    return order, -1 - np.arange(len(names))  # negative: not a row of fer2013.csv


def join_votes(file: BinaryIO, name: str, usage: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """FER+ votes uint8 (N, 10) for faces with these splits and rows; DataError where the two files do not match."""
    if len(rows) and rows.min() < 0:
        raise DataError(f"{name}: the pictures' names carry no row numbers to join votes by; use fer2013.csv instead")
    reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline=""))
    try:
        header, *lines = [*reader] or [[]]
    except csv.Error as error:
        raise DataError(f"{name}: not a text file of votes ({error}); {AGAIN}") from None
    header = [column.strip() for column in header]
    if header[:1] != ["Usage"] or tuple(header[2:]) != VOTES:
        raise DataError(
            f"{name}, line 1: columns {header[:4]}; expected Usage, Image name and the ten of FER+; {AGAIN}"
        )
    if len(lines) != len(rows):
        raise DataError(f"{name}: {len(lines)} rows of votes for {len(rows)} faces; both files must be complete")
    names = hashlib.md5("\n".join(line[1] if len(line) > 1 else "" for line in lines).encode()).hexdigest()
    if len(lines) == N_OFFICIAL and names != FERPLUS_NAMES_MD5:
        raise DataError(f"{name}: its rows are not in the order of microsoft/FERPlus; {AGAIN}")
    votes = np.empty((len(lines), len(VOTES)), np.uint8)
    for i, line in enumerate(lines):
        counts = [number_below(11, field.encode()) for field in line[2:]]
        if len(counts) != len(VOTES) or None in counts:
            raise DataError(f"{name}, line {i + 2}: not ten numbers of votes in 0..10; {AGAIN}")
        votes[i] = counts
    by_row = usage[rows.argsort()]
    for i, line in enumerate(lines):
        if line[0] != USAGES[by_row[i]]:
            raise DataError(
                f"{name}, line {i + 2}: Usage {line[0]!r}, the face of that row is {USAGES[by_row[i]]}; {AGAIN}"
            )
    return votes[rows]
