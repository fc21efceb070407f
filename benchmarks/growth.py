"""Time of an epoch against the number of images and of processes: it has to be a straight line.

    python benchmarks/growth.py [--most 1000000]

A narrow network on small pictures, so that what is not the network shows. The drawn faces, repeated.
Writes results/benchmarks/growth.json and growth.svg.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ferkit.faces import Faces
from ferkit.loop import Loop
from ferkit.machine import measured_by
from ferkit.parallel import joined, launch
from ferkit.recipe import Recipe
from ferkit.synthetic import embedded_faces
from ferkit.train import start

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
RECIPE = Recipe("growth", "compact", {"width": 8}, stages=((1, 24),), batch_size=256, precision="float32", lr=0.01)
CPU = torch.device("cpu")


def repeated(n: int) -> Faces:
    """n faces, the drawn ones again and again."""
    drawn = embedded_faces(2000)
    faces = drawn[torch.arange(n) % len(drawn)]
    return Faces(faces.images, faces.labels, torch.zeros(n, dtype=torch.uint8), torch.arange(n))


def seconds_an_epoch(n: int, least: float = 3.0) -> float:
    """Mean over as many epochs as fit into `least` seconds, one at the least, after one that warms up."""
    faces = repeated(n)
    with joined(CPU) as team:
        loop = Loop(RECIPE, faces, start(RECIPE, faces, CPU), CPU, team)
        loop.epoch(lambda _: None)
        begin, epochs = time.perf_counter(), 0
        while team.from_first(not epochs or time.perf_counter() - begin < least):
            loop.epoch(lambda _: None)
            epochs += 1
        return (time.perf_counter() - begin) / epochs


def by_process(n: int, path: str) -> None:
    """One of several processes, one thread each; the first writes down how long an epoch took."""
    torch.set_num_threads(1)
    seconds = seconds_an_epoch(n)
    if os.environ["RANK"] == "0":
        Path(path).write_text(str(seconds))


def figure(report: dict) -> Figure:
    """Seconds an epoch against images, and images a second against processes, each beside its straight line."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    n, seconds = np.array(report["images"]).T
    left.loglog(n, seconds, "o", label="measured")
    left.loglog(n, n * seconds[-1] / n[-1], "-", lw=1, label="in proportion to the largest")
    left.set(xlabel="training images", ylabel="seconds an epoch",
             title=f"Time against images: exponent {report['exponent']:.2f}")  # fmt: skip
    processes, rate = np.array(report["processes"]).T
    right.plot(processes, rate, "o", label="measured")
    right.plot(processes, processes * rate[0], "-", lw=1, label="in proportion to one process")
    right.set(xlabel="processes, one thread each", ylabel="images a second", xticks=processes, ylim=(0, None),
              title=f"Speed against processes, {report['machine']['name']}")  # fmt: skip
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--most", type=int, default=1_000_000, help="30000 is a quick look")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    arguments = parser.parse_args()
    sizes = [n for k in range(3, 7) for n in (10**k, 3 * 10**k) if n <= arguments.most]
    images = [(n, round(seconds_an_epoch(n), 4)) for n in sizes]
    processes, n = [], min(30_000, arguments.most)
    with tempfile.TemporaryDirectory() as folder:
        for count in range(1, (os.cpu_count() or 1) + 1):
            launch(count, by_process, n, f"{folder}/{count}")
            processes.append((count, round(n / float(Path(f"{folder}/{count}").read_text()))))
    large = [(n, seconds) for n, seconds in images if n >= 10_000] or images
    report = {
        "recipe": "compact of width 8 at 24 pixels, batches of 256", "images": images, "processes": processes,
        "exponent": round(float(np.polyfit(*np.log(np.array(large)).T, 1)[0]), 3),
    } | measured_by("cpu")  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "growth.json").write_text(json.dumps(report, indent=1) + "\n")
    figure(report).savefig(arguments.out / "growth.svg", metadata={"Date": None})
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
