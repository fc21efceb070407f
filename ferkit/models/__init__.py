"""The model registry: every architecture under one name, with its input as data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


@dataclass(frozen=True)
class InputSpec:
    """What a model wants to see: `size` pixels square, `channels`, and (x - mean) / std of a picture in [0, 1]."""

    size: int = 48
    channels: int = 1
    mean: float = 0.508  # of FER2013's Training split
    std: float = 0.255

    def __call__(self, x: Tensor) -> Tensor:
        """float (N, 1, H, W) in [0, 1] -> (N, channels, H, W), scaled, channels last."""
        x = ((x - self.mean) / self.std).expand(-1, self.channels, -1, -1)
        return x.contiguous(memory_format=torch.channels_last)


def register(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Decorator: add a builder `(num_classes, **options) -> module with an `input_spec`` under its own name."""
    if builder.__name__ in _BUILDERS:
        raise ValueError(f"model {builder.__name__!r} is registered twice")
    _BUILDERS[builder.__name__] = builder
    return builder


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(_BUILDERS)


def create_model(name: str, num_classes: int = 7, **options) -> nn.Module:
    """A freshly initialised model; raises ValueError listing the choices for an unknown name."""
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; choose from {list_models()}")
    return _BUILDERS[name](num_classes=num_classes, **options)


from ferkit.models import compact as _compact  # noqa: E402, F401  (registers itself)
