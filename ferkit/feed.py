"""Training pictures in batches: from the device's own memory, or, where they do not fit, a window of them at a time.

A window is a few chunks of consecutive rows, picked at random, read by a thread while the one before it trains, and
shuffled within itself. Measured: benchmarks/stream.py.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from ferkit.faces import Faces

CHUNK = 4096  # consecutive rows, 9 MB of 48x48
WINDOW = 16  # chunks in memory at a time; two windows are


def memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        return 8 << 30


class Feed:
    """The training pictures for a device: moved there whole where they take under half of its memory."""

    def __init__(self, training: Faces, batch_size: int, device: torch.device, resident: bool | None = None) -> None:
        if resident is None:
            resident = training.images.nbytes < memory(device) // 2
        self.faces, self.batch_size, self.device, self.resident = training, batch_size, device, resident
        self.images = training.images.to(device) if resident else training.images

    def epoch(self, generator: Generator) -> tuple[int, Iterator[tuple[Tensor, Tensor, Tensor]]]:
        """The number of batches, and an iterator over (images (M, H, W), at (N,), rows (N,)), all on the device.

        images[at] are the batch's pictures, rows their rows among the training faces. Every face comes once; batches
        of a window are equal in size within one, and a last window of less than a batch joins the one before it, so
        that none is ragged.
        """
        n = len(self.faces)
        if self.resident:
            return self._batches(n), self._shuffled(self.images, None, n, generator)
        chunks = torch.randperm(math.ceil(n / CHUNK), generator=generator)
        windows = [[self._rows(chunk) for chunk in some.tolist()] for some in chunks.split(WINDOW)]
        if len(windows) > 1 and sum(map(len, windows[-1])) < self.batch_size:
            short = windows.pop()
            windows[-1] += short
        n_batches = sum(self._batches(sum(map(len, window))) for window in windows)
        return n_batches, self._stream(windows, generator)

    def _batches(self, n: int) -> int:
        return math.ceil(n / self.batch_size)

    def _rows(self, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.faces)))

    def _shuffled(self, images: Tensor, rows: Tensor | None, n: int, generator: Generator) -> Iterator:
        order = torch.randperm(n, generator=generator).to(self.device)
        for at in order.tensor_split(self._batches(n)):
            yield images, at, at if rows is None else rows[at]

    def _stream(self, windows: list[list[range]], generator: Generator) -> Iterator:
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, windows[0])
            for i, window in enumerate(windows):
                images = coming.result().to(self.device, non_blocking=True)
                if i + 1 < len(windows):
                    coming = reader.submit(self._read, windows[i + 1])
                rows = torch.cat([torch.arange(chunk.start, chunk.stop) for chunk in window]).to(self.device)
                yield from self._shuffled(images, rows, len(rows), generator)

    def _read(self, window: list[range]) -> Tensor:
        """The window's pictures, in page-locked memory where that speeds the copy to the device."""
        shape = (sum(map(len, window)), *self.images.shape[1:])
        out = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        for part, chunk in zip(out.split([len(chunk) for chunk in window]), window, strict=True):
            part.copy_(self.images[chunk.start : chunk.stop])
        return out
