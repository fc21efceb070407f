"""The results as an HTML table that can be sorted: a row a model, data set and test, from records alone."""

import html
import json
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ferkit import DataError
from ferkit.ensemble_run import judges_by_members, member_paths
from ferkit.leaderboard import Entry
from ferkit.members import is_snapshot
from ferkit.models import create_model
from ferkit.models.outline import cost
from ferkit.records import load_logits, read_record

SPEEDS = "benchmarks/peers-cpu.json"
# What a column holds: words, or numbers, which sort from high to low first.
COLUMNS = (
    ("Model", "words"), ("Data", "words"), ("Split", "words"), ("n", "numbers"),
    ("Accuracy, %", "numbers"), ("SD over seeds", "numbers"), ("PublicTest, %", "numbers"),
    ("Macro F1, %", "numbers"), ("ECE, %", "numbers"), ("Parameters", "numbers"), ("GFLOPs", "numbers"),
    ("Images/s", "numbers"), ("Outside data", "words"), ("Records", ""),
)  # fmt: skip
EXPLANATION = """
A click on a column's title sorts by it. Accuracy is a mean over seeds, with a 95 % bootstrap interval over the images;
beside it stands the standard deviation over seeds. PublicTest is what chose, so it flatters. ECE is the
expected calibration error. GFLOPs are those of one face, a multiply-add being two, an ensemble's those of its members.
"""


def results_html(found: list[Entry], results: Path) -> str:
    """The table of those results, and what its columns mean; `results` is the folder of the committed records."""
    speeds, told = _speeds(results)
    rows = [_row(entry, usage, results, speeds) for entry in found for usage in entry.tests]
    table = html_table(COLUMNS, rows, "leaderboard sortable") if rows else "No records yet."
    return f"{table}\n\n{EXPLANATION.strip()} {told}"


def html_table(titles: tuple, rows: list[list[tuple[str, float | None]]], kind: str) -> str:
    """Cells (HTML, number or None) as a table in a box that scrolls; a title with a kind has a button to sort by."""
    lines = [f'<div class="scroll"><table class="report {kind}"><thead><tr>']
    for title, sorts in titles:
        lines += [f'<th scope="col" class="{sorts}">{f"<button>{title}</button>" if sorts else title}</th>']
    lines += ["</tr></thead><tbody>"]
    for row in rows:
        lines += ["<tr>"]
        for (_, sorts), (text, number) in zip(titles, row, strict=True):
            value = "" if number is None else f' data-value="{number}"'
            lines += [f'<td class="{sorts}"{value}>{text}</td>']
        lines += ["</tr>"]
    return "\n".join([*lines, "</tbody></table></div>"])


def record_place(folder: Path, record: dict, results: Path) -> str:
    """Of a copied record, from the top of the site: where it is in the checkout, where notebooks' links lead."""
    root = "results" if folder.is_relative_to(results) else "runs"
    return f"{root}/{record['data']['name']}/{folder.name}/record.json"


def _row(entry: Entry, usage: str, results: Path, speeds: dict[tuple, float]) -> list[tuple[str, float | None]]:
    """A cell a column: HTML, and the number that it sorts by."""
    record, recipe, accuracy = entry.record, entry.record["recipe"], entry.accuracy(usage)
    percent = {key: 100 * number for key, number in accuracy.items()}
    each = [100 * value for value in entry.each(usage)]
    spread = np.std(each, ddof=1) if len(each) > 1 else None
    seeds = f"{len(each)} seed{'s' * (len(each) > 1)}"
    classes = len(load_logits(entry.folders[0])["classes"])
    stages = recipe.get("stages", [[0, None]])
    numbers = (
        (record["metrics"][usage]["n"], "{:,}"),
        (percent["value"], "{:.1f} " + f"<small>{percent['low']:.1f}–{percent['high']:.1f}</small>"),
        (spread, "± {:.1f}"),
        (100 * entry.mean("PublicTest"), "{:.1f}"),
        *((100 * entry.mean(usage, headline), "{:.1f}") for headline in ("macro_f1", "ece")),
        (record["parameters"], "{:,}"),
        (_gflops(entry.folders[0], record, classes), "{:.3g}"),
        (speeds.get((recipe["model"], stages[-1][1])) if entry.name == recipe["model"] else None, "{:,.0f}"),
    )
    links = [(quote(record_place(folder, r, results)), r["recipe"]["seed"]) for folder, r in entry.runs]
    name = f"<code>{html.escape(entry.name)}</code>" + f" <small>{entry.kind if entry.n_members else seeds}</small>"
    return [
        *((word, None) for word in (name, entry.data, usage)),
        *((form.format(number) if number is not None else "–", number) for number, form in numbers),
        (html.escape(entry.outside), None), (" ".join(f'<a href="{link}">{seed}</a>' for link, seed in links), None),
    ]  # fmt: skip


def _gflops(folder: Path, record: dict, classes: int) -> float | None:
    """Of one face: a network's, or the sum of an ensemble's members; None where a member's record is missing."""
    recipe = record["recipe"]
    if "members" not in recipe:
        return _cost(recipe["model"], json.dumps(recipe["options"]), classes)
    paths = [path.parent if is_snapshot(path) else path for path in member_paths(folder, record)]
    try:
        each = [_gflops(path, read_record(path), classes) for path in paths]
    except DataError:
        return None
    if None in each:
        return None
    return sum(each) * (1 + recipe["views"]) if judges_by_members(record) else each[0]


@cache
def _cost(model: str, options: str, classes: int) -> float:
    return cost(create_model(model, classes, **json.loads(options)))[1]


def _speeds(results: Path) -> tuple[dict[tuple, float], str]:
    """Images a second of models in training, by name and side, where they were measured; and the line about it."""
    if not (results / SPEEDS).exists():
        return {}, ""
    file = json.loads((results / SPEEDS).read_text())
    rows = [row for row in file["results"] if row["what"] == "training"]
    rates = {(row["model"], row["side"]): float(np.median(row["images_per_second"]["ferkit"])) for row in rows}
    machine = f"{file['machine']['name']}, {file['machine']['threads']} threads"
    return rates, f"Images/s are those of training on {machine}, from results/{SPEEDS}; – is not measured."
