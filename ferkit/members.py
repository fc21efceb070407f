"""Members of an ensemble: runs, or snapshots of one, that were measured on the same faces."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit import DataError
from ferkit.ensemble import Combination, get_method
from ferkit.experiment import save_logits
from ferkit.faces import Faces
from ferkit.independence import dependence
from ferkit.protocols import other_protocol
from ferkit.records import load_logits, measured_splits, read_record
from ferkit.weights import BEST


@dataclass(frozen=True)
class Members:
    """What several runs said of the same faces; arrays as in logits.npz, logits and logits_flip stacked: (M, N, C)."""

    paths: tuple[Path, ...]  # run folders, or <run folder>/snapshot<n>
    records: tuple[dict, ...]
    arrays: dict[str, np.ndarray]
    views: bool  # every run judges a face and its mirror image, as a member each

    def __len__(self) -> int:
        return len(self.paths) * (1 + self.views)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.arrays["classes"].tolist())

    @property
    def names(self) -> list[str]:
        """A name a member, in the order of the logits."""
        own = [_name(path) for path in self.paths]
        return own + [f"{name}, mirrored" for name in own] if self.views else own

    def logits(self, usage: str, flip: bool = False) -> np.ndarray:
        """(M, N, C) float64 of a split; with `flip` those of flip-TTA."""
        plain, both = (self.arrays[f"{usage}_{key}"].astype(np.float64) for key in ("logits", "logits_flip"))
        if self.views:
            return np.concatenate([plain, 2 * both - plain])
        return both if flip else plain

    def labels(self, usage: str) -> np.ndarray:
        return self.arrays[f"{usage}_labels"].astype(int)

    def fit(self, method: str, tempered: bool = False, seed: int = 0) -> Combination:
        """A method of ensemble.METHODS, fitted on PublicTest."""
        return get_method(method, tempered)(self.logits("PublicTest"), self.labels("PublicTest"), seed)


def load_members(paths: list[Path], views: bool = False) -> Members:
    """The runs of those folders (or snapshots) as members, from their records and logits.

    Raises ValueError for no member or one named twice; DataError, naming the run, for what cannot be read, for another
    label set, other faces or labels, logits that are not finite, a run that trained on PublicTest, and a model whose
    logits depend on the rest of the batch.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise ValueError("an ensemble needs members; name at least one run folder")
    if twice := {str(path) for path in paths if [p.resolve() for p in paths].count(path.resolve()) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))}: named more than once; a member is in an ensemble once")
    names = [_name(path) for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several members are called {', '.join(twice)}; rename their folders")
    records = [read_record(path.parent if is_snapshot(path) else path) for path in paths]
    each = [load_logits(path.with_suffix(".npz") if is_snapshot(path) else path) for path in paths]
    for path, record, arrays in zip(paths, records, each, strict=True):
        _check_kind(path, record)
        _check(path, arrays, paths[0], each[0])
    prints = [record["data"]["fingerprint"] for record in records]
    if others := [str(path) for path, found in zip(paths, prints, strict=True) if found != prints[0]]:
        raise DataError(f"{', '.join(others)}: of other data than {paths[0]}, by the fingerprint in the record")
    stacked = {}
    for usage in measured_splits(each[0]):
        for key in ("logits", "logits_flip"):
            stacked[f"{usage}_{key}"] = np.stack([arrays[f"{usage}_{key}"] for arrays in each])
    return Members(tuple(paths), tuple(records), each[0] | stacked, views)


def _check_kind(path: Path, record: dict) -> None:
    """DataError for a run that may not be a member of an ensemble which is fitted on PublicTest."""
    if protocol := other_protocol(record):
        raise DataError(f"{path} was trained by the protocol {protocol}; members are by the standard one, leave it out")
    if "members" in record["recipe"] and "_soup" not in record["recipe"]["method"]:
        raise DataError(f"{path} is an ensemble that was fitted on PublicTest; name its members instead")
    if told := dependence(record):
        raise DataError(f"{path} {told}; leave it out")


def _check(path: Path, arrays: dict, first_path: Path, first: dict) -> None:
    """DataError where the logits of two runs are not of the same faces and classes, or not finite."""
    ours, theirs = ([*a["classes"].tolist()] for a in (arrays, first))
    if ours != theirs:
        raise DataError(f"{path} tells {', '.join(ours)} apart, {first_path} {', '.join(theirs)}: no ensemble of both")
    if measured_splits(arrays) != measured_splits(first):
        raise DataError(f"{path} was measured on {measured_splits(arrays)}, {first_path} on {measured_splits(first)}")
    for usage in measured_splits(first):
        for key, what in (("rows", "faces"), ("labels", "labels")):
            if not np.array_equal(arrays[f"{usage}_{key}"], first[f"{usage}_{key}"]):
                raise DataError(f"{path} and {first_path} have other {what} in {usage}: they do not belong together")
        values = np.stack([arrays[f"{usage}_logits"], arrays[f"{usage}_logits_flip"]])
        if n := int((~np.isfinite(values)).any((0, 2)).sum()):
            raise DataError(f"{path}: {n} images of {usage} have logits that are not finite; leave it out")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if is_snapshot(path) else path.name


def is_snapshot(path: Path) -> bool:
    """Whether a member is a snapshot of a run, whose files are path.safetensors and path.npz."""
    return path.name.startswith("snapshot") and not path.is_dir()


def weights_file(path: Path) -> Path:
    """Where the weights of a member are."""
    return path.with_suffix(".safetensors") if is_snapshot(path) else path / BEST


def snapshots(folder: Path, faces: Faces | None = None, device: str = "auto") -> list[Path]:
    """The snapshots of a run as members, for load_members; measured on the faces where that was not done yet.

    Raises DataError for a run without snapshots, or unmeasured ones without faces.
    """
    found = {path.with_suffix("") for kind in ("safetensors", "npz") for path in Path(folder).glob(f"snapshot*.{kind}")}
    paths = sorted(found, key=lambda path: (len(path.name), path.name))
    if not paths:
        raise DataError(f"{folder} has no snapshots; train with --set snapshots=True --set cycle=EPOCHS")
    for path in paths:
        if not path.with_suffix(".npz").exists():
            if faces is None or faces.fingerprint != read_record(folder)["data"]["fingerprint"]:
                raise DataError(f"{path} is not measured yet; give the faces of its run with --data and --labels")
            save_logits(path.with_suffix(".safetensors"), faces, path.with_suffix(".npz"), device)
    return paths
