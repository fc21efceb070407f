"""Logits of a model on faces, evaluated the same way every time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.models import InputSpec

DEVICES = ("auto", "cpu", "cuda", "mps")
VIEWS = ("none", "flip")  # test-time augmentation: views whose logits are averaged


def pick_device(name: str = "auto") -> torch.device:
    """The device of one of those names, ValueError if it is not there; auto takes CUDA, then MPS, then the CPU."""
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; choose from {list(DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, True):
        raise ValueError(f"no {name} device here; use --device auto")
    if name != "auto":
        return torch.device(name)
    return torch.device(next(device for device in ("cuda", "mps", "cpu") if available[device]))


def prepare(images: Tensor, spec: InputSpec) -> Tensor:
    """uint8 (N, H, W) -> what the model wants to see, float (N, channels, size, size); no randomness."""
    x = images[:, None].float() / 255
    if x.shape[-2:] != (spec.size, spec.size):
        x = F.interpolate(x, (spec.size, spec.size), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)
    return spec(x)


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, *, tta: str = "none", batch_size: int = 512) -> Tensor:
    """Logits float32 (N, n_classes), on the CPU, of uint8 (N, H, W) faces of any size, in evaluation mode.

    Computed in the precision of the model's parameters, which is float32 unless a caller changed it.

    tta "flip" averages the logits of a face and of its mirror image. The model's training mode is restored.
    Raises ValueError for an unknown tta.
    """
    if tta not in VIEWS:
        raise ValueError(f"unknown test-time augmentation {tta!r}; choose from {list(VIEWS)}")
    first, training = next(model.parameters()), model.training
    model.eval()
    parts = []
    for batch in images.split(batch_size):
        x = prepare(batch.to(first.device), model.input_spec).to(first.dtype)
        out = model(x) if tta == "none" else (model(x) + model(x.flip(-1))) / 2
        parts.append(out.float().cpu())
    model.train(training)
    return torch.cat(parts)
