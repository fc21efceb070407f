"""Trained weights as safetensors, with the recipe and the label order inside: all that `ferkit predict` needs."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ferkit import DataError
from ferkit.atomic import write_whole
from ferkit.models import create_model
from ferkit.models.pretrained import load_exactly, read_weights
from ferkit.recipe import Recipe

BEST = "best.safetensors"  # the selected weights in a run folder
SHIPPED = Path(__file__).parent / "assets" / "compact.safetensors"  # in the package; shipping.ship writes it


def shipped() -> Path:
    """The weights that come with the package; DataError where this copy of it has none."""
    if not SHIPPED.exists():
        raise DataError(f"{SHIPPED.name} is not in this copy of ferkit; name a trained run: --model RUN")
    return SHIPPED


def save_weights(model: nn.Module, path: Path, recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Every tensor of the model, its recipe and its class names."""
    write_weights(path, model.state_dict(), {"recipe": json.dumps(asdict(recipe)), "classes": json.dumps(classes)})


def write_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Named tensors as a safetensors file, whole or not at all."""
    write_whole(path, save({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, metadata))


def load_weights(path: str | Path) -> tuple[nn.Module, Recipe, tuple[str, ...]]:
    """The model in evaluation mode, its recipe and its class names from `save_weights`.

    Raises DataError for a file that is missing, truncated, from elsewhere, or does not fit what it says that it is.
    """
    weights, metadata = read_weights(path)
    if "recipe" not in metadata:
        raise DataError(f"{path}: not weights that ferkit saved; it has no recipe inside")
    try:
        recipe, classes = Recipe(**json.loads(metadata["recipe"])), tuple(json.loads(metadata["classes"]))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: its recipe is not one of this version of ferkit ({error})") from error
    model = create_model(recipe.model, len(classes), **recipe.options)
    load_exactly(model.state_dict(), weights, str(path))
    return model.to(memory_format=torch.channels_last).eval(), recipe, classes
