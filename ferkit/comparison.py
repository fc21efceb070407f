"""Runs of a grid against a baseline: does it help, by how much, is it more than noise? From committed logits alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.markdown import markdown_table
from ferkit.metrics import confusion, holm, paired_difference, per_class
from ferkit.records import find_records, load_logits


@dataclass(frozen=True)
class Row:
    """One choice of a grid; accuracies in [0, 1], `difference` to the baseline's mean as metrics.paired_difference."""

    name: str
    folders: tuple[Path, ...]
    accuracies: tuple[float, ...]  # one a seed
    public: float  # mean on PublicTest
    n: int
    difference: dict | None  # of PrivateTest; None for the baseline itself
    adjusted: float  # its p, adjusted for the number of rows (Holm)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; nan for one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else float("nan")


def groups(root: Path, names: dict[str, str]) -> dict[str, list[Path]]:
    """Run folders below root by label, for {label: recipe's name}; labels without a run are left out."""
    found: dict[str, list[Path]] = {label: [] for label in names}
    labels = {name: label for label, name in names.items()}
    for folder, record in find_records(root):
        if label := labels.get(record["recipe"]["name"]):
            found[label].append(folder)
    return {label: folders for label, folders in found.items() if folders}


def hits(folders: list[Path], usage: str = "PrivateTest") -> tuple[np.ndarray, np.ndarray]:
    """Whether each seed's run was right, bool (S, N), and the labels (N,); ValueError where the images differ."""
    arrays = [load_logits(folder) for folder in folders]
    labels, rows = arrays[0][f"{usage}_labels"], arrays[0][f"{usage}_rows"]
    if any(not np.array_equal(a[f"{usage}_rows"], rows) for a in arrays):
        raise ValueError(f"{', '.join(map(str, folders))} were measured on different images of {usage}")
    return np.stack([a[f"{usage}_logits"].argmax(1) == labels for a in arrays]), labels


def _by_name(runs: dict[str, list[Path]], usage: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """`hits` of each name, all on the same images, and their labels."""
    each, labels = hits([folder for folders in runs.values() for folder in folders], usage)
    ends = np.cumsum([len(folders) for folders in runs.values()])
    return dict(zip(runs, np.split(each, ends[:-1]), strict=True)), labels


def compare(runs: dict[str, list[Path]], baseline: str, usage: str = "PrivateTest") -> list[Row]:
    """A row for each label of `groups`, best on PublicTest first, each tested against the baseline on `usage`.

    Raises ValueError without a run of the baseline, or where runs were measured on different images.
    """
    if baseline not in runs:
        raise ValueError(f"no run of the baseline {baseline!r}; there are {list(runs)}")
    private, labels = _by_name(runs, usage)
    public, _ = _by_name(runs, "PublicTest")
    others = [name for name in runs if name != baseline]
    differences = {name: paired_difference(private[name], private[baseline], labels) for name in others}
    adjusted = dict(zip(others, holm([differences[name]["p"] for name in others]), strict=True))
    rows = [
        Row(name, tuple(folders), tuple(private[name].mean(1).tolist()), float(public[name].mean()), len(labels),
            differences.get(name), adjusted.get(name, 1.0))
        for name, folders in runs.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row.public)


def points(difference: dict) -> str:
    """`+2.1 (+1.2 to +3.0)`: a difference of accuracies and its interval, in points."""
    value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def told(rows: list[Row], name: str) -> str:
    """`+2.1 points (+1.2 to +3.0, n 3,589, 3 seeds; more than noise)`: that row's difference to the baseline."""
    row = next(row for row in rows if row.name == name)
    d, n_seeds = row.difference, len(row.accuracies)
    about = f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}, n {row.n:,}, {n_seeds} seed{'s' * (n_seeds > 1)}"
    return f"{100 * d['value']:+.1f} points ({about}; {'' if row.adjusted < 0.05 else 'not '}more than noise)"


def table(rows: list[Row], what: str, usage: str = "PrivateTest") -> str:
    """Rows as a Markdown table; accuracies in percent, differences in points."""
    titles = (what, "seeds", "PublicTest", f"{usage}, n {rows[0].n:,}", "each seed", "sd", "difference (95 %)",
              "p (Holm)")  # fmt: skip
    lines = []
    for row in rows:
        d = row.difference
        cells = [row.name, str(len(row.accuracies)), f"{100 * row.public:.1f}", f"{100 * np.mean(row.accuracies):.1f}"]
        cells += [", ".join(f"{100 * value:.1f}" for value in row.accuracies)]
        cells += [f"{100 * row.spread:.1f}" if len(row.accuracies) > 1 else "1 seed"]
        cells += [points(d) if d else "baseline"]
        lines.append([*cells, f"{row.adjusted:.3f}" if d else ""])
    return markdown_table(titles, lines)


def recalls(folders: list[Path], usage: str = "PrivateTest") -> np.ndarray:
    """Recall of every class (C,), the mean over seeds."""
    arrays = [load_logits(folder) for folder in folders]
    matrices = [confusion(a[f"{usage}_labels"], a[f"{usage}_logits"].argmax(1), len(a["classes"])) for a in arrays]
    return per_class(np.stack(matrices))["recall"].mean(0)
