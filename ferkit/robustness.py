"""A run under the fifteen corruptions of FER2013-C: measured once on PrivateTest, written down, reported only.

Nothing is chosen by these numbers. `corrupted.npz` of a run folder holds the predictions that they are computed from.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ferkit import DataError
from ferkit.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from ferkit.faces import Faces
from ferkit.labels import UNLABELLED
from ferkit.metrics import mean_accuracy
from ferkit.predict import logits, pick_device
from ferkit.protocols import arrange
from ferkit.recipe import Recipe
from ferkit.records import check_faces, interval, read_record, save_arrays
from ferkit.weights import BEST, load_weights

FILE = "corrupted.npz"
ARRAYS = ("predicted", "clean", "labels", "rows", "names", "severities", "classes")


def robustness(model: nn.Module, faces: Faces, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes of a split's faces, int8 (15, 5, N) corrupted and (N,) clean; on the model's device."""

    def predict(images: torch.Tensor) -> np.ndarray:
        return logits(model, images).argmax(1).numpy().astype(np.int8)

    predicted = [
        [predict(corrupt(faces.images, name, severity, seed, faces.rows)) for severity in SEVERITIES]
        for name in CORRUPTIONS
    ]
    return np.array(predicted), predict(faces.images)


def save_robustness(folder: str | Path, faces: Faces, device: str = "auto") -> None:
    """Measure the selected weights of a run folder on PrivateTest and write corrupted.npz.

    Raises FileExistsError when there is one, and DataError for weights that cannot be read or have other classes, and
    for faces without PrivateTest or its labels.
    """
    folder = Path(folder)
    if (folder / FILE).exists():
        raise FileExistsError(f"{folder / FILE} exists, and measurements are not overwritten")
    split = arrange(faces, Recipe("standard")).judged["PrivateTest"]  # the same by every protocol
    if not len(split) or (split.labels == UNLABELLED).any():
        raise DataError(f"{faces.name} has no PrivateTest images with labels: nothing to measure against")
    model, _, classes = load_weights(folder / BEST)
    if classes != faces.classes:
        raise DataError(f"{folder} tells {', '.join(classes)} apart; {faces.name} has {', '.join(faces.classes)}")
    predicted, clean = robustness(model.to(pick_device(device)), split)
    arrays = {
        "predicted": predicted,
        "clean": clean,
        "labels": split.labels.numpy().astype(np.int8),
        "rows": split.rows.numpy().astype(np.int32),
        "names": np.array(list(CORRUPTIONS)),
        "severities": np.array(SEVERITIES),
        "classes": np.array(classes),
    }
    save_arrays(folder / FILE, arrays)


def obtain(folder: str | Path, faces: Faces, device: str = "auto") -> dict[str, np.ndarray]:
    """The arrays of a run's corrupted.npz, measured first where it has none; raises what those two do.

    And DataError for other faces than the run's record is of.
    """
    check_faces(folder, read_record(folder), faces)
    if not (Path(folder) / FILE).exists():
        save_robustness(folder, faces, device)
    return load_robustness(folder)


def load_robustness(folder: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a run's corrupted.npz, as save_robustness names them, or DataError saying what is wrong with it."""
    path = Path(folder) / FILE
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not readable ({error}); ferkit robustness writes it where there is none") from error
    shape = (len(arrays["names"]), len(arrays["severities"]), len(arrays["labels"]))
    if arrays["predicted"].shape != shape or not len(arrays["clean"]) == len(arrays["rows"]) == shape[-1]:
        raise DataError(f"{path}: its arrays do not fit each other")
    return arrays


def corruption_accuracy(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    """Accuracy in [0, 1] of each corruption and severity (15, 5), and the mean of them all, {value, low, high}.

    low and high are the ends of a 95 % interval of a stratified bootstrap over images, each with its own mean over the
    corruptions: it speaks of the images, not of training's seeds nor of the choice of corruptions.
    """
    hits = arrays["predicted"] == arrays["labels"]
    return hits.mean(2), mean_accuracy(hits.reshape(-1, hits.shape[2]), arrays["labels"])


def robustness_table(arrays: dict[str, np.ndarray]) -> str:
    """Accuracies in percent as lines of text: a corruption each, then the mean with its interval and n."""
    accuracy, mean = corruption_accuracy(arrays)
    (n_corruptions, n_severities), n = accuracy.shape, len(arrays["labels"])
    width = max(map(len, arrays["names"])) + 1
    lines = [f"{'severity':<{width}}" + "".join(f"{severity:>6}" for severity in arrays["severities"]) + "    mean"]
    for name, values in zip(arrays["names"], 100 * accuracy, strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{value:6.1f}" for value in values) + f"{values.mean():8.1f}")
    clean = (arrays["clean"] == arrays["labels"]).mean()
    lines += [f"mean of {n_corruptions} x {n_severities}: {interval(mean)}, clean: {100 * clean:.1f}; accuracy in %, "
              f"PrivateTest, n {n:,}; 1 seed; in brackets the 95 % interval over the images"]  # fmt: skip
    return "\n".join(lines)
