"""Time and memory of looking for copies, against the number of pictures: exact ones linear, near ones in two steps.

    python benchmarks/copies.py [--data fer2013.csv] [--most 358870]

With --data FER2013 itself is the first size, and the larger ones are augmented pictures of it; without, drawn faces.
Each size runs in a process of its own. Writes results/benchmarks/copies.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from ferkit.machine import measured_by

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
FER2013 = 35_887


def pictures(n: int, data: str | None):
    """uint8 (n, 48, 48): the source's own, then augmented ones, no two of them copies by intent."""
    import torch

    from ferkit import sources
    from ferkit.augment import augment, get_policy
    from ferkit.synthetic import embedded_faces

    own = sources.load(data, say=lambda _: None).images if data else embedded_faces(2000).images
    parts, generator = [own[:n]], torch.Generator().manual_seed(0)
    while (missing := n - sum(map(len, parts))) > 0:
        some = own[torch.randperm(len(own), generator=generator)[: min(missing, 4096)]]
        parts.append(augment(some, get_policy("heavy"), generator)[:, 0].mul_(255).to(torch.uint8))
    return torch.cat(parts)


def child(n: int, data: str | None) -> None:
    """Print seconds of each step, the number of pairs and the peak memory in MB."""
    images = pictures(n, data)
    from ferkit import copies

    seconds, start = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = round(time.perf_counter() - start, 3), time.perf_counter()

    copies.exact_pairs(images)
    lap("exact")
    pairs = copies.find_pairs(images)
    lap("near")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"n": n, "seconds": seconds, "pairs": len(pairs), "peak_mb": round(peak)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data")
    parser.add_argument("--most", type=int, default=10 * FER2013)
    parser.add_argument("--child", type=int)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child, arguments.data)
    found = []
    for n in (FER2013 // 4, FER2013 // 2, FER2013, 3 * FER2013, 10 * FER2013):
        if n <= arguments.most:
            command = [sys.executable, __file__, "--child", str(n)]
            command += ["--data", arguments.data] if arguments.data else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
            print(done.stdout, end="", flush=True)
            report = {
                "pictures": "FER2013" if arguments.data else "drawn",
                "processors": os.cpu_count(),
                "sizes": found,
            } | measured_by("cpu")
            OUT.mkdir(parents=True, exist_ok=True)
            (OUT / "copies.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
