"""Augmenting a batch at once beside torchvision image by image: the `standard` policy, images a second, in turn.

    python benchmarks/augment.py [--rounds 5]

Writes benchmarks/augment.json. Made-up pictures of 48x48; the same ranges in both.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torchvision.transforms import v2

from ferkit.augment import POLICIES, augment

HERE = Path(__file__).resolve().parent
N = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    images, policy = torch.randint(0, 256, (N, 48, 48), dtype=torch.uint8), POLICIES["standard"]
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(policy.flip),
            v2.RandomAffine(policy.rotate, (policy.shift,) * 2, (1 - policy.scale, 1 + policy.scale),
                            interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(policy.brightness, policy.contrast),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(policy.erase, (0.02, 0.2)),
        ]
    )  # fmt: skip
    ways = {
        "ferkit": lambda: augment(images, policy, torch.Generator().manual_seed(0)),
        "torchvision": lambda: torch.stack([transform(image) for image in images[:, None]]),
    }
    rates = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way, function in ways.items():
            start = time.perf_counter()
            function()
            if round_:  # the first warms up
                rates[way].append(round(N / (time.perf_counter() - start)))
    ratio = round(max(rates["ferkit"]) / max(rates["torchvision"]), 1)
    report = {"images_per_second": rates, "times_faster": ratio, "threads": torch.get_num_threads(),
              "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip
    (HERE / "augment.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
