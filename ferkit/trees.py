"""What a path holds, a folder, an archive or one file, as names that can be opened; nothing is unpacked to disk."""

import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ferkit import DataError
from ferkit.pixels import AGAIN

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
# RuntimeError: a password, or a compression that Python does not know
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
BESIDE = ("test.csv", "fer2013new.csv")  # files that belong to a file given alone, when they lie beside it


@dataclass(frozen=True)
class Tree:
    """Files by relative name below `root`, which is for messages; `open(name)` gives a binary stream to close."""

    root: Path
    names: list[str]
    open: Callable[[str], BinaryIO]


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """The Tree of a folder, an archive or a single file; DataError when missing, damaged or unsafe."""
    with _open_alone(path) as tree:
        yield _with_neighbours(tree, beside(path))


def _with_neighbours(tree: Tree, files: list[Path]) -> Tree:
    extra = {file.name: file for file in files if file.name not in tree.names}
    if not extra:
        return tree
    return Tree(tree.root, [*tree.names, *extra], lambda n: extra[n].open("rb") if n in extra else tree.open(n))


@contextmanager
def _open_alone(path: Path) -> Iterator[Tree]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a FER2013 file, folder or archive with --data")
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in files_below(path))
        yield Tree(path, names, lambda name: (path / name).open("rb"))
    elif path.name.lower().endswith(ARCHIVES):
        with open(path, "rb") as file, open_archive(file, path) as tree:
            yield tree
    elif not path.name.lower().endswith(".csv"):
        raise DataError(f"{path}: neither a folder, nor a .csv, nor one of {', '.join(ARCHIVES)}")
    else:
        yield Tree(path.parent, [path.name], lambda name: (path.parent / name).open("rb"))


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, links followed, each real folder once; what a broken link points to is none."""
    files, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files += [path for path in (Path(root) / name for name in names) if path.is_file()]
    return files


def beside(path: Path) -> list[Path]:
    """The files that belong to a file given alone: FER+'s votes, and the challenge's test.csv beside its train.csv."""
    wanted = [name for name in BESIDE if name != path.name and (name != "test.csv" or path.name == "train.csv")]
    return [path.parent / name for name in wanted if path.is_file() and (path.parent / name).is_file()]


@contextmanager
def open_archive(file: BinaryIO, root: Path) -> Iterator[Tree]:
    """The Tree of an open .zip or tar archive; `root` names it in messages, and its ending says which it is."""
    name = str(root)
    try:
        if name.lower().endswith(".zip"):
            with zipfile.ZipFile(file) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                yield Tree(root, _safe(names, name), archive.open)
        else:
            with tarfile.open(fileobj=file, mode="r:*") as archive:
                members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
                _safe([member.name for member in archive], name)
                yield Tree(root, list(members), lambda n: archive.extractfile(members[n]))
    except ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise
        raise DataError(f"{name}: damaged, truncated or locked archive ({error}); {AGAIN}") from error


def _safe(names: list[str], archive: str) -> list[str]:
    """The names, unless one climbs out of the archive's folder. Nothing is unpacked, but such a file is no data set."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
            raise DataError(f"{archive}: member {name!r} climbs out of the archive's folder; this file is not FER2013")
    return [name for name in names if not name.startswith("__MACOSX/")]
