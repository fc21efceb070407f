"""Self-contained `ferkit` commands: one after the other, side by side on this machine, or on a Dask cluster.

What is done is skipped, what fails stops nothing else, and a command's process never outlives the one that started it.
"""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ferkit.progress import LOG, Progress

OUT_OF_TIME = 75  # exit status (EX_TEMPFAIL) of a command that stopped at its time and goes on when called again
POLL = 0.2  # seconds between two looks
PATIENCE = 10.0  # seconds that a process has to end when told to, and a scheduler to answer
AGAIN = 3  # times that Dask is asked anew for a job under which more workers died than it allows (3)


@dataclass(frozen=True)
class Job:
    """`ferkit *arguments`; done when its folder holds the marker, worth starting while `seconds` are left for it."""

    name: str  # in the table
    arguments: tuple[str, ...]
    folder: Path  # of its output, named by its content
    marker: str = "record.json"
    seconds: float = 0.0
    after: tuple[str, ...] = ()  # names of jobs before it in the list, which end first, however they do


@dataclass(frozen=True)
class Outcome:
    """What became of a job: "done", "was done", "failed" or "out of time"; seconds of its process, 0 without one."""

    job: Job
    state: str
    seconds: float = 0.0
    told: str = ""  # a failure in the command's own words, or its last line


def run(
    jobs: Sequence[Job], *, workers: int = 1, scheduler: str | None = None, until: float = math.inf,
    say: Callable[[str], None] = print, ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:  # fmt: skip
    """Run jobs in their order, `workers` at once here, or on the Dask cluster at an address; the outcomes as they came.

    A job that is not worth starting before `until` (Unix time) is left out; commands find that time in $FERKIT_UNTIL.
    Several at once share the cores, and see one GPU each where there are more. `ended` hears of every job whose process
    has ended. An exception, Ctrl-C included, ends the processes here; on a cluster it takes back what has not begun.
    Raises ValueError for a cluster that does not answer, or whose library is not installed.
    """
    if workers < 1:
        raise ValueError(f"at least 1 job at once, got {workers}")
    place = _Cluster(scheduler, until) if scheduler else _Here(workers, until)
    waiting, running, progress = list(jobs), [], Progress(len(jobs), say)
    try:
        while waiting or running:
            unended = {job.name for job in waiting} | {task.job.name for task in running}
            for job in [job for job in waiting if not unended.intersection(job.after)]:
                if len(running) >= place.room:
                    break
                waiting.remove(job)
                if outcome := _left_alone(job, until):
                    progress.end(outcome)
                else:
                    running.append(place.start(job))
            for task in list(running):
                outcome = task.poll()
                if task.begun:
                    progress.start(task.job)
                if outcome:
                    running.remove(task)
                    progress.end(outcome)
                    if outcome.seconds:
                        ended(outcome)
            progress.draw(running)
            if running:
                time.sleep(POLL)
    finally:
        place.close(running)
    return progress.ended


def gpus() -> list[str]:
    """Names for $CUDA_VISIBLE_DEVICES of the GPUs that may be used, where they are several; else none."""
    import torch

    n = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (given.split(",")[:n] if given else [str(i) for i in range(n)]) if n > 1 else []


def execute(job: Job, until: float, topic: str) -> Outcome:
    """A job on a worker of a cluster, from its start to its end.

    It takes for granted that the job's folder (an absolute path) and its data are on a file system that all machines
    share. When a worker dies, Dask calls this again on another, and a training goes on from its last epoch. A worker
    runs as many jobs at once as it has threads, each on as many cores as its OMP_NUM_THREADS says (Dask's own is 1).
    """
    from distributed import get_worker

    if outcome := _left_alone(job, until):
        return outcome
    get_worker().log_event(topic, str(job.folder))
    process = _Process(job, until)
    if process.child:
        process.child.wait()
    return process.poll()


def _left_alone(job: Job, until: float) -> Outcome | None:
    if (job.folder / job.marker).exists():
        return Outcome(job, "was done")
    return Outcome(job, "out of time") if time.time() + job.seconds > until else None


class _Process:
    """A job as a process of this machine, its output appended to the folder's log."""

    def __init__(self, job: Job, until: float, gpu: str = "", threads: int = 0) -> None:
        self.job, self.gpu, self.begun, self.child = job, gpu, time.time(), None
        package = str(Path(__file__).resolve().parents[1])  # ours, whatever the current folder holds
        paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "FERKIT_ENDS_WITH_STDIN": "1"}
        own |= {"FERKIT_UNTIL": str(until)} if until < math.inf else {}
        own |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        environment = ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | os.environ | own
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            with open(job.folder / LOG, "ab") as log:
                log.write(f"$ ferkit {shlex.join(job.arguments)}\n".encode())
                log.flush()
                self.before = log.tell()
                # The kernel closes the pipe when we are gone, by kill -9 too; the child waits for that (__main__.py).
                self.child = subprocess.Popen(
                    [sys.executable, "-m", "ferkit", *job.arguments],
                    stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment,
                )  # fmt: skip
        except OSError as error:
            self.told = str(error)

    def poll(self) -> Outcome | None:
        if not self.child:
            return Outcome(self.job, "failed", told=self.told)
        status, seconds = self.child.poll(), time.time() - self.begun
        if status is None:
            return None
        self.child.stdin.close()
        if status == 0 and (self.job.folder / self.job.marker).exists():
            return Outcome(self.job, "done", seconds)
        if status == OUT_OF_TIME:
            return Outcome(self.job, "out of time", seconds)
        told = f"ended with status {status} and left no {self.job.marker}" if status <= 0 else self._told()
        return Outcome(self.job, "failed", seconds, told or f"ended with status {status}")

    def _told(self) -> str:
        """The failure in the command's own words, which may be several lines, else the last line of this run."""
        lines = (self.job.folder / LOG).read_bytes()[self.before :].decode(errors="replace").strip().splitlines()
        own = [i for i, line in enumerate(lines) if line.startswith("ferkit: ")]
        return "\n".join(lines[own[-1] if own else -1 :]).removeprefix("ferkit: ")


class _Here:
    """Processes of this machine, so many at once, that share its cores and its GPUs."""

    def __init__(self, workers: int, until: float) -> None:
        self.room, self.until, self.started = workers, until, []
        several = workers > 1
        self.threads, self.gpus = max(1, (os.cpu_count() or 1) // workers) if several else 0, gpus() if several else []

    def start(self, job: Job) -> _Process:
        taken = [process.gpu for process in self.started if process.child and process.child.poll() is None]
        gpu = min(self.gpus, key=taken.count, default="")
        self.started.append(_Process(job, self.until, gpu, self.threads))
        return self.started[-1]

    def close(self, running: list[_Process]) -> None:
        children = [process.child for process in running if process.child]
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()


class _Task:
    """A job on a cluster."""

    def __init__(self, job: Job, cluster: "_Cluster") -> None:
        self.job, self.cluster, self.again = job, cluster, AGAIN
        self.future = cluster.submit(job)

    @property
    def begun(self) -> float:
        return self.cluster.begun.get(str(self.job.folder), 0.0)

    def poll(self) -> Outcome | None:
        if not self.future.done():
            return None
        if self.future.status == "finished":
            return self.future.result()
        error = self.future.exception() if self.future.status == "error" else "the scheduler is gone"
        if type(error).__name__ == "KilledWorker" and self.again:
            self.again, self.future = self.again - 1, self.cluster.submit(self.job)
            return None
        return Outcome(self.job, "failed", time.time() - self.begun if self.begun else 0.0, str(error))


class _Cluster:
    """A Dask cluster: it is handed every job at once, and spreads them over its workers."""

    room = math.inf

    def __init__(self, address: str, until: float) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            raise ValueError("a cluster needs the package distributed; pip install 'ferkit[cluster]'") from None
        try:
            self.client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            told = f"no Dask scheduler answers at {address!r} ({error})"
            raise ValueError(f"{told}; start one with `dask scheduler`, and workers with `dask worker`") from error
        self.until, self.begun, self.topic = until, {}, f"ferkit-{self.client.id}"
        self.client.subscribe_topic(self.topic, lambda event: self.begun.setdefault(event[1], time.time()))

    def start(self, job: Job) -> _Task:
        if not job.folder.is_absolute():
            raise ValueError(f"{job.folder}: the machines of a cluster need an absolute path")
        return _Task(job, self)

    def submit(self, job: Job):
        return self.client.submit(execute, job, self.until, self.topic, pure=False)

    def close(self, running: list[_Task]) -> None:
        self.client.cancel([task.future for task in running])
        self.client.close()


def seconds(text: str) -> float:
    """ "90s", "9m", "2h" or "1h30m" in seconds; ValueError for anything else."""
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise ValueError(f"{text!r} is no length of time; say for example 90s, 9m or 1h30m")
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"([\d.]+)([hms])", text))
