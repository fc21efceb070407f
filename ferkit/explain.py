"""Where a model looks: class-activation maps by the grad-cam package, on the face's own pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.judge import Judge
from ferkit.predict import logits, prepare


def cam_maps(model: nn.Module, images: Tensor, classes: Tensor | None = None, batch_size: int = 64) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) at the model's `cam_layer`.

    images uint8 (N, H, W), classes int64 (N,), by default the predicted ones -> float (N, H, W), each scaled to [0, 1],
    so that two maps' strengths cannot be compared. The model is left in evaluation mode.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if classes is None:
        classes = logits(model, images, batch_size=batch_size).argmax(1)
    device, parts = next(model.parameters()).device, []
    layer = model.get_submodule(model.cam_layer)
    with GradCAM(model.eval(), [layer], reshape_transform=_as_map) as cam:
        for batch, wanted in zip(images.split(batch_size), classes.split(batch_size), strict=True):
            x = prepare(batch.to(device), model.input_spec)
            maps = cam(x, [ClassifierOutputTarget(int(label)) for label in wanted])
            parts.append(torch.from_numpy(maps)[:, None].float())
    return F.interpolate(torch.cat(parts), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def judge_maps(judge: Judge, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """`cam_maps` of what a run folder judges by (judge.load_judge): of an ensemble the mean by its members' weights."""
    if classes is None:
        classes = judge(images).argmax(1)
    shares = zip(judge.weights.tolist(), judge.models, strict=True)
    return sum(share * cam_maps(model, images, classes) for share, model in shares if share)


def _as_map(features: Tensor) -> Tensor:
    """A vision transformer's tokens (N, T, C) -> (N, C, h, w), what comes before the patches left out."""
    if features.ndim == 4:
        return features
    side = int(features.shape[1] ** 0.5)
    return features[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
