"""An ensemble as a run folder like any other: its recipe names its members, its record has their measure."""

import hashlib
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ferkit import DataError
from ferkit.atomic import check_folder
from ferkit.ensemble import ALIASES, METHODS, Combination, get_method, nested
from ferkit.experiment import certificate, save_logits, save_record
from ferkit.faces import Faces
from ferkit.machine import code_version
from ferkit.members import Members, is_snapshot, load_members, weights_file
from ferkit.records import measured_splits, outside, read_record, save_arrays
from ferkit.soups import SOUPS, soup
from ferkit.weights import BEST

AUTO = "auto"  # the method that expects most of new faces (ensemble.nested)


@dataclass(frozen=True)
class EnsembleRecipe:
    """What decides an ensemble; members are paths relative to the folder above its own. Validated when made."""

    name: str
    method: str
    members: tuple[str, ...]
    tempered: bool = False
    views: bool = False
    seed: int = 0  # of bags and folds
    model: str = "ensemble"

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        object.__setattr__(self, "method", ALIASES.get(self.method, self.method))
        if self.method not in METHODS and self.method != AUTO and not self.soup:
            choices = [AUTO, *METHODS, *ALIASES, *(f"{name}_soup" for name in SOUPS)]
            raise ValueError(f"unknown ensemble method {self.method!r}; choose from {choices}")

    @property
    def soup(self) -> str:
        """Which of soups.SOUPS it is; empty for an ensemble of members that all judge."""
        return next((name for name in SOUPS if self.method == f"{name}_soup"), "")

    @property
    def run_name(self) -> str:
        return self.name


def expectations(members: Members, tempered: bool = False, n_repeats: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """ensemble.nested's accuracies on PublicTest of every method: PrivateTest is not read."""
    given = members.logits("PublicTest"), members.labels("PublicTest")
    return {name: nested(get_method(name, tempered), *given, n_repeats, seed) for name in METHODS}


def choose(expected: dict[str, np.ndarray]) -> str:
    """The first of METHODS, which stand from plain to intricate, that expects no less than the best by more than the
    standard error of their difference; halves overlap, for which it is corrected (Nadeau and Bengio 2003)."""
    best = max(expected, key=lambda name: expected[name].mean())
    short = {name: expected[best] - expected[name] for name in METHODS}
    return next(name for name, by in short.items() if by.mean() <= by.std(ddof=1) * (1 / len(by) + 1) ** 0.5)


def ensemble(
    paths: list[Path], folder: str | Path, method: str = AUTO, faces: Faces | None = None, *,
    tempered: bool = False, views: bool = False, seed: int = 0, device: str = "auto",
) -> dict:  # fmt: skip
    """Combine measured runs into a run folder with logits.npz and record.json; the record.

    method: of ensemble.METHODS; uniform_soup or greedy_soup (soups.soup), which need the faces; or auto, what
    `choose` says. It is chosen, and everything is fitted, on PublicTest. A folder that has a record is only
    read. Raises what load_members raises, ValueError for an unknown method, DataError for a folder of another ensemble.
    """
    folder, begin = check_folder(folder), time.perf_counter()
    members = load_members(paths, views)
    recipe = EnsembleRecipe(folder.name, method, _named(paths, folder), tempered, views, seed)
    if (folder / "record.json").exists():
        return _same(read_record(folder), recipe, members, folder)
    _check_free(folder)
    if recipe.soup:
        _check_soup(members, recipe, faces)
    chosen: dict = {"by": "its method was named; what it fits is fitted on PublicTest"}
    if method == AUTO:
        expected = expectations(members, tempered, seed=seed)
        recipe = replace(recipe, method=choose(expected))
        chosen = {"by": "its method was chosen, and fitted, on PublicTest"}
        chosen["expected"] = {name: round(float(values.mean()), 6) for name, values in expected.items()}
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(members) | {"members": digests(members, recipe), "selected": chosen}
    if recipe.soup:
        facts |= _cook(members, recipe, faces, folder, device)
    else:
        combination = members.fit(recipe.method, tempered, seed)
        save_arrays(folder / "logits.npz", combined(members, combination))
        facts["weights"] = dict(zip(members.names, combination.weights.round(4).tolist(), strict=True))
    facts["seconds"] = _seconds(members) | {"fitting": round(time.perf_counter() - begin, 1)}
    save_record(folder, recipe, facts, device)
    return read_record(folder)


def _named(paths: list[Path], folder: Path) -> tuple[str, ...]:
    return tuple(Path(os.path.relpath(path, folder.parent)).as_posix() for path in paths)


def _same(record: dict, recipe: EnsembleRecipe, members: Members, folder: Path) -> dict:
    """The record, where it is of that recipe and of members that are as they were; else DataError."""
    found = record["recipe"]
    wanted = asdict(recipe) | {"members": found.get("members")}  # whose names depend on where it was made
    if recipe.method == AUTO and "expected" in record["selected"]:
        wanted["method"] = found.get("method")
    same = found == wanted and [path.resolve() for path in member_paths(folder, record)] == [
        path.resolve() for path in members.paths
    ]
    if not same or [*record["members"].values()] != [*digests(members, recipe).values()]:
        raise DataError(f"{folder} holds the record of another run, or its members changed; name another folder")
    return record


def _check_free(folder: Path) -> None:
    """DataError for the folder of a run that is not finished, whose files would be mixed up with an ensemble's.

    An ensemble that was stopped before its record leaves logits, or a soup, which are written anew.
    """
    if found := [name for name in ("recipe.json", "last.pt") if (folder / name).exists()]:
        raise DataError(f"{folder} holds {found[0]} of a run without a record; name another folder or delete this one")


def _check_soup(members: Members, recipe: EnsembleRecipe, faces: Faces | None) -> None:
    """ValueError or DataError for a soup that cannot be cooked or measured."""
    if faces is None or faces.fingerprint != members.records[0]["data"]["fingerprint"]:
        raise DataError("a soup is measured anew: give the faces that its members were measured on, with --data")
    if recipe.views or recipe.tempered:
        raise ValueError("a soup is one network: it has neither views nor members' temperatures")
    if missing := [str(file) for file in map(weights_file, members.paths) if not file.exists()]:
        raise DataError(f"a soup is made of weights; not there: {', '.join(missing)}")


def _cook(members: Members, recipe: EnsembleRecipe, faces: Faces, folder: Path, device: str) -> dict:
    """Write a soup's weights and logits; what its record says differently from other ensembles'."""
    files = [weights_file(path) for path in members.paths]
    inside = soup(files, faces, recipe.soup, folder / BEST, device)
    save_logits(folder / BEST, faces, folder / "logits.npz", device)
    share = {name: round((file in inside) / len(inside), 4) for name, file in zip(members.names, files, strict=True)}
    return {
        "parameters": members.records[0]["parameters"],
        "batch_independence": certificate(folder, faces),
        "weights": share,
    }


def combined(members: Members, combination: Combination) -> dict[str, np.ndarray]:
    """The arrays of an ensemble's logits.npz; in float32, since votes lie close to ties."""
    arrays: dict[str, np.ndarray] = {"classes": members.arrays["classes"]}
    for usage in measured_splits(members.arrays):
        arrays[f"{usage}_logits"] = combination(members.logits(usage)).astype(np.float32)
        arrays[f"{usage}_logits_flip"] = combination(members.logits(usage, flip=True)).astype(np.float32)
        arrays |= {name: members.arrays[name] for name in (f"{usage}_labels", f"{usage}_rows")}
    return arrays


def _facts(members: Members) -> dict:
    """What an ensemble's record takes from those of its members."""
    records = members.records
    return {
        "code": [code_version()],
        "data": records[0]["data"],
        "parameters": sum(record["parameters"] for record in records),
        "start": {},
        "outside": sorted({source for record in records for source in outside(record)}),
        "batch_independence": max(record["batch_independence"] for record in records),
    }


def _seconds(members: Members) -> dict[str, float]:
    """Of training: a run's snapshots have been trained once."""
    runs = {path.parent if is_snapshot(path) else path: record
            for path, record in zip(members.paths, members.records, strict=True)}  # fmt: skip
    return {
        key: round(sum(record["seconds"].get(key, 0) for record in runs.values()), 1)
        for key in ("training", "processor")
    }


def digests(members: Members, recipe: EnsembleRecipe) -> dict[str, str]:
    """16 hex digits of each member's logits."""
    splits = [f"{usage}_{key}" for usage in measured_splits(members.arrays) for key in ("logits", "logits_flip")]
    return {
        name: hashlib.sha256(b"".join(members.arrays[key][i].tobytes() for key in splits)).hexdigest()[:16]
        for i, name in enumerate(recipe.members)
    }


def judges_by_members(record: dict) -> bool:
    """Whether it is of an ensemble whose members all judge; a soup is one network."""
    return "members" in record["recipe"] and not EnsembleRecipe(**record["recipe"]).soup


def member_paths(folder: Path, record: dict) -> list[Path]:
    """Where the members of an ensemble's record are."""
    return [Path(os.path.normpath(folder.parent / name)) for name in record["recipe"]["members"]]
