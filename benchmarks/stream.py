"""More pictures than memory holds: an epoch of input in windows from disk, beside pictures that are in memory.

    python benchmarks/stream.py [--gigabytes 20] [--folder build/stream]

Writes so many gigabytes of made-up 48x48 pictures once, drops them from the system's cache, and reads every one in
batches of 128. Memory is the process's own (RssAnon): pages of the mapped file are the system's to take back.
Writes results/benchmarks/stream.json.
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import torch

from ferkit import sources
from ferkit.bench import made_up_faces
from ferkit.faces import Faces
from ferkit.feed import Feed
from ferkit.loop import generator
from ferkit.machine import measured_by

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks" / "stream.json"
BLOCK = 4096  # rows that are made up; the file repeats them


def write_pictures(folder: Path, n: int) -> None:
    """images.npy, labels.npy and usage.npy of n faces, unless they are there."""
    if (folder / "usage.npy").exists() and len(np.load(folder / "usage.npy", mmap_mode="r")) == n:
        return
    folder.mkdir(parents=True, exist_ok=True)
    block = made_up_faces(BLOCK).images.numpy()
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (n, *block.shape[1:]))
    images.flush()
    with open(folder / "images.npy", "r+b") as file:
        file.seek(images.offset)
        for first in range(0, n, BLOCK):
            file.write(block[: n - first].tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    np.save(folder / "labels.npy", np.arange(n) % 7)
    np.save(folder / "usage.npy", np.zeros(n, np.uint8))


def own_memory() -> float:
    """Megabytes of this process that no file backs."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3


def read_epoch(faces: Faces, resident: bool) -> tuple[float, float]:
    """Images a second of an epoch of batches, and the most memory in megabytes that it took beyond what was held."""
    before, most = own_memory(), 0.0
    feed = Feed(faces, 128, torch.device("cpu"), resident)
    begin, seen = time.perf_counter(), 0
    for step, (images, at, _) in enumerate(feed.epoch(generator(0))[1]):
        seen += len(images[at])
        if step % 100 == 0:
            most = max(most, own_memory() - before)
    assert seen == len(faces)
    return seen / (time.perf_counter() - begin), most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=20, help="0.5 is a quick look")
    parser.add_argument("--folder", type=Path, default=Path("build/stream"))
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    arguments = parser.parse_args()
    n = int(arguments.gigabytes * 1e9) // 48**2
    write_pictures(arguments.folder, n)
    faces = sources.load(arguments.folder)
    rate, memory = read_epoch(faces, resident=False)
    small = made_up_faces(1 << 16)
    in_memory = max(read_epoch(small, resident=True)[0] for _ in range(3))
    report = {
        "rows": n, "gigabytes": round(faces.images.nbytes / 1e9, 2), "megabytes_held": round(memory),
        "images_per_second": {"from disk": round(rate), "in memory": round(in_memory)},
    } | measured_by("cpu")  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
