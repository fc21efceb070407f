"""Copies: pictures that were made from the same photograph, to the bit or nearly so, in any split.

Two steps. A coarse one finds for every picture the few that could be a copy: 8x8 pixels, correlated with all others and
their mirror images. A fine one compares the details of each such pair, which two faces that only look alike do not
share: the correlation of band-passed pictures, the best over shifts of up to two pixels. Brightness and contrast do not
matter. Copies that are turned, stretched or shifted further can be missed.

Time is quadratic in the number of pictures in the coarse step, with a small constant (128 multiply-adds a pair), and
linear in the rest, exact copies included; memory is linear. Measured: results/benchmarks/copies.json.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Likeness from which two pictures are copies: where FER2013's pairs, looked at in notebook 02, turn from false friends
# into copies, and where its histogram is thinnest.
COPY = 0.70
SHIFT = 2  # pixels along each axis
CANDIDATES = 16  # of each picture, for the fine step
FINE, COARSE = 0.7, 2.0  # sigmas between which a picture's details lie, in pixels of 48
FREQUENCIES = 12  # of the details' spectrum that are kept along each axis: the band leaves little beyond
EDGE = 4  # pixels over which a picture fades out, so that its edges are no details
CHUNK = 1024  # pictures, or pairs, at once
TABLE = 1 << 25  # correlations at once: 128 MB
GRID = 48  # pixels along a side of the details


@dataclass(frozen=True)
class Pairs:
    """Copies, each pair once: rows a < b, int64 (P,); likeness float (P,), 1 to the bit; mirrored bool (P,)."""

    a: Tensor
    b: Tensor
    likeness: Tensor
    mirrored: Tensor

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, index) -> "Pairs":
        return Pairs(self.a[index], self.b[index], self.likeness[index], self.mirrored[index])


def find_pairs(images: Tensor, least: float = COPY) -> Pairs:
    """Pairs of uint8 (N, H, W) pictures of at least that likeness in [-1, 1], the least like first.

    A picture that is equal to several is paired with the first of them only. One grey is like nothing but itself.
    Raises ValueError for a likeness below 0: every picture has its candidates.
    """
    if least < 0:
        raise ValueError(f"least must be at least 0, got {least}")
    exact = exact_pairs(images)
    a, b = _candidates(images)
    details = _details(images)
    plain, turned = (_likeness(details, a, b, mirrored) for mirrored in (False, True))
    likeness, mirrored = torch.maximum(plain, turned).clamp_(max=1), turned > plain
    first = torch.arange(len(images))
    first[exact[:, 1]] = exact[:, 0]
    kept = (likeness >= least) & (first[a] != first[b])
    same = torch.ones(len(exact))
    found = Pairs(
        torch.cat([a[kept], exact[:, 0]]), torch.cat([b[kept], exact[:, 1]]),
        torch.cat([likeness[kept], same]), torch.cat([mirrored[kept], same < 0]),
    )  # fmt: skip
    return found[found.likeness.argsort(stable=True)]


def exact_pairs(images: Tensor) -> Tensor:
    """int64 (P, 2): the first picture of some pixels and each later one that equals it; linear in N."""
    first: dict[bytes, int] = {}
    found = ((first.setdefault(image.tobytes(), row), row) for row, image in enumerate(images.numpy()))
    return torch.tensor([pair for pair in found if pair[0] != pair[1]], dtype=torch.int64).view(-1, 2)


def _candidates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows a < b (P,): of each picture those that are most alike at 8x8 pixels, or their mirror images; pairs once."""
    n, size = len(images), min(CANDIDATES, len(images) - 1)
    upright, codes = _coarse(images), [torch.empty(0, dtype=torch.int64)]
    mirror = upright.view(n, 8, 8).flip(-1).flatten(1)
    chunk = max(64, min(CHUNK, TABLE // max(n, 1)))
    for start in range(0, n if size > 0 else 0, chunk):
        part = upright[start : start + chunk]
        alike, row = torch.maximum(part @ upright.T, part @ mirror.T), torch.arange(start, start + len(part))
        alike[row - start, row] = -2.0  # not itself
        near = _largest(alike, size)
        codes.append((torch.minimum(near, row[:, None]) * n + torch.maximum(near, row[:, None])).flatten())
    pairs = torch.cat(codes).unique()
    return pairs // n, pairs % n


def _largest(values: Tensor, k: int, stride: int = 32) -> Tensor:
    """topk's columns, int64 (M, k) of (M, N), and faster: only the k best of N / 32 teams are looked into."""
    n_teams = values.shape[1] // stride
    if n_teams <= k:
        return values.topk(k, 1, sorted=False).indices
    teams = values[:, : n_teams * stride].unflatten(1, (stride, n_teams)).amax(1)  # a team is every n_teams-th column
    best = teams.topk(k, 1, sorted=False).indices
    inside = best[:, :, None] + torch.arange(stride) * n_teams
    rest = torch.arange(n_teams * stride, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([inside.flatten(1), rest], 1)
    return columns.gather(1, values.gather(1, columns).topk(k, 1, sorted=False).indices)


def _coarse(images: Tensor) -> Tensor:
    """(N, 64): pictures of 8x8 pixels without their mean, of length one."""
    parts = [F.adaptive_avg_pool2d(some[:, None].float(), 8).flatten(1) for some in images.split(CHUNK)]
    x = torch.cat(parts)
    x -= x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-6)


_ROWS = torch.cat([torch.arange(FREQUENCIES + 1), torch.arange(-FREQUENCIES, 0)])  # cycles a picture, downwards
_COLUMNS = torch.arange(FREQUENCIES + 1)  # and across: a real picture's other half is the same


def _details(images: Tensor) -> Tensor:
    """complex64 (N, 25, 13): low frequencies of each band-passed picture, of length one in pixels."""
    ramp = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(EDGE) + 0.5) / EDGE)
    fade = torch.cat([ramp, torch.ones(GRID - 2 * EDGE), ramp.flip(0)])
    fine, coarse, parts = _blur(FINE), _blur(COARSE), []
    for some in images.split(CHUNK):
        x = some[:, None].float()
        if x.shape[-2:] != (GRID, GRID):
            x = F.interpolate(x, (GRID, GRID), mode="bilinear", antialias=True, align_corners=False)
        x = (fine @ x[:, 0] @ fine.T - coarse @ x[:, 0] @ coarse.T) * fade[:, None] * fade
        spectrum = torch.fft.rfft2(x - x.mean((1, 2), keepdim=True))[:, _ROWS][:, :, : FREQUENCIES + 1]
        length = (spectrum.abs().square() * _twice()).sum((1, 2)).sqrt()
        parts.append(spectrum / length[:, None, None].clamp_min(1.0))  # one grey stays near nothing
    return torch.cat(parts)


def _blur(sigma: float) -> Tensor:
    """(48, 48): the matrix that blurs a column of pixels by a Gaussian, mirrored at the ends."""
    reach = int(3 * sigma + 0.5)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    padded = F.pad(torch.eye(GRID)[:, None], (reach, reach), mode="reflect")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T


def _twice() -> Tensor:
    """How often a column of the half spectrum counts (13,)."""
    return torch.where(_COLUMNS > 0, 2.0, 1.0)


def _likeness(details: Tensor, a: Tensor, b: Tensor, mirrored: bool) -> Tensor:
    """Correlation of the details of pairs (P,), the best over shifts, by their cross-spectra; b may be mirrored."""
    shifts = torch.arange(-SHIFT, SHIFT + 1) * 2 * torch.pi / GRID
    angle = shifts[:, None, None, None] * _ROWS[:, None] + shifts[:, None, None] * _COLUMNS  # (5, 5, 25, 13)
    back = (torch.polar(torch.ones_like(angle), -angle) * _twice()).flatten(2).flatten(0, 1)  # (25, 325)
    back = torch.view_as_real(back).flatten(1).T  # (650, 25): the real part of a complex product, as a real one
    if mirrored:
        # About the middle of 0..47: frequencies across are negated (conjugate, downwards too), and one pixel on.
        negated = torch.arange(len(_ROWS)).neg() % len(_ROWS)
        turn = torch.polar(torch.ones(FREQUENCIES + 1), _COLUMNS * 2 * torch.pi / GRID)
    parts = [torch.empty(0)]
    for i, j in zip(a.split(CHUNK), b.split(CHUNK), strict=True):
        other = details[j][:, negated].conj() * turn if mirrored else details[j]
        parts.append((torch.view_as_real(details[i] * other.conj()).flatten(1) @ back).amax(1))
    return torch.cat(parts)


def groups(n: int, pairs: Pairs) -> Tensor:
    """int64 (n,): the group of each picture, by its first row; copies of copies belong together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = (np.ones(len(pairs), bool), (pairs.a.numpy(), pairs.b.numpy()))
    labels = torch.from_numpy(connected_components(coo_array(edges, (n, n)), directed=False)[1]).long()
    first = torch.full((n,), n).scatter_reduce(0, labels, torch.arange(n), "amin")
    return first[labels]


def unlikeness(images: Tensor) -> Tensor:
    """float (N,), 0 to 2: one minus the likeness of each picture's details with those of the mean picture."""
    details = _details(images)
    mean = details.mean(0)
    mean /= (mean.abs().square() * _twice()).sum().sqrt().clamp_min(1e-6)
    return 1 - (details * mean.conj() * _twice()).real.sum((1, 2))
