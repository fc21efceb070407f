"""The faces of a path: where the data is, what it holds, and a cache of it. A path in, Faces out.

A path is one of the layouts of layouts.py or, for more faces than memory holds, a folder with images.npy, uint8
(N, H, W), labels.npy and usage.npy, (N,) each; its pictures stay on disk and are mapped.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ferkit import DataError
from ferkit.atomic import write_whole
from ferkit.labels import USAGES
from ferkit.layouts import CSVS, N_OFFICIAL, Raw, read_tree
from ferkit.trees import ARCHIVES, beside, files_below, open_tree

KAGGLE_INPUT = Path("/kaggle/input")
CACHE_VERSION = "2"


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
    if set(CSVS) & set(files) or {"train", "test"} <= set(folders):
        return True
    if "train.csv" in files:
        with open(root / "train.csv", "rb") as file:
            return b"pixels" in file.readline(1000)
    return any(name.endswith(ARCHIVES) and ("fer2013" in name or "facial" in name) for name in map(str.lower, files))


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
    if usage.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
        raise DataError(f"{folder}: labels.npy and usage.npy hold whole numbers, got {labels.dtype} and {usage.dtype}")
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
    except (OSError, DataError) as error:
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
