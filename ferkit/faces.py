"""Faces: the one container of images, labels, votes and splits that everything else takes."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ferkit import DataError
from ferkit.labels import CLASSES, FERPLUS_COUNTS, OFFICIAL_COUNTS, UNLABELLED, USAGES, VOTES


@dataclass(frozen=True, eq=False)
class Faces:
    """Grey face pictures with everything known about them; index it with a mask or row numbers.

    images: uint8 (N, H, W), labels: int64 (N,) over `classes`, -1 where unknown; usage: uint8 (N,) over
    labels.USAGES; rows: int64 (N,), the row in the source, so that two runs' logits can be matched; votes: uint8
    (N, 10) over labels.VOTES, or None. Raises DataError when the lengths or types disagree.
    """

    images: Tensor
    labels: Tensor
    usage: Tensor
    rows: Tensor
    votes: Tensor | None = None
    name: str = "faces"
    classes: tuple[str, ...] = CLASSES

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 3 or self.images.dtype != torch.uint8:
            raise DataError(f"images must be uint8 (N, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        for field in ("labels", "usage", "rows", "votes"):
            value = getattr(self, field)
            if value is not None and len(value) != n:
                raise DataError(f"{field} has {len(value)} entries for {n} images")
        if self.votes is not None and self.votes.shape[1] != len(VOTES):
            raise DataError(f"votes must be (N, {len(VOTES)}), got {tuple(self.votes.shape)}")
        if n and not (self.labels.min() >= UNLABELLED and self.labels.max() < len(self.classes)):
            raise DataError(f"labels must be 0..{len(self.classes) - 1}, or {UNLABELLED} where unknown")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> "Faces":
        votes = None if self.votes is None else self.votes[index]
        parts = {f: getattr(self, f)[index] for f in ("images", "labels", "usage", "rows")}
        return replace(self, votes=votes, **parts)

    def split(self, usage: str) -> "Faces":
        """The faces of one of labels.USAGES, in the order of the source."""
        if usage not in USAGES:
            raise ValueError(f"unknown split {usage!r}; choose from {list(USAGES)}")
        rows = (self.usage == USAGES.index(usage)).nonzero()[:, 0]
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return self[int(rows[0]) : int(rows[-1]) + 1]  # a view: pictures stay where they are, on disk maybe
        return self[rows]

    def to(self, device) -> "Faces":
        """The same faces with their tensors on `device`."""
        votes = None if self.votes is None else self.votes.to(device)
        parts = {f: getattr(self, f).to(device) for f in ("images", "labels", "usage", "rows")}
        return replace(self, votes=votes, **parts)

    def counts(self) -> Tensor:
        """Images per split and class, int64 (3, n_classes); unlabelled images are not counted."""
        known = self.labels != UNLABELLED
        cells = self.usage[known].long() * len(self.classes) + self.labels[known]
        return torch.bincount(cells, minlength=len(USAGES) * len(self.classes)).view(len(USAGES), -1)

    @property
    def is_official(self) -> bool:
        """Whether the counts per split and class are those of the FER2013, or the FER+, that was published."""
        return tuple(map(tuple, self.counts().tolist())) in (OFFICIAL_COUNTS, FERPLUS_COUNTS)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over pixels, labels and splits in row order: equal in layouts that keep rows."""
        order = self.rows.argsort()
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for part in (self.images, self.labels.to(torch.int8), self.usage):
            for rows in order.split(1 << 16):
                digest.update(part[rows].cpu().contiguous().numpy())
        return digest.hexdigest()[:16]
