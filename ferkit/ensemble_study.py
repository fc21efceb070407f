"""Every way to combine the same members beside the best of them: what it expects, what it does, and how much choosing
on PrivateTest would have flattered it. Reported only: nothing is chosen here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.comparison import points
from ferkit.ensemble import METHODS, get_method, log_loss
from ferkit.ensemble_run import judges_by_members, member_paths
from ferkit.markdown import markdown_table
from ferkit.members import Members, load_members
from ferkit.metrics import holm, mean_accuracy, paired_difference
from ferkit.records import find_records, interval

BASELINE = "best_member"


@dataclass(frozen=True)
class MethodRow:
    """One method on PrivateTest; accuracies in [0, 1]."""

    method: str
    expected: float  # ensemble.nested on PublicTest; nan where it was not computed
    public: float  # on the faces that it was fitted on
    private: dict[str, float]  # {value, low, high}
    loss: float  # nats
    oracle: float  # fitted on PrivateTest and judged on it: what no honest table has
    difference: dict | None  # to the baseline, as metrics.paired_difference
    adjusted: float  # its p, after Holm


def compare_methods(
    members: Members, expected: dict[str, float] | None = None, *, tempered: bool = False, seed: int = 0
) -> list[MethodRow]:
    """A row a method of ensemble.METHODS, in their order; `expected` by method, of ensemble_run.expectations."""
    public, private = members.logits("PublicTest"), members.logits("PrivateTest")
    y_public, y_private = members.labels("PublicTest"), members.labels("PrivateTest")
    found, hits = {}, {}
    for name in METHODS:
        fit = get_method(name, tempered)
        combination = fit(public, y_public, seed)
        scores = combination(private)
        hits[name] = scores.argmax(1) == y_private
        oracle = (fit(private, y_private, seed)(private).argmax(1) == y_private).mean()
        seen = (combination(public).argmax(1) == y_public).mean()
        found[name] = float(seen), log_loss(scores, y_private), float(oracle)
    others = [name for name in METHODS if name != BASELINE]
    differences = {name: paired_difference(hits[name][None], hits[BASELINE][None], y_private) for name in others}
    adjusted = dict(zip(others, holm([differences[name]["p"] for name in others]), strict=True))
    rows = []
    for name, (seen, loss, oracle) in found.items():
        measured = mean_accuracy(hits[name][None], y_private)
        rows.append(MethodRow(name, (expected or {}).get(name, np.nan), seen, measured, loss, oracle,
                              differences.get(name), adjusted.get(name, 1.0)))  # fmt: skip
    return rows


def methods_table(rows: list[MethodRow], chosen: str, n: int) -> str:
    """Rows as a Markdown table; accuracies in percent, differences in points, the chosen method in bold."""
    titles = ("method", "expected", "PublicTest, fitted", f"PrivateTest (95 %), n {n:,}", "to the best member (95 %)",
              "p (Holm)", "NLL", "chosen and fitted on PrivateTest itself")  # fmt: skip
    lines = []
    for row in rows:
        d, name = row.difference, row.method.replace("_", " ")
        cells = [f"**{name}**" if row.method == chosen else name]
        cells += ["" if np.isnan(row.expected) else f"{100 * row.expected:.1f}", f"{100 * row.public:.1f}"]
        cells += [interval(row.private), points(d) if d else "baseline"]
        lines.append([*cells, f"{row.adjusted:.3f}" if d else "", f"{row.loss:.3f}", f"{100 * row.oracle:.1f}"])
    return markdown_table(titles, lines)


def members_table(members: Members, weights: dict[str, float]) -> str:
    """A row a member: accuracies in percent, and its share of the ensemble."""
    lines = []
    accuracies = [(members.logits(u).argmax(2) == members.labels(u)).mean(1) for u in ("PublicTest", "PrivateTest")]
    for name, seen, measured in zip(members.names, *accuracies, strict=True):
        share = f"{100 * weights[name]:.1f}" if name in weights else ""
        lines.append((f"`{name}`", f"{100 * seen:.1f}", f"{100 * measured:.1f}", share))
    return markdown_table(("member", "PublicTest", "PrivateTest", "share, %"), lines)


def page(root: Path) -> str:
    """Every ensemble below root whose members all judge, as Markdown: its members, and its methods."""
    parts = [
        "# Ensembles",
        "Written by `make tables` from the records beside this page. What a method fits is fitted on PublicTest; the\n"
        "one in bold is the record's, chosen on PublicTest too where *expected* is given: the accuracy on halves of\n"
        "PublicTest that a method was not fitted on. The last column is what choosing and fitting on the test set\n"
        "itself would have shown, and no result. Accuracies in percent.",
    ]
    for folder, record in find_records(root):
        recipe = record["recipe"]
        if not judges_by_members(record):
            continue
        members = load_members(member_paths(folder, record), recipe["views"])
        rows = compare_methods(members, record["selected"].get("expected"), tempered=recipe["tempered"],
                               seed=recipe["seed"])  # fmt: skip
        told = ", each with a temperature of its own" if recipe["tempered"] else ""
        parts += [f"## {record['run']}", f"{len(members)} members{told}, on {record['data']['name']}."]
        parts += [methods_table(rows, recipe["method"], len(members.labels("PrivateTest")))]
        parts += [members_table(members, record["weights"])]
    return "\n\n".join(parts) + "\n"
