import json

import numpy as np
import pytest
from scipy import stats

from ferkit import comparison, metrics


def test_mcnemar_is_scipys_sign_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(400) < 0.7, rng.random(400) < 0.65
    only = (ours & ~theirs).sum(), (theirs & ~ours).sum()
    assert metrics.mcnemar(ours, theirs) == pytest.approx(stats.binomtest(int(only[0]), int(sum(only))).pvalue)
    assert metrics.mcnemar(ours, ours) == 1.0


def test_t_interval_is_scipys():
    values = [0.61, 0.63, 0.60, 0.64]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    ours = metrics.t_interval(values)
    assert (ours["value"], ours["low"], ours["high"]) == pytest.approx((np.mean(values), low, high))
    assert metrics.t_interval([0.6])["high"] == np.inf


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0] and metrics.holm([]) == []


def test_paired_difference_finds_a_real_one_and_not_a_chance_one():
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(7), 200)
    hard = rng.random(1400)
    weak, strong = ((hard + 0.2 * rng.random((3, 1400))) < limit for limit in (0.7, 0.75))
    found = metrics.paired_difference(strong, weak, labels)
    assert found["low"] > 0.02 and found["p"] < 0.01 and found["value"] == pytest.approx(strong.mean() - weak.mean())
    same = metrics.paired_difference(weak[:1], weak[1:2], labels)
    assert same["low"] < 0 < same["high"] and same["p"] > 0.05
    none = metrics.paired_difference(weak, weak, labels)
    assert none["value"] == 0 and none["p"] > 0.5
    with pytest.raises(ValueError, match="do not fit 3 labels"):
        metrics.paired_difference(weak, weak, labels[:3])


def test_one_seed_agrees_with_the_normal_approximation():
    """The bootstrap over images of one pair of runs has the width that the discordant images give."""
    rng, labels = np.random.default_rng(2), np.zeros(3000, int)
    ours, theirs = (rng.random(3000) < p for p in (0.72, 0.70))
    found = metrics.paired_difference(ours[None], theirs[None], labels)
    spread = np.std(ours.astype(float) - theirs) / 3000**0.5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.08)


@pytest.fixture
def grid(tmp_path):
    """Three recipes, two seeds each, of which `good` knows more; and a run of something else."""
    rng, labels = np.random.default_rng(0), np.arange(700) % 7
    for name, known in (("x+policy=flip", 0.5), ("x+policy=good", 0.8), ("x+policy=same", 0.5), ("y", 0.9)):
        for seed in range(2):
            folder = tmp_path / f"{name}-s{seed}"
            folder.mkdir()
            right = rng.random((700, 1)) < known
            logits = np.where(right, np.eye(7)[labels], np.eye(7)[(labels + 1) % 7])
            arrays = {"classes": np.array(list("abcdefg"))}
            for usage in ("PublicTest", "PrivateTest"):
                arrays |= {f"{usage}_{key}": logits for key in ("logits", "logits_flip")}
                arrays |= {f"{usage}_labels": labels, f"{usage}_rows": np.arange(700)}
            np.savez(folder / "logits.npz", **arrays)
            record = {"schema": 1, "run": name, "recipe": {"name": name}, "data": {}, "selected": {}, "metrics": {}}
            (folder / "record.json").write_text(json.dumps(record))
    return tmp_path


NAMES = {"flip": "x+policy=flip", "good": "x+policy=good", "same": "x+policy=same", "gone": "x+policy=gone"}


def test_a_grid_is_tested_against_its_baseline(grid):
    runs = comparison.groups(grid, NAMES)
    assert list(runs) == ["flip", "good", "same"] and all(len(folders) == 2 for folders in runs.values())
    rows = {row.name: row for row in comparison.compare(runs, "flip")}
    assert next(iter(rows)) == "good" and rows["good"].adjusted < 0.01 and rows["same"].adjusted > 0.05
    assert rows["flip"].difference is None and rows["good"].difference["value"] == pytest.approx(0.3, abs=0.05)
    text = comparison.table(list(rows.values()), "policy")
    assert len(text.splitlines()) == 5 and "baseline" in text and "n 700" in text
    assert comparison.recalls(runs["good"]).mean() == pytest.approx(np.mean(rows["good"].accuracies), abs=0.01)
    with pytest.raises(ValueError, match="no run of the baseline 'none'"):
        comparison.compare(runs, "none")


def test_other_images_are_not_compared(grid):
    folder = grid / "x+policy=good-s1"
    arrays = dict(np.load(folder / "logits.npz"))
    np.savez(folder / "logits.npz", **(arrays | {"PrivateTest_rows": arrays["PrivateTest_rows"] + 1}))
    with pytest.raises(ValueError, match="measured on different images of PrivateTest"):
        comparison.hits([folder, grid / "x+policy=good-s0"])


def test_spread_of_one_seed_is_not_a_number():
    assert np.isnan(comparison.Row("x", (), (0.5,), 0.5, 10, None, 1.0).spread)


def test_a_row_in_prose_says_whether_it_is_more_than_noise():
    difference = {"value": 0.021, "low": 0.012, "high": 0.03, "p": 0.001}
    rows = [
        comparison.Row("a", (), (0.6,), 0.6, 3589, None, 1.0),
        comparison.Row("b", (), (0.62, 0.622), 0.6, 3589, difference, 0.002),
        comparison.Row("c", (), (0.62,), 0.6, 3589, difference, 0.2),
    ]
    assert comparison.told(rows, "b") == "+2.1 points (+1.2 to +3.0, n 3,589, 2 seeds; more than noise)"
    assert comparison.told(rows, "c").endswith("1 seed; not more than noise)")
