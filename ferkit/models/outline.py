"""What a network is made of and what it costs: a row a part, computed without computing anything (on meta tensors)."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Part:
    """One of a network's top-level modules; `shape` is what it hands on for one image, () if it is not called."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    gflops: float  # for one image; a multiply-add is two operations


def outline(model: nn.Module) -> list[Part]:
    """The network's parts in the order in which one image of its input size passes them; parts without either left out.

    The parts' parameters add up to the network's: what belongs to no part comes last as `own parameters`.
    """
    model = copy.deepcopy(model).to("meta").eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
    spec = model.input_spec
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spec(torch.empty(1, 1, spec.size, spec.size, device="meta")))
    flops = counter.get_flop_counts()
    children = dict(model.named_children())
    order = [*shapes, *(name for name in children if name not in shapes)]
    parts = []
    for name in order:
        parameters = sum(p.numel() for p in children[name].parameters())
        gflops = sum(flops.get(f"{type(model).__name__}.{name}", {}).values()) / 1e9
        if parameters or gflops:
            parts.append(Part(name, shapes.get(name, ()), parameters, gflops))
    own, whole = sum(p.numel() for p in model.parameters(recurse=False)), sum(flops["Global"].values()) / 1e9
    rest = whole - sum(part.gflops for part in parts)
    return [*parts, Part("own parameters", (), own, rest)] if own or rest > 1e-9 else parts


def cost(model: nn.Module) -> tuple[int, float]:
    """Parameters, and GFLOPs for one image of the network's input size."""
    parts = outline(model)
    return sum(part.parameters for part in parts), sum(part.gflops for part in parts)


def blocks(model: nn.Module) -> list[str]:
    """The names of a network's blocks, from its input to its head: its children, sequences opened, without empty ones.

    For compact: a stem, six residual blocks, a head.
    """
    names = []
    for name, child in model.named_children():
        opened = isinstance(child, (nn.Sequential, nn.ModuleList))
        inside = [(f"{name}.{key}", part) for key, part in child.named_children()] if opened else [(name, child)]
        names += [name for name, part in inside if any(True for _ in part.parameters())]
    return names


def block_of(name: str, names: list[str]) -> int | None:
    """Which of those blocks a tensor or module of that name belongs to; None for none of them."""
    return next((i for i, block in enumerate(names) if f"{name}.".startswith(f"{block}.")), None)
