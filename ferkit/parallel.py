"""Several processes as one: PyTorch's own engine, DistributedDataParallel, under torchrun or from inside a notebook.

Every process holds the faces, takes its share of each batch and computes what one process would: batch norm, dropout
and stochastic depth see the whole batch, gradients are sums over it, predictions come back in order. What a network
itself computes across its batch (patt_lite_batch, EmoNeXt's penalty) sees the share only.
"""

import atexit
import inspect
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.overrides import TorchFunctionMode

from ferkit import DataError


@dataclass(frozen=True)
class Team:
    """The processes that train one network together; alone, everything here is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's rows of n: a contiguous part, sizes equal within one, every row in one process."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every process's x."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gather(self, share: Tensor) -> Tensor:
        """Every process's rows in the order of the ranks, on the CPU; shares may differ in length."""
        if self.size == 1:
            return share.cpu()
        shares: list = [None] * self.size
        dist.all_gather_object(shares, share.cpu())
        return torch.cat(shares)

    def from_first(self, value):
        """The first process's value."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def wait(self) -> None:
        """Until every process is here."""
        self.from_first(None)

    def wrap(self, step: nn.Module) -> nn.Module:
        """A module whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return step
        engine = nn.parallel.DistributedDataParallel
        names = inspect.signature(engine).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"  # before torch 2.15
        return engine(step, static_graph=True, **{sync: False})  # the buffers are equal already

    def whole_batch(self, n: int) -> AbstractContextManager:
        """While it lasts, layers that look across a batch of n, or draw for it, do so as in one process."""
        return nullcontext() if self.size == 1 else _WholeBatch(n, self.share(n))


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team that torchrun or `launch` announced in the environment, or a team of one; may be nested.

    Raises ValueError where a machine has fewer GPUs than processes, or none that several processes can use.
    """
    if dist.is_initialized():
        yield Team(dist.get_rank(), dist.get_world_size())
        return
    size, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if size == 1:
        yield Team()
        return
    if device.type == "mps":
        raise ValueError("several processes train on the CPU or on CUDA; use --device cpu")
    if device.type == "cuda":
        if here > torch.cuda.device_count():
            raise ValueError(f"{here} processes for {torch.cuda.device_count()} GPUs on this machine; one each")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def launch(n_processes: int, function: Callable, *arguments) -> None:
    """Call a module's function in n processes of this machine that form a team; what it returns is dropped.

    For notebooks: torchrun does the same for a command. Raises DataError with the first failure's own words.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        1, 1, n_processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=0
    )
    try:
        elastic_launch(config, _call)(function, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise DataError(f"process {rank} of {n_processes} failed: {failure.message}") from None


@record
def _call(function: Callable, *arguments) -> None:
    function(*arguments)
    atexit.register(leave, 0)


def leave(status: int) -> NoReturn:
    """End this process without taking Python down: once a team has trained on CPUs, that may abort.

    DistributedDataParallel leaves gloo's threads behind (torch 2.15, destroy_process_group or not), and a process that
    ends normally beside them is killed by SIGABRT now and then, after all its work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class _WholeBatch(TorchFunctionMode):
    """Batch norm over every process's rows; dropout's and stochastic depth's draws for all of them, ours taken.

    torch's own SyncBatchNorm wants GPUs, and would have to replace layers of every library.
    """

    def __init__(self, n: int, rows: slice) -> None:
        super().__init__()
        self.n, self.rows = n, rows

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function is F.batch_norm:
            return _batch_norm(*arguments, **keywords)
        if function is F.dropout:
            return self._dropout(*arguments, **keywords)
        if function is Tensor.bernoulli_:
            return self._bernoulli(*arguments, **keywords)
        return function(*arguments, **keywords)

    def _ours(self, shape: torch.Size) -> tuple[list[int], slice]:
        """The whole batch's shape, and our part of it; a row may have become several (tokens)."""
        each = shape[0] // max(self.rows.stop - self.rows.start, 1)
        return [self.n * each, *shape[1:]], slice(self.rows.start * each, self.rows.stop * each)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        whole, ours = self._ours(x.shape)
        return x * F.dropout(x.new_ones(whole), p, training)[ours]

    def _bernoulli(self, x: Tensor, p: float = 0.5) -> Tensor:
        whole, ours = self._ours(x.shape)
        return x.copy_(x.new_empty(whole).bernoulli_(p)[ours])


class _Sum(torch.autograd.Function):
    """The sum over all processes, with a gradient."""

    @staticmethod
    def forward(_ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    backward = forward  # every process's x is in every process's sum


def _batch_norm(
    x: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """F.batch_norm (N, C, ...) with the moments of every process's rows; running statistics are updated alike."""
    if not training:
        return F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps)
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    wide = x.float()
    n = _Sum.apply(wide.new_tensor(float(wide[:, 0].numel())))
    center = _Sum.apply(wide.sum(axes)) / n
    difference = wide - center.view(shape)
    spread = _Sum.apply(difference.square().sum(axes)) / n
    with torch.no_grad():
        if mean is not None and variance is not None:
            mean.lerp_(center, momentum)
            variance.lerp_(spread * (n / (n - 1)), momentum)
    out = difference * (spread + eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        out = out * weight.view(shape) + bias.view(shape)
    return out.to(x.dtype)
