"""Whether a map shows what decides: numbers for an image each, so that methods compare on the same faces.

Maps are float (N, H, W) in [0, 1] on the faces' own grid, as explain.py gives them. Where a map's pixels are put in
an order, ties, of which Grad-CAM's zeros have many, are broken by one seeded shuffle: not from top to bottom.
A method has to beat `random_maps` and `centre_maps`, which know nothing of the network.
"""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from ferkit.explain import cam_maps, scaled
from ferkit.metrics import softmax
from ferkit.models.outline import blocks
from ferkit.predict import prepare

FILLS = ("blur", "grey")  # what stands where a pixel is deleted: the blurred face, or the face's mean grey
ROAD_PERCENTILES = (20, 50, 80)
BASELINES = ("random map", "centre blob")


def random_maps(n: int, side: int = 48, cells: int = 6, seed: int = 0) -> Tensor:
    """Noise, float (n, side, side) scaled to [0, 1], as coarse as the map of a layer of `cells` squared."""
    noise = torch.rand(n, 1, cells, cells, generator=torch.Generator().manual_seed(seed))
    return scaled(F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)[:, 0])


def centre_maps(n: int, side: int = 48, sigma: float = 0.25) -> Tensor:
    """The same blob n times, a Gaussian in the middle; sigma is a share of the side. (n, side, side) in (0, 1]."""
    across = (torch.arange(side) - (side - 1) / 2) / side
    blob = torch.exp(-(across[:, None] ** 2 + across**2) / (2 * sigma**2))
    return (blob / blob.max()).expand(n, -1, -1)


def baseline_maps(n: int, side: int = 48, seed: int = 0) -> dict[str, Tensor]:
    """What a method has to beat, by name."""
    return dict(zip(BASELINES, (random_maps(n, side, seed=seed), centre_maps(n, side)), strict=True))


def perturbation_curve(
    judge: Callable[[Tensor], Tensor], images: Tensor, maps: Tensor, classes: Tensor, *, insert: bool = False,
    fill: str = "blur", steps: int = 12,
) -> np.ndarray:  # fmt: skip
    """Deletion, or insertion, of Petsiuk et al. 2018 (RISE, arXiv 1806.07421): probabilities (N, steps + 1).

    judge: faces uint8 (N, H, W) -> logits (N, C), a judge.Judge or predict.logits of a model. Column k is the
    probability of the face's class, int64 (N,), after the share k / steps of its pixels, those of the highest map
    first, were replaced by the fill; with `insert`, after they were put back on the fill alone. A map that shows what
    decides falls early, and rises early. The blurred face is the default: its edges are softer than grey holes', which
    are a picture of their own to the network. Raises ValueError for an unknown fill or maps of another shape.
    """
    _check(images, maps)
    base, place = filled(images, fill).flatten(1), _places(maps) / maps[0].numel()  # 0: the highest
    pixels, columns = images.flatten(1), []
    for k in range(steps + 1):
        first = place < k / steps
        seen = torch.where(first if insert else ~first, pixels, base).view_as(images)
        columns.append(softmax(judge(seen).numpy())[np.arange(len(images)), classes.numpy()])
    return np.stack(columns, 1)


def filled(images: Tensor, fill: str = "blur") -> Tensor:
    """Faces without what they show, uint8 (N, H, W): blurred by a Gaussian of an eighth of the side, or mean grey."""
    if fill not in FILLS:
        raise ValueError(f"unknown fill {fill!r}; choose from {list(FILLS)}")
    if fill == "grey":
        return images.float().mean((1, 2), keepdim=True).round().to(torch.uint8).expand_as(images)
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = images.shape[-1] / 8
    width = min(2 * int(2 * sigma) + 1, 2 * (min(images.shape[-2:]) // 2) - 1)  # the padding mirrors less than a side
    return gaussian_blur(images[:, None].float(), width, sigma)[:, 0].round().to(torch.uint8)


def area(curves: np.ndarray) -> np.ndarray:
    """The area below each curve (N, K) over shares from 0 to 1: (N,), by trapezia."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2


def road(model: nn.Module, images: Tensor, maps: Tensor, classes: Tensor) -> np.ndarray:
    """ROAD, combined (Rong et al. 2022, arXiv 2202.00449), by the grad-cam package: (N,), higher is better.

    Half the probability of the class that is left when the least relevant pixels are replaced, less what is left when
    the most relevant are; the mean over percentiles. Replaced pixels are interpolated from their neighbours, at the
    model's input size; of a map only the order of its pixels counts.
    """
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    _check(images, maps)
    x = prepare(images.to(next(model.parameters()).device), model.input_spec).contiguous()
    wide = F.interpolate(maps[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    # Ties would make the package remove other shares than it says: all of the picture, where most of a map is zero.
    order = 1 - _places(wide).view_as(wide) / wide[0].numel()
    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package hands tensors to NumPy's functions
        torch.manual_seed(0)  # the interpolation adds a little noise
        return np.asarray(ROADCombined(list(ROAD_PERCENTILES))(x, order.numpy(), targets, model.eval()))


def rank_correlation(maps: Tensor, others: Tensor) -> np.ndarray:
    """Spearman's correlation of two maps of each image, (N,) in [-1, 1]; 0 where one is the same everywhere."""
    _check(maps, others)
    return _correlation(_ranks(maps), _ranks(others))


def agreement(maps: list[Tensor]) -> np.ndarray:
    """`rank_correlation` of every pair of M maps of the same images: (M, M, N)."""
    ranks = [_ranks(some) for some in maps]
    return np.stack([[_correlation(a, b) for b in ranks] for a in ranks])


def randomised(
    model: nn.Module, images: Tensor, classes: Tensor, method: str = "grad_cam", seed: int = 0
) -> dict[str, np.ndarray]:
    """The sanity check of Adebayo et al. 2018 (arXiv 1810.03292): do maps change when weights become random?

    Block by block from the head, {block: rank correlation (N,) of the maps before and after it and all above it were
    made random}. A map that stays does not show what the network learned. Weights are shuffled within each tensor,
    where the paper draws new ones: their sizes stay, so that no map dies for want of activations.
    """
    before, other = _ranks(cam_maps(model, images, classes, method)), copy.deepcopy(model)
    generator, result = torch.Generator().manual_seed(seed), {}
    for name in reversed(blocks(model)):
        for parameter in other.get_submodule(name).parameters():
            flat = parameter.data.flatten()
            parameter.data = flat[torch.randperm(len(flat), generator=generator).to(flat.device)].view(parameter.shape)
        result[name] = _correlation(before, _ranks(cam_maps(other, images, classes, method)))
    return result


def pointing_game(maps: Tensor, regions: Tensor) -> np.ndarray:
    """Whether a map's highest pixel lies in the region, bool (N, H, W) -> (N,) in [0, 1] (Zhang et al. 2018, arXiv
    1608.00507, here without their margin); where several pixels are the highest, the share of them that do."""
    _check(maps, regions)
    highest = maps == maps.amax((1, 2), keepdim=True)
    return ((highest & regions).sum((1, 2)) / highest.sum((1, 2))).double().numpy()


def energy_inside(maps: Tensor, regions: Tensor) -> np.ndarray:
    """The share of a map's sum that lies in the region, bool (N, H, W) -> (N,) in [0, 1] (Wang et al. 2020, arXiv
    1910.01279); of a map of zeros the region's share of the picture."""
    _check(maps, regions)
    maps = torch.where(maps.sum((1, 2), keepdim=True) > 0, maps, torch.ones(())).double()
    return ((maps * regions).sum((1, 2)) / maps.sum((1, 2))).numpy()


def _check(some: Tensor, others: Tensor) -> None:
    if some.shape != others.shape or some.ndim != 3:
        raise ValueError(f"wanted two of one shape (N, H, W), got {tuple(some.shape)} and {tuple(others.shape)}")


def _places(maps: Tensor, seed: int = 0) -> Tensor:
    """The place of each pixel when the highest come first, 0 .. H*W-1, (N, H*W)."""
    flat = maps.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    return torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1]).expand_as(order))


def _ranks(maps: Tensor) -> np.ndarray:
    """Ranks (N, H*W), ties sharing theirs, centred and of length 1; zeros for a map that is the same everywhere."""
    ranks = rankdata(maps.flatten(1).numpy(), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-12)


def _correlation(ranks: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (ranks * others).sum(1)
