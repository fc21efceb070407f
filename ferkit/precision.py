"""Number formats and kernels: which precision a device trains fastest in, and what else makes it fast."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from ferkit.faces import Faces
from ferkit.predict import logits
from ferkit.recipe import Recipe


def choose(model: nn.Module, training: Faces, recipe: Recipe, device: torch.device) -> tuple[str, dict[str, float]]:
    """The precision that "auto" means for this model here, and the measurement behind it in milliseconds a step.

    CUDA: bfloat16, or float16 with scaled gradients where a GPU lacks it (T4). CPU: bfloat16 where a short measurement
    finds it faster. Elsewhere float32.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16", {}
    if device.type != "cpu":
        return "float32", {}
    timings = _time(model, training, recipe)
    return "bfloat16" if timings["bfloat16"] < 0.9 * timings["float32"] else "float32", timings


def _time(model: nn.Module, training: Faces, recipe: Recipe, rounds: int = 3) -> dict[str, float]:
    """Milliseconds of a forward and backward pass in each precision, the least of `rounds`, taken in turn."""
    model = copy.deepcopy(model).train()
    images = training.images[: recipe.batch_size, None].float() / 255
    x = model.input_spec(F.interpolate(images, (recipe.side(recipe.epochs - 1),) * 2))
    least = {"float32": math.inf, "bfloat16": math.inf}
    for round_ in range(rounds + 1):  # the first warms up
        for precision in least:
            start = time.perf_counter()
            with autocast(precision, x.device):
                loss = model(x).float().square().mean()
            loss.backward()
            if round_:
                least[precision] = min(least[precision], (time.perf_counter() - start) * 1e3)
    return {precision: round(value, 2) for precision, value in least.items()}


def hasten(model: nn.Module, precision: str = "auto") -> nn.Module:
    """A model to judge many faces with: itself in float32, or a copy in bfloat16.

    "auto": bfloat16 on a CPU where a short measurement finds it faster, and no share of a class differs by more than
    0.02 there; processor time of one thread, because the clock of a busy machine chooses at random. What it
    brings: results/benchmarks/judging.json.
    """
    device = next(model.parameters()).device
    if precision == "float32" or (precision == "auto" and device.type != "cpu"):
        return model
    fast = copy.deepcopy(model).bfloat16()
    if precision == "bfloat16":
        return fast
    noise = torch.randint(0, 256, (16, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    least, shares, threads = {}, {}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for which in (model, fast) * 2:
            start = time.thread_time()
            shares[which] = logits(which, noise).softmax(1)
            least[which] = min(least.get(which, math.inf), time.thread_time() - start)
    except RuntimeError:  # an operator that bfloat16 lacks
        return model
    finally:
        torch.set_num_threads(threads)
    apart = (shares[fast] - shares[model]).abs().max()
    return fast if apart <= 0.02 and least[fast] < 0.9 * least[model] else model


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass in that precision."""
    dtype = {"float16": torch.float16}.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision != "float32")


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """On CUDA, TF32 for what stays float32 and cuDNN's search for the fastest convolutions; restored afterwards."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]
