"""FER+ as a data set of its own: the same pictures, eight classes, labels by ten people's votes.

Source: Barsoum et al. 2016 (arXiv 1608.01041). PublicTest and PrivateTest are judged by majority, whatever a network
was trained towards. Papers mix two test sets: the majority's (3,153 pictures of PrivateTest) and the looser one of
every picture with a top emotion (3,573).
"""

from dataclasses import replace

import numpy as np
import torch

from ferkit import DataError
from ferkit.faces import Faces
from ferkit.labels import FERPLUS_CLASSES, ferplus_argmax, ferplus_targets

LABELLINGS = ("fer2013", "ferplus")
LOOSE = "PrivateTest argmax"  # the looser test set


def as_ferplus(faces: Faces) -> Faces:
    """The faces with FER+'s labels, the top emotion of each; those that its rules drop are left out.

    Training: what `majority` or `crossentropy` keeps (`learnable` takes one of them). PublicTest: what `majority`
    keeps. PrivateTest: what has a top emotion (of which `strict` is `majority`'s). Raises DataError without votes.
    """
    if faces.votes is None:
        raise DataError(f"{faces.name} has no FER+ votes; put fer2013new.csv beside the data")
    votes = faces.votes.cpu().numpy()
    labels, loose = ferplus_argmax(votes)
    majority, soft = (ferplus_targets(votes, rule)[1] for rule in ("majority", "crossentropy"))
    kept = torch.from_numpy(np.choose(faces.usage.cpu().numpy(), (majority | soft, majority, loose)))
    name = "ferplus" if faces.is_official else f"{faces.name}-ferplus"
    labels = torch.from_numpy(labels).to(faces.labels.device)
    return replace(faces, labels=labels, name=name, classes=FERPLUS_CLASSES)[kept]


def is_ferplus(faces: Faces) -> bool:
    """Whether the faces have FER+'s classes."""
    return faces.classes == FERPLUS_CLASSES


def strict(faces: Faces) -> Faces:
    """The faces whose votes have a majority."""
    return _kept(faces, "majority")


def learnable(training: Faces, targets: str) -> Faces:
    """The training faces that have such a target ("labels" or "votes") by FER+'s rules; FER2013's all have."""
    if not is_ferplus(training):
        return training
    return strict(training) if targets == "labels" else _kept(training, "crossentropy")


def _kept(faces: Faces, rule: str) -> Faces:
    return faces[torch.from_numpy(ferplus_targets(faces.votes.cpu().numpy(), rule)[1])]
