"""Reading the 301 MB fer2013.csv: ferkit beside torchvision and the usual pandas idiom, in turn, a process each.

    python benchmarks/parse.py fer2013.csv [--rounds 3]

Writes results/benchmarks/parse.json: seconds (every round) and peak memory of each way. The floor is reading the bytes
once.
Needs pandas and torchvision; the official checksum that torchvision asks for is not checked, in its favour.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def floor(path: Path) -> int:
    size = 0
    with open(path, "rb", 0) as file:
        while data := file.read(1 << 20):
            size += len(data)
    return size


def ferkit(path: Path) -> int:
    from ferkit.sources import read

    return len(read(path, cache=False)[0].images)


def ferkit_cached(path: Path) -> int:
    from ferkit.sources import read

    raw, cached = read(path)
    assert cached and raw.images.max() == 255  # every byte has been fetched
    return len(raw.images)


def torchvision(path: Path) -> int:
    from torchvision.datasets import FER2013, fer2013

    fer2013.check_integrity = lambda *_, **__: True
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "fer2013").mkdir()
        (Path(root) / "fer2013" / "fer2013.csv").symlink_to(path.resolve())
        return sum(len(FER2013(root, split)) for split in ("train", "test"))


def pandas(path: Path) -> int:
    import pandas as pd

    table = pd.read_csv(path)
    images = np.array([np.array(text.split(), dtype=np.uint8).reshape(48, 48) for text in table["pixels"]])
    return len(images)


WAYS = {way.__name__: way for way in (floor, ferkit, ferkit_cached, torchvision, pandas)}
IMPORTS = {
    "ferkit": "ferkit.sources",
    "ferkit_cached": "ferkit.sources",
    "torchvision": "torchvision",
    "pandas": "pandas",
}


def child(way: str, path: Path) -> None:
    """Time one way in this process, imports apart; seconds and peak memory as JSON on standard output."""
    if way in IMPORTS:
        __import__(IMPORTS[way])
        __import__("safetensors")
    start = time.perf_counter()
    WAYS[way](path)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=WAYS)
    arguments = parser.parse_args()
    path = arguments.path / "fer2013.csv" if arguments.path.is_dir() else arguments.path
    if arguments.child:
        return child(arguments.child, path)
    seconds, memory = {way: [] for way in WAYS}, dict.fromkeys(WAYS, 0.0)
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"FERKIT_CACHE": cache}
        subprocess.run([sys.executable, "-c", f"from ferkit.sources import read; read({str(path)!r})"],
                       env=environment, check=True)  # fmt: skip
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, str(path), "--child", way]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                taken, peak = json.loads(done.stdout)
                seconds[way].append(round(taken, 3))
                memory[way] = max(memory[way], round(peak))
    from ferkit.machine import measured_by  # its torch is not to count as a child's memory

    best = {way: min(values) for way, values in seconds.items()}
    faster = {f"than {way}": round(best[way] / best["ferkit"], 1) for way in ("torchvision", "pandas")}
    report = {"bytes": path.stat().st_size, "rounds": arguments.rounds, "processors": os.cpu_count(),
              "seconds": seconds, "peak_mb": memory, "times_faster": faster,
              "times_the_floor": round(best["ferkit"] / best["floor"], 1)} | measured_by("cpu")  # fmt: skip
    (OUT / "parse.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
