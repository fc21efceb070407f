"""How fast a model trains and judges here, through the product's own loop, beside the fastest matrix product found."""

import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ferkit.faces import Faces
from ferkit.labels import CLASSES
from ferkit.loop import Loop
from ferkit.precision import choose, fast_kernels
from ferkit.predict import logits, pick_device
from ferkit.recipe import Recipe
from ferkit.train import silent, start

BATCHES = 4  # of a timed epoch
SIDES = (1024, 2048, 4096, 8192)  # of the square matrices


@dataclass(frozen=True)
class Speed:
    """One model on one device: rates in images a second, of training at that side and batch size, and of judging."""

    recipe: str
    side: int
    batch_size: int
    precision: str  # of training; judging is float32
    training: float
    milliseconds: float  # a training step
    inference: float
    megabytes: float  # the most memory that was held: the device's, or on a CPU the whole process's
    flops: float  # a second, in training, of matrix products and convolutions, a multiply-add counting two
    peak: float  # of matmul_peak in that precision

    def row(self) -> str:
        share = f"{self.flops / 1e12:8.2f}{self.flops / self.peak:7.0%}"
        return (f"{self.recipe:<28}{self.side:>5}{self.batch_size:>6}  {self.precision:<9}{self.training:>10,.0f}"
                f"{self.milliseconds:>9,.1f}{self.inference:>11,.0f}{self.megabytes:>9,.0f}{share}")  # fmt: skip


HEADER = (f"{'recipe':<28}{'side':>5}{'batch':>6}  {'precision':<9}{'train, /s':>10}{'ms/step':>9}{'infer, /s':>11}"
          f"{'MB':>9}{'TFLOP/s':>8}{'peak':>7}")  # fmt: skip


def bench(recipe: Recipe, device: str = "auto", seconds: float = 3.0, compiled: bool = False) -> Speed:
    """Measure a recipe's last stage on made-up faces for about so many seconds, in a process of its own."""
    context = multiprocessing.get_context("spawn")  # forks of a process with a GPU break
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(_bench, recipe, device, seconds, compiled).result()


def _bench(recipe: Recipe, device: str, seconds: float, compiled: bool) -> Speed:
    side, where = recipe.side(recipe.epochs - 1), pick_device(device)
    recipe = replace(recipe, stages=((1, side),), pretrained=False, frozen=0, targets="labels", teacher="")
    faces = made_up_faces(BATCHES * recipe.batch_size)
    with fast_kernels(where):
        state = start(recipe, faces, where)
        if recipe.precision == "auto":
            state.use(choose(state.model, faces, recipe, where)[0])
        with FlopCounterMode(display=False) as counter:  # it also warms up
            Loop(recipe, faces, state, where).epoch(silent)
        loop = Loop(recipe, faces, state, where, compiled=compiled)
        if compiled:
            loop.epoch(silent)
        epoch = _time(lambda: loop.epoch(silent), seconds)
        judged = faces.images[: min(len(faces), 512)].to(where)
        judging = _time(lambda: logits(state.ema, judged), seconds)
    memory = torch.cuda.max_memory_allocated() if where.type == "cuda" else _peak_memory()
    return Speed(
        recipe.name, side, recipe.batch_size, state.precision, len(faces) / epoch, 1e3 * epoch / BATCHES,
        len(judged) / judging, memory / 1e6, counter.get_total_flops() / epoch,
        matmul_peak(state.precision, where, seconds),
    )  # fmt: skip


def made_up_faces(n: int, side: int = 48) -> Faces:
    """Noise with labels: for clocks, not for learning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % len(CLASSES)
    return Faces(images, labels, torch.zeros(n, dtype=torch.uint8), torch.arange(n), name="noise")


def _time(function: Callable[[], object], seconds: float) -> float:
    """Seconds of one call, the mean over as many as fit; each ends with its result on the CPU."""
    function()
    begin, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begin < seconds:
        function()
        calls += 1
    return (time.perf_counter() - begin) / calls


def matmul_peak(precision: str, device: torch.device, seconds: float = 3.0) -> float:
    """FLOP/s of the fastest square matrix product of SIDES in that precision, over about so many seconds."""
    best = 0.0
    for side in SIDES[:3] if device.type == "cpu" else SIDES:
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
        repeats = max(1, 2**36 // side**3) if device.type != "cpu" else 1  # enough to hide the wait for the result

        def multiply(a: Tensor = a, b: Tensor = b, repeats: int = repeats) -> None:
            for _ in range(repeats):
                out = a @ b
            out[0, 0].item()

        best = max(best, repeats * 2 * side**3 / _time(multiply, seconds / len(SIDES)))
    return best


def _peak_memory() -> float:
    """Bytes that this process has held at most; not known on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
