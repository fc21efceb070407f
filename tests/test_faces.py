import pytest
import torch

from ferkit import DataError
from ferkit.faces import Faces


def faces(n=6, **changes):
    parts = {
        "images": torch.arange(n, dtype=torch.uint8).view(n, 1, 1).expand(n, 48, 48),
        "labels": torch.arange(n) % 7,
        "usage": (torch.arange(n) % 3).to(torch.uint8),
        "rows": torch.arange(n),
    }
    return Faces(**(parts | changes))


def test_splits_keep_the_order_of_the_source():
    split = faces().split("PublicTest")
    assert split.rows.tolist() == [1, 4] and split.images[:, 0, 0].tolist() == [1, 4]
    with pytest.raises(ValueError, match="unknown split 'test'"):
        faces().split("test")


def test_counts_leave_out_the_unlabelled():
    some = faces(labels=torch.tensor([0, 0, -1, 3, 3, 3]))
    assert some.counts().sum() == 5 and some.counts()[0, 0] == 1
    assert not some.is_official


def test_fingerprint_sees_content_and_not_order():
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert faces().fingerprint == faces()[order].fingerprint
    assert faces().fingerprint != faces(labels=torch.zeros(6, dtype=torch.int64)).fingerprint


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": torch.zeros(6, 48, 48)}, "images must be uint8"),
        ({"labels": torch.arange(5)}, "labels has 5 entries for 6 images"),
        ({"labels": torch.full((6,), 7)}, r"labels must be 0\.\.6"),
        ({"votes": torch.zeros(6, 8)}, r"votes must be \(N, 10\)"),
    ],
)
def test_impossible_faces_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        faces(**changes)
