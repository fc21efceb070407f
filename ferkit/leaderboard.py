"""The results table, from records: a row a recipe, its seeds averaged, with an interval and links."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferkit import recipes
from ferkit.atomic import whole_file
from ferkit.audit import load_audit, part_of_rows
from ferkit.comparison import hits
from ferkit.independence import INDEPENDENT
from ferkit.metrics import mean_accuracy as mean_of
from ferkit.protocols import other_protocol
from ferkit.recipe import Recipe
from ferkit.records import find_records, interval, load_logits, outside, project_root

NO_RESULT = re.compile(rf"-({'|'.join(recipes.NO_RESULT)})(\+|$)")
NO_MEMBER = re.compile(rf"-({'|'.join(set(recipes.NO_RESULT) - {'member'})})(\+|-s\d|$)|\+fold=")  # of an ensemble


def results_table(root: str | Path, data: str = "fer2013") -> str:
    """The results on that data below root as a Markdown table, a row a recipe.

    Quick runs, studies, ensembles of them and runs that were trained on PublicTest stay out. Values are means over
    seeds; the accuracy's interval is a stratified bootstrap over the images of that mean. Raises ValueError for a model
    whose logits depend on the rest of the batch, and for records that do not belong together.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such folder of records")
    groups: dict[str, list[tuple[Path, dict]]] = {}
    for folder, record in find_records(root):
        if _is_result(record, data):
            _check_independence(folder, record)
            groups.setdefault(record["recipe"]["name"], []).append((folder, record))
    for runs in groups.values():
        _check_group(runs)
    lines = [
        "| recipe | seeds | PrivateTest accuracy, % (95 %) | each seed | balanced | macro F1 | ECE "
        "| clean accuracy (n) | with flip TTA | PublicTest | outside data | parameters | minutes | records |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    report = load_audit(file) if (file := Path(root) / "audit" / f"{data}.json").exists() else None
    for name, runs in groups.items():
        lines.append(_row(name, runs, report))
    return "\n".join(lines)


def _is_result(record: dict, data: str) -> bool:
    recipe, about = record["recipe"], record["data"]
    standard = not other_protocol(record) and not recipe.get("fold")  # which older records lack
    if any(NO_MEMBER.search(name) for name in recipe.get("members", ())):
        return False
    return about["official"] and about["name"] == data and standard and not NO_RESULT.search(recipe["name"])


def _check_independence(folder: Path, record: dict) -> None:
    value = record.get("batch_independence")
    if value is None or value >= INDEPENDENT:
        told = "has no certificate of batch independence" if value is None else f"moves by {value:.1%} with its batch"
        raise ValueError(f"{folder}: {record['recipe']['model']} {told}; that is no result, take it out of the table")


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
    if any(record["start"] != runs[0][1]["start"] for _, record in runs):
        raise ValueError(f"{where} share a recipe's name and started from other weights; rename one")
    if len({recipe.seed for recipe in found}) < len(found):
        raise ValueError(f"{where} repeat a seed; a mean over seeds takes each once")


def _row(name: str, runs: list[tuple[Path, dict]], report: dict | None) -> str:
    metrics = [record["metrics"] for _, record in runs]

    def mean(split: str, headline: str) -> str:
        return f"{100 * np.mean([m[split][headline]['value'] for m in metrics]):.1f}"

    members = len(runs[0][1]["recipe"].get("members", ()))
    cells = [
        f"`{name}`",
        f"{members} members" if members else str(len(runs)),
        interval(mean_accuracy([folder for folder, _ in runs])),
    ]
    cells += [", ".join(f"{100 * m['PrivateTest']['accuracy']['value']:.1f}" for m in metrics)]
    cells += [mean("PrivateTest", headline) for headline in ("balanced_accuracy", "macro_f1", "ece")]
    cells += [_clean([folder for folder, _ in runs], report) if report else "not audited"]
    cells += [mean("PrivateTest flip TTA", "accuracy"), mean("PublicTest", "accuracy")]
    cells += [", ".join(outside(runs[0][1])) or "none"]
    cells += [f"{runs[0][1]['parameters']:,}", f"{np.mean([r['seconds']['training'] for _, r in runs]) / 60:.0f}"]
    cells += [" ".join(f"[{r['recipe']['seed']}]({_link(folder)}/record.json)" for folder, r in runs)]
    return f"| {' | '.join(cells)} |"


def _clean(folders: list[Path], report: dict) -> str:
    """Mean accuracy on the images without a copy in Training, by an audit, and their number."""
    right, _ = hits(folders)
    clean = part_of_rows(report, "PrivateTest", load_logits(folders[0])["PrivateTest_rows"]) == 0
    return f"{100 * right[:, clean].mean():.1f} ({clean.sum():,})"


def _link(folder: Path) -> str:
    """A run folder as a path from the top of the checkout, where it lies in it."""
    folder, root = folder.resolve(), project_root()
    return (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()


def mean_accuracy(folders: list[Path], usage: str = "PrivateTest") -> dict[str, float]:
    """Mean accuracy of several seeds on the same images, {value, low, high}; ValueError when the images differ."""
    return mean_of(*hits(folders, usage))


MARKERS = ("<!-- {}: written by `make table` -->", "<!-- end of {} -->")


def write_between_markers(path: Path, table: str, name: str = "results") -> None:
    """Replace what stands between that name's MARKERS in a Markdown file; ValueError when they are not there."""
    text, (start, end) = path.read_text(), (marker.format(name) for marker in MARKERS)
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{path}: needs the two lines {start} and {end}, once each")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    with whole_file(path) as temporary:
        temporary.write_text(f"{before}{start}\n{table}\n{end}{after}")
