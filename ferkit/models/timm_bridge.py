"""timm:<name>: any classification network of timm, with the interface of our own.

Source: github.com/huggingface/pytorch-image-models (Wightman 2019). Input, mean and std are timm's own for that name;
`size` changes the side, also where position embeddings depend on it. Parameters and claims are the library's.
"""

from dataclasses import replace
from pathlib import Path

from torch import nn

from ferkit import DataError
from ferkit.models import InputSpec
from ferkit.models.pretrained import fetch, read_weights

TIMM_MODELS = (  # the ones that tests cover
    "convnext_tiny",
    "efficientnet_b0",
    "efficientnetv2_m",
    "eva02_tiny_patch14_224",
    "fbnetv3_b",
    "mobilenetv3_large_100",
    "mobilenetv4_hybrid_medium",
    "resnext50_32x4d",
)


def timm_model(
    name: str, num_classes: int, *, in_chans: int = 3, size: int | None = None, pretrained: bool | str | Path = False,
    **options,
) -> nn.Module:  # fmt: skip
    """timm's network of that name; raises ValueError for an unknown one, DataError for weights that cannot be had."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"timm has no model {name!r}; timm.list_models() lists its names")
    if size and "patch" in name:  # a vision transformer's position embedding
        options["img_size"] = size
    if pretrained:
        file = _fetch(name) if pretrained is True else pretrained
        _check_file(file, name, in_chans, options)
        options["pretrained_cfg_overlay"] = {"file": str(file)}
    try:
        model = timm.create_model(name, bool(pretrained), num_classes=num_classes, in_chans=in_chans, **options)
    except TypeError as error:
        raise ValueError(f"timm:{name} does not take these options: {error}") from error
    except (OSError, RuntimeError) as error:
        raise DataError(f"{pretrained}: no weights of timm's {name} ({error})") from error
    config = model.pretrained_cfg
    spec = InputSpec(config["input_size"][-1], 3, tuple(config["mean"]), tuple(config["std"]), smallest=32)
    if options.get("img_size"):
        spec = replace(spec, smallest=size, multiple=size)
    model.input_spec = spec.with_channels(in_chans)
    last = model.feature_info[-1]
    model.cam_layer, model.cam_channels = last["module"], last["num_chs"]
    if getattr(model, "global_pool", None) == "token" and hasattr(model.get_submodule(model.cam_layer), "norm1"):
        model.cam_layer += ".norm1"  # behind the last block only the class token has a gradient
    return model


def _check_file(file: str | Path, name: str, in_chans: int, options: dict) -> None:
    """DataError unless a file has every tensor but the classifier's: timm itself loads what it finds, if anything."""
    import timm

    model = timm.create_model(name, in_chans=in_chans, **options)
    classifier = tuple(f"{layer}." for layer in [model.pretrained_cfg["classifier"]] if isinstance(layer, str))
    missing = sorted(set(model.state_dict()) - set(read_weights(file)[0]))
    missing = [tensor for tensor in missing if not tensor.startswith(classifier)]
    if missing:
        raise DataError(f"{file}: not weights of timm's {name}; it lacks {len(missing)} tensors, e.g. {missing[0]}")


def _fetch(name: str) -> Path:
    import timm

    hub = timm.get_pretrained_cfg(name).hf_hub_id
    if not hub:
        raise ValueError(f"timm has no weights of {name}; train it from scratch, or give --weights PATH")
    return fetch(hub.removeprefix("timm/"))
