"""What a network is trained towards (labels, FER+ votes, a teacher's logits) and how far it is from there."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ferkit import DataError
from ferkit.atomic import in_checkout
from ferkit.augment import Mixing
from ferkit.faces import Faces
from ferkit.ferplus import is_ferplus
from ferkit.labels import FERPLUS_TO_FER, ferplus_targets
from ferkit.recipe import Recipe


class Objective:
    """A recipe's loss over the training faces; targets are looked up by row, on the device."""

    def __init__(self, recipe: Recipe, training: Faces, device: torch.device) -> None:
        self.recipe, self.n_classes = recipe, len(training.classes)
        self.labels = training.labels.to(device)
        self.votes = vote_targets(training).to(device) if recipe.targets == "votes" else None
        self.teacher = None
        if recipe.teacher:
            logits = teacher_logits(in_checkout(recipe.teacher), training).to(device)
            self.teacher = (logits / recipe.temperature).softmax(1)
        self.weight = class_weights(training).to(device) if recipe.class_weights else None

    def __call__(self, logits: Tensor, rows: Tensor, partners: Tensor, mixing: Mixing | None) -> Tensor:
        """The loss summed over the samples of logits (N, C), which show training faces `rows` (N,), mixed with
        `partners` (N,) where there is a mixing."""

        def mixed(targets: Callable[[Tensor], Tensor]) -> Tensor:
            return targets(rows) if mixing is None else mixing.targets(targets(rows), targets(partners))

        recipe, logits = self.recipe, logits.float()
        loss = cross_entropy(logits, mixed(self.targets), self.weight, recipe.label_smoothing, recipe.focal)
        if self.teacher is None:
            return loss
        heat = recipe.temperature  # its square keeps the gradients' size (Hinton et al. 2015, arXiv 1503.02531)
        taught = heat**2 * F.cross_entropy(logits / heat, mixed(self.teacher.__getitem__), reduction="sum")
        return torch.lerp(loss, taught, recipe.teacher_weight)

    def targets(self, rows: Tensor) -> Tensor:
        """Distributions (N, n_classes) of those training faces."""
        if self.votes is not None:
            return self.votes[rows]
        return F.one_hot(self.labels[rows], self.n_classes).float()


def cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0, focal: float = 0.0
) -> Tensor:
    """Sum over samples of the cross-entropy of logits (N, C) with distributions (N, C), in nats.

    focal: exponent of (1 - p), which fades what is already known (Lin et al. 2017, arXiv 1708.02002); 0 is plain.
    """
    if not focal:
        return F.cross_entropy(logits, targets, weight, label_smoothing=smoothing, reduction="sum")
    targets, log_p = targets.lerp(targets.new_full((), 1 / targets.shape[1]), smoothing), logits.log_softmax(1)
    terms = targets * (1 - log_p.exp()) ** focal * log_p
    return -(terms if weight is None else terms * weight).sum()


def class_weights(training: Faces) -> Tensor:
    """Inverse frequencies (n_classes,), one on average over the images."""
    counts = torch.bincount(training.labels, minlength=len(training.classes)).clamp_min(1)
    return len(training) / (len(counts) * counts)


def vote_targets(training: Faces) -> Tensor:
    """FER+ votes as distributions float32 (N, n_classes) over the faces' own classes, on the CPU.

    As microsoft/FERPlus trains with crossentropy (labels.ferplus_targets). Over FER2013's classes a face that this rule
    drops, or that only contempt has votes for, keeps its label. Raises DataError without votes.
    """
    if training.votes is None:
        raise DataError(f"{training.name} has no FER+ votes; put fer2013new.csv beside the data")
    emotions, kept = ferplus_targets(training.votes.cpu().numpy(), "crossentropy")
    if is_ferplus(training):
        return torch.from_numpy(emotions)
    targets = np.zeros((len(emotions), len(training.classes)), np.float32)
    for theirs, ours in enumerate(FERPLUS_TO_FER):
        if ours is not None:
            targets[:, ours] += emotions[:, theirs]
    total = targets.sum(1, keepdims=True)
    labels = F.one_hot(training.labels.cpu(), len(training.classes)).numpy()
    return torch.from_numpy(np.where(kept[:, None] & (total > 0), targets / np.maximum(total, 1e-9), labels)).float()


def teacher_logits(path: str | Path, training: Faces) -> Tensor:
    """A teacher's logits (N, C) on the training faces, from the arrays Training_logits, Training_rows and classes.

    Matched by row. Raises DataError for a file without them, for other classes, or for faces that it lacks.
    """
    try:
        with np.load(path) as file:
            logits, rows, classes = file["Training_logits"], file["Training_rows"], tuple(file["classes"].tolist())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no readable Training_logits, Training_rows and classes ({error})") from error
    if classes != training.classes or logits.shape != (len(rows), len(classes)):
        raise DataError(f"{path}: logits {logits.shape} of {classes}, the faces have {training.classes}")
    wanted, order = training.rows.cpu().numpy(), np.argsort(rows)
    at = order[np.searchsorted(rows, wanted, sorter=order).clip(max=len(rows) - 1)]
    if missing := int((rows[at] != wanted).sum()):
        raise DataError(f"{path}: the teacher has not judged {missing} of the {len(wanted)} training faces")
    return torch.from_numpy(logits[at]).float()
