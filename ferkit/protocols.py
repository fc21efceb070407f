"""Who learns from which faces, who chooses the epoch, and what is judged: the honest protocol and the known others.

standard: learn from Training, choose on PublicTest, judge PrivateTest once; the only one in the results table.
with_public: PublicTest is learned from too, as some papers do, and the last epoch is reported, since nothing is left
to choose by. The rest are mistakes behind published numbers, reproduced to measure what they are worth (leaks.py):
test_in_training: the training folder holds PrivateTest (ResEmoteNet's copy, an ensemble's whole FER2013).
augment_first: Training is balanced by augmented copies, then a tenth of it is split off and reported.
choose_on_private: the epoch is chosen by PrivateTest accuracy, the maximum of the test curve.
sorted_test: PrivateTest is judged in the order of its classes, too, which a network that looks at its batch can see.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ferkit import DataError
from ferkit.atomic import in_checkout
from ferkit.audit import load_audit
from ferkit.augment import augment, get_policy
from ferkit.faces import Faces
from ferkit.ferplus import LOOSE, is_ferplus, strict
from ferkit.labels import UNLABELLED, USAGES
from ferkit.recipe import Recipe

PUBLIC, PRIVATE = USAGES[1:]
SPLIT_OFF, SORTED = "split off", "PrivateTest sorted"  # what two of them judge beside the splits
HELD_OUT = 10  # one in so many of the augmented faces is split off


@dataclass(frozen=True)
class Arrangement:
    """The faces of a run, by their parts in it; `chosen_by` says in a record what decided which epoch is kept."""

    training: Faces
    choosing: Faces
    judged: dict[str, Faces]
    batch_size: int = 512  # in which they are judged, which matters to a network that looks at its batch
    chosen_by: str = f"{PUBLIC} accuracy"


def other_protocol(record: dict) -> str:
    """The protocol other than the standard one by which a run, or what it started from, was trained; "" if none."""
    own = record["recipe"].get("protocol", "standard")  # older records lack it
    found = [own, *re.findall(r"protocol=(\w+)", str(record.get("start", "")))]
    return next((name for name in found if name != "standard"), "")


def arrange(faces: Faces, recipe: Recipe) -> Arrangement:
    """What a recipe does with faces, by its protocol; what it excludes, and its fold, are left out of training.

    Raises DataError for a file to exclude by that is no audit of these faces.
    """
    there = _ARRANGE[recipe.protocol](faces, _standard(faces))
    training = there.training
    if recipe.exclude:
        training = training[~torch.isin(training.rows, torch.tensor(_excluded(recipe, faces), dtype=torch.int64))]
    if recipe.fold:
        k, n = recipe.fold
        training = training[training.rows % n != k]
    return replace(there, training=training)


def _excluded(recipe: Recipe, faces: Faces) -> list[int]:
    report = load_audit(in_checkout(recipe.exclude))
    of, ours = report["data"], faces.fingerprint
    if of["fingerprint"] != ours:
        told = f"{recipe.exclude} is an audit of {of['name']} ({of['fingerprint']}), not of {faces.name} ({ours})"
        raise DataError(f"{told}; make one: ferkit audit DATA --json FILE")
    return report["rows"]["training_left_out"]


def _standard(faces: Faces) -> Arrangement:
    public, private = faces.split(PUBLIC), faces.split(PRIVATE)
    judged = {PUBLIC: public, PRIVATE: private}
    if is_ferplus(faces):  # two test sets
        judged |= {PRIVATE: strict(private), LOOSE: private}
    return Arrangement(faces.split("Training"), public, judged)


def _with_public(faces: Faces, there: Arrangement) -> Arrangement:
    return replace(there, training=faces[faces.usage != USAGES.index(PRIVATE)], chosen_by="the last epoch")


def _test_in_training(faces: Faces, there: Arrangement) -> Arrangement:
    return replace(there, training=faces[faces.usage != USAGES.index(PUBLIC)])


def _augment_first(faces: Faces, there: Arrangement) -> Arrangement:
    pool = balanced(there.training)
    held_out = torch.zeros(len(pool), dtype=torch.bool)
    held_out[torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[: len(pool) // HELD_OUT]] = True
    own = pool[held_out]
    judged = there.judged | {SPLIT_OFF: own}
    return Arrangement(pool[~held_out], own, judged, chosen_by=f"accuracy on what was {SPLIT_OFF}")


def _choose_on_private(faces: Faces, there: Arrangement) -> Arrangement:
    return replace(there, choosing=there.judged[PRIVATE], chosen_by=f"{PRIVATE} accuracy")


def _sorted_test(faces: Faces, there: Arrangement) -> Arrangement:
    private = there.judged[PRIVATE]
    judged = there.judged | {SORTED: private[private.labels.argsort(stable=True)]}
    return replace(there, judged=judged, batch_size=64)


_ARRANGE: dict[str, Callable[[Faces, Arrangement], Arrangement]] = {
    "standard": lambda _, there: there,
    "with_public": _with_public,
    "test_in_training": _test_in_training,
    "augment_first": _augment_first,
    "choose_on_private": _choose_on_private,
    "sorted_test": _sorted_test,
}


def balanced(faces: Faces, policy: str = "light") -> Faces:
    """Faces and augmented copies of them, drawn until every class is as large as the largest; `rows` say of what."""
    draw, counts = torch.Generator().manual_seed(0), faces.labels[faces.labels != UNLABELLED].bincount()
    drawn = [torch.arange(len(faces))]
    for label, n in enumerate(counts.tolist()):
        if n:
            of_class = (faces.labels == label).nonzero()[:, 0]
            drawn.append(of_class[torch.randint(n, (int(counts.max()) - n,), generator=draw)])
    index = torch.cat(drawn)
    copies = augment(faces.images[index[len(faces) :]], get_policy(policy), draw)[:, 0].mul_(255).round_()
    return replace(faces[index], images=torch.cat([faces.images, copies.to(torch.uint8)]))
