"""From a recipe to a record: a run is trained, measured once and written down, or found where that was done before."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ferkit import DataError
from ferkit.atomic import check_folder, in_checkout, project_root, write_whole
from ferkit.faces import Faces
from ferkit.ferplus import learnable
from ferkit.independence import BATCH_SIZES, batch_independence
from ferkit.labels import UNLABELLED, USAGES
from ferkit.machine import code_version, describe_machine, versions
from ferkit.parallel import joined, launch
from ferkit.predict import VIEWS, logits, pick_device
from ferkit.protocols import arrange
from ferkit.recipe import Recipe
from ferkit.records import SCHEMA, is_of, measure, read_record, save_arrays
from ferkit.train import OutOfTime, State, file_start, fit, silent
from ferkit.weights import BEST, load_weights


def run(
    recipe: Recipe, faces: Faces, folder: str | Path, device: str = "auto", weights: str | Path | None = None, *,
    processes: int = 1, compiled: bool = False, say: Callable[..., None] = print,
) -> dict:  # fmt: skip
    """Train a recipe (or go on with it) and measure it; the record. A run that has a record is only read.

    PrivateTest is read here, once, after training has chosen its weights, by the standard protocol without it.
    `weights`, `compiled` and `say` are train.fit's. `processes`: so many train here; torchrun has its own.
    Raises what train.fit raises, and DataError when a split is missing.
    """
    folder = check_folder(folder)
    missing = [u for u in USAGES if not len(faces.split(u))]
    if missing:
        raise DataError(f"{faces.name} has no {' and no '.join(missing)} images; the protocol needs all three splits")
    if (folder / "record.json").exists():
        return _recorded(folder, recipe, faces, weights)
    arranged = arrange(faces, recipe)
    splits = arranged.training, arranged.choosing
    how = dict(device=device, source=code_version(), weights=weights, compiled=compiled, say=say)
    if processes < 1:
        raise ValueError(f"at least 1 process, got {processes}")
    if processes > 1:
        launch(processes, _fit_in_time, recipe, splits, folder, how)  # and what `fit` then finds is finished, or late
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


def _recorded(folder: Path, recipe: Recipe, faces: Faces, weights: str | Path | None) -> dict:
    """The record in a folder, or DataError where it is of another run than this."""
    record, other = read_record(folder), ""
    if not is_of(record, recipe) or record["data"]["fingerprint"] != faces.fingerprint:
        other = "another recipe or other data"
    elif recipe.teacher and record.get("teacher", {}) not in ({}, file_start(in_checkout(recipe.teacher))):
        other = "a run with another teacher"
    elif recipe.exclude and record["exclude"] != file_start(in_checkout(recipe.exclude)):
        other = "a run with another audit"
    elif weights and record["start"] != file_start(weights):
        other = "a run that started from other weights"
    if other:
        raise DataError(f"{folder} holds the record of {other}; name another folder")
    return record


def _fit_in_time(recipe: Recipe, splits: tuple[Faces, Faces], folder: Path, how: dict) -> None:
    """A process of several; that time was up is found again by the one that started them."""
    with suppress(OutOfTime):
        fit(recipe, *splits, folder, **how)


def save_logits(weights: Path, faces: Faces, path: Path, device: str = "auto") -> None:
    """logits.npz of saved weights: a judged split's logits, flip-TTA logits (float16), labels and rows."""
    model, recipe, classes = load_weights(weights)
    model, arranged = model.to(pick_device(device)), arrange(faces, recipe)
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for usage, split in arranged.judged.items():
        if (split.labels == UNLABELLED).any():
            raise DataError(f"{usage} of {faces.name} has images without a label: nothing to measure against")
        for view in VIEWS:
            name = "logits" if view == "none" else f"logits_{view}"
            values = logits(model, split.images, tta=view, batch_size=arranged.batch_size)
            arrays[f"{usage}_{name}"] = values.numpy().astype(np.float16)
        arrays[f"{usage}_labels"] = split.labels.numpy().astype(np.int8)
        arrays[f"{usage}_rows"] = split.rows.numpy().astype(np.int32)
    save_arrays(path, arrays)


def write_record(
    folder: Path, recipe: Recipe, faces: Faces, state: State, device: str = "auto", engine: dict | None = None
) -> None:
    """Write record.json of a trained run's folder, as save_record does.

    engine: the processes that trained its last part, and whether torch.compile did.
    """
    arranged = arrange(faces, recipe)
    record = {
        "code": state.sources,
        "data": {
            "name": faces.name,
            "fingerprint": faces.fingerprint,
            "official": faces.is_official,
            "n": {"Training": len(learnable(arranged.training, recipe.targets))}
            | {usage: len(split) for usage, split in arranged.judged.items()},
        },
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "start": state.start,
        **({"exclude": file_start(in_checkout(recipe.exclude))} if recipe.exclude else {}),
        **({"teacher": file_start(in_checkout(recipe.teacher))} if recipe.teacher else {}),
        "batch_independence": certificate(folder, faces),
        "selected": {"by": arranged.chosen_by} | {"epoch": state.best_epoch + 1, "accuracy": round(state.best, 6)},
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


def run_folder(recipe: Recipe, faces: Faces) -> Path:
    """Where that run belongs: runs/<data>/<recipe>-s<seed>."""
    return project_root() / "runs" / faces.name / recipe.run_name


def place(name: str, faces: Faces) -> Path:
    """The folder of the run of that name: below results/ where its record of these faces is committed, else below
    runs/."""
    committed, own = (project_root() / root / faces.name / name for root in ("results", "runs"))
    there = (committed / "record.json").exists()
    return committed if there and read_record(committed)["data"]["fingerprint"] == faces.fingerprint else own


def obtain(
    recipe: Recipe, faces: Faces, device: str = "auto", weights: str | Path | None = None, kept: bool = False
) -> Path:
    """The folder of that run by `place`, trained if need be.

    kept: below runs/ in any case, with its weights, which committed records lack. Says a line where it trains, for
    notebooks that need many. Raises DataError where a record is of another recipe or other data, and what `run` raises.
    """
    folder = run_folder(recipe, faces) if kept else place(recipe.run_name, faces)
    measured, committed = (folder / "record.json").exists(), folder.is_relative_to(project_root() / "results")
    record = run(recipe, faces, folder, device, None if committed else weights, say=silent)  # a start is not committed
    if not measured:
        print(f"{recipe.run_name}: trained in {record['seconds']['training']:.0f} s")
    return folder
