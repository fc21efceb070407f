"""Where a model looks: class-activation maps by the grad-cam package, on the face's own pixels.

Whether a map shows what decides is another question: faithfulness.py asks it.
"""

import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferkit.judge import Judge
from ferkit.models.residual_masking import ResidualMasking
from ferkit.predict import logits, prepare

METHODS = {  # our names -> grad-cam's classes; eigen_cam alone does not look at the class
    "grad_cam": "GradCAM",  # Selvaraju et al. 2017, arXiv 1610.02391
    "grad_cam_plus_plus": "GradCAMPlusPlus",  # Chattopadhay et al. 2018, arXiv 1710.11063
    "xgrad_cam": "XGradCAM",  # Fu et al. 2020, arXiv 2008.02312
    "score_cam": "ScoreCAM",  # Wang et al. 2020, arXiv 1910.01279; no gradients, a forward pass a channel
    "layer_cam": "LayerCAM",  # Jiang et al. 2021, IEEE TIP 30
    "eigen_cam": "EigenCAM",  # Muhammad & Yeasin 2020, arXiv 2008.00299; its sign is a singular vector's: arbitrary
    "hires_cam": "HiResCAM",  # Draelos & Carin 2020, arXiv 2011.08891
}


def cam_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | int | None = None,
    method: str = "grad_cam",
    batch_size: int = 64,
) -> Tensor:
    """Class-activation maps at the model's `cam_layer`, float32 (N, H, W), each scaled to [0, 1], on the CPU.

    images: uint8 (N, H, W). classes: what is asked for, int64 (N,) or one for all: the labels, any other, by default
    the predicted ones. Since every map is scaled by itself, two maps' strengths cannot be compared. A map that is the
    same everywhere comes back as zeros, as does every map of a layer of 1x1, which has no places to tell apart. A cell
    is drawn where it stands in the map: behind padded 3x3 convolutions of stride 2 (ResNets) it saw what lies up to
    half a cell further up and left, and the map leans to the lower right.
    The model is left in evaluation mode, its parameters and their gradients as they were.
    Raises ValueError for an unknown method, or classes that do not fit the images or the model.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {list(METHODS)}")
    if not len(images):
        return torch.zeros(images.shape)
    if classes is None:
        classes = logits(model, images, batch_size=batch_size).argmax(1)
    classes = torch.as_tensor(classes).cpu()
    if classes.dtype.is_floating_point or classes.dtype == torch.bool:
        raise ValueError(f"classes must be whole numbers, got {classes.dtype}")
    classes = classes.expand(len(images)) if classes.ndim == 0 else classes
    n_classes = logits(model, images[:1]).shape[1]
    if classes.shape != images.shape[:1] or not ((classes >= 0) & (classes < n_classes)).all():
        raise ValueError(f"classes must be {len(images)} numbers from 0 to {n_classes - 1}, one an image")
    size = 1 if method == "score_cam" else batch_size  # which holds a masked copy of the image for every channel
    parts = []
    with _cam(model, method, batch_size) as cam:
        for batch, wanted in zip(images.split(size), classes.split(size), strict=True):
            maps = torch.from_numpy(cam(batch, wanted))[:, None]
            parts.append(F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0])
    return torch.cat(parts).clamp_(0, 1)


def judge_maps(judge: Judge, images: Tensor, classes: Tensor | int | None = None, method: str = "grad_cam") -> Tensor:
    """`cam_maps` of what a run folder judges by (judge.load_judge): of an ensemble the mean by its members' weights.

    An ensemble whose members judge the mirrored face too gets that face's map, mirrored back. By default the class is
    the one that the ensemble predicts, for all of its members.
    """
    if judge.combination is None:
        return cam_maps(judge.models[0], images, classes, method)
    if classes is None:
        classes = judge(images).argmax(1)
    total = torch.zeros(images.shape)
    for mirrored, shares in enumerate(judge.combination.weights.reshape(1 + judge.views, -1).tolist()):
        for share, model in zip(shares, judge.models, strict=True):
            if share:
                maps = cam_maps(model, images.flip(-1) if mirrored else images, classes, method)
                total += share * (maps.flip(-1) if mirrored else maps)
    return total


def mask_maps(model: ResidualMasking, images: Tensor, batch_size: int = 64) -> list[Tensor]:
    """What the four masks of a Residual Masking Network refine: the largest channel at each place, as maps (N, H, W).

    A mask is a softmax over channels, so that its largest says how decided it is there. Scaled as `cam_maps`.
    """
    stages, found = [getattr(model, f"stage{i}") for i in range(1, 5)], [[], [], [], []]
    hooks = [
        stage.mask.register_forward_hook(lambda _m, _i, out, parts=parts: parts.append(out.amax(1).float().cpu()))
        for stage, parts in zip(stages, found, strict=True)
    ]
    try:
        logits(model, images, batch_size=batch_size)
    finally:
        for hook in hooks:
            hook.remove()
    maps = (F.interpolate(torch.cat(parts)[:, None], images.shape[-2:], mode="bilinear")[:, 0] for parts in found)
    return [scaled(some) for some in maps]


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, H, W), each brought to [0, 1]; zeros for one that is the same everywhere."""
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-9)


@contextlib.contextmanager
def _cam(model: nn.Module, method: str, batch_size: int):
    """A function of images and classes, whose hooks on the model are gone afterwards.

    The package's own `with` is not used: it prints an IndexError and goes on. Its zero_grad would drop a caller's
    gradients, and with fixed parameters it has no gradients at all: the picture gets them, the parameters none.
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kept = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    layer, device = model.get_submodule(model.cam_layer), next(model.parameters()).device
    cam = getattr(pytorch_grad_cam, METHODS[method])(model.eval(), [layer], reshape_transform=_as_map(model))
    cam.batch_size = batch_size  # Score-CAM's, of masked copies

    def maps(batch: Tensor, wanted: Tensor) -> np.ndarray:
        x = prepare(batch.to(device), model.input_spec).requires_grad_(cam.uses_gradients)
        targets = [ClassifierOutputTarget(int(label)) for label in wanted]
        # Score-CAM draws a progress bar for every image.
        with torch.enable_grad(), contextlib.redirect_stderr(io.StringIO()):
            return cam(x, targets)

    try:
        for p, _, _ in kept:
            p.requires_grad_(False)
            p.grad = None
        yield maps
    finally:
        cam.activations_and_grads.release()
        for p, requires_grad, grad in kept:
            p.requires_grad_(requires_grad)
            p.grad = grad


def _as_map(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What turns a layer's output into (N, C, h, w): vision transformers have tokens, Swin its channels last."""
    n_channels, n_prefix = getattr(model, "cam_channels", None), getattr(model, "num_prefix_tokens", None)

    def as_map(features: Tensor) -> Tensor:
        if features.ndim == 3:  # (N, prefix + h*w, C) -> (N, h*w, C) -> (N, C, h, w)
            side = int((features.shape[1] - (n_prefix or 0)) ** 0.5)
            features = features[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        elif features.shape[1] != n_channels == features.shape[3]:
            features = features.permute(0, 3, 1, 2)  # (N, h, w, C) -> (N, C, h, w)
        # A copy, in the order that Score-CAM views: the network may go on in place, or in channels last.
        return features.clone(memory_format=torch.contiguous_format)

    return as_map
