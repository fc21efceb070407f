"""The model registry: every architecture under one name, with its input as data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


@dataclass(frozen=True)
class InputSpec:
    """What a model wants to see: `size` pixels square, `channels`, and (x - mean) / std of a picture in [0, 1].

    mean and std are numbers, or one a channel. Sides under `smallest` or no multiple of `multiple` are refused.
    """

    size: int = 48
    channels: int = 1
    mean: float | tuple[float, ...] = 0.508  # of FER2013's Training split
    std: float | tuple[float, ...] = 0.255
    smallest: int = 8
    multiple: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """float (N, 1, H, W) in [0, 1] -> (N, channels, H, W), scaled, channels last; ValueError for a wrong side."""
        for side in x.shape[-2:]:
            if side < self.smallest or side % self.multiple:
                rule = f"at least {self.smallest}" + (
                    f" and a multiple of {self.multiple}" if self.multiple > 1 else ""
                )
                raise ValueError(f"an image side of {side} pixels does not fit this model; it must be {rule}")
        if isinstance(self.mean, tuple):
            x = torch.cat([(x - mean) / std for mean, std in zip(self.mean, self.std, strict=True)], 1)
        else:
            x = (x - self.mean).div_(self.std).expand(-1, self.channels, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)

    def with_channels(self, channels: int) -> "InputSpec":
        """The same for 1 or 3 channels; a mean and std a channel become one of each for grey."""
        if channels not in (1, 3):
            raise ValueError(f"in_chans must be 1 (grey) or 3 (grey repeated), got {channels}")
        if channels == 1 and isinstance(self.mean, tuple):
            return replace(self, channels=1, mean=fmean(self.mean), std=fmean(self.std))
        return replace(self, channels=channels)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Network(nn.Module):
    """A network of ours: it has `forward_features` and `forward_head`, and computes the one, then the other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def register(name: str) -> Callable:
    """Decorator: add a class or builder `(num_classes, **options) -> module with an `input_spec`` under a name.

    Raises ValueError for a name that is taken.
    """
    if name in _BUILDERS:
        raise ValueError(f"model {name!r} is registered twice")
    return lambda builder: _BUILDERS.setdefault(name, builder)


def list_models() -> list[str]:
    """The names that `create_model` takes; `timm:<any name of timm>` works beyond the ones listed."""
    return sorted(_BUILDERS) + [f"timm:{name}" for name in TIMM_MODELS]


def create_model(
    name: str,
    num_classes: int = 7,
    *,
    in_chans: int | None = None,
    size: int | None = None,
    pretrained: bool | str | Path = False,
    new_head: bool = False,
    **options,
) -> nn.Module:
    """A model of that name, with `input_spec`, `cam_layer`, `forward_features` and `forward_head`.

    in_chans: 1 or 3, by default the architecture's own. size: the side in pixels that it is judged at, by default the
    paper's. pretrained: start the trunk from the published ImageNet weights, downloaded, or from a file of them; or
    the whole network from weights that ferkit saved, with `new_head` all of it but the head. options: the builder's
    own, `width` among them.
    Raises ValueError listing the choices for an unknown name, and DataError when weights are missing or do not fit.
    """
    if in_chans is not None:
        options["in_chans"] = in_chans
    whole = pretrained not in (True, False) and bool(saved_recipe(pretrained))  # not only a trunk
    if name.startswith("timm:"):
        start = False if whole else pretrained
        model = timm_model(name.removeprefix("timm:"), num_classes, size=size, pretrained=start, **options)
    elif name in _BUILDERS:
        try:
            model = _BUILDERS[name](num_classes=num_classes, **options)
        except (TypeError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"{name} does not take these options: {error}") from error
    else:
        raise ValueError(f"unknown model {name!r}; choose from {list_models()}, or timm:<name> for any other of timm")
    if not all(parameter.numel() for parameter in model.parameters()):
        raise ValueError(f"{name} does not take these options: {options} leave layers without a channel")
    if size is not None:
        if type(size) is not int or size < 1:
            raise ValueError(f"size must be pixels, a whole number above 0; got {size}")
        model.input_spec = replace(model.input_spec, size=size)
        model.input_spec(torch.empty(1, 1, size, size, device="meta"))  # refuses a size that does not fit
    if whole:
        load_saved(model, name, pretrained, new_head)
    elif pretrained and not name.startswith("timm:"):
        load_trunk(model, name, pretrained)
    return model


# Each module registers its builders.
from ferkit.models import compact, emonext, patt_lite, resemotenet, residual_masking, resnet, vgg  # noqa: E402, F401
from ferkit.models.pretrained import load_saved, load_trunk, saved_recipe  # noqa: E402
from ferkit.models.timm_bridge import TIMM_MODELS, timm_model  # noqa: E402
