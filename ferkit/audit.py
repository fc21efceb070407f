"""What the data set hides: copies of test images. What a model hides: whether it judges one image at a time."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.faces import Faces
from ferkit.labels import USAGES, rule_sizes
from ferkit.predict import logits
from ferkit.synthetic import embedded_faces

# Correlation of two pictures above which they count as copies. Chosen by looking at FER2013's pairs: of 40 in
# [0.93, 0.95) one is not a copy, of 40 in [0.90, 0.93) about one in five; a false alarm only costs one test image.
COPY = 0.90


def nearest(images: Tensor, pool: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """The most similar picture of a pool for each image, mirror images included.

    images uint8 (N, H, W), pool uint8 (M, H, W) -> similarity float (N,) in [-1, 1] and index int64 (N,). Similarity
    is the normalised cross-correlation of 2x2-averaged pixels: blind to brightness, contrast and small marks, not to
    shifts of more than a pixel or two. A picture of one grey has no correlation (0) with anything.
    """
    queries = _descriptors(images)
    best = queries.new_full((len(images),), -1.0)
    index = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for start in range(0, len(pool), chunk):
        block = pool[start : start + chunk]
        for candidates in (_descriptors(block), _descriptors(block.flip(-1))):
            value, at = (queries @ candidates.T).max(1)
            better = value > best
            best[better], index[better] = value[better], at[better] + start
    return best, index


def _descriptors(images: Tensor) -> Tensor:
    x = F.avg_pool2d(images[:, None].float(), 2).flatten(1)
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-6)


def clean_mask(faces: Faces, training: Faces) -> Tensor:
    """bool (N,): True where a face has no exact or near copy among the training faces."""
    images, pool = faces.images, training.images
    if not len(images) or not len(pool):
        return torch.ones(len(images), dtype=torch.bool)
    mine = [image.tobytes() for image in images.numpy()]
    both = set(mine).intersection(image.tobytes() for image in pool.numpy())  # one grey correlates with nothing
    return (nearest(images, pool)[0] < COPY) & torch.tensor([pixels not in both for pixels in mine])


def describe(faces: Faces) -> str:
    """Counts per split and class, fingerprint, copies across splits and FER+ sizes, as lines of text."""
    widths = [max(len(name), 6) for name in faces.classes]
    counts = faces.counts().tolist()
    official = "the official FER2013's" if faces.is_official else "not the official FER2013's"
    lines = [f"{faces.name}: {len(faces):,} faces of {faces.images.shape[2]}x{faces.images.shape[1]} pixels"]
    lines += [f"fingerprint {faces.fingerprint}; class counts are {official}"]
    lines += [" " * 12 + " ".join(f"{name:>{w}}" for name, w in zip(faces.classes, widths, strict=True)) + "    all"]
    for usage, row in zip(USAGES, counts, strict=True):
        cells = " ".join(f"{count:>{w}}" for count, w in zip(row, widths, strict=True))
        lines.append(f"{usage:<12}{cells} {len(faces.split(usage)):>6}")
    for usage in USAGES[1:]:
        for source in USAGES[: USAGES.index(usage)]:
            similarity = nearest(faces.split(usage).images, faces.split(source).images)[0]
            exact = len(_pixels(faces, usage) & _pixels(faces, source))
            lines.append(
                f"{usage}: {int((similarity >= COPY).sum())} of {len(similarity)} have a copy in {source} "
                f"(correlation >= {COPY}); {exact} different pictures occur in both to the bit"
            )
    if faces.votes is None:
        return "\n".join([*lines, "no FER+ votes (fer2013new.csv beside the data adds them)"])
    for rule, sizes in rule_sizes(faces.votes.numpy(), faces.usage.numpy()).items():
        kept = ", ".join(f"{usage} {size:,}" for usage, size in zip(USAGES, sizes, strict=True))
        lines.append(f"FER+ {rule}: {kept}")
    return "\n".join(lines)


BATCH_SIZES = (2, 8, 32)  # of the certificate
INDEPENDENT = 1e-4  # float32 rounding stays below for a trained network, a leak is thousands of times larger


def batch_independence(model: nn.Module, images: Tensor | None = None) -> float:
    """The largest difference that an image's company makes to one of its logits, as a share of the largest logit.

    images uint8 (N, H, W), at least 32, by default drawn faces. In evaluation mode, each is judged alone, then in
    batches of 2, 8 and 32, shuffled and sorted by the class that it is given. Below INDEPENDENT, a model judges one
    image at a time. What exceeds it is computed again in float64, because a deep network that is not trained can blow
    rounding up to the size of a leak. Raises ValueError for too few images or logits that are not finite.
    """
    if images is None:
        images = embedded_faces(32, seed=0).images
    if len(images) < max(BATCH_SIZES):
        raise ValueError(f"batch independence needs at least {max(BATCH_SIZES)} images, got {len(images)}")
    largest = _company(model, images)
    if largest < INDEPENDENT:
        return largest
    device = next(model.parameters()).device
    exact = copy.deepcopy(model).to("cpu" if device.type == "mps" else device, torch.float64)  # MPS has no float64
    return _company(exact, images)


def _company(model: nn.Module, images: Tensor) -> float:
    alone = logits(model, images, batch_size=1)
    if not alone.isfinite().all():
        raise ValueError("the model's logits are not finite")
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    largest = max(
        (logits(model, images[order], batch_size=size) - alone[order]).abs().max()
        for order in (shuffled, alone.argmax(1).argsort(stable=True))
        for size in BATCH_SIZES
    )
    return float(largest / alone.abs().max().clamp_min(1e-30))


def _pixels(faces: Faces, usage: str) -> set[bytes]:
    return {image.tobytes() for image in faces.split(usage).images.numpy()}
