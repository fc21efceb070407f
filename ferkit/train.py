"""fit: train one recipe into a folder, choosing on PublicTest; killed at any moment, it goes on from its last epoch.

PrivateTest is not an argument of anything here: what is not handed over cannot be selected on.
"""

import copy
import csv
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm import tqdm

from ferkit import DataError
from ferkit.atomic import whole_file
from ferkit.augment import augment, get_policy, mix
from ferkit.checkpoint import LOG_FIELDS, State, alone, claim
from ferkit.faces import Faces
from ferkit.labels import UNLABELLED
from ferkit.models import create_model
from ferkit.models.pretrained import trunk_of
from ferkit.predict import logits, pick_device
from ferkit.recipe import Recipe
from ferkit.schedule import is_over, learning_rate, make_optimizer
from ferkit.weights import save_weights


def fit(
    recipe: Recipe, training: Faces, public: Faces, folder: Path, *,
    device: str = "auto", source: dict | None = None, weights: str | Path | None = None,
) -> State:  # fmt: skip
    """Train; leave recipe.json, log.csv, last.pt and best.safetensors (EMA weights of the best epoch) in folder.

    training and public: labelled faces of those two splits. `source` describes the code (records.code_version) and
    is kept with the state. `weights`: a file to start from (models.create_model's `pretrained`).
    A finished run returns at once, an interrupted one continues; the result is the same, on a CPU to the last bit.
    Raises DataError for unlabelled or missing faces, a folder of another recipe or other data, a damaged checkpoint,
    weights that are not there or do not fit; FloatingPointError when the loss is no longer finite (the last good epoch
    stays in last.pt).
    """
    for faces, usage in ((training, "Training"), (public, "PublicTest")):
        if not len(faces) or (faces.labels == UNLABELLED).any():
            raise DataError(f"{usage} has {len(faces)} images, or some without a label: training needs labelled ones")
    folder = Path(folder)
    where = pick_device(device)
    training, public = training.to(where), public.to(where)
    with alone(folder), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        going_on = (folder / "last.pt").exists()
        state = _start(recipe, training, where, False if going_on else weights or recipe.pretrained)
        claim(folder, recipe, training, file_start(weights) if weights else state.start)
        if going_on:
            state.restore(folder / "last.pt")
            if state.best_epoch == state.epoch - 1:  # a kill may have come between the state and its best weights
                save_weights(state.ema, folder / "best.safetensors", recipe, training.classes)
        elif recipe.precision == "auto":
            _choose_precision(state, training, recipe)
        if not is_over(recipe, state.history):
            state.sources.append(source or {})
            _train(recipe, training, public, folder, state)
    return state


def _start(recipe: Recipe, training: Faces, device: torch.device, pretrained: bool | str | Path) -> State:
    torch.manual_seed(_key(recipe.seed))
    model = create_model(recipe.model, len(training.classes), pretrained=pretrained, **recipe.options)
    model = model.to(device, memory_format=torch.channels_last)
    state = State(model, copy.deepcopy(model).eval(), make_optimizer(model, recipe), recipe.precision)
    if pretrained:
        state.start = _describe_start(model, recipe, pretrained)
    return state


def _describe_start(model: nn.Module, recipe: Recipe, pretrained: bool | str | Path) -> dict[str, str]:
    """Where the first weights came from, for the record."""
    if pretrained is not True:
        return file_start(pretrained)
    return {"library": recipe.model if recipe.model.startswith("timm:") else f"timm:{trunk_of(model, '').library}"}


def file_start(path: str | Path) -> dict[str, str]:
    """A file of weights as the record of a run that started from it names it."""
    with open(path, "rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _choose_precision(state: State, training: Faces, recipe: Recipe) -> None:
    state.timings = _time_precisions(state.model, training, recipe)
    faster = state.timings["bfloat16"] < 0.9 * state.timings["float32"]
    state.precision = "bfloat16" if faster else "float32"
    print(f"{recipe.run_name}: {state.precision} ({state.timings} ms a step)", flush=True)


def _time_precisions(model: nn.Module, training: Faces, recipe: Recipe, rounds: int = 3) -> dict[str, float]:
    """Milliseconds of a forward and backward pass in each precision, the least of `rounds`, taken in turn."""
    model = copy.deepcopy(model).train()
    images = training.images[: recipe.batch_size, None].float() / 255
    x = model.input_spec(F.interpolate(images, (recipe.side(recipe.epochs - 1),) * 2))
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
        better = accuracy > state.best
        if better:
            state.best, state.best_epoch = accuracy, epoch
        seconds = time.perf_counter() - start
        state.seconds += seconds
        state.cpu_seconds += time.process_time() - cpu
        state.epoch = epoch + 1
        lr = f"{state.optimizer.param_groups[0]['lr']:.3g}"
        row = (epoch + 1, recipe.side(epoch), lr, f"{loss:.4f}", f"{accuracy:.4f}", f"{seconds:.1f}")
        state.rows.append(list(map(str, row)))
        with whole_file(folder / "log.csv") as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([LOG_FIELDS, *state.rows])
        state.save(folder / "last.pt")
        if better:
            save_weights(state.ema, folder / "best.safetensors", recipe, training.classes)
        bar.set_postfix(loss=f"{loss:.3f}", PublicTest=f"{accuracy:.2%}", best=f"{state.best:.2%}")
        bar.update()
        if bar.disable:  # no terminal: a line an epoch
            print(f"{recipe.run_name} epoch {epoch + 1}/{recipe.epochs} side {recipe.side(epoch)} loss {loss:.3f} "
                  f"PublicTest {accuracy:.2%} {seconds:.0f} s", flush=True)  # fmt: skip
        if is_over(recipe, state.history):
            break
    bar.close()


def _train_epoch(recipe: Recipe, training: Faces, state: State, tell: Callable[[float], None]) -> float:
    """One pass over the training faces; the mean loss a sample."""
    model, policy, device = state.model.train(), get_policy(recipe.policy), training.images.device
    epoch, n_classes, history = state.epoch, len(training.classes), state.history
    if recipe.frozen:
        _freeze(model, recipe, epoch < recipe.frozen)
    weight = _class_weights(training) if recipe.class_weights else None
    order = torch.randperm(len(training), generator=_generator(recipe.seed, epoch)).to(device)
    batches = order.tensor_split(math.ceil(len(training) / recipe.batch_size))  # equal within one image: none ragged
    total = torch.zeros((), device=device)
    for step, index in enumerate(batches):
        generator = _generator(recipe.seed, epoch, step)
        torch.manual_seed(generator.initial_seed())  # dropout
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch + step / len(batches), history)
        x = augment(training.images[index], policy, generator, recipe.side(epoch))
        x, targets = mix(x, F.one_hot(training.labels[index], n_classes).float(), policy, generator)
        with _autocast(state.precision, device):
            features = model.forward_features(model.input_spec(x))
            out = model.forward_head(features)
        loss = F.cross_entropy(out.float(), targets, weight, label_smoothing=recipe.label_smoothing)
        if hasattr(model, "penalty"):
            loss = loss + model.penalty(features.float())
        state.optimizer.zero_grad()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        state.optimizer.step()
        _average(state.ema, model, recipe.ema, epoch * len(batches) + step)
        total += loss.detach() * len(index)
        if step % 20 == 0:
            tell(loss.item())
    return total.item() / len(training)


def _freeze(model: nn.Module, recipe: Recipe, frozen: bool) -> None:
    """Fix the pretrained trunk, its batch norms' statistics included, or free it."""
    trunk = trunk_of(model, recipe.model)
    for name, parameter in model.named_parameters():
        if trunk.covers(name):
            parameter.requires_grad_(not frozen)
    for name, module in model.named_modules():
        if trunk.covers(f"{name}."):
            module.train(not frozen)


def _class_weights(training: Faces) -> Tensor:
    """Inverse frequencies (n_classes,), one on average over the images."""
    counts = torch.bincount(training.labels, minlength=len(training.classes)).clamp_min(1)
    return len(training) / (len(counts) * counts)


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
    parts = (*parts, 1)  # SeedSequence takes (3,) and (3, 0) for the same
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def _generator(*parts: int) -> Generator:
    return Generator().manual_seed(_key(*parts))
