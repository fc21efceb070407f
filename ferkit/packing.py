"""Runs in an archive small enough to be brought back from a machine that is lent, and put in their places again."""

import json
import re
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ferkit import DataError
from ferkit.atomic import alone, whole_file, write_whole
from ferkit.records import disagreements, measure, read_log, read_record
from ferkit.weights import BEST

LIMIT = 16_000_000  # bytes of an archive
ENTRY = 500  # bytes that a file's name and place take in it, at most
SMALL = 5_000_000  # bytes of weights that are worth their place
RESULT = ("logits.npz", "log.csv", "record.json")  # what results/ holds of a run; the record comes last, as a promise
STATE = (BEST, "last.pt")
FILES = ("recipe.json", *STATE, *RESULT)
SNAPSHOT = r"snapshot\d+\.(npz|safetensors)"  # of a recipe that keeps them: their logits, their weights
MEMBER = re.compile(rf"[A-Za-z0-9][\w.+=-]*/[A-Za-z0-9][\w.+=-]*/({'|'.join(map(re.escape, FILES))}|{SNAPSHOT})")


def pack(folders: list[Path], path: str | Path, limit: int = LIMIT) -> list[str]:
    """Write runs (folders <data>/<run>) into one zip file under `limit` bytes; what found no place, a line each.

    Of a finished run its record, logits, log and recipe, and its weights where they are small; of an unfinished one
    what it goes on from, which comes last, and then its snapshots; others may be training into it.
    """
    finished = [folder for folder in folders if (folder / "record.json").exists()]
    unfinished = [folder for folder in folders if folder not in finished]
    parts = [(folder, ("recipe.json", *_snapshots(folder, "npz"), *RESULT)) for folder in finished]
    parts += [(folder, (BEST,)) for folder in finished if _size(folder, (BEST,)) <= SMALL]
    parts += [(folder, ("recipe.json", "log.csv", *STATE)) for folder in unfinished]
    parts += [(folder, names) for folder in unfinished if (names := _snapshots(folder, "safetensors"))]
    left, left_out, incomplete = limit - 1000, [], set()
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder, names in parts:
            files = None if folder in incomplete else _snapshot(folder, names, left)
            if files is None:
                incomplete.add(folder)  # nothing that is of no use without this
                left_out.append(f"{folder}: {names[-1]} and what goes with it, {_size(folder, names) / 1e6:.1f} MB")
                continue
            left -= sum(len(content) + ENTRY for content in files.values())
            for name, content in files.items():
                archive.writestr(f"{folder.parent.name}/{folder.name}/{name}", content)
    return left_out


def _snapshots(folder: Path, kind: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"snapshot*.{kind}"))


def _size(folder: Path, names: tuple[str, ...]) -> int:
    """Bytes that those of the files which exist take at most."""
    return sum((folder / name).stat().st_size + ENTRY for name in names if (folder / name).exists())


def _snapshot(folder: Path, names: tuple[str, ...], room: int) -> dict[str, bytes] | None:
    """Those of the files which exist, all as they were at one moment; None where they take more bytes than that.

    While a process trains, each file is whole, but the state of one epoch with the best weights of another would go on
    to report weights that nothing chose. What a moment holds, a kill could have left, and training copes with that.
    """

    def stamps() -> dict[str, tuple[int, int, int]]:
        found = {name: (folder / name).stat() for name in names if (folder / name).exists()}
        return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}

    while True:
        before = stamps()
        if sum(size + ENTRY for *_, size in before.values()) > room:
            return None
        files = {name: (folder / name).read_bytes() for name in before}
        if stamps() == before:
            return files


def merge(path: str | Path, root: Path) -> list[str]:
    """Put an archive's runs into runs/ and results/ below root; a line for each run that says what became of it.

    Everything is checked first, records against their logits: DataError, and nothing written, for a damaged archive,
    files that no run has, metrics that the logits do not give, a run that is here with another record or recipe, or
    one into which another process is training. What is here and as far is left as it is.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".merge-") as temporary:
        _extract(path, Path(temporary))
        found = sorted(folder for folder in Path(temporary).glob("*/*"))
        arrivals = [Arrival(folder, root, f"{folder.parent.name}/{folder.name}") for folder in found]
        try:
            fates = [arrival.check() for arrival in arrivals]
        except DataError as error:
            raise DataError(f"{str(error).replace(temporary, str(path))}; nothing was merged") from error
        wanted = [arrival for arrival, fate in zip(arrivals, fates, strict=True) if fate in PUT]
        with ExitStack() as held:  # first those that another process may hold: a refused merge makes no folder
            for arrival in sorted(wanted, key=lambda arrival: not (root / "runs" / arrival.name).exists()):
                held.enter_context(alone(root / "runs" / arrival.name))
            for arrival in wanted:
                arrival.put()
        return [f"{arrival.name}: {fate}" for arrival, fate in zip(arrivals, fates, strict=True)]


def _extract(path: str | Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if strange := [name for name in names if not MEMBER.fullmatch(name)]:
                raise DataError(f"{path}: {strange[0]!r} is no file of a run; nothing was merged")
            if len(set(names)) < len(names):
                raise DataError(f"{path}: a file comes twice; nothing was merged")
            archive.extractall(folder)  # checks every file's CRC
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path}: no whole archive ({error}); nothing was merged") from error


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error})") from error


RECORDED, GOES_ON = PUT = ("recorded", "to go on with")


@dataclass(frozen=True)
class Arrival:
    """A run that came in an archive, and the places it belongs to."""

    folder: Path
    root: Path
    name: str

    def check(self) -> str:
        """What is to become of it; DataError when it may not come in."""
        for place in ("results", "runs"):
            self._check_beside(self.root / place / self.name)
        if (self.folder / "record.json").exists():
            self._check_record()
            return "is here already" if (self.root / "results" / self.name / "record.json").exists() else RECORDED
        if not (self.folder / "last.pt").exists():
            raise DataError(f"{self.name}: neither a record nor a state to go on with")
        here = self.root / "runs" / self.name
        if any((self.root / place / self.name / "record.json").exists() for place in ("results", "runs")):
            return "is finished here"
        if (here / "last.pt").exists() and len(read_log(here)) >= len(read_log(self.folder)):
            return "is as far here"
        return GOES_ON

    def _check_beside(self, here: Path) -> None:
        """That what is here under its name is the same run."""
        for file in ("record.json", "recipe.json"):
            mine, theirs = here / file, self.folder / file
            there = _json(theirs) if theirs.exists() else None
            if there is not None and mine.exists() and _json(mine) != there:
                raise DataError(f"{mine} is another than the archive's; rename one of the runs")

    def _check_record(self) -> None:
        record = read_record(self.folder)
        if (record["data"]["name"], record["run"]) != (self.folder.parent.name, self.folder.name):
            raise DataError(f"{self.name}: its record is of {record['run']}")
        if wrong := disagreements(record["metrics"], measure(self.folder)):
            raise DataError(f"{self.name}: {wrong[0]}")

    def put(self) -> None:
        """Copy its files to their places."""
        logits = _snapshots(self.folder, "npz")
        self._copy("runs", (*_snapshots(self.folder, "safetensors"), *logits, *FILES))
        if (self.folder / "record.json").exists():
            self._copy("results", (*logits, *RESULT))

    def _copy(self, place: str, names: tuple[str, ...]) -> None:
        for file in (self.folder / name for name in names):
            if file.exists():
                write_whole(self.root / place / self.name / file.name, file.read_bytes())
