"""Files that are either whole or not there: written under a temporary name, flushed, then renamed.

And folders that one process has to itself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferkit import DataError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


def check_file(path: str | Path) -> Path:
    """A path that a file can be written to; DataError for a folder, or one below a file."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file")
    check_folder(path.parent)
    return path


def check_folder(path: str | Path) -> Path:
    """A path that is a folder or can become one; DataError for a file, or one below a file."""
    path = Path(path)
    if file := next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None):
        raise DataError(f"{path} is a file; name a folder" if file == path else f"{path}: {file} is a file, no folder")
    return path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it when the block ends well, remove it when not.

    Raises what check_file raises.
    """
    path = check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write text or bytes as a file that is either whole or not there."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content) if isinstance(content, bytes) else temporary.write_text(content)


@contextmanager
def alone(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder, whose lock goes with its process. Raises DataError when another works there, or waits for it."""
    check_folder(folder).mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                raise DataError(f"{folder}: another process is at work here; wait for it or stop it") from None
        yield


def project_root() -> Path:
    """The checkout that this package lies in, else the current folder (an installed package)."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def in_checkout(path: str | Path) -> Path:
    """A file that a recipe names: as it says, or below the top of the checkout."""
    return Path(path) if Path(path).exists() else project_root() / path
