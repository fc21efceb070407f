"""How many of FER2013's own faces `ferkit predict` finds, and how well it reads those that it has cut out itself.

    python benchmarks/detecting.py fer2013.csv

Every picture of PublicTest is enlarged to four times its side, its edges continued half a side further, and searched.
Of those with a face: the box beside the picture, the accuracy of the package's weights on the given crop and on the one
cut out, and, for several margins about the detector's box, the correlation of the two crops' pixels.
Writes results/benchmarks/detecting.json.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import binomtest

from ferkit import sources
from ferkit.detect import CASCADE, MARGIN, Box, Detector, crop
from ferkit.judge import load_judge
from ferkit.machine import measured_by
from ferkit.shipping import shipped_run
from ferkit.weights import shipped

OUT = Path(__file__).resolve().parent.parent / "results" / "benchmarks" / "detecting.json"
SIDE = 192  # pixels of an enlarged face
EDGE = SIDE // 2
MARGINS = (0.9, 0.95, 1.0, MARGIN, 1.1, 1.2)


def enlarged(face: np.ndarray) -> np.ndarray:
    """uint8 (48, 48) -> (2 SIDE, 2 SIDE)."""
    large = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, EDGE, EDGE, EDGE, EDGE, cv2.BORDER_REPLICATE)


def scaled(box: Box, factor: float) -> Box:
    """The square about the same centre with `factor` times the side."""
    left, top, side, _ = box
    larger = round(factor * side)
    return left + (side - larger) // 2, top + (side - larger) // 2, larger, larger


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def share(right: np.ndarray) -> dict:
    """A share in percent with its 95 % interval by Wilson."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {name: round(100 * float(value), 1)
            for name, value in (("value", right.mean()), ("low", interval.low), ("high", interval.high))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    faces = sources.load(parser.parse_args().data).split("PublicTest")
    detector, judge = Detector(), load_judge(shipped(), "cpu")
    pictures = [enlarged(face) for face in faces.images.numpy()]
    boxes = [detector(picture) for picture in pictures]
    found = np.array([bool(each) for each in boxes])
    first = [(picture, each[0]) for picture, each in zip(pictures, boxes, strict=True) if each]
    given = faces.images.numpy()[found]
    place = np.array([box for _, box in first])
    sides, centres = place[:, 2] / MARGIN / SIDE, (place[:, :2] + place[:, 2:] / 2 - SIDE) / SIDE
    labels = faces.labels.numpy()[found]
    cut = np.stack([crop(picture, box) for picture, box in first])
    right = {name: judge(torch.from_numpy(crops)).argmax(1).numpy() == labels
             for name, crops in (("given", given), ("cut out", cut))}  # fmt: skip
    report = {
        "opencv": cv2.__version__, "detector": CASCADE, "weights": shipped_run(), "data": faces.name, "n": len(faces),
        "found, %": share(found),
        "found by class, %": {name: share(found[faces.labels.numpy() == i]) for i, name in enumerate(faces.classes)},
        "more than one box, %": share(np.array([len(each) > 1 for each in boxes])),
        "box in sides of the face, quartiles": np.quantile(sides, (0.25, 0.5, 0.75)).round(3).tolist(),
        "centre off, in sides, medians": np.median(centres, 0).round(3).tolist(),
        "accuracy on the faces found, %": {name: share(each) for name, each in right.items()},
        "likeness of crops by margin, medians": {
            str(margin): round(float(np.median([
                likeness(crop(picture, scaled(box, margin / MARGIN)), face)
                for (picture, box), face in zip(first, given, strict=True)
            ])), 4) for margin in MARGINS
        },
    } | measured_by("cpu")  # fmt: skip
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(OUT.read_text(), end="")


if __name__ == "__main__":
    main()
