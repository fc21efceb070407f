"""Planted copies are found, planted false friends are not; recall and precision are printed (pytest -s)."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ferkit import synthetic
from ferkit.copies import Pairs, _largest, exact_pairs, find_pairs, groups, unlikeness


def shifted(images, right: int, down: int):
    padded = F.pad(images[:, None].float(), (4, 4, 4, 4), mode="replicate")[:, 0]
    return padded[:, 4 - down : 52 - down, 4 - right : 52 - right].to(torch.uint8)


def recompressed(images, quality: int = 40):
    def again(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))

    return torch.from_numpy(np.stack([again(image) for image in images.numpy()]))


def brightened(images):
    return (images.float() * 0.8 + 40).round().clamp(0, 255).to(torch.uint8)


PLANTED = {
    "to the bit": torch.clone,
    "shifted by a pixel": lambda x: shifted(x, 1, -1),
    "shifted by two pixels": lambda x: shifted(x, -2, 1),
    "mirrored": lambda x: x.flip(-1),
    "brightened": brightened,
    "JPEG of quality 40": recompressed,
    "all of it": lambda x: recompressed(brightened(shifted(x.flip(-1), 1, 2))),
}


@pytest.fixture(scope="module")
def originals():
    """Drawn faces, or those of FER2013 where it is."""
    return synthetic.embedded_faces(600).images


def recall(images, change, n: int = 150) -> float:
    """The share of n copies that are found among all; a copy of a copy is no mistake."""
    pairs = find_pairs(torch.cat([images, change(images[:n])]))
    group = groups(len(images) + n, pairs)
    return (group[:n] == group[len(images) :]).float().mean().item()


@pytest.mark.parametrize("name", PLANTED)
def test_planted_copies_are_found(name, originals):
    found = recall(originals, PLANTED[name])
    print(f"{name}: recall {found:.3f}")
    assert found >= 0.97


def test_false_friends_are_not_copies(originals):
    """Pairs that are the same face from afar, each with details of its own, as photographs of people who look alike."""
    smooth = F.avg_pool2d(originals[:200, None].float(), 9, 1, 4, count_include_pad=False)[:, 0]
    noise = torch.randn(400, 48, 48, generator=torch.Generator().manual_seed(0))
    details = 42 * F.avg_pool2d(noise[:, None], 3, 1, 1)[:, 0]  # a standard deviation of 14 greys
    images = (smooth.repeat(2, 1, 1) + details).round().clamp(0, 255).to(torch.uint8)
    likeness = torch.nn.functional.cosine_similarity(*(smooth + d for d in details.split(200)), dim=-1).mean()
    pairs = find_pairs(images)
    print(f"{len(pairs)} pairs among 200 pairs of false friends whose pixels have a cosine of {likeness:.2f}")
    assert len(pairs) == 0 and likeness > 0.95


def test_planted_copies_and_false_alarms_on_fer2013(real_faces):
    """Precision against what was planted: every pair that is found beside those of the originals alone is one."""
    images = real_faces.split("PublicTest").images
    alone, n = groups(len(images), find_pairs(images)), 300
    for name, change in PLANTED.items():
        pairs = find_pairs(torch.cat([images, change(images[:n])]))
        of, new = pairs.b - len(images), pairs.b >= len(images)
        pair = new & (pairs.a < len(images))
        right = alone[pairs.a[pair]] == alone[of[pair]]
        found = len(set(of[pair][right].tolist())) / n
        print(f"{name}: recall {found:.3f}, precision {right.float().mean():.3f} of {int(pair.sum())} pairs")
        assert found >= 0.97 and right.float().mean() >= 0.97


def test_pairs_say_how_and_once():
    images = synthetic.embedded_faces(40).images
    images = torch.cat([images, images[:1], images[1:2].flip(-1), torch.zeros(2, 48, 48, dtype=torch.uint8)])
    pairs = find_pairs(images)
    assert sorted(zip(pairs.a.tolist(), pairs.b.tolist(), pairs.mirrored.tolist(), strict=True)) == [
        (0, 40, False), (1, 41, True), (42, 43, False),
    ]  # fmt: skip
    assert (pairs.likeness > 0.99).all() and exact_pairs(images).tolist() == [[0, 40], [42, 43]]
    assert groups(44, pairs)[[40, 41, 42, 43]].tolist() == [0, 1, 42, 42]
    assert find_pairs(images, least=0.0).likeness.min() < 0.5
    with pytest.raises(ValueError, match="at least 0"):
        find_pairs(images, least=-1)


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_few_pictures_have_few_copies(n):
    images = synthetic.embedded_faces(20).images[:1].repeat(n, 1, 1)
    assert len(find_pairs(images)) == max(n - 1, 0)


def test_copies_of_other_sizes_are_found(originals):
    large = F.interpolate(originals[:60, None].float(), (96, 96), mode="bilinear").round()[:, 0].to(torch.uint8)
    assert recall(large, lambda x: x.flip(-1), 20) == 1.0


def test_a_chain_of_copies_is_one_group():
    pairs = Pairs(torch.tensor([1, 2]), torch.tensor([2, 4]), torch.ones(2), torch.zeros(2, dtype=torch.bool))
    assert groups(5, pairs).tolist() == [0, 1, 1, 3, 1]


def test_the_largest_are_those_of_topk():
    x = torch.randn(50, 1003, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_largest(x, 16).sort(1).values, x.topk(16, 1).indices.sort(1).values)


def test_what_is_no_face_is_unlike_the_mean():
    images = synthetic.embedded_faces(200).images
    noise = torch.randint(0, 256, (5, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores = unlikeness(torch.cat([images, noise, noise[:1] * 0]))
    assert scores[200:205].min() > scores[:200].quantile(0.9) and scores.isfinite().all()
