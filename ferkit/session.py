"""A Kaggle session from its inputs to its output: what is attached, training, notebooks, report, each in its time."""

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from ferkit import DataError, packing, sources
from ferkit.atomic import project_root, whole_file
from ferkit.jobs import OUT_OF_TIME, gpus
from ferkit.kaggle import DONE, NAMES_FAILED
from ferkit.machine import library_version
from ferkit.records import read_log
from ferkit.site import check_libraries

GRACE = 60.0  # seconds that a step has to end in order when its time is up
WORTH = 5.0  # seconds for which a step is begun
RESERVE = 180.0  # seconds, at most a tenth of a session, that are kept for the output
TRAINING = 0.7  # share of the time that is left for the campaign; the notebooks find its runs trained
NOTEBOOKS = 0.9  # of what is left then; the report has the rest
PACKED = 500_000_000  # bytes of the archive of runs
RUN = ("record.json", "last.pt")  # one of them is in a run's folder


@dataclass
class Session:
    """inputs: attached data sets, only read. working: what is left as output. ends: on time.monotonic's clock."""

    inputs: Path
    working: Path
    ends: float
    failures: list[str] = field(default_factory=list)

    def run(self, profile: str, only: str, data: str) -> None:
        """Every step; `failures` names those that failed."""
        root = project_root()
        self.prepare(root)
        where = data or sources.find(self.inputs)
        print(f"data: {where or 'no FER2013 among the inputs, the faces are drawn'}")
        where = str(where or "embedded")
        self.attempt("restore", lambda: restore(self.inputs, root))
        self.attempt("libraries", lambda: install(self.inputs, root / "libraries"))
        if missing := [name for name in requirements(root) if not library_version(name)]:
            wheels = f"pip wheel --no-deps -w FOLDER {' '.join(missing)}"
            print(f"not installed: {', '.join(missing)}; what needs them fails; attach wheels of them ({wheels})")
        notebooks, report = str(self.working / "notebooks"), str(self.working / "report")
        how = ("--data", where, "--jobs", str(max(1, len(gpus()))))  # one run or notebook a GPU
        if profile != "quick" and where != "embedded":
            self.step("campaign", "run", *how, "--done", str(root / DONE), share=TRAINING)
        chosen = ("--profile", profile, "--only", only, "--out", notebooks)
        self.step("suite", "run", *how, *chosen, share=NOTEBOOKS)
        try:
            check_libraries()
        except ValueError as error:
            print(f"report: left out, {error}, or attach wheels of them")
        else:
            self.step("report", "--notebooks", notebooks, "--results", str(root / "results"), "--out", report)
        self.attempt("output", self.leave)
        if self.failures:
            (self.working / NAMES_FAILED).write_text("".join(f"{name}\n" for name in self.failures))

    def prepare(self, root: Path) -> None:
        """Runs are kept in the working folder; what the steps need is in the environment that they get."""
        self.working.mkdir(parents=True, exist_ok=True)
        runs, kept = root / "runs", self.working / "runs"
        kept.mkdir(exist_ok=True)
        if not runs.exists():
            runs.symlink_to(kept)
        if runs.resolve() != kept.resolve():
            raise DataError(f"{runs} is in the way; a session is of the kernel that `ferkit kaggle build` writes")
        sys.path.append(str(root / "libraries"))
        paths = [str(root), str(root / "libraries"), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        os.environ.setdefault("FERKIT_WEIGHTS", str(self.inputs))
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else every fetch waits for a network that is not there

    def left(self) -> float:
        """Seconds before the output has to be written."""
        return self.ends - time.monotonic()

    def attempt(self, what: str, do) -> None:
        """One step of this process; its failure is told and noted."""
        try:
            do()
        except Exception as error:  # whatever it is, what has been reached must be left as output
            print(f"{what} FAILED: {error}", flush=True)
            self.failures.append(what)

    def step(self, *arguments: str, share: float = 0.0) -> None:
        """`ferkit *arguments`, told by --budget to take that share of the time that is left; 0: not told, all is its.

        One that does not stop by itself is ended, and given a while for it. That its time was up is no failure.
        """
        grace = min(GRACE, self.left() / 4)
        name, seconds = arguments[0], (share or 1.0) * self.left() - grace
        if seconds < WORTH:
            print(f"{name}: left out, the session's time is up", flush=True)
            return
        arguments += ("--budget", f"{seconds:.0f}s") if share else ()
        print(f"\n$ ferkit {shlex.join(arguments)}", flush=True)
        over = threading.Event()
        own = {"FERKIT_ENDS_WITH_STDIN": "1", "PYTHONUNBUFFERED": "1"}  # the first: it does not outlive this process
        with subprocess.Popen(
            [sys.executable, "-m", "ferkit", *arguments],
            stdin=subprocess.PIPE,
            cwd=project_root(),
            env=os.environ | own,
        ) as process:
            timers = [
                threading.Timer(seconds + grace / 2, lambda: (over.set(), process.send_signal(signal.SIGTERM))),
                threading.Timer(seconds + grace, process.kill),
            ]
            for timer in timers:
                timer.daemon = True  # Ctrl-C ends the process at once
                timer.start()
            status = process.wait()
            for timer in timers:
                timer.cancel()
        if over.is_set() or status == OUT_OF_TIME:
            print(f"{name}: its time was up; the next session goes on", flush=True)
        elif status:
            print(f"{name} FAILED with status {status}", flush=True)
            self.failures.append(name)

    def leave(self) -> None:
        """runs.zip for `ferkit campaign merge`, and no states of finished runs: Kaggle keeps 20 GB of output."""
        folders = [f for f in sorted((self.working / "runs").glob("*/*")) if any((f / file).exists() for file in RUN)]
        for folder in folders:
            if (folder / "record.json").exists():
                (folder / "last.pt").unlink(missing_ok=True)
        for unfinished in (self.working / "notebooks").glob(".executing-*"):  # of a suite that had to be killed
            shutil.rmtree(unfinished)
        for left_out in packing.pack(folders, self.working / "runs.zip", PACKED):
            print(f"no room in runs.zip: {left_out}")
        n_files = sum(path.is_file() for path in self.working.rglob("*"))
        print(f"\nleft in {self.working}: {len(folders)} runs, {n_files} files, runs.zip among them", flush=True)


def progress(folder: Path) -> tuple[bool, int]:
    """How far a run is: whether it has its record, and its epochs."""
    return (folder / "record.json").exists(), len(read_log(folder)) if (folder / "log.csv").exists() else 0


def restore(inputs: Path, root: Path) -> None:
    """Put runs/, results/ and archives of runs, wherever they are among the inputs, into those of root.

    Of two versions of a run the further one stays; files of other kinds are only added. Raises DataError for an
    archive that packing.merge refuses.
    """
    found: dict[str, list[Path]] = {"runs": [], "results": []}
    archives = []
    for folder, folders, files in os.walk(inputs):
        here = Path(folder)
        if here.name in found and any(path for file in RUN for path in here.glob(f"*/*/{file}")):  # not TensorBoard's
            found[here.name].append(here)
            folders.clear()
        if "runs" not in folders:  # else the archive beside them holds the same
            archives += [here / name for name in files if name.endswith(".zip") and _is_pack(here / name)]
    for name, trees in found.items():
        n_runs = sum(_take(tree, root / name) for tree in trees)
        if trees:
            print(f"{name}: {n_runs} runs taken from {', '.join(map(str, trees))}")
    for archive in archives:
        print("\n".join([f"{archive}:", *packing.merge(archive, root)]))


def _is_pack(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return bool(names) and all(map(packing.MEMBER.fullmatch, names))
    except (OSError, zipfile.BadZipFile):
        return False


def _take(tree: Path, into: Path) -> int:
    """Copy a tree of runs (<data>/<run>) where it is further than what is there; how many runs were copied."""
    n_runs = 0
    for folder in sorted({path.parent for path in tree.rglob("*") if path.is_file()}):
        here = into / folder.relative_to(tree)
        is_run = any((folder / file).exists() for file in RUN)
        if is_run and progress(folder) <= progress(here) and here.exists():
            continue
        n_runs += is_run
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            if is_run or not (here / file.name).exists():
                with whole_file(here / file.name) as temporary:
                    shutil.copyfile(file, temporary)  # without the mode: the inputs are read-only
    return n_runs


def install(inputs: Path, into: Path) -> None:
    """Put the wheels among the inputs whose libraries are missing into a folder, without the network."""
    wheels = sorted(inputs.rglob("*.whl"))
    names = {wheel.name.split("-")[0]: wheel.parent for wheel in wheels}
    missing = {name: folder for name, folder in names.items() if not library_version(name)}
    if missing:
        links = [part for folder in sorted(set(missing.values())) for part in ("--find-links", str(folder))]
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(into)]
        subprocess.run([*command, *links, *missing], check=True)
        importlib.invalidate_caches()
        print(f"libraries: {', '.join(sorted(missing))} from attached wheels")


def requirements(root: Path) -> list[str]:
    """The names in requirements.txt."""
    return re.findall(r"^([\w-]+)>=", (root / "requirements.txt").read_text(), re.MULTILINE)
