"""The table of mistakes says what the runs' logits say, paired where the images are the same."""

import numpy as np
import pytest

from ferkit import leaks, records
from ferkit.protocols import SORTED, SPLIT_OFF
from ferkit.recipe import PROTOCOLS


def write(folder, right: dict[str, float], n: int = 200):
    """A run that is right on the first share of each split's rows; the sorted split is the same rows in reverse."""
    arrays = {"classes": np.array(["a", "b"])}
    for usage, share in right.items():
        rows, labels = np.arange(n), np.arange(n) % 2
        said = np.where(np.arange(n) < share * n, labels, 1 - labels)
        order = rows[::-1] if usage == SORTED else rows
        arrays |= {f"{usage}_{key}": np.eye(2)[said][order] for key in ("logits", "logits_flip")}
        arrays |= {f"{usage}_labels": labels[order], f"{usage}_rows": order}
    folder.mkdir(parents=True)
    records.save_arrays(folder / "logits.npz", arrays)
    return folder


@pytest.fixture
def runs(tmp_path):
    said = {
        "standard": {"PrivateTest": 0.6}, "test_in_training": {"PrivateTest": 0.9},
        "augment_first": {"PrivateTest": 0.6, SPLIT_OFF: 0.8}, "choose_on_private": {"PrivateTest": 0.6},
        "sorted_test": {"PrivateTest": 0.5, SORTED: 0.7},
    }  # fmt: skip
    return {name: [write(tmp_path / f"{name}-s{s}", shares) for s in range(2)] for name, shares in said.items()}


def test_the_table_says_reported_and_honest(runs):
    rows = leaks.table(runs).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [leak.title for leak in leaks.LEAKS]
    gaps = [leaks.gap(leak, runs) for leak in leaks.LEAKS]
    assert [round(gap["value"], 3) for gap in gaps] == [0.3, 0.2, 0.0, 0.2]
    assert all(gap["low"] <= gap["value"] <= gap["high"] for gap in gaps)
    assert gaps[0]["low"] > 0 and gaps[2]["low"] == gaps[2]["high"] == 0  # the same answers on the same images
    assert "| 90.0 (" in rows[0] and "| 60.0 (" in rows[0] and "+30.0 (" in rows[0]


def test_what_lacks_runs_is_left_out(runs):
    rows = leaks.table(runs | {"standard": []}).splitlines()[2:]
    assert len(rows) == 2 and "before the split" in rows[0] and "sorted" in rows[1]


def test_seeds_that_one_side_lacks_are_left_out(runs, tmp_path):
    wanted = leaks.table(runs)
    runs["test_in_training"].append(write(tmp_path / "test_in_training-s2", {"PrivateTest": 0.1}))
    assert leaks.table(runs) == wanted


def test_every_mistake_is_a_protocol_of_its_own():
    assert set(leaks.PROTOCOLS) <= set(PROTOCOLS)
    names = {leaks.leaking(protocol, kind).run_name for protocol in leaks.PROTOCOLS for kind in leaks.BUDGETS}
    assert len(names) == len(leaks.PROTOCOLS) * len(leaks.BUDGETS)
    assert leaks.leaking("sorted_test").options["batch_attention"]
