"""The runs that the results table needs, listed in campaign.toml: the next unfinished one is taken, and the next."""

import fnmatch
import itertools
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ferkit import DataError
from ferkit.faces import Faces
from ferkit.predict import pick_device
from ferkit.recipe import Recipe
from ferkit.recipes import get_recipe
from ferkit.records import read_log, read_record, run
from ferkit.train import OutOfTime

MACHINES = ("gpu", "t4", "cpu")  # one data-centre GPU, Kaggle's two T4s, two CPU cores
KEYS = {"model", "recipe", "seeds", "data", "set", "grid", "minutes"}
RESERVE = 60.0  # seconds of a budget, at most a quarter of it, that are kept for measuring and packing


@dataclass(frozen=True)
class Job:
    """One run of the campaign: a recipe with its seed on the data of that name, expected minutes on each machine."""

    recipe: Recipe
    data: str
    minutes: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.data}/{self.recipe.run_name}"


def load_campaign(path: str | Path, only: str = "*") -> list[Job]:
    """The jobs of a campaign.toml in their order, those whose run name matches the pattern `only`.

    A [[run]] has model, recipe (a kind), seeds, minutes = {machine = expected}, and where wanted data (default
    "fer2013"), set, a table of the recipe's fields, and grid, lists of values of fields: every combination is a run.
    Raises DataError saying which entry is wrong, or ValueError for a pattern that matches nothing.
    """
    try:
        entries = tomllib.loads(Path(path).read_text())["run"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no readable campaign ({error!r}); it lists [[run]] tables") from error
    jobs = []
    for i, entry in enumerate(entries, 1):
        try:
            jobs += _jobs(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: run {i} ({entry.get('model')}): {error}") from error
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: {', '.join(twice)} more than once")
    chosen = [job for job in jobs if fnmatch.fnmatch(job.recipe.run_name, only)]
    if not chosen:
        raise ValueError(f"no run of {path} is named like {only!r}; ferkit campaign status lists them")
    return chosen


def _jobs(entry: dict) -> list[Job]:
    if unknown := sorted(set(entry) - KEYS):
        raise ValueError(f"unknown {unknown}; choose from {sorted(KEYS)}")
    minutes = entry["minutes"]
    if not minutes or set(minutes) - set(MACHINES) or not all(value > 0 for value in minutes.values()):
        raise ValueError(f"minutes must be above 0 for some of {list(MACHINES)}, got {minutes}")
    fixed, grid = _frozen(entry.get("set", {})), _frozen(entry.get("grid", {}))
    points = [fixed | dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    each = itertools.product(entry["seeds"], points)  # one seed of everything before the next
    recipes = [get_recipe(entry["model"], entry["recipe"], seed, **point) for seed, point in each]
    return [Job(recipe, entry.get("data", "fer2013"), minutes) for recipe in recipes]


def _frozen(value):
    """TOML's lists as tuples, which recipes have."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def machine(device: str = "auto") -> str:
    """Which of MACHINES a device is."""
    where = pick_device(device)
    if where.type == "cuda":
        return "t4" if "T4" in torch.cuda.get_device_name(where) else "gpu"
    return "cpu"


def find_record(job: Job, root: Path) -> dict | None:
    """The job's record in results/ or runs/ below root; None without one. DataError when it is of another recipe."""
    for place in ("results", "runs"):
        if (root / place / job.name / "record.json").exists():
            record = read_record(root / place / job.name)
            if Recipe(**record["recipe"]) != job.recipe:
                raise DataError(f"{place}/{job.name} holds the record of another recipe; rename one of them")
            return record
    return None


def epochs_done(job: Job, root: Path) -> int:
    """Epochs that an unfinished run has behind it."""
    folder = root / "runs" / job.name
    return len(read_log(folder)) if (folder / "last.pt").exists() else 0


def status(jobs: list[Job], root: Path) -> str:
    """A table: every job, how far it is, its expected minutes and the measured ones."""
    width, n_done = max(len(job.name) for job in jobs) + 2, 0
    lines = [f"{'run':<{width}}{'state':<16}" + "".join(f"{name:>7}" for name in MACHINES) + "   measured, minutes"]
    for job in jobs:
        record, done = find_record(job, root), epochs_done(job, root)
        n_done += record is not None
        state = "done" if record else f"epoch {done} of {job.recipe.epochs}" if done else "to do"
        expected = "".join(f"{job.minutes.get(name, '–'):>7}" for name in MACHINES)
        measured = f"   {record['seconds']['training'] / 60:.1f} on {record['machine']['name']}" if record else ""
        lines.append(f"{job.name:<{width}}{state:<16}{expected}{measured}")
    return "\n".join([*lines, f"{n_done} of {len(jobs)} done; expected minutes of a run, most worth a minute first"])


def take(
    jobs: list[Job], faces: Faces, root: Path, budget: float, device: str = "auto", *,
    processes: int = 1, compiled: bool = False, keep: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> list[str]:  # fmt: skip
    """Train and measure unfinished jobs in order for `budget` seconds; what failed, a line each.

    Left out are jobs on other data, jobs without expected minutes on this machine, and those of which not one epoch
    fits. A run that is cut off has lost at most the epoch that it was in. `keep` is called whenever a run has ended,
    however it did.
    """
    end, here, failed = time.monotonic() + budget, machine(device), []
    deadline = end - min(RESERVE, budget / 4)
    for job in [job for job in jobs if job.data == faces.name and not find_record(job, root)]:
        if time.monotonic() + 60 * job.minutes.get(here, float("inf")) / job.recipe.epochs > deadline:
            continue
        before, folder = epochs_done(job, root), root / "runs" / job.name
        try:
            run(job.recipe, faces, folder, device, processes=processes, compiled=compiled, deadline=deadline)
            say(f"{job.name}: done, {end - time.monotonic():.0f} s left")
        except OutOfTime as stopped:
            say(str(stopped))
            if epochs_done(job, root) > before:
                break
        except Exception as error:  # one that fails does not take the others' time
            failed.append(f"{job.name}: {error}")
            say(f"{job.name}: failed ({error})")
        finally:
            keep()
    return failed


def folders(jobs: list[Job], root: Path) -> list[Path]:
    """The run folders that hold what results/ does not: records, and states to go on from."""
    wanted = [root / "runs" / job.name for job in jobs if not (root / "results" / job.name / "record.json").exists()]
    return [folder for folder in wanted if (folder / "record.json").exists() or (folder / "last.pt").exists()]


def seconds(text: str) -> float:
    """ "90s", "9m", "2h" or "1h30m" in seconds; ValueError for anything else."""
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise ValueError(f"{text!r} is no length of time; say for example 90s, 9m or 1h30m")
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"([\d.]+)([hms])", text))
