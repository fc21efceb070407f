"""Weights from files: ImageNet starts of our trunks by an explicit name map, and networks that ferkit saved."""

import json
import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ferkit import DataError
from ferkit.models.outline import blocks


@dataclass(frozen=True)
class Trunk:
    """How a library's network starts ours: names maps prefixes of its tensors to ours, unused lists those left out."""

    library: str  # timm's name, with the tag of the weights
    names: dict[str, str]
    unused: tuple[str, ...] = ()

    def translate(self, name: str) -> str | None:
        """Our name of a library's tensor, None for one that is left out; DataError for one that the map lacks."""
        for prefix in self.unused:
            if name.startswith(f"{prefix}."):
                return None
        for theirs, ours in self.names.items():
            if name.startswith(f"{theirs}."):
                return ours + name.removeprefix(theirs)
        raise DataError(f"tensor {name!r} is not one of timm's {self.library}")

    def covers(self, name: str) -> bool:
        """Whether one of our tensors is of the trunk."""
        return any(name.startswith(f"{ours}.") for ours in self.names.values())

    def load(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Copy a library's tensors into our trunk, every one of it; a grey stem takes the sum over the colours."""
        translated = {self.translate(name): tensor for name, tensor in weights.items()}
        translated.pop(None, None)
        ours = {name: tensor for name, tensor in model.state_dict().items() if self.covers(name)}
        for name, tensor in translated.items():
            if name in ours and ours[name].ndim == 4 and (tensor.shape[1], ours[name].shape[1]) == (3, 1):
                translated[name] = tensor.sum(1, keepdim=True)
        load_exactly(ours, translated, f"weights of timm's {self.library}")


def load_exactly(ours: dict[str, Tensor], given: dict[str, Tensor], what: str) -> None:
    """Copy given tensors into ours; DataError unless names and shapes are the same on both sides."""
    missing, extra = sorted(set(ours) - set(given)), sorted(set(given) - set(ours))
    if missing or extra:
        told = [
            f"{label} {len(names)}, e.g. {names[0]}" for label, names in (("lacks", missing), ("adds", extra)) if names
        ]
        raise DataError(
            f"{what}: not the tensors of this model ({'; '.join(told)}); check the model's name and options"
        )
    for name, tensor in ours.items():
        if tensor.shape != given[name].shape:
            shapes = f"{tuple(given[name].shape)} in the file, {tuple(tensor.shape)} in the model"
            raise DataError(f"{what}: {name} is {shapes}; check the number of classes, the width and in_chans")
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(given[name])


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors, or of a PyTorch file read without unpickling code.

    Raises DataError for a file that is missing, truncated or something else.
    """
    try:
        if Path(path).suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return load_file(path), file.metadata() or {}
        weights = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):
            weights = weights.get(wrapper, weights)
    except (OSError, SafetensorError, RuntimeError, EOFError, AttributeError, LookupError, TypeError, ValueError,
            pickle.UnpicklingError, zipfile.BadZipFile) as error:  # fmt: skip
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: no readable weights ({told})") from error
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise DataError(f"{path}: not a file of named tensors")
    return weights, {}


def saved_recipe(path: str | Path) -> dict:
    """The fields of the recipe inside a whole network that ferkit saved; empty for another file of weights."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("recipe", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path}: no readable weights ({error})") from error


def load_saved(model: nn.Module, name: str, path: str | Path, new_head: bool = False) -> None:
    """Copy a network that ferkit saved into the same one; with `new_head` all but its last block.

    Raises DataError for another model or width, or, where the head is copied, another number of classes.
    """
    weights, metadata = read_weights(path)
    theirs = json.loads(metadata["recipe"])["model"]
    if theirs != name:
        raise DataError(f"{path} holds weights of {theirs}, not of {name}")
    ours = model.state_dict()
    if new_head:
        head = f"{blocks(model)[-1]}."
        ours, weights = ({k: v for k, v in some.items() if not k.startswith(head)} for some in (ours, weights))
    load_exactly(ours, weights, str(path))


def load_trunk(model: nn.Module, name: str, pretrained: bool | str | Path) -> None:
    """Start the trunk from its library's weights: downloaded (True) or from a file."""
    trunk = trunk_of(model, name)
    weights, _ = read_weights(fetch(trunk.library) if pretrained is True else pretrained)
    trunk.load(model, weights)


def trunk_of(model: nn.Module, name: str) -> Trunk:
    """The model's trunk map; ValueError for a model that is trained from scratch only."""
    trunk = getattr(model, "pretrained_trunk", None)
    if trunk is None:
        raise ValueError(f"{name} has no published ImageNet weights; train it from scratch")
    return trunk


def find(library: str) -> Path | None:
    """A library's weights on this machine: below the folder $FERKIT_WEIGHTS, else in the hub's cache; None without.

    Below the folder they are called <library>.safetensors (or .bin, .pth, .pt), or they are a model.safetensors in a
    folder called <library>.
    """
    from huggingface_hub import try_to_load_from_cache

    names = {f"{library}{suffix}" for suffix in (".safetensors", ".bin", ".pth", ".pt")}
    for folder, _, files in os.walk(os.environ.get("FERKIT_WEIGHTS", "")):
        for file in files:
            if file in names or (file == "model.safetensors" and Path(folder).name == library):
                return Path(folder, file)
    cached = try_to_load_from_cache(f"timm/{library}", "model.safetensors")
    return Path(cached) if isinstance(cached, str) else None


def fetch(library: str) -> Path:
    """A library's weights: as `find` finds them, else from the Hugging Face hub; DataError saying how to bring them."""
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    if found := find(library):
        return found
    where = (f"timm/{library}", "model.safetensors")
    url = hf_hub_url(*where)
    if constants.HF_HUB_OFFLINE:
        raise DataError(f"no {library}.safetensors in $FERKIT_WEIGHTS, and HF_HUB_OFFLINE is set; it comes from {url}")
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10):  # the hub's client retries for most of a minute
            pass
        return Path(hf_hub_download(*where))
    except Exception as error:  # both raise many kinds
        why = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        raise DataError(f"could not fetch {url} ({why}); fetch it elsewhere and give it with --weights PATH") from error
