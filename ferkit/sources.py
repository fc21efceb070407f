"""Every layout FER2013 and FER+ come in, found, read, cached: a path in, Faces out.

Layouts, first match wins: fer2013.csv, icml_face_data.csv, the challenge's train.csv + test.csv, class folders
(train/<class>/* and test/<class>/* with PublicTest_ or PrivateTest_ in the names, or a folder a split), the .zip or
.tar.gz of any of them, also inside the challenge's own archive; FER+'s fer2013new.csv beside any of them. For more
faces than memory holds: a folder with images.npy, uint8 (N, H, W), labels.npy and usage.npy, (N,) each; its pictures
stay on disk and are mapped.
"""

import csv
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from ferkit import DataError
from ferkit.atomic import write_whole
from ferkit.labels import OFFICIAL_COUNTS, USAGES, VOTES, class_index
from ferkit.pixels import AGAIN, SIDE, Table, is_below, parse
from ferkit.trees import ARCHIVES, Tree, beside, files_below, open_archive, open_tree

KAGGLE_INPUT = Path("/kaggle/input")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
VOTES_FILE = "fer2013new.csv"
FOLDERS = {  # name of a top folder -> split; None: the file names tell
    "train": "Training", "training": "Training", "test": None, "val": "PublicTest", "valid": "PublicTest",
    "validation": "PublicTest", "publictest": "PublicTest", "privatetest": "PrivateTest",
}  # fmt: skip
CACHE_VERSION = "2"
N_OFFICIAL = sum(map(sum, OFFICIAL_COUNTS))
FERPLUS_NAMES_MD5 = (
    "b6dd84ab09a4845d936211a7737310d4"  # of the picture names of fer2013new.csv: its rows, in their order
)


def locate(path: str | Path | None = None) -> tuple[Path | None, str]:
    """Where the data is and why: path, else $FERKIT_DATA, else a Kaggle input, else None (the embedded faces).

    The path "embedded" asks for the embedded faces (a folder of that name is "./embedded").
    """
    if str(path) == "embedded":
        return None, "--data embedded: the faces that ferkit.synthetic draws"
    if path:
        return Path(os.path.expanduser(path)), f"--data {path}"
    if os.environ.get("FERKIT_DATA"):
        return Path(os.path.expanduser(os.environ["FERKIT_DATA"])), "$FERKIT_DATA"
    if found := find(KAGGLE_INPUT):
        return found, f"found in {KAGGLE_INPUT}"
    return None, "no --data, no $FERKIT_DATA, no Kaggle input: the embedded faces, drawn by ferkit.synthetic"


def find(inputs: Path) -> Path | None:
    """The first folder below one of attached data sets that is one of our layouts; None without."""
    for root, folders, files in os.walk(inputs):
        folders.sort()
        if _is_fer2013(Path(root), folders, files):
            return Path(root)
    return None


def _is_fer2013(root: Path, folders: list[str], files: list[str]) -> bool:
    """Whether a folder of the Kaggle input is one of our layouts; other data sets have a train.csv as well."""
    if {"fer2013.csv", "icml_face_data.csv"} & set(files) or {"train", "test"} <= set(folders):
        return True
    if "train.csv" in files:
        with open(root / "train.csv", "rb") as file:
            return b"pixels" in file.readline(1000)
    return any(name.endswith(ARCHIVES) and ("fer2013" in name or "facial" in name) for name in map(str.lower, files))


# --- which layout that is ---


def detect(names: list[str]) -> tuple[str, list[str]]:
    """The layout of a list of relative names, and the names it takes: (csv | challenge | folders | archive, names)."""
    by_base: dict[str, list[str]] = {}
    names = [name for name in names if not PurePosixPath(name).name.startswith(".")]  # also macOS's ._ files
    for name in names:
        by_base.setdefault(PurePosixPath(name).name.lower(), []).append(name)
    for base in ("fer2013.csv", "icml_face_data.csv"):
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
    header = [column.strip() for column in next(reader, [])]
    if header[:1] != ["Usage"] or tuple(header[2:]) != VOTES:
        raise DataError(
            f"{name}, line 1: columns {header[:4]}; expected Usage, Image name and the ten of FER+; {AGAIN}"
        )
    try:
        lines = list(reader)
    except csv.Error as error:
        raise DataError(f"{name}: not a text file of votes ({error}); {AGAIN}") from None
    if len(lines) != len(rows):
        raise DataError(f"{name}: {len(lines)} rows of votes for {len(rows)} faces; both files must be complete")
    names = hashlib.md5("\n".join(line[1] if len(line) > 1 else "" for line in lines).encode()).hexdigest()
    if len(lines) == N_OFFICIAL and names != FERPLUS_NAMES_MD5:
        raise DataError(f"{name}: its rows are not in the order of microsoft/FERPlus; {AGAIN}")
    votes = np.empty((len(lines), len(VOTES)), np.uint8)
    for i, line in enumerate(lines):
        if len(line) != 2 + len(VOTES) or not all(is_below(votes.encode(), 11) for votes in line[2:]):
            raise DataError(f"{name}, line {i + 2}: not ten numbers of votes in 0..10; {AGAIN}")
        votes[i] = [int(value) for value in line[2:]]
    by_row = usage[rows.argsort()]
    for i, line in enumerate(lines):
        if line[0] != USAGES[by_row[i]]:
            raise DataError(
                f"{name}, line {i + 2}: Usage {line[0]!r}, the face of that row is {USAGES[by_row[i]]}; {AGAIN}"
            )
    return votes[rows]


# --- the cache ---


def cache_folder() -> Path:
    """$FERKIT_CACHE, else ferkit/ in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FERKIT_CACHE") or Path(base) / "ferkit")


def cache_key(path: Path) -> str:
    """Changes with the content of a source: names, sizes and times of its files, and 64 samples of each large one."""
    files = [path, *beside(path)] if path.is_file() else files_below(path)
    digest = hashlib.blake2b(CACHE_VERSION.encode(), digest_size=16)
    folder = path.parent if path.is_file() else path
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}".encode())
        if stat.st_size > 1 << 20:
            with open(file, "rb", 0) as handle:
                for i in range(64):
                    handle.seek(i * (stat.st_size // 64))
                    digest.update(handle.read(4096))
    return digest.hexdigest()


def read(path: str | Path, cache: bool = True) -> tuple[Raw, bool]:
    """The faces at a path and whether they came from the cache; DataError for anything that cannot be used."""
    path = Path(path)
    if (path / "images.npy").is_file():
        return _map_arrays(path), False
    file = cache_folder() / f"{cache_key(path)}.safetensors"
    if cache and (raw := _read_cache(file)):
        return raw, True
    with open_tree(path) as tree:
        raw = read_tree(tree)
    if cache:
        _write_cache(file, raw)
    return raw, False


def _map_arrays(folder: Path) -> Raw:
    """Arrays of a folder, the pictures mapped from disk (copy on write, so that nothing is written back)."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="c")
        labels, usage = (np.load(folder / f"{name}.npy") for name in ("labels", "usage"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{folder}: images.npy needs labels.npy and usage.npy beside it ({error})") from error
    if usage.size and not 0 <= usage.min() <= usage.max() < len(USAGES):
        raise DataError(f"{folder / 'usage.npy'}: splits must be 0, 1 or 2 ({', '.join(USAGES)})")
    return Raw("arrays", images, labels.astype(np.int64), usage.astype(np.uint8), np.arange(len(images)))


def _read_cache(file: Path) -> Raw | None:
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        return None
    try:
        with safe_open(file, "np") as cached:
            return Raw(cached.metadata()["layout"], **{key: cached.get_tensor(key) for key in cached.keys()})  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError, KeyError, TypeError):
        return None  # of another version or damaged: it is read and written anew


def _write_cache(file: Path, raw: Raw) -> None:
    from safetensors.numpy import save

    arrays = {k: np.ascontiguousarray(v) for k, v in raw.__dict__.items() if isinstance(v, np.ndarray)}
    try:
        write_whole(file, save(arrays, {"layout": raw.layout}))
    except OSError as error:
        warnings.warn(
            f"the faces were read but not cached in {file.parent} ({error}); the next start reads them again. "
            f"Free some space or set FERKIT_CACHE to another folder",
            stacklevel=3,
        )


def load(
    path: str | Path | None = None, *, labels: str = "fer2013", cache: bool = True, say: Callable[[str], None] = print
):
    """Faces from `path`, or from where `locate` finds them, or the embedded ones; `say` is told which.

    labels: "fer2013", or "ferplus" for the eight classes that FER+'s votes give (ferplus.as_ferplus).
    """
    from ferkit.ferplus import LABELLINGS, as_ferplus

    if labels not in LABELLINGS:
        raise ValueError(f"unknown labels {labels!r}; choose from {list(LABELLINGS)}")
    faces = _load(path, cache, say)
    return as_ferplus(faces) if labels == "ferplus" else faces


def _load(path: str | Path | None, cache: bool, say: Callable[[str], None]):
    import torch

    from ferkit.faces import Faces

    where, why = locate(path)
    if where is None:
        from ferkit.synthetic import embedded_faces

        say(f"data: {why}")
        return embedded_faces()
    raw, cached = read(where, cache)
    parts = {k: torch.from_numpy(v) for k, v in raw.__dict__.items() if isinstance(v, np.ndarray)}
    faces = Faces(**parts, name="fer2013")
    if not faces.is_official:
        faces = Faces(**parts, name="custom")
    official = "" if faces.is_official else f"; NOT the official FER2013 of {N_OFFICIAL:,} images"
    say(f"data: {where} ({why}), {raw.layout}{' from the cache' if cached else ''}, {len(faces):,} faces{official}")
    return faces
