"""fit: train one recipe into a folder, choosing on PublicTest; killed at any moment, it goes on from its last epoch.

PrivateTest is not an argument of anything here: what is not handed over cannot be selected on.
"""

import copy
import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from tqdm import tqdm

from ferkit import DataError
from ferkit.atomic import whole_file
from ferkit.augment import augment, get_policy, mix
from ferkit.faces import Faces
from ferkit.labels import UNLABELLED
from ferkit.models import create_model
from ferkit.predict import logits, pick_device
from ferkit.recipe import Recipe

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

LOG_FIELDS = ("epoch", "side", "lr", "loss", "public_accuracy", "seconds")


@dataclass
class State:
    """Everything needed to go on after a kill; `epoch` is the next one to train."""

    model: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    precision: str
    timings: dict = field(default_factory=dict)  # of the precision measurement, ms a step
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rows: list = field(default_factory=list)  # of log.csv
    sources: list = field(default_factory=list)  # code versions that trained, one a start

    _MODULES = ("model", "ema", "optimizer")

    def choose_precision(self, training: Faces, recipe: Recipe) -> None:
        self.timings = _time_precisions(self.model, training, recipe)
        faster = self.timings["bfloat16"] < 0.9 * self.timings["float32"]
        self.precision = "bfloat16" if faster else "float32"
        print(f"{recipe.run_name}: {self.precision} ({self.timings} ms a step)", flush=True)

    def save(self, path: Path) -> None:
        values = {k: v for k, v in self.__dict__.items() if k not in self._MODULES}
        with whole_file(path) as temporary:
            torch.save(values | {k: getattr(self, k).state_dict() for k in self._MODULES}, temporary)

    def restore(self, path: Path, device: torch.device) -> None:
        try:
            values = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise DataError(f"{path}: damaged checkpoint ({error}); delete it to train again from the start") from error
        for key, value in values.items():
            if key in self._MODULES:
                getattr(self, key).load_state_dict(value)
            else:
                setattr(self, key, value)


def fit(
    recipe: Recipe, training: Faces, public: Faces, folder: Path, *, device: str = "auto", source: dict | None = None
) -> State:
    """Train; leave recipe.json, log.csv, last.pt and best.safetensors (EMA weights of the best epoch) in folder.

    training and public: labelled faces of those two splits. `source` describes the code (records.code_version) and
    is kept with the state. A finished run returns at once, an interrupted one continues; the result is the same.
    Raises DataError for unlabelled or missing faces, a folder of another recipe or other data, a damaged checkpoint;
    FloatingPointError when the loss is no longer finite (the last good epoch stays in last.pt).
    """
    for faces, usage in ((training, "Training"), (public, "PublicTest")):
        if not len(faces) or (faces.labels == UNLABELLED).any():
            raise DataError(f"{usage} has {len(faces)} images, or some without a label: training needs labelled ones")
    folder = Path(folder)
    where = pick_device(device)
    training, public = training.to(where), public.to(where)
    with _alone(folder), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        _claim(folder, recipe, training)
        state = _start(recipe, training, where)
        if (folder / "last.pt").exists():
            state.restore(folder / "last.pt", where)
        elif recipe.precision == "auto":
            state.choose_precision(training, recipe)
        if state.epoch < recipe.epochs:
            state.sources.append(source or {})
            _train(recipe, training, public, folder, state)
    return state


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run folder; DataError when another process trains into it. The lock goes with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"{folder}: another process is training here; wait for it or stop it") from None
        yield


def _claim(folder: Path, recipe: Recipe, training: Faces) -> None:
    """Write recipe.json, or check that the one that is there says the same."""
    path = folder / "recipe.json"
    wanted = json.loads(json.dumps({"recipe": asdict(recipe), "training": training.fingerprint}))
    if not path.exists():
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    differs = [k for k, v in wanted["recipe"].items() if found["recipe"].get(k) != v]
    if differs or found["training"] != wanted["training"]:
        what = f"recipe ({', '.join(differs)})" if differs else "training data"
        raise DataError(f"{folder} holds a run of another {what}; name another folder or delete this one")


def _start(recipe: Recipe, training: Faces, device: torch.device) -> State:
    torch.manual_seed(_key(recipe.seed))
    model = create_model(recipe.model, len(training.classes), **recipe.options)
    model = model.to(device, memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, foreach=True)
    return State(model, copy.deepcopy(model).eval(), optimizer, recipe.precision)


def _time_precisions(model: nn.Module, training: Faces, recipe: Recipe, rounds: int = 3) -> dict[str, float]:
    """Milliseconds of a forward and backward pass in each precision, the least of `rounds`, taken in turn."""
    model = copy.deepcopy(model).train()
    x = model.input_spec(training.images[: recipe.batch_size, None].float() / 255)
    least = {"float32": math.inf, "bfloat16": math.inf}
    for round_ in range(rounds + 1):  # the first warms up
        for precision in least:
            start = time.perf_counter()
            with _autocast(precision, x.device):
                loss = model(x).float().square().mean()
            loss.backward()
            loss.item()  # waits for the device
            if round_:
                least[precision] = min(least[precision], (time.perf_counter() - start) * 1e3)
    return {precision: round(value, 2) for precision, value in least.items()}


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _train(recipe: Recipe, training: Faces, public: Faces, folder: Path, state: State) -> None:
    bar = tqdm(total=recipe.epochs, initial=state.epoch, desc=recipe.run_name, unit="epoch", disable=None)
    for epoch in range(state.epoch, recipe.epochs):
        start, cpu = time.perf_counter(), time.process_time()
        loss = _train_epoch(recipe, training, state, lambda loss: bar.set_postfix(loss=f"{loss:.3f}", refresh=False))
        if not math.isfinite(loss):
            raise FloatingPointError(f"{folder}: loss {loss} in epoch {epoch + 1}; lower lr, in another folder")
        accuracy = (logits(state.ema, public.images).argmax(1) == public.labels.cpu()).float().mean().item()
        if accuracy > state.best:
            state.best, state.best_epoch = accuracy, epoch
            save_weights(state.ema, folder / "best.safetensors", recipe, training.classes)
        seconds = time.perf_counter() - start
        state.seconds += seconds
        state.cpu_seconds += time.process_time() - cpu
        state.epoch = epoch + 1
        lr = f"{state.optimizer.param_groups[0]['lr']:.5f}"
        row = (epoch + 1, recipe.side(epoch), lr, f"{loss:.4f}", f"{accuracy:.4f}", f"{seconds:.1f}")
        state.rows.append(list(map(str, row)))
        with whole_file(folder / "log.csv") as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([LOG_FIELDS, *state.rows])
        state.save(folder / "last.pt")
        bar.set_postfix(loss=f"{loss:.3f}", PublicTest=f"{accuracy:.2%}", best=f"{state.best:.2%}")
        bar.update()
        if bar.disable:  # no terminal: a line an epoch
            print(f"{recipe.run_name} epoch {epoch + 1}/{recipe.epochs} side {recipe.side(epoch)} loss {loss:.3f} "
                  f"PublicTest {accuracy:.2%} {seconds:.0f} s", flush=True)  # fmt: skip
    bar.close()


def _train_epoch(recipe: Recipe, training: Faces, state: State, tell: Callable[[float], None]) -> float:
    """One pass over the training faces; the mean loss a sample."""
    model, policy, device = state.model.train(), get_policy(recipe.policy), training.images.device
    epoch, n_classes = state.epoch, len(training.classes)
    order = torch.randperm(len(training), generator=_generator(recipe.seed, epoch)).to(device)
    batches = order.tensor_split(math.ceil(len(training) / recipe.batch_size))  # equal within one image: none ragged
    total = torch.zeros((), device=device)
    for step, index in enumerate(batches):
        generator = _generator(recipe.seed, epoch, step)
        torch.manual_seed(generator.initial_seed())  # dropout
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch + step / len(batches))
        x = augment(training.images[index], policy, generator, recipe.side(epoch))
        x, targets = mix(x, F.one_hot(training.labels[index], n_classes).float(), policy, generator)
        with _autocast(state.precision, device):
            out = model(model.input_spec(x))
        loss = F.cross_entropy(out.float(), targets, label_smoothing=recipe.label_smoothing)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        _average(state.ema, model, recipe.ema, epoch * len(batches) + step)
        total += loss.detach() * len(index)
        if step % 20 == 0:
            tell(loss.item())
    return total.item() / len(training)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Linear from 0 to lr over the warm-up, then a cosine to 0; epoch counts from 0 and has a fraction."""
    if epoch < recipe.warmup:
        return recipe.lr * (epoch + 0.01) / (recipe.warmup + 0.01)
    return recipe.lr * (1 + math.cos(math.pi * (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9))) / 2


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """ema <- decay ema + (1 - decay) model, parameters and buffers; the decay rises over the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = [(a, b) for a, b in zip(ema.state_dict().values(), model.state_dict().values(), strict=True)]
    averaged = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in averaged], [b for _, b in averaged], 1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)


def _key(*parts: int) -> int:
    """A 63-bit seed from (seed, epoch, step): the same whatever ran before it."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def _generator(*parts: int) -> Generator:
    return Generator().manual_seed(_key(*parts))


def save_weights(model: nn.Module, path: Path, recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Weights as safetensors with the recipe and the label order inside."""
    weights: dict[str, Tensor] = {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(save(weights, {"recipe": json.dumps(asdict(recipe)), "classes": json.dumps(classes)}))


def load_weights(path: Path) -> tuple[nn.Module, Recipe, tuple[str, ...]]:
    """The model, its recipe and its class names from `save_weights`; raises DataError when missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: no readable weights ({error})") from error
    recipe, classes = Recipe(**json.loads(metadata["recipe"])), tuple(json.loads(metadata["classes"]))
    model = create_model(recipe.model, len(classes), **recipe.options)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval(), recipe, classes
