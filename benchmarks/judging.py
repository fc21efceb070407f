"""Crops a second that `ferkit predict` judges by the package's weights: cores apart or together, two number formats.

    python benchmarks/judging.py [--rounds 7]

The ways take turns, so that what else the machine does meets all of them; medians and ranges. Faces are drawn, crops of
48 pixels, found and cut out already. Writes results/benchmarks/judging.json.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from ferkit.judge import load_judge
from ferkit.machine import measured_by
from ferkit.recognition import BATCH, judge_crops
from ferkit.synthetic import embedded_faces
from ferkit.weights import shipped

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks" / "judging.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    batches = embedded_faces(2000).images.split(BATCH)
    n = sum(map(len, batches))
    ways, rates = {}, {}
    for precision in ("float32", "bfloat16"):
        judge = load_judge(shipped(), "cpu").hastened(precision)
        ways[f"{precision}, cores apart"] = lambda crops, judge=judge: judge_crops(judge, crops)
        ways[f"{precision}, cores together"] = judge
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            for crops in batches:
                way(crops)
            if number:  # the first one warms up
                rates.setdefault(name, []).append(n / (time.perf_counter() - start))
    report = measured_by("cpu") | {"load": os.getloadavg()[0], "crops": n, "rounds": rounds, "crops a second": {}}
    for name, found in rates.items():
        summary = {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
        report["crops a second"][name] = {key: round(value) for key, value in summary.items()}
        print(f"{name:<26}" + ", ".join(f"{key} {value:,.0f}" for key, value in summary.items()))
    OUT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
