"""The runs that the results table needs, listed in campaign.toml: the next unfinished one is taken, and the next."""

import fnmatch
import itertools
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ferkit import DataError, sources
from ferkit.ferplus import as_ferplus
from ferkit.jobs import Job as Command
from ferkit.jobs import run as run_commands
from ferkit.models import create_model
from ferkit.models.pretrained import find, trunk_of
from ferkit.predict import pick_device
from ferkit.recipe import Recipe, tuples
from ferkit.recipes import get_recipe, started_from
from ferkit.records import is_of, read_log, read_record
from ferkit.weights import BEST

MACHINES = ("gpu", "t4", "cpu")  # one data-centre GPU, Kaggle's two T4s, two CPU cores
KEYS = {"model", "recipe", "seeds", "data", "set", "grid", "start", "minutes"}
RESERVE = 60.0  # seconds of a budget, at most a quarter of it, that are kept for measuring and packing
START = 10.0  # seconds in which a process has its libraries and its data


@dataclass(frozen=True)
class Job:
    """One run of the campaign: a recipe with its seed on the data of that name, expected minutes on each machine."""

    recipe: Recipe
    data: str
    minutes: dict[str, float]
    kind: str  # of the recipe before it was changed
    changes: dict
    start: str = ""  # the run that it begins with, as `name`, or a file of weights below the top of the checkout

    @property
    def name(self) -> str:
        return f"{self.data}/{self.recipe.run_name}"

    @property
    def waits(self) -> bool:
        """Whether it begins with a run, which has to be finished first."""
        return bool(self.start) and not _is_file(self.start)

    @property
    def arguments(self) -> list[str]:
        """What `ferkit train` is to be told for this recipe."""
        given = ["--model", self.recipe.model, "--recipe", self.kind, "--seed", str(self.recipe.seed)]
        for key, value in self.changes.items():  # in their order, which the recipe's name has
            each = {f"options.{option}": v for option, v in value.items()} if key == "options" else {key: value}
            given += [part for name, v in each.items() for part in ("--set", f"{name}={v!r}")]
        return given + (["--labels", "ferplus"] if self.data.endswith("ferplus") else [])


def load_campaign(path: str | Path, only: str = "*") -> list[Job]:
    """The jobs of a campaign.toml in their order, those whose run name matches the pattern `only`.

    A [[run]] has model (one, or a list), recipe (a kind), seeds, minutes = {machine = expected}, and where wanted data
    (default "fer2013"; FER+ is "ferplus"), set, a table of the recipe's fields, grid, lists of values of fields: every
    combination is a run, and start, <data>/<recipe>: the run, of the same seed, whose weights it begins with, or a
    file of weights by its path in the checkout. Raises DataError saying which entry is wrong, or ValueError for a
    pattern that matches nothing.
    """
    try:
        entries = tomllib.loads(Path(path).read_text())["run"]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("run is no list of tables")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no readable campaign ({error!r}); it lists [[run]] tables") from error
    jobs = []
    for i, entry in enumerate(entries, 1):
        try:
            jobs += _jobs(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    fixed, grid = tuples(entry.get("set", {})), tuples(entry.get("grid", {}))
    points = [fixed | dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    models = entry["model"] if isinstance(entry["model"], list) else [entry["model"]]
    each = itertools.product(entry["seeds"], models, points)  # one seed of everything before the next
    kind, data = entry["recipe"], entry.get("data", "fer2013")
    if not isinstance(data, str):
        raise ValueError(f"data is a name, got {data}")
    jobs = []
    for seed, model, point in each:
        recipe, start = get_recipe(model, kind, seed, **point), entry.get("start", "")
        if start and recipe.pretrained:
            raise ValueError(f"it starts from {start} and from ImageNet's weights; set pretrained = false")
        if _is_file(start):
            recipe = started_from(recipe, Path(start))
        elif start:
            start = f"{start}-s{seed}"
            recipe = started_from(recipe, Path(start) / BEST)
        jobs.append(Job(recipe, data, minutes, kind, point, start))
    return jobs


def _is_file(start: str) -> bool:
    return start.endswith(".safetensors")


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
            if not is_of(record, job.recipe):
                raise DataError(f"{place}/{job.name} holds the record of another recipe; rename one of them")
            return record
    return None


def epochs_done(job: Job, root: Path) -> int:
    """Epochs that an unfinished run has behind it."""
    folder = root / "runs" / job.name
    return len(read_log(folder)) if (folder / "last.pt").exists() else 0


def status(jobs: list[Job], root: Path) -> str:
    """A table: every job, how far it is, its expected minutes and the measured ones; below it what is left to do."""
    width, left = max(len(job.name) for job in jobs) + 2, []
    lines = [f"{'run':<{width}}{'state':<16}" + "".join(f"{name:>7}" for name in MACHINES) + "   measured, minutes"]
    for job in jobs:
        record, done = find_record(job, root), epochs_done(job, root)
        left += [] if record else [job]
        state = "done" if record else f"epoch {done} of {job.recipe.epochs}" if done else "to do"
        expected = "".join(f"{job.minutes.get(name, '–'):>7}" for name in MACHINES)
        measured = f"   {record['seconds']['training'] / 60:.1f} on {record['machine']['name']}" if record else ""
        lines.append(f"{job.name:<{width}}{state:<16}{expected}{measured}")
    hours = [f"{name} {sum(job.minutes.get(name, 0) for job in left) / 60:.1f}" for name in MACHINES]
    told = f"{len(jobs) - len(left)} of {len(jobs)} done; the others are expected to take, in hours: {', '.join(hours)}"
    return "\n".join([*lines, told])


def take(
    jobs: list[Job], data: str | Path | None, root: Path, budget: float, device: str = "auto", *,
    here: str = "", processes: int = 1, compiled: bool = False, workers: int = 1, scheduler: str | None = None,
    keep: Callable[[], None] = lambda: None, say: Callable[[str], None] = print,
) -> list[str]:  # fmt: skip
    """Train and measure unfinished jobs in order for `budget` seconds, by `ferkit train`; what failed, a line each.

    data: as `ferkit train --data` takes it. Left out are jobs on other data, jobs without expected minutes on `here`
    (one of MACHINES; empty: this one), those whose start is not there, or whose ImageNet weights are not where nothing
    may be fetched, and those of which not one epoch fits. A run that is cut off has lost at most the epoch it was in.
    Runs that start from others come after them. `keep` is called whenever a run has ended, however it did.
    """
    until = time.time() + budget - min(RESERVE, budget / 4)
    where, _ = sources.locate(data)
    faces = sources.load(data, say=say)  # and from here on it is in the cache, for all that read it at once
    names = {faces.name} if faces.votes is None else {faces.name, as_ferplus(faces).name}
    here = here or machine(device)
    how = ["--data", str(where.absolute()) if where else "embedded", "--device", device, "--processes", str(processes)]
    how += ["--compile"] if compiled else []
    todo = [job for job in jobs if job.data in names and here in job.minutes and not find_record(job, root)]
    outcomes = []
    for wave in ([job for job in todo if not job.waits], [job for job in todo if job.waits]):
        commands = []
        for job in wave:
            start = (root / "runs" / job.start if job.waits else root / job.start).absolute()
            if lacking := _lacking(job, start):
                say(f"{job.name}: left out, {lacking}")
                continue
            folder = (root / "runs" / job.name).absolute()
            arguments = ("train", *job.arguments, "--out", str(folder), *how)
            arguments += ("--weights", str(start)) if job.start else ()
            least = START + 60 * job.minutes[here] / job.recipe.epochs
            commands.append(Command(job.name, arguments, folder, seconds=least))
        try:
            outcomes += run_commands(
                commands, workers=workers, scheduler=scheduler, until=until, say=say, ended=lambda outcome: keep()
            )
        except KeyboardInterrupt:
            keep()  # what the runs that were ended have reached
            raise
    return [f"{outcome.job.name}: {outcome.told}" for outcome in outcomes if outcome.state == "failed"]


def _lacking(job: Job, start: Path) -> str:
    """What a job needs that is not here: the run or file that it starts from, ImageNet weights; empty for nothing."""
    needed = [start / BEST, start / "record.json"] if job.waits else [start]
    if not all(file.exists() for file in needed):
        return f"{start} is not there with its weights, or not finished"
    recipe = job.recipe
    if not recipe.pretrained or recipe.model.startswith("timm:"):
        return ""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return ""
    with torch.device("meta"):
        library = trunk_of(create_model(recipe.model, **recipe.options), recipe.model).library
    return "" if find(library) else f"no {library}.safetensors below $FERKIT_WEIGHTS, and HF_HUB_OFFLINE is set"


def folders(jobs: list[Job], root: Path) -> list[Path]:
    """The run folders that hold what results/ does not: records, and states to go on from."""
    wanted = [root / "runs" / job.name for job in jobs if not (root / "results" / job.name / "record.json").exists()]
    return [folder for folder in wanted if (folder / "record.json").exists() or (folder / "last.pt").exists()]
