"""Records of runs: read, recomputed from their logits, compared with what they say, and told in a few lines.

A record holds what is needed to believe a number: the recipe, the code, the data, n, and intervals.
"""

import csv
import json
import platform
import zipfile
from pathlib import Path

import numpy as np

from ferkit import DataError, __version__
from ferkit.atomic import whole_file
from ferkit.audit import PARTS, part_of_rows
from ferkit.faces import Faces
from ferkit.labels import USAGES
from ferkit.machine import code_version, describe_machine, library_version
from ferkit.metrics import HEADLINES, evaluate
from ferkit.protocols import other_protocol
from ferkit.recipe import Recipe

SCHEMA = 1
JUDGED = USAGES[1:]
VOTES = "FER+ votes"  # as what a run on FER2013 has learned from
SUMMARY_TITLES = ("accuracy, %", "balanced, %", "macro F1, %", "ECE, %", "NLL, nats")  # of metrics.HEADLINES


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


def read_record(folder: str | Path) -> dict:
    """The record of a run folder, or DataError saying what is wrong with it.

    What older records say of clean images, by another rule than an audit's, is left out here and in load_logits.
    """
    path = Path(folder) / "record.json"
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable record ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("metrics"), dict):
        raise DataError(f"{path}: not a record of schema {SCHEMA}")
    if lacking := sorted({"run", "recipe", "data", "selected"} - set(record)):
        raise DataError(f"{path}: no whole record, it lacks {', '.join(lacking)}")
    return record | {"metrics": {k: v for k, v in record["metrics"].items() if not k.endswith(" clean")}}


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
                        f"{faces.name}, {faces.fingerprint}: load its own (--data, --labels)")  # fmt: skip


def is_of(record: dict, recipe: Recipe) -> bool:
    """Whether a record is of that recipe; fields that an older one lacks have their defaults."""
    return "members" not in record["recipe"] and Recipe(**record["recipe"]) == recipe


def find_records(root: str | Path) -> list[tuple[Path, dict]]:
    """(folder, record) of every run below root, in order of their paths."""
    return [(path.parent, read_record(path.parent)) for path in sorted(Path(root).rglob("record.json"))]


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
            arrays = {key: file[key] for key in file if not key.endswith("_clean")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable logits ({error}); a run folder has logits.npz") from error
    for usage in measured_splits(arrays):
        n = len(arrays[f"{usage}_labels"])
        for key in ("logits", "logits_flip", "rows"):
            if len(arrays.get(f"{usage}_{key}", ())) != n:
                raise DataError(f"{path}: {usage}_{key} is not there for each of its {n} labels")
    if "classes" not in arrays:
        raise DataError(f"{path}: it does not say its classes")
    return arrays


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
