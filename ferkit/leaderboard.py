"""The results table, from records: a row a model and data set, seeds averaged, with an interval and links."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ferkit import recipes
from ferkit.atomic import project_root, write_whole
from ferkit.audit import load_audit, part_of_rows
from ferkit.claims import CLAIMS_ON
from ferkit.comparison import hits
from ferkit.independence import dependence
from ferkit.markdown import markdown_table
from ferkit.metrics import mean_accuracy
from ferkit.protocols import other_protocol
from ferkit.recipe import Recipe
from ferkit.records import VOTES, find_records, load_logits, measured_splits, outside
from ferkit.weights import BEST

NO_RESULT = re.compile(rf"-({'|'.join(recipes.NO_RESULT)})(\+|$)")
NO_MEMBER = re.compile(rf"-({'|'.join(set(recipes.NO_RESULT) - {'member'})})(\+|-s\d|$)|\+fold=")  # of an ensemble
DATASETS = ("fer2013", "ferplus")
TITLES = (
    "dataset", "model", "single or ensemble", "fine-tuned", "claimed, %", "measured on PrivateTest, %", "95 %", "n",
    "clean, % (n)", "balanced", "macro F1", "ECE", "with flip TTA", "PublicTest", "outside data", "parameters",
    "minutes", "records",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """The runs behind a row: the seeds of one recipe, or one ensemble, on one data set."""

    name: str
    data: str  # its name; of other pictures than those of the committed records with their fingerprint
    runs: tuple[tuple[Path, dict], ...]  # folder, record

    @property
    def folders(self) -> list[Path]:
        return [folder for folder, _ in self.runs]

    @property
    def record(self) -> dict:
        """The first of its records, for what all of them share."""
        return self.runs[0][1]

    @property
    def n_members(self) -> int:
        """Of an ensemble; 0 for a network."""
        return len(self.record["recipe"].get("members", ()))

    @property
    def kind(self) -> str:
        return f"ensemble of {self.n_members}" if self.n_members else "single"

    @property
    def tests(self) -> list[str]:
        """What it was tested on: PrivateTest, of FER+ by majorities and by argmax."""
        return [usage for usage in measured_splits(load_logits(self.folders[0])) if usage.startswith("PrivateTest")]

    def each(self, usage: str, headline: str = "accuracy") -> list[float]:
        """A headline of every run, in [0, 1]."""
        return [record["metrics"][usage][headline]["value"] for _, record in self.runs]

    def mean(self, usage: str, headline: str = "accuracy") -> float:
        """Of a headline over the runs, in [0, 1]."""
        return float(np.mean(self.each(usage, headline)))

    @property
    def outside(self) -> str:
        """What it has learned from beside the training images and their own labels.

        Where each seed began with the run of its own seed, that run's name without it.
        """
        names, own = outside(self.record), f"-s{self.record['recipe']['seed']}/{BEST}"
        return ", ".join(name.removesuffix(own) if len(self.runs) > 1 else name for name in names) or "none"

    def accuracy(self, usage: str = "PrivateTest") -> dict[str, float]:
        """The mean over runs, {value, low, high}: a stratified bootstrap over the images."""
        return mean_accuracy(*hits(self.folders, usage))

    def spread(self, usage: str = "PrivateTest") -> str:
        """`68.3 ± 0.4, 4 seeds`: mean and standard deviation over seeds, in percent."""
        values = [100 * value for value in self.each(usage)]
        if len(values) > 1:
            return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}, {len(values)} seeds"
        return f"{values[0]:.1f}" + ("" if self.n_members else ", 1 seed")


def entries(*roots: str | Path, data: tuple[str, ...] = DATASETS) -> list[Entry]:
    """What is a result on those data sets, below any of the folders, best on PublicTest first.

    Quick runs, studies, ensembles of them and runs by another protocol stay out; a run that is in several folders
    counts in the first. A model that looks at its batch, or that nobody checked, is no result: below the first folder,
    which holds what is committed, that raises ValueError, as do records that do not belong together.
    """
    groups: dict[tuple[str, str, str], list[tuple[Path, dict]]] = {}
    committed: dict[str, str] = {}  # fingerprints
    for root in roots:
        if not Path(root).is_dir():
            raise ValueError(f"{root}: no such folder of records")
        before = {(*key, folder.name) for key, runs in groups.items() for folder, _ in runs}
        for folder, record in find_records(root):
            on, fingerprint = record["data"]["name"], record["data"]["fingerprint"]
            key = on, record["recipe"]["name"], fingerprint
            if root == roots[0]:
                committed.setdefault(on, fingerprint)
            if is_result(record, data) and (*key, folder.name) not in before:
                if told := dependence(record):
                    if root != roots[0]:
                        continue
                    raise ValueError(f"{folder}: {record['recipe']['model']} {told}; take it out, it is no result")
                groups.setdefault(key, []).append((folder, record))
    found = [
        Entry(name, on if committed.get(on, of) == of else f"{on} {of}", tuple(runs))
        for (on, name, of), runs in groups.items()
    ]
    for entry in found:
        _check_group(list(entry.runs))
    return sorted(found, key=lambda e: (data.index(e.record["data"]["name"]), e.data, -e.mean("PublicTest")))


def results_table(*roots: str | Path, data: tuple[str, ...] = DATASETS) -> str:
    """The results (`entries`) as a Markdown table: a row a model and data set, of FER+ one for each of its tests."""
    files = [file for name in data for root in roots if (file := Path(root) / "audit" / f"{name}.json").exists()]
    reports = {report["data"]["fingerprint"]: report for report in map(load_audit, files)}
    rows = []
    for entry in entries(*roots, data=data):
        report = reports.get(entry.record["data"]["fingerprint"])
        rows += [_row(entry, usage, report) for usage in entry.tests]
    return markdown_table(TITLES, rows)


def is_result(record: dict, data: tuple[str, ...] = DATASETS) -> bool:
    """Whether a run is one for the table: on official data, by the standard protocol, no study and no quick run."""
    recipe, about = record["recipe"], record["data"]
    standard = not other_protocol(record) and not recipe.get("fold")  # which older records lack
    if any(NO_MEMBER.search(name) for name in recipe.get("members", ())):
        return False
    return about["official"] and about["name"] in data and standard and not NO_RESULT.search(recipe["name"])


def _check_group(runs: list[tuple[Path, dict]]) -> None:
    """ValueError unless runs of one name are one recipe, with a seed each."""
    where = ", ".join(str(folder) for folder, _ in runs)
    if any("members" in record["recipe"] for _, record in runs):
        if len(runs) > 1:
            raise ValueError(f"{where} are ensembles of one name; rename one")
        return
    found = [Recipe(**record["recipe"]) for _, record in runs]  # fields that an older one lacks have their defaults
    if any(replace(recipe, seed=0) != replace(found[0], seed=0) for recipe in found):
        raise ValueError(f"{where} share a recipe's name and differ in the recipe; rename one")
    if any(_start(record) != _start(runs[0][1]) for _, record in runs):
        raise ValueError(f"{where} share a recipe's name and started from other weights; rename one")
    if len({recipe.seed for recipe in found}) < len(found):
        raise ValueError(f"{where} repeat a seed; a mean over seeds takes each once")


def _start(record: dict) -> dict | str:
    """What a run began with, as seeds of one recipe have to share it; of a run of its own seed, that run's recipe."""
    file, seed = Path(record["start"].get("file", "")), record["recipe"]["seed"]
    name = recipes.start_name(file, seed)
    return record["start"] if name in (file.parent.name, file.stem) else name


def _row(entry: Entry, usage: str, report: dict | None) -> list[str]:
    def mean(headline: str, split: str = usage) -> str:
        return f"{100 * entry.mean(split, headline):.1f}"

    about, accuracy = entry.record, entry.accuracy(usage)
    model, on = about["recipe"]["model"], about["data"]["name"]
    claims = ", ".join(f"{claim.percent:.1f}" for claim in CLAIMS_ON.get(on, ()) if claim.model == model)
    cells = [entry.data + usage.removeprefix("PrivateTest"), f"`{entry.name}`", entry.kind]
    cells += ["yes" if set(outside(about)) - {VOTES} else "no", claims or "–"]
    cells += [entry.spread(usage), f"{100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f}"]
    cells += [f"{about['metrics'][usage]['n']:,}", _clean(entry.folders, usage, report) if report else "not audited"]
    cells += [mean(headline) for headline in ("balanced_accuracy", "macro_f1", "ece")]
    cells += [mean("accuracy", f"{usage} flip TTA"), mean("accuracy", "PublicTest")]
    cells += [entry.outside, f"{about['parameters']:,}"]
    cells += [f"{minutes(entry):.0f}"]
    return [*cells, " ".join(f"[{r['recipe']['seed']}]({_link(folder)}/record.json)" for folder, r in entry.runs)]


def minutes(entry: Entry) -> float:
    """Of training, the mean over its runs; an ensemble's are its members' together."""
    return float(np.mean([record["seconds"]["training"] for _, record in entry.runs])) / 60


def _clean(folders: list[Path], usage: str, report: dict) -> str:
    """Mean accuracy on the images without a copy in Training, by an audit, and their number."""
    right, _ = hits(folders, usage)
    clean = part_of_rows(report, "PrivateTest", load_logits(folders[0])[f"{usage}_rows"]) == 0
    return f"{100 * right[:, clean].mean():.1f} ({clean.sum():,})"


def _link(folder: Path) -> str:
    """A run folder as a path from the top of the checkout, where it lies in it."""
    folder, root = folder.resolve(), project_root()
    return (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()


MARKERS = ("<!-- {}: written by `make tables` -->", "<!-- end of {} -->")


def write_between_markers(path: Path, table: str, name: str = "results") -> None:
    """Replace what stands between that name's MARKERS in a Markdown file; ValueError when they are not there."""
    text, (start, end) = path.read_text(), (marker.format(name) for marker in MARKERS)
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: needs the two lines {start} and {end}, once each")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    write_whole(path, f"{before}{start}\n{table}\n{end}{after}")
