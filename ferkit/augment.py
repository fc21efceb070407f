"""Augmentation of whole batches on their device: every image draws its own parameters, all geometry is one resample.

Measured: benchmarks/peers.py (images/s beside PIL image by image).
"""

import math
import re
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Policy:
    """How far each transform may go; zero switches it off. Ranges are symmetric unless said."""

    flip: float = 0.0  # probability of a mirror image
    vertical: float = 0.0  # probability of standing on the head, which one paper trains with
    rotate: float = 0.0  # degrees
    scale: float = 0.0  # factor 1 - scale .. 1 + scale
    shift: float = 0.0  # fraction of the side, each axis
    shear: float = 0.0  # degrees, along x
    brightness: float = 0.0  # added, in units of the full range
    contrast: float = 0.0  # factor about the image's own mean
    gamma: float = 0.0  # exponent exp(-gamma) .. exp(gamma)
    noise: float = 0.0  # largest standard deviation of Gaussian noise
    erase: float = 0.0  # probability of one grey rectangle over 2..20 % of the image (Zhong et al. 2017)
    mixup: float = 0.0  # Beta parameter (Zhang et al. 2018)
    cutmix: float = 0.0  # Beta parameter (Yun et al. 2019); with both, each batch takes one of them

    @property
    def moves(self) -> bool:
        """Whether any transform needs a resample (a mirror image alone does not)."""
        return any((self.rotate, self.scale, self.shift, self.shear))


POLICIES = {
    "none": Policy(),
    "flip": Policy(flip=0.5),
    # One thing beside the mirror image each: what does it do alone?
    "vertical": Policy(flip=0.5, vertical=0.5),
    "rotate": Policy(flip=0.5, rotate=12),
    "shift": Policy(flip=0.5, scale=0.15, shift=0.08),
    "photometric": Policy(flip=0.5, brightness=0.1, contrast=0.2),
    "erase": Policy(flip=0.5, erase=0.5),
    "mixup": Policy(flip=0.5, mixup=0.2),
    "cutmix": Policy(flip=0.5, cutmix=1.0),
    # Several together.
    "light": Policy(flip=0.5, rotate=8, scale=0.08, shift=0.05),
    "standard": Policy(flip=0.5, rotate=12, scale=0.15, shift=0.08, brightness=0.1, contrast=0.2, erase=0.5),
    "heavy": Policy(
        flip=0.5, rotate=20, scale=0.2, shift=0.1, shear=10, brightness=0.15, contrast=0.3, gamma=0.3,
        noise=0.05, erase=0.5, mixup=0.2, cutmix=0.5,
    ),
    # What the papers did, as far as one resample can say it (ResEmoteNet: flip). Crops became shifts and scales.
    "patt_lite": Policy(flip=0.5, contrast=0.3),
    "residual_masking": Policy(flip=0.5, rotate=30),
    "emonext": Policy(flip=0.5, vertical=0.5, rotate=20, scale=0.05, shift=0.025),
    "vgg_fer": Policy(flip=0.5, rotate=10, scale=0.2, shift=0.2, erase=0.5),
    "resnet18_fer": Policy(flip=0.5, shift=0.08, mixup=1.0),
}  # fmt: skip


def get_policy(name: str) -> Policy:
    """The policy of that name, with changes where it has some: "standard+mixup=0.3"; ValueError lists the choices."""
    base, *changes = name.split("+")
    if base not in POLICIES:
        raise ValueError(f"unknown augmentation policy {name!r}; choose from {list(POLICIES)}")
    limits = {f.name for f in fields(Policy)}
    if wrong := [change for change in changes if not re.fullmatch(r"\w+=\d*\.?\d+", change)
                 or change.split("=")[0] not in limits]:  # fmt: skip
        raise ValueError(f"policy {name!r}: {wrong[0]!r} is no change; say for example mixup=0.3, of {sorted(limits)}")
    return replace(POLICIES[base], **{key: float(value) for key, value in (change.split("=") for change in changes)})


def augment(
    images: Tensor,
    policy: Policy,
    generator: Generator,
    size: int | None = None,
    rows: Tensor | None = None,
    n: int = 0,
) -> Tensor:
    """uint8 (N, H, W) -> float32 (N, 1, size, size) in [0, 1], each image with parameters of its own.

    `size` (default H) resizes in the same resample. `generator` lives on the CPU, so that a seed draws the same
    parameters on every device (noise alone differs). With `rows` (N,), the images are those rows of a batch of n and
    get what they would get in it: processes that share a batch augment it as one would. Mixing images (mixup, CutMix)
    changes the targets too: `draw_mixing`.
    """
    x = images[:, None].float().div_(255)
    n, size = n or len(x), size or images.shape[-1]

    def of_rows(drawn: Tensor) -> Tensor:
        return send(drawn if rows is None else drawn[rows], x.device)

    def uniform(low: float, high: float) -> Tensor:
        return of_rows(torch.empty(n).uniform_(low, high, generator=generator))

    def symmetric(limit: float) -> Tensor:
        return uniform(-limit, limit)

    flip = uniform(0, 1) < policy.flip
    if policy.moves or size != x.shape[-1]:
        angle, shear = symmetric(policy.rotate), symmetric(policy.shear)
        scale, shift = 1 + symmetric(policy.scale), torch.stack([symmetric(policy.shift), symmetric(policy.shift)], 1)
        x = warp(x, affine_matrix(angle, scale, shift, shear, flip), size)
    elif policy.flip:
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    if policy.vertical:
        x = torch.where((uniform(0, 1) < policy.vertical)[:, None, None, None], x.flip(-2), x)
    x = _photometric(x, policy, symmetric)
    if policy.noise:
        sigma, seed = uniform(0, policy.noise).view(-1, 1, 1, 1), int(torch.randint(2**62, (), generator=generator))
        there = Generator(x.device).manual_seed(seed)  # too many to be drawn on the CPU and sent
        noise = torch.randn((n, *x.shape[1:]), generator=there, device=x.device)
        x = (x + sigma * (noise if rows is None else noise[send(rows, x.device)])).clamp_(0, 1)
    return _erase(x, policy.erase, uniform) if policy.erase else x


def send(x: Tensor, device: torch.device) -> Tensor:
    """x on the device; nothing waits for what that still computes, which CUDA grants to page-locked memory alone."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def affine_matrix(angle: Tensor, scale: Tensor, shift: Tensor, shear: Tensor, flip: Tensor) -> Tensor:
    """(N, 2, 3) matrices for `warp`; torchvision's `affine` convention, after an optional mirror image.

    angle and shear (N,) in degrees, scale (N,), shift (N, 2) as x, y in fractions of the side, flip bool (N,).
    """
    angle, tangent = angle * (math.pi / 180), torch.tan(shear * (math.pi / 180))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # Output to input, the way a resample reads: inverse of rotation x shear x scale.
    inverse = torch.stack([cos - tangent * sin, sin + tangent * cos, -sin, cos], 1).view(-1, 2, 2)
    inverse = inverse / scale[:, None, None]
    offset = -(inverse @ (2 * shift)[:, :, None])  # affine_grid's axes run from -1 to 1
    matrix = torch.cat([inverse, offset], 2)
    mirror = torch.where(flip, -1.0, 1.0)
    return torch.stack([matrix[:, 0] * mirror[:, None], matrix[:, 1]], 1)


def warp(x: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Resample (N, C, H, W) to (N, C, size, size) through (N, 2, 3) matrices, bilinear, black outside.

    The grid is F.affine_grid's, as one sum of what a row and a column add, which takes a CPU far less time.
    """
    centers = (2 * torch.arange(size, device=x.device) + 1) / size - 1
    along, down, offset = matrix[..., None, None].unbind(2)  # (N, 2, 1, 1) each
    grid = (centers[:, None] * down + offset) + centers * along  # (N, 2, H, 1) + (N, 2, 1, W)
    return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=False)


def _photometric(x: Tensor, policy: Policy, symmetric) -> Tensor:
    if policy.contrast or policy.brightness:
        factor = 1 + symmetric(policy.contrast).view(-1, 1, 1, 1) if policy.contrast else x.new_ones(1)
        offset = x.mean((1, 2, 3), keepdim=True) * (1 - factor)
        if policy.brightness:
            offset += symmetric(policy.brightness).view(-1, 1, 1, 1)
        x = x.mul_(factor).add_(offset).clamp_(0, 1)
    return x ** symmetric(policy.gamma).exp().view(-1, 1, 1, 1) if policy.gamma else x


def _erase(x: Tensor, probability: float, uniform) -> Tensor:
    height, width = x.shape[-2:]
    area, log_ratio = uniform(0.02, 0.2), uniform(-math.log(3.3), math.log(3.3))
    half_h = (area * log_ratio.exp()).sqrt() * height / 2
    half_w = (area / log_ratio.exp()).sqrt() * width / 2
    inside_y = (torch.arange(height, device=x.device) + 0.5 - (uniform(0, 1) * height)[:, None]).abs() < half_h[:, None]
    inside_x = (torch.arange(width, device=x.device) + 0.5 - (uniform(0, 1) * width)[:, None]).abs() < half_w[:, None]
    hit, grey = uniform(0, 1) < probability, uniform(0, 1).view(-1, 1, 1, 1)
    inside = (inside_y & hit[:, None])[:, None, :, None].float() * inside_x[:, None, None, :]  # 0 or 1
    return torch.lerp(x, grey, inside)  # faster than torch.where


@dataclass(frozen=True)
class Mixing:
    """Mixup or CutMix of a batch with itself: image i keeps `keep` of itself, the rest is that of partner[i]."""

    partner: Tensor  # (n,) rows of the batch
    keep: float
    box: tuple[slice, slice] | None = None  # rows and columns that CutMix takes from the partner

    def images(self, x: Tensor, other: Tensor) -> Tensor:
        """Images (N, C, H, W) mixed with their partners' (N, C, H, W)."""
        if self.box is None:
            return torch.lerp(other, x, self.keep)
        x = x.clone()
        x[..., self.box[0], self.box[1]] = other[..., self.box[0], self.box[1]]
        return x

    def targets(self, targets: Tensor, other: Tensor) -> Tensor:
        """Soft targets (N, n_classes) of the mixed images."""
        return torch.lerp(other, targets, self.keep)


def draw_mixing(policy: Policy, n: int, side: int, generator: Generator) -> Mixing | None:
    """One draw for a batch of n images of that side; None for a policy that does not mix."""
    if not (policy.mixup or policy.cutmix):
        return None
    cut = bool(policy.cutmix) and (not policy.mixup or bool(torch.rand((), generator=generator) < 0.5))
    alpha = policy.cutmix if cut else policy.mixup
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    keep = float(gammas[0] / gammas.sum())  # Beta(alpha, alpha) from two Gammas, drawn with our own generator
    partner = torch.randperm(n, generator=generator)
    if not cut:
        return Mixing(partner, keep)
    half = math.sqrt(1 - keep) * side / 2
    middle = [int(torch.randint(side, (), generator=generator)) for _ in range(2)]
    low, high = ([max(0, min(side, round(at + sign * half))) for at in middle] for sign in (-1, 1))
    area = (high[0] - low[0]) * (high[1] - low[1])
    return Mixing(partner, 1 - area / side**2, (slice(low[0], high[0]), slice(low[1], high[1])))
