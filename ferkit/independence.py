"""Whether a model judges one image at a time: the certificate of batch independence in every record."""

import copy

import torch
from torch import Tensor, nn

from ferkit.predict import logits
from ferkit.synthetic import embedded_faces

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


def dependence(record: dict) -> str:
    """What a record says against its model: that it looks at its batch, or that nobody checked; "" for nothing."""
    value = record.get("batch_independence")
    if value is None:
        return "has no certificate of batch independence"
    return "" if value < INDEPENDENT else f"moves by {value:.1%} with its batch"


def _company(model: nn.Module, images: Tensor) -> float:
    alone = logits(model, images, batch_size=1)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    orders = (shuffled, alone.argmax(1).argsort(stable=True))
    differences = [
        (logits(model, images[order], batch_size=size) - alone[order]).abs().max()
        for order in orders for size in BATCH_SIZES
    ]  # fmt: skip
    largest = torch.stack(differences).max()  # NaN where one is
    if not largest.isfinite():
        raise ValueError("the model's logits are not finite")
    return float(largest / alone.abs().max().clamp_min(1e-30))
