"""What a data set hides: copies inside and across its splits, labels that contradict each other, pictures of no face.

An audit is saved as row numbers with their rule (results/audit/): what to leave out of Training, and which test images
are clean, copied or conflicting. Runs are measured on these parts from their logits.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ferkit import DataError
from ferkit.atomic import project_root, write_whole
from ferkit.copies import COPY, SHIFT, Pairs, exact_pairs, find_pairs, groups, unlikeness
from ferkit.faces import Faces
from ferkit.labels import UNLABELLED, USAGES, rule_sizes

SCHEMA = 1
# Of a test image: no copy among the training faces; copies, all with its label; a copy with another label.
PARTS = ("clean", "copied", "conflicting")
RULE = (
    "Copies are equal to the bit, or of a likeness of at least {least} by ferkit.copies.find_pairs (mirror images and "
    "shifts up to {shift} pixels count); copies of copies are copies. training_left_out: of Training every picture of "
    "one grey, every face of a group of copies whose labels differ, every face with a copy in PublicTest or "
    "PrivateTest, and of other copies all but the first. Test images are clean without a copy in Training, conflicting "
    "with one of another label, copied otherwise."
)


@dataclass(frozen=True, eq=False)
class Audit:
    """Faces and the pairs of copies among them, of at least that likeness."""

    faces: Faces
    pairs: Pairs
    least: float = COPY

    @cached_property
    def group(self) -> Tensor:
        """int64 (N,): which pictures are one photograph, by the place of the first of them."""
        return groups(len(self.faces), self.pairs)

    @cached_property
    def blank(self) -> Tensor:
        """bool (N,): pictures of one grey."""
        flat = self.faces.images.flatten(1)
        return flat.amax(1) == flat.amin(1)

    @cached_property
    def unlike(self) -> Tensor:
        """float (N,): how little a picture has of the mean face, 0 to 2; high for what is no face, or not upright."""
        return unlikeness(self.faces.images)

    def has_copy_in(self, usage: str) -> Tensor:
        """bool (N,): whether another picture of that split is a copy."""
        there = self.faces.usage == USAGES.index(usage)
        return torch.bincount(self.group[there], minlength=len(self.group))[self.group] > there.long()

    @cached_property
    def contradicted(self) -> Tensor:
        """bool (N,): whether copies of this picture have different labels; unlabelled ones contradict nothing."""
        known = self.faces.labels != UNLABELLED
        cells = torch.zeros(len(self.group), len(self.faces.classes), dtype=torch.bool)
        cells[self.group[known], self.faces.labels[known]] = True
        return (cells.sum(1) > 1)[self.group]

    def parts(self, usage: str) -> Tensor:
        """int64 (n,) over PARTS of each face of that split, in its order."""
        training, own = self.faces.usage == 0, self.faces.usage == USAGES.index(usage)
        taught = torch.zeros(len(self.group), len(self.faces.classes), dtype=torch.int64)
        known = training & (self.faces.labels != UNLABELLED)
        taught.index_put_((self.group[known], self.faces.labels[known]), torch.tensor(1), accumulate=True)
        counts, labels = taught[self.group[own]], self.faces.labels[own]
        others = counts.sum(1) - counts.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        conflicting = (others > 0) & (labels != UNLABELLED)
        return torch.where(conflicting, 2, self.has_copy_in("Training")[own].long())

    @cached_property
    def left_out(self) -> Tensor:
        """bool (N,): training faces that a clean training list leaves out, by RULE."""
        training = self.faces.usage == 0
        places = torch.arange(len(self.group))
        first = places.new_full((len(self.group),), len(self.group))
        first = first.scatter_reduce(0, self.group[training], places[training], "amin")
        repeated = first[self.group] < places
        tested = self.has_copy_in("PublicTest") | self.has_copy_in("PrivateTest")
        return training & (self.blank | self.contradicted | tested | repeated)

    def report(self) -> dict:
        """Counts and row numbers (of the source) as plain JSON values, with the rule that made them."""
        faces, usages = self.faces, [usage for usage in USAGES if len(self.faces.split(usage))]
        sizes = torch.bincount(self.group)
        shared = {}
        for usage in usages:
            own = faces.usage == USAGES.index(usage)
            for source in usages[: usages.index(usage) + 1]:
                shared[f"{usage} in {source}"] = int((self.has_copy_in(source) & own).sum())
        rows: dict = {"training_left_out": self._rows(self.left_out), "one_grey": self._rows(self.blank)}
        for usage in usages[1:] if usages[:1] == ["Training"] else []:
            split, parts = faces.split(usage), self.parts(usage)
            rows[usage] = {name: split.rows[parts == i].tolist() for i, name in enumerate(PARTS) if i}
        return {
            "schema": SCHEMA,
            "data": {"name": faces.name, "fingerprint": faces.fingerprint, "n": len(faces)},
            "rule": RULE.format(least=self.least, shift=SHIFT),
            "pairs": {
                "equal": len(exact_pairs(faces.images)), "all": len(self.pairs),
                "mirrored": int(self.pairs.mirrored.sum()),
            },
            "groups": {
                "n": int((sizes > 1).sum()), "pictures": int(sizes[sizes > 1].sum()), "largest": int(sizes.max()),
                "contradicted": int((self.contradicted & (self.group == torch.arange(len(self.group)))).sum()),
            },
            "with_a_copy": shared,
            "rows": rows,
        }  # fmt: skip

    def _rows(self, chosen: Tensor) -> list[int]:
        return self.faces.rows[chosen].tolist()


def audit(faces: Faces, least: float = COPY) -> Audit:
    """Look for copies among all faces; on the CPU, under a minute for FER2013. DataError without any."""
    if not len(faces):
        raise DataError(f"{faces.name} has no faces to audit")
    return Audit(faces, find_pairs(faces.images, least), least)


def audit_file(data: str) -> Path:
    """Where the committed audit of a data set is."""
    return project_root() / "results" / "audit" / f"{data}.json"


def save_audit(report: dict, path: Path) -> None:
    """Write a report, a row list a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(rows)}" for name, rows in report["rows"].items()]
    text = json.dumps(report | {"rows": "ROWS"}, indent=1).replace('"ROWS"', "{\n" + ",\n".join(lines) + "\n }")
    write_whole(path, text + "\n")


def load_audit(path: str | Path) -> dict:
    """A saved report, or DataError saying what is wrong with it."""
    try:
        report = json.loads(Path(path).read_text())
        if report["schema"] == SCHEMA and report["data"]["fingerprint"] and "training_left_out" in report["rows"]:
            return report
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"{path}: no readable audit ({error})"
        raise DataError(f"{told}; make one: ferkit audit DATA [--labels ferplus] --json {path}") from error
    raise DataError(f"{path}: not an audit of schema {SCHEMA}")


def committed_audit(data: str, fingerprint: str) -> dict | None:
    """The committed audit of a data set; None without one, or where it is of other pictures, by the fingerprint."""
    file = audit_file(data)
    report = load_audit(file) if file.exists() else None
    return report if report and report["data"]["fingerprint"] == fingerprint else None


def part_of_rows(report: dict, usage: str, rows: np.ndarray) -> np.ndarray:
    """int (n,) over PARTS of a split's rows (n,), by a saved report; DataError for a split that it lacks."""
    found = report["rows"].get(usage.split(" ")[0])  # FER+'s second test set is of the same split
    if found is None:
        raise DataError(f"the audit of {report['data']['name']} says nothing of {usage}")
    return sum(i * np.isin(rows, found[name]) for i, name in enumerate(PARTS) if i)


def told(report: dict) -> str:
    """A report as lines of text."""
    data, pairs, group = report["data"], report["pairs"], report["groups"]
    lines = [f"{data['name']}, fingerprint {data['fingerprint']}: {data['n']:,} pictures", report["rule"]]
    lines += [
        f"{group['pictures']:,} pictures are in {group['n']:,} groups of copies, the largest of {group['largest']}; "
        f"{group['contradicted']} groups have more than one label"
    ]
    lines += [f"{pairs['all']:,} pairs, {pairs['equal']:,} of them equal to the bit, {pairs['mirrored']} mirrored"]
    lines += [f"{name}: {n:,} pictures have a copy" for name, n in report["with_a_copy"].items()]
    for name, rows in report["rows"].items():
        if isinstance(rows, dict):
            lines.append(f"{name}: " + ", ".join(f"{len(some):,} {part}" for part, some in rows.items()))
        else:
            lines.append(f"{name.replace('_', ' ')}: {len(rows):,} pictures")
    return "\n".join(lines)


def describe(faces: Faces) -> str:
    """Counts per split and class, fingerprint, equal pictures across splits and FER+ sizes, as lines of text."""
    widths = [max(len(name), 6) for name in faces.classes]
    counts = faces.counts().tolist()
    official = "the official FER2013's" if faces.is_official else "not the official FER2013's"
    lines = [f"{faces.name}: {len(faces):,} faces of {faces.images.shape[2]}x{faces.images.shape[1]} pixels"]
    lines += [f"fingerprint {faces.fingerprint}; class counts are {official}"]
    lines += [" " * 12 + " ".join(f"{name:>{w}}" for name, w in zip(faces.classes, widths, strict=True)) + "    all"]
    for usage, row in zip(USAGES, counts, strict=True):
        cells = " ".join(f"{count:>{w}}" for count, w in zip(row, widths, strict=True))
        lines.append(f"{usage:<12}{cells} {len(faces.split(usage)):>6}")
    pixels = [{image.tobytes() for image in faces.split(usage).images.numpy()} for usage in USAGES]
    for i, j in ((1, 0), (2, 0), (2, 1)):
        told = f"{len(pixels[i] & pixels[j])} different pictures of {USAGES[i]} are in {USAGES[j]} to the bit"
        lines.append(f"{told}; ferkit audit finds near copies" if (i, j) == (1, 0) else told)
    if faces.votes is None:
        return "\n".join([*lines, "no FER+ votes (fer2013new.csv beside the data adds them)"])
    for rule, sizes in rule_sizes(faces.votes.numpy(), faces.usage.numpy()).items():
        kept = ", ".join(f"{usage} {size:,}" for usage, size in zip(USAGES, sizes, strict=True))
        lines.append(f"FER+ {rule}: {kept}")
    return "\n".join(lines)
