"""FER2013-C: fifteen corruptions of faces at five severities.

After ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261), with what happens to faces: covered eyes and mouths,
a face that is turned, a box that is off. robustness.py measures runs under them.
"""

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ferkit.augment import affine_matrix, warp

Draw = Callable[[int], Tensor]  # n -> float64 (N, n) strictly between 0 and 1, each picture's own

SEVERITIES = (1, 2, 3, 4, 5)  # from barely visible to heavy
CORRUPTIONS: dict[str, tuple[float, ...]] = {  # the parameter at each severity; "side" is the picture's
    "gaussian_noise": (0.02, 0.05, 0.09, 0.15, 0.24),  # standard deviation, of the full range
    "shot_noise": (800, 200, 70, 28, 10),  # photons that make white
    "impulse_noise": (0.01, 0.03, 0.06, 0.12, 0.20),  # share of pixels that turn black or white
    "gaussian_blur": (0.012, 0.020, 0.030, 0.045, 0.065),  # sigma, of the side
    "motion_blur": (0.05, 0.09, 0.14, 0.21, 0.30),  # length, of the side, in a direction of each picture's own
    "jpeg": (60, 30, 18, 10, 5),  # quality of Pillow's encoder
    "low_resolution": (0.75, 0.54, 0.38, 0.27, 0.19),  # pixels left along a side, of the side: a face from afar
    "brightness_up": (0.08, 0.18, 0.29, 0.41, 0.54),  # added, of the full range: overexposed
    "brightness_down": (0.75, 0.55, 0.40, 0.27, 0.15),  # factor: a dark room
    "contrast": (0.70, 0.50, 0.35, 0.22, 0.12),  # factor about the picture's mean
    "eyes_covered": (0.2, 0.4, 0.6, 0.8, 1.0),  # height, of the box EYES; it takes the picture's mean grey
    "mouth_covered": (0.2, 0.4, 0.6, 0.8, 1.0),  # height, of the box MOUTH; as above
    "random_block": (0.15, 0.24, 0.33, 0.43, 0.54),  # side of a square anywhere inside; as above
    "rotation": (6, 12, 18, 25, 35),  # degrees, left or right; outside, the picture goes on mirrored
    "shift": (0.03, 0.07, 0.12, 0.18, 0.26),  # of the side, in a direction of each picture's own; as above
}
# Top, bottom, left and right, of the side: eyes with brows, and lips, of the mean face of FER2013's 28,709 training
# faces, where the eyes are darkest in row 17 and the mouth in row 38 of 48.
EYES = (0.23, 0.47, 0.15, 0.85)
MOUTH = (0.67, 0.93, 0.25, 0.75)
CHUNK = 1024  # images at once


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0, rows: Tensor | None = None) -> Tensor:
    """uint8 (N, H, H) -> uint8 (N, H, H), corrupted, on the CPU; square pictures of any size.

    All randomness is a hash of (seed, name, severity, row, pixel): what a picture gets depends on nothing but its
    own row, int64 (N,), by default its place 0..N-1. Raises ValueError for an unknown name or severity, or a shape.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; choose from {list(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"unknown severity {severity!r}; choose from {list(SEVERITIES)}")
    if images.dtype != torch.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be uint8 (N, H, H), got {images.dtype} {tuple(images.shape)}")
    rows = torch.arange(len(images)) if rows is None else rows.cpu()
    if len(rows) != len(images):
        raise ValueError(f"{len(rows)} rows for {len(images)} images")
    step = SEVERITIES.index(severity)
    key = hashlib.sha256(f"{seed}/{name}/{SEVERITIES[step]}".encode()).digest()
    key = int.from_bytes(key[:8], "little", signed=True)
    parts = []
    for part, numbers in zip(images.cpu().split(CHUNK), rows.split(CHUNK), strict=True):
        # Double precision: sums of greys are exact, and rounding does not hang on how many pictures a kernel sees.
        x = _APPLY[name](part.double(), CORRUPTIONS[name][step], lambda n, r=numbers: _uniform(key, r, n))
        parts.append(x.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014) of int64, taken as unsigned: a hash of 64 bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * (factor - (1 << 64))
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _uniform(key: int, rows: Tensor, n: int) -> Tensor:
    """float64 (N, n) strictly between 0 and 1: n numbers for each row, int64 (N,)."""
    row, column = _mix(_mix(rows.long()) + key), _mix(torch.arange(1, n + 1))
    return (((_mix(row[:, None] + column) >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52


def _gaussian_noise(x: Tensor, sigma: float, draw: Draw) -> Tensor:
    return x + 255 * sigma * math.sqrt(2) * torch.erfinv(2 * draw(x[0].numel()) - 1).view_as(x)


def _shot_noise(x: Tensor, photons: float, draw: Draw) -> Tensor:
    """Poisson counts by the inverse of the distribution function, of which each of the 256 greys has one."""
    counts, greys = torch.arange(photons + 8 * photons**0.5 + 8).double(), torch.arange(256.0).double()[:, None]
    at_most = torch.special.gammaincc(counts + 1, greys / 255 * photons) + greys  # (256, K), one rising sequence
    found = torch.searchsorted(at_most.flatten(), draw(x[0].numel()).view_as(x) + x)
    return (found - x * len(counts)).clamp(max=len(counts) - 1) * (255 / photons)


def _impulse_noise(x: Tensor, share: float, draw: Draw) -> Tensor:
    u = draw(x[0].numel()).view_as(x)
    return x.masked_fill(u < share / 2, 0).masked_fill(u > 1 - share / 2, 255)


def _filter(x: Tensor, kernels: Tensor) -> Tensor:
    """Each picture (N, H, W) convolved with its kernel (N or 1, k, k), k odd, by FFT; mirrored at the border."""
    x = F.pad(x, (kernels.shape[-1] // 2,) * 4, mode="reflect")
    size, first = x.shape[-2:], kernels.shape[-1] - 1
    return torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(kernels, s=size), s=size)[:, first:, first:]


def _gaussian_blur(x: Tensor, sigma: float, draw: Draw) -> Tensor:
    sigma *= x.shape[-1]
    reach = math.ceil(4 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1).double() ** 2) / (2 * sigma**2))
    line = line / line.sum()
    return _filter(x, (line[:, None] * line)[None])


def _motion_blur(x: Tensor, length: float, draw: Draw) -> Tensor:
    half, angle = length * x.shape[-1] / 2, math.pi * draw(1)[:, :, None]
    place = torch.arange(-math.ceil(half), math.ceil(half) + 1)
    along = place * torch.cos(angle) + place[:, None] * torch.sin(angle)  # (N, k, k)
    across = place[:, None] * torch.cos(angle) - place * torch.sin(angle)
    kernels = (half + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return _filter(x, kernels / kernels.sum((1, 2), keepdim=True))


def _jpeg(x: Tensor, quality: float, draw: Draw) -> Tensor:
    from PIL import Image

    decoded = []
    for image in x.to(torch.uint8).numpy():
        Image.fromarray(image).save(file := io.BytesIO(), "jpeg", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).double()


def _low_resolution(x: Tensor, share: float, draw: Draw) -> Tensor:
    for side in (max(1, round(share * x.shape[-1])), x.shape[-1]):
        x = F.interpolate(x[:, None], (side, side), mode="bilinear", antialias=True)[:, 0]
    return x


def _contrast(x: Tensor, factor: float, draw: Draw) -> Tensor:
    mean = x.mean((1, 2), keepdim=True)
    return mean + factor * (x - mean)


def _cover(x: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The pixels in boxes (N or 1,), in fractions of the side, take the picture's mean grey."""
    at, side = torch.arange(x.shape[-1]), x.shape[-1]
    down, along = ((at >= (low * side).round()[:, None]) & (at < (high * side).round()[:, None])
                   for low, high in ((top, bottom), (left, right)))  # fmt: skip
    return torch.where(down[:, :, None] & along[:, None], x.mean((1, 2), keepdim=True), x)


def _cover_part(x: Tensor, box: tuple[float, ...], height: float) -> Tensor:
    top, bottom, left, right = torch.tensor(box).double()[:, None]
    middle, half = (top + bottom) / 2, height * (bottom - top) / 2
    return _cover(x, middle - half, middle + half, left, right)


def _random_block(x: Tensor, side: float, draw: Draw) -> Tensor:
    top, left = draw(2).T * (1 - side)
    return _cover(x, top, top + side, left, left + side)


def _move(x: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    side, margin, none = x.shape[-1], x.shape[-1] // 2, torch.zeros(len(x), dtype=torch.float64)
    matrix = affine_matrix(angle, 1 + none, shift, none, none > 0)
    wide = F.pad(x[:, None], (margin,) * 4, mode="reflect")
    return warp(wide, matrix * (side / (side + 2 * margin)), side)[:, 0]


def _rotation(x: Tensor, degrees: float, draw: Draw) -> Tensor:
    return _move(x, degrees * (draw(1)[:, 0] - 0.5).sign(), x.new_zeros(len(x), 2))


def _shift(x: Tensor, distance: float, draw: Draw) -> Tensor:
    angle = 2 * math.pi * draw(1)[:, 0]
    return _move(x, x.new_zeros(len(x)), distance * torch.stack([angle.cos(), angle.sin()], 1))


_APPLY: dict[str, Callable[[Tensor, float, Draw], Tensor]] = {  # greys 0..255, float64 (N, H, H), in and out
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "jpeg": _jpeg,
    "low_resolution": _low_resolution,
    "brightness_up": lambda x, added, draw: x + 255 * added,
    "brightness_down": lambda x, factor, draw: x * factor,
    "contrast": _contrast,
    "eyes_covered": lambda x, height, draw: _cover_part(x, EYES, height),
    "mouth_covered": lambda x, height, draw: _cover_part(x, MOUTH, height),
    "random_block": _random_block,
    "rotation": _rotation,
    "shift": _shift,
}
