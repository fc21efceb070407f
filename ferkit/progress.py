"""How far work is: a bar for one training, and a table of jobs, drawn anew in their place where they can be.

Elsewhere, in a log for instance, jobs have a line for a start and one for an end.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

BAR = 20  # characters
PAUSE = 0.5  # seconds, at least, between two pictures of a bar
LOG = "output.log"  # of a job's folder: what its process said


class Progress:
    """Of n jobs; `say` takes the lines. What runs has a job and `begun`, its Unix time, 0 while it waits."""

    def __init__(self, n: int, say: Callable[[str], None]) -> None:
        self.n, self.say, self.live, self.n_drawn = n, say, say is print and sys.stdout.isatty(), 0
        self.started, self.ended = set(), []

    def start(self, job) -> None:
        """A job runs now; may be said again."""
        if job not in self.started and not self.live:
            self.say(f"{job.name}: started, output in {job.folder / LOG}")
        self.started.add(job)

    def end(self, outcome) -> None:
        self.ended.append(outcome)
        if not self.live or outcome.state == "failed":  # which stays above the table
            after = f" after {outcome.seconds:.0f} s" if outcome.seconds else ""
            told = f": {outcome.told}" if "\n" in outcome.told else f" ({outcome.told})" if outcome.told else ""
            self._clear()
            self.say(f"{outcome.job.name}: {outcome.state}{after}{told}")

    def draw(self, running: list) -> None:
        """The jobs that ended last, those that run, and a line that counts all; nothing outside a terminal."""
        if not self.live:
            return
        columns, lines = shutil.get_terminal_size()
        begun = [task for task in running if task.begun]
        rows = [(o.job.name, o.state, o.seconds, o.told.split("\n")[0]) for o in self.ended[-3:]]
        for task in begun[: max(1, lines - 6)]:
            rows.append((task.job.name, "running", time.time() - task.begun, last_line(task.job.folder / LOG)))
        width = max((len(name) for name, *_ in rows), default=0)
        times = [divmod(round(seconds), 60) for _, _, seconds, _ in rows]
        table = [f"{name:<{width}}  {state:<11} {minutes:3}:{seconds:02}  {told}"
                 for (name, state, _, told), (minutes, seconds) in zip(rows, times, strict=True)]  # fmt: skip
        table = [line[: columns - 1] for line in [*table, self._counts(len(begun))]]
        self._clear()
        print("\n".join(table), flush=True)
        self.n_drawn = len(table)

    def _clear(self) -> None:
        """Back to the first line of the table, and nothing below it."""
        if self.n_drawn:
            print(f"\x1b[{self.n_drawn}F\x1b[J", end="")
        self.n_drawn = 0

    def _counts(self, n_running: int) -> str:
        states = [outcome.state.removeprefix("was ") for outcome in self.ended]
        counts = {"done": states.count("done"), "running": n_running}
        counts |= {"waiting": self.n - len(states) - n_running, "failed": states.count("failed")}
        if "out of time" in states:
            counts["out of time"] = states.count("out of time")
        return ", ".join(f"{state} {n}" for state, n in counts.items())


def last_line(log: Path) -> str:
    """The last line of a log that has something on it; "" without one."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:  # another machine's file may not be seen here yet
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def bar(title: str, n: int) -> Callable[[float], None]:
    """What hears how much of n is done, and shows it in a line that is written over: in a terminal, and in a notebook,
    which keeps it as it was last; elsewhere nothing."""
    if not (show := _line()):
        return lambda done: None
    shown = -math.inf

    def tell(done: float) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PAUSE or done >= n:
            shown, full = time.monotonic(), int(BAR * done / n)
            show(f"{title} {'█' * full}{'░' * (BAR - full)} {done:.1f} of {n}")

    return tell


def _line() -> Callable[[str], None] | None:
    """How to show a text in the place of the one before: by IPython's display in a notebook, in a terminal by print."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)
        return lambda text: handle.update({"text/plain": text}, raw=True)
    return (lambda text: print(f"\x1b[K{text}", end="\r", flush=True)) if sys.stdout.isatty() else None
