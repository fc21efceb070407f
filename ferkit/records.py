"""Run folders and records: a trained run is measured once, written down, and can be recomputed from its logits.

A record holds what is needed to believe a number: the recipe, the code, the data, n, and intervals.
"""

import csv
import json
import platform
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ferkit import DataError, __version__
from ferkit.atomic import in_checkout, project_root, whole_file, write_whole
from ferkit.audit import PARTS, part_of_rows
from ferkit.faces import Faces
from ferkit.ferplus import learnable
from ferkit.independence import BATCH_SIZES, batch_independence
from ferkit.labels import UNLABELLED, USAGES
from ferkit.machine import code_version, describe_machine, library_version, versions
from ferkit.metrics import HEADLINES, evaluate
from ferkit.parallel import joined, launch
from ferkit.predict import VIEWS, logits, pick_device
from ferkit.protocols import arrange, other_protocol
from ferkit.recipe import Recipe
from ferkit.train import OutOfTime, State, file_start, fit, silent
from ferkit.weights import BEST, load_weights

SCHEMA = 1
JUDGED = USAGES[1:]
VOTES = "FER+ votes"  # as what a run on FER2013 has learned from
SUMMARY_TITLES = ("accuracy, %", "balanced, %", "macro F1, %", "ECE, %", "NLL, nats")  # of metrics.HEADLINES


def run(
    recipe: Recipe, faces: Faces, folder: str | Path, device: str = "auto", weights: str | Path | None = None, *,
    processes: int = 1, compiled: bool = False, say: Callable[..., None] = print,
) -> dict:  # fmt: skip
    """Train a recipe (or go on with it) and measure it; the record. A run that has a record is only read.

    PrivateTest is read here, once, after training has chosen its weights, by the standard protocol without it.
    `weights`, `compiled` and `say` are train.fit's. With `processes`, so many train on this machine; under torchrun its
    own do.
    Raises what train.fit raises, and DataError when a split is missing.
    """
    folder = Path(folder)
    missing = [u for u in USAGES if not len(faces.split(u))]
    if missing:
        raise DataError(f"{faces.name} has no {' and no '.join(missing)} images; the protocol needs all three splits")
    if (folder / "record.json").exists():
        record = read_record(folder)
        if not is_of(record, recipe) or record["data"]["fingerprint"] != faces.fingerprint:
            raise DataError(f"{folder} holds the record of another recipe or other data; name another folder")
        if recipe.teacher and record.get("teacher", {}) not in ({}, file_start(in_checkout(recipe.teacher))):
            raise DataError(f"{folder} holds the record of a run with another teacher; name another folder")
        if recipe.exclude and record["exclude"] != file_start(in_checkout(recipe.exclude)):
            raise DataError(f"{folder} holds the record of a run with another audit; name another folder")
        if weights and record["start"] != file_start(weights):
            raise DataError(f"{folder} holds the record of a run that started from other weights; name another folder")
        return record
    there = arrange(faces, recipe)
    splits = there.training, there.choosing
    how = dict(device=device, source=code_version(), weights=weights, compiled=compiled, say=say)
    if processes > 1:
        launch(processes, _fit_in_time, recipe, splits, folder, how)
    with joined(pick_device(device)) as team:
        state = fit(recipe, *splits, folder, **how)
        if team.is_first:
            if not (folder / "logits.npz").exists():
                save_logits(folder / BEST, faces, folder / "logits.npz", device)
            for snapshot in folder.glob("snapshot*.safetensors"):
                if not snapshot.with_suffix(".npz").exists():
                    save_logits(snapshot, faces, snapshot.with_suffix(".npz"), device)
            engine = {"processes": max(processes, team.size), "compiled": compiled}
            write_record(folder, recipe, faces, state, device, engine)
        team.wait()
    return read_record(folder)


def _fit_in_time(recipe: Recipe, splits: tuple[Faces, Faces], folder: Path, how: dict) -> None:
    """A process of several; that time was up is found again by the one that started them."""
    with suppress(OutOfTime):
        fit(recipe, *splits, folder, **how)


def save_logits(weights: Path, faces: Faces, path: Path, device: str = "auto") -> None:
    """logits.npz of saved weights: a judged split's logits, flip-TTA logits (float16), labels and rows."""
    model, recipe, classes = load_weights(weights)
    model, there = model.to(pick_device(device)), arrange(faces, recipe)
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for usage, split in there.judged.items():
        if (split.labels == UNLABELLED).any():
            raise DataError(f"{usage} of {faces.name} has images without a label: nothing to measure against")
        for view in VIEWS:
            name = "logits" if view == "none" else f"logits_{view}"
            values = logits(model, split.images, tta=view, batch_size=there.batch_size)
            arrays[f"{usage}_{name}"] = values.numpy().astype(np.float16)
        arrays[f"{usage}_labels"] = split.labels.numpy().astype(np.int8)
        arrays[f"{usage}_rows"] = split.rows.numpy().astype(np.int32)
    save_arrays(path, arrays)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Arrays as a compressed .npz, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def measured_splits(arrays: dict[str, np.ndarray]) -> list[str]:
    """What a logits.npz has the labels of."""
    return [name.removesuffix("_labels") for name in arrays if name.endswith("_labels")]


def measure(folder: str | Path) -> dict:
    """Every metric of a run folder, from its logits.npz alone: {split, split flip TTA: metrics}."""
    arrays = load_logits(folder)
    classes, metrics = tuple(arrays["classes"].tolist()), {}
    for usage in measured_splits(arrays):
        values, labels = (arrays[f"{usage}_{key}"] for key in ("logits", "labels"))
        metrics[usage] = evaluate(values, labels, classes)
        metrics[f"{usage} flip TTA"] = evaluate(arrays[f"{usage}_logits_flip"], labels, classes)
    return metrics


def measure_parts(folder: str | Path, report: dict, usages: tuple[str, ...] = ("PrivateTest",)) -> dict[str, dict]:
    """Every metric of a run on each part of those splits, from its logits: {"PrivateTest clean": metrics, ...}.

    The parts are audit.PARTS. Raises DataError for an audit of other data, and for a run that has learned from more
    than Training, for which a test image without a copy there need not be new.
    """
    record = read_record(folder)
    if protocol := other_protocol(record):
        raise DataError(f"{folder} was trained by the protocol {protocol}; parts are those of runs on Training alone")
    of, ours = report["data"]["fingerprint"], record["data"]["fingerprint"]
    if of != ours:
        raise DataError(f"{folder} was measured on data {ours}, the audit is of {of}; make its own: ferkit audit")
    arrays, metrics = load_logits(folder), {}
    classes = tuple(arrays["classes"].tolist())
    for usage in measured_splits(arrays):
        if usage not in usages:
            continue
        parts = part_of_rows(report, usage, arrays[f"{usage}_rows"])
        for i, name in enumerate(PARTS):
            if (mine := parts == i).any():
                values, labels = arrays[f"{usage}_logits"][mine], arrays[f"{usage}_labels"][mine]
                metrics[f"{usage} {name}"] = evaluate(values, labels, classes)
    return metrics


def write_record(
    folder: Path, recipe: Recipe, faces: Faces, state: State, device: str = "auto", engine: dict | None = None
) -> None:
    """Write record.json of a trained run's folder, as save_record does.

    engine: the processes that trained its last part, and whether torch.compile did.
    """
    there = arrange(faces, recipe)
    record = {
        "code": state.sources,
        "data": {
            "name": faces.name,
            "fingerprint": faces.fingerprint,
            "official": faces.is_official,
            "n": {"Training": len(learnable(there.training, recipe.targets))}
            | {usage: len(split) for usage, split in there.judged.items()},
        },
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "start": state.start,
        **({"exclude": file_start(in_checkout(recipe.exclude))} if recipe.exclude else {}),
        **({"teacher": file_start(in_checkout(recipe.teacher))} if recipe.teacher else {}),
        "batch_independence": certificate(folder, faces),
        "selected": {"by": there.chosen_by} | {"epoch": state.best_epoch + 1, "accuracy": round(state.best, 6)},
        "engine": engine or {"processes": 1, "compiled": False},
        "precision": {"used": state.precision, "milliseconds": state.timings},
        "seconds": {"training": round(state.seconds, 1), "processor": round(state.cpu_seconds, 1)},
    }
    save_record(folder, recipe, record, device)


def save_record(folder: Path, recipe, record: dict, device: str = "auto") -> None:
    """Complete a record by what every run has (recipe, machine, versions, date, metrics) and write it.

    recipe: a Recipe, or another frozen dataclass with name, model, seed and run_name. Raises FileExistsError when there
    is a record: history is not overwritten.
    """
    if (folder / "record.json").exists():
        raise FileExistsError(f"{folder / 'record.json'} exists, and records are not overwritten")
    about = {"schema": SCHEMA, "run": recipe.run_name, "recipe": asdict(recipe)}
    made = {"machine": describe_machine(device), "versions": versions()}
    made["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    whole = about | record | made | {"metrics": measure(folder)}
    write_whole(folder / "record.json", json.dumps(whole, indent=1) + "\n")


def certificate(folder: Path, faces: Faces) -> float:
    """independence.batch_independence of a run's selected weights, on the first images of PublicTest; on the CPU."""
    images, n = faces.split("PublicTest").images, max(BATCH_SIZES)
    images = images.repeat(-(-n // len(images)), 1, 1)[:n]  # fewer are repeated
    return batch_independence(load_weights(folder / BEST)[0], images)


def read_record(folder: str | Path) -> dict:
    """The record of a run folder, or DataError saying what is wrong with it.

    What older records say of clean images, by another rule than an audit's, is left out here and in load_logits.
    """
    path = Path(folder) / "record.json"
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable record ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a record of schema {SCHEMA}")
    return record | {"metrics": {k: v for k, v in record.get("metrics", {}).items() if not k.endswith(" clean")}}


def disagreements(recorded: dict, measured: dict, path: str = "") -> list[str]:
    """Where two trees of metrics differ by more than rounding; empty when they agree."""
    if isinstance(recorded, dict) and isinstance(measured, dict):
        keys = [*recorded, *(k for k in measured if k not in recorded)]
        return [line for k in keys for line in disagreements(recorded.get(k), measured.get(k), f"{path}/{k}")]
    if isinstance(recorded, float) and isinstance(measured, float) and abs(recorded - measured) <= 2e-6:
        return []
    return [] if recorded == measured else [f"{path.lstrip('/')}: recorded {recorded}, measured {measured}"]


def outside(record: dict) -> list[str]:
    """What a run has learned from beside the training images and their own labels."""
    if "outside" in record:  # an ensemble's
        return record["outside"]
    votes = record["recipe"].get("targets") == "votes" and record["data"]["name"] != "ferplus"
    start = [value for key, value in record["start"].items() if key != "sha256"]  # ImageNet's weights, or a file's name
    return [*start, *([VOTES] if votes else [])]


def check_faces(folder: str | Path, record: dict, faces: Faces) -> None:
    """DataError unless a run's record is of these faces."""
    if (data := record["data"])["fingerprint"] != faces.fingerprint:
        raise DataError(f"{folder} was measured on {data['name']}, fingerprint {data['fingerprint']}; these are "
                        f"{faces.name}, {faces.fingerprint}: give its own with --data and --labels")  # fmt: skip


def is_of(record: dict, recipe: Recipe) -> bool:
    """Whether a record is of that recipe; fields that an older one lacks have their defaults."""
    return "members" not in record["recipe"] and Recipe(**record["recipe"]) == recipe


def find_records(root: str | Path) -> list[tuple[Path, dict]]:
    """(folder, record) of every run below root, in order of their paths."""
    return [(path.parent, read_record(path.parent)) for path in sorted(Path(root).rglob("record.json"))]


def run_folder(recipe: Recipe, faces: Faces) -> Path:
    """Where that run belongs: runs/<data>/<recipe>-s<seed>."""
    return project_root() / "runs" / faces.name / recipe.run_name


def place(name: str, faces: Faces) -> Path:
    """The folder of the run of that name: below results/ where its record is committed, else below runs/."""
    committed = project_root() / "results" / faces.name / name
    return committed if (committed / "record.json").exists() else project_root() / "runs" / faces.name / name


def obtain(
    recipe: Recipe, faces: Faces, device: str = "auto", weights: str | Path | None = None, kept: bool = False
) -> Path:
    """The folder of that run: below results/ where its record is committed, else below runs/, trained if need be.

    kept: below runs/ in any case, with its weights, which committed records lack. Says a line where it trains, for
    notebooks that need many. Raises DataError where a record is of another recipe or other data, and what `run` raises.
    """
    folder = run_folder(recipe, faces) if kept else place(recipe.run_name, faces)
    there, committed = (folder / "record.json").exists(), folder.is_relative_to(project_root() / "results")
    record = run(recipe, faces, folder, device, None if committed else weights, say=silent)
    if not there:
        print(f"{recipe.run_name}: trained in {record['seconds']['training']:.0f} s")
    return folder


def read_log(folder: str | Path) -> list[dict[str, str]]:
    """The rows of a run's log.csv."""
    with open(Path(folder) / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def load_logits(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a run folder's logits.npz, or of such a file: <split>_logits, _logits_flip (n, C), _labels and
    _rows (n,), classes."""
    path = Path(path) if Path(path).suffix == ".npz" else Path(path) / "logits.npz"
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file if not key.endswith("_clean")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable logits ({error}); a run folder has logits.npz") from error


def interval(headline: dict, scale: float = 100) -> str:
    """`71.2 (69.8–72.7)`: a headline and its interval, in percent unless scaled otherwise."""
    value, low, high = (headline[key] * scale for key in ("value", "low", "high"))
    digits = 1 if scale == 100 else 3
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def summary(record: dict) -> str:
    """A record's headlines as lines of text, each with its n and 95 % interval."""
    if n_members := len(record["recipe"].get("members", ())):
        chosen = f"{record['recipe']['method']} of {n_members} members; {record['selected']['by']}"
    else:
        chosen = f"weights of epoch {record['selected']['epoch']}, chosen by {record['selected']['by']}; 1 seed"
    lines = [f"{record['run']} on {record['data']['name']}: {chosen}; in brackets 95 % intervals over the images"]
    width = max(map(len, record["metrics"])) + 1
    lines += [f"{'':<{width}}{'n':>6}" + "".join(f"  {title:<18}" for title in SUMMARY_TITLES)]
    for split, metrics in record["metrics"].items():
        values = [interval(metrics[name], 1 if name == "nll" else 100) for name in HEADLINES]
        lines.append(f"{split:<{width}}{metrics['n']:>6,}" + "".join(f"  {value:<18}" for value in values))
    return "\n".join(line.rstrip() for line in lines)


def environment(device: str = "auto") -> str:
    """One line for the top of a notebook: versions, machine and commit."""
    machine, code = describe_machine(device), code_version()
    commit = f"{code['commit'][:10]}{' (changed)' if code['dirty'] else ''}" if code["commit"] else "no checkout"
    return (
        f"ferkit {__version__} at {commit}, Python {platform.python_version()}, torch {library_version('torch')}, "
        f"on {machine['device']} ({machine['name']}, {machine['threads']} threads)"
    )
