import pytest
import torch
from torch import Generator
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ferkit.augment import POLICIES, Policy, affine_matrix, augment, draw_mixing, get_policy, warp


def pictures(n=8, seed=0):
    small = torch.rand(n, 1, 12, 12, generator=Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(small, 48, mode="bicubic").clamp(0, 1)
    return (smooth[:, 0] * 255).round().to(torch.uint8)


@pytest.mark.parametrize("angle", [0.0, 17.0, -40.0])
@pytest.mark.parametrize("scale", [0.8, 1.25])
@pytest.mark.parametrize("shear", [0.0, 12.0])
def test_geometry_is_torchvisions(angle, scale, shear):
    x = pictures(1)[:, None].float() / 255
    dx, dy = 5, -3
    ours = warp(x, affine_matrix(*map(torch.tensor, ([angle], [scale], [[dx / 48, dy / 48]], [shear], [False]))), 48)
    theirs = tv.affine(x, angle, [dx, dy], scale, [shear, 0], InterpolationMode.BILINEAR)
    inside = tv.affine(torch.ones_like(x), angle, [dx, dy], scale, [shear, 0], InterpolationMode.BILINEAR) == 1
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(ours[inside], theirs[inside], atol=2e-4, rtol=0)  # float32 coordinates


def test_flip_with_and_without_a_resample():
    images = pictures(64)
    mirrored = augment(images, Policy(flip=1.0), Generator().manual_seed(0))
    torch.testing.assert_close(mirrored[:, 0], images.flip(-1).float() / 255)
    resampled = augment(images, Policy(flip=1.0, rotate=1e-6), Generator().manual_seed(0))
    torch.testing.assert_close(resampled, mirrored, atol=1e-3, rtol=0)
    half = augment(images, Policy(flip=0.5), Generator().manual_seed(0))
    changed = (half[:, 0] != images.float() / 255).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.8


def test_brightness_and_gamma_are_torchvisions(monkeypatch):
    x = pictures(1)
    brighter = augment(x, Policy(brightness=0.1), Generator().manual_seed(3))
    shift = torch.empty(1).uniform_(-0.1, 0.1, generator=_after_flip(3))
    torch.testing.assert_close(brighter[0, 0], (x[0] / 255 + shift).clamp(0, 1))
    curved = augment(x, Policy(gamma=0.5), Generator().manual_seed(3))
    gamma = torch.empty(1).uniform_(-0.5, 0.5, generator=_after_flip(3)).exp()
    torch.testing.assert_close(curved[0], tv.adjust_gamma(x.float() / 255, gamma.item()))


def _after_flip(seed):
    """A generator that has drawn what `augment` draws first, the mirror images of a batch of one."""
    generator = Generator().manual_seed(seed)
    torch.empty(1).uniform_(generator=generator)
    return generator


@pytest.mark.parametrize("name", POLICIES)
def test_policies_stay_in_range_repeat_and_differ_by_image(name):
    images = pictures(1).expand(16, -1, -1)
    first, again = (augment(images, POLICIES[name], Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (16, 1, 48, 48) and first.min() >= 0 and first.max() <= 1
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (len(first.flatten(1).unique(dim=0)) == 1) == (name == "none")


def test_none_is_the_picture_itself_and_size_resizes():
    images = pictures()
    torch.testing.assert_close(augment(images, POLICIES["none"], Generator())[:, 0], images.float() / 255)
    assert augment(images, POLICIES["standard"], Generator(), size=32).shape == (8, 1, 32, 32)


def test_erasing_covers_the_stated_area():
    images = torch.zeros(2000, 48, 48, dtype=torch.uint8)
    erased = augment(images, Policy(erase=0.5), Generator().manual_seed(0)) > 0
    hit = erased.flatten(1).any(1)
    share = erased.flatten(1).float().mean(1)[hit]
    assert 0.45 < hit.float().mean() < 0.55
    assert share.max() <= 0.23 and share.mean() < 0.12  # at most 20 %, rounded to pixels; less at the border


@pytest.mark.parametrize("policy", [Policy(mixup=0.4), Policy(cutmix=1.0), Policy(mixup=0.2, cutmix=1.0)])
def test_mixing_changes_targets_as_much_as_pictures(policy):
    labels = torch.arange(4)
    x = labels.float().view(4, 1, 1, 1).expand(4, 1, 48, 48)
    targets = torch.nn.functional.one_hot(labels, 4).float()
    for seed in range(20):
        mixing = draw_mixing(policy, 4, 48, Generator().manual_seed(seed))
        mixed, soft = mixing.images(x, x[mixing.partner]), mixing.targets(targets, targets[mixing.partner])
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ labels.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", POLICIES)
def test_a_part_of_a_batch_is_augmented_as_in_the_whole(name):
    images, rows = pictures().repeat(2, 1, 1), torch.tensor([5, 2, 2, 11])
    whole = augment(images, POLICIES[name], Generator().manual_seed(7), 40)
    part = augment(images[rows], POLICIES[name], Generator().manual_seed(7), 40, rows, len(images))
    torch.testing.assert_close(part, whole[rows])


def test_unknown_policy_lists_the_choices():
    with pytest.raises(ValueError, match="unknown augmentation policy 'strong'.*standard"):
        get_policy("strong")
