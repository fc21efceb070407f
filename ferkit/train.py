"""fit: train one recipe into a folder, choosing on PublicTest; killed at any moment, it goes on from its last epoch.

PrivateTest is not an argument of anything here: what is not handed over cannot be selected on.
"""

import copy
import csv
import hashlib
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ferkit import DataError
from ferkit.atomic import alone, in_checkout, whole_file
from ferkit.checkpoint import LOG_FIELDS, State, claim
from ferkit.faces import Faces
from ferkit.ferplus import learnable
from ferkit.labels import UNLABELLED
from ferkit.loop import Loop, key
from ferkit.models import create_model
from ferkit.models.pretrained import saved_recipe, trunk_of
from ferkit.parallel import Team, joined
from ferkit.precision import choose, fast_kernels
from ferkit.predict import logits, pick_device
from ferkit.progress import bar
from ferkit.recipe import Recipe
from ferkit.schedule import cycles, is_over, make_optimizer
from ferkit.weights import BEST, save_weights


class OutOfTime(Exception):
    """A run that stopped at its deadline, its last finished epoch saved; the same call goes on."""


def fit(
    recipe: Recipe, training: Faces, public: Faces, folder: Path, *,
    device: str = "auto", source: dict | None = None, weights: str | Path | None = None,
    compiled: bool = False, watch: Callable[[State], None] = lambda _state: None,
    say: Callable[..., None] = print,
) -> State:  # fmt: skip
    """Train; leave recipe.json, log.csv, last.pt and best.safetensors (EMA weights of the best epoch) in folder, and
    snapshot<n>.safetensors of each cycle where the recipe keeps them.

    training and public: labelled faces of those two splits (which faces these are is the recipe's protocol).
    `source` describes the code (machine.code_version) and is kept with the state. `weights`: a file to start from
    (models.create_model's `pretrained`). `compiled`: by torch.compile. `watch` is told of every epoch, which is saved
    by then, and may end the run by raising. `say` takes a line an epoch, as print does. OutOfTime is raised when the
    next epoch would not end before the Unix time in $FERKIT_UNTIL, where that is set.
    A finished run returns at once, an interrupted one continues; the result is the same, on a CPU to the last bit.
    Several processes (parallel.joined) all call this, on a folder that all of them see.
    Raises DataError for unlabelled or missing faces, a folder of another recipe or other data, a damaged checkpoint,
    weights that are not there or do not fit; FloatingPointError when the loss is no longer finite (the last good epoch
    stays in last.pt).
    """
    training = learnable(training, recipe.targets)
    for faces, usage in ((training, "Training"), (public, "PublicTest")):
        if not len(faces) or (faces.labels == UNLABELLED).any():
            raise DataError(f"{usage} has {len(faces)} images, or some without a label: training needs labelled ones")
    folder, where = Path(folder), pick_device(device)
    with (
        joined(where) as team,
        fast_kernels(where),
        alone(folder) if team.is_first else nullcontext(),
        torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),
    ):
        going_on = team.from_first((folder / "last.pt").exists())
        state = start(recipe, training, where, False if going_on else weights or recipe.pretrained)
        if team.is_first:
            claim(folder, recipe, _identity(recipe, training), file_start(weights) if weights else state.start)
        if going_on:
            state.restore(folder / "last.pt")
            if team.is_first and state.best_epoch == state.epoch - 1:  # killed between the state and its best weights?
                save_weights(state.ema, folder / BEST, recipe, training.classes)
        elif recipe.precision == "auto":
            precision, state.timings = team.from_first(choose(state.model, training, recipe, where))
            state.use(precision)
        if not is_over(recipe, state.history):
            state.sources.append(source or {})
            loop = Loop(recipe, training, state, where, team, compiled)
            said = say if team.is_first else silent
            _train(loop, public.to(where), folder, training.classes, watch, said)
    return state


def start(recipe: Recipe, training: Faces, device: torch.device, pretrained: bool | str | Path = False) -> State:
    """A run before its first epoch; `pretrained` is models.create_model's."""
    if pretrained not in (True, False):
        _check_protocol(recipe, pretrained)
    torch.manual_seed(key(recipe.seed))
    model = create_model(
        recipe.model, len(training.classes), pretrained=pretrained, new_head=recipe.new_head, **recipe.options
    )
    model = model.to(device, memory_format=torch.channels_last)
    precision = "float32" if recipe.precision == "auto" else recipe.precision  # until it is chosen
    state = State(model, copy.deepcopy(model).eval(), make_optimizer(model, recipe), precision)
    if pretrained:
        state.start = _describe_start(model, recipe, pretrained)
    return state


def _check_protocol(recipe: Recipe, weights: str | Path) -> None:
    """DataError for weights that learned by a protocol which the run's own would hide."""
    learned = saved_recipe(weights).get("protocol", "standard")
    if learned not in ("standard", recipe.protocol):
        told = f"{weights} learned by the protocol {learned}, and what starts from it is by that one too"
        raise DataError(f"{told}: --set \"protocol='{learned}'\", or start from other weights")


def _describe_start(model: nn.Module, recipe: Recipe, pretrained: bool | str | Path) -> dict[str, str]:
    """Where the first weights came from, for the record."""
    if pretrained is not True:
        return file_start(pretrained)
    return {"library": recipe.model if recipe.model.startswith("timm:") else f"timm:{trunk_of(model, '').library}"}


def file_start(path: str | Path) -> dict[str, str]:
    """A file of weights as the record of a run that started from it names it: a run's own with the run."""
    path = Path(path)
    name = f"{path.parent.name}/{path.name}" if path.name == BEST else path.name
    try:
        with open(path, "rb") as file:
            return {"file": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the run needs it, bring it back") from error


def _identity(recipe: Recipe, training: Faces) -> str:
    """What a run is trained on: the faces' fingerprint, and its teacher's."""
    teacher = f" {file_start(in_checkout(recipe.teacher))['sha256'][:16]}" if recipe.teacher else ""
    return training.fingerprint + teacher


def silent(*_words, **_how) -> None:
    """For `say`: nothing is said."""


def _train(
    loop: Loop, public: Faces, folder: Path, classes: tuple[str, ...], watch: Callable[[State], None],
    say: Callable[..., None],
) -> None:  # fmt: skip
    recipe, state = loop.recipe, loop.state
    say(f"{recipe.run_name}: {state.precision} {state.timings or ''}".rstrip(), flush=True)
    tell = bar(recipe.run_name, recipe.epochs) if say is print else silent
    while not is_over(recipe, state.history):
        _check_time(loop)
        begin, cpu, epoch = time.perf_counter(), time.process_time(), state.epoch
        loss = loop.epoch(lambda share, epoch=epoch: tell(epoch + share))
        if not math.isfinite(loss):
            raise FloatingPointError(f"{folder}: loss {loss} in epoch {epoch + 1}; lower lr, in another folder")
        accuracy = judge(state.ema, public, loop.team)
        better = accuracy > state.best or recipe.protocol == "with_public"  # where the last epoch is reported
        if better:
            state.best, state.best_epoch = accuracy, epoch
        state.epoch = epoch + 1
        seconds = time.perf_counter() - begin
        state.seconds += seconds
        state.cpu_seconds += time.process_time() - cpu
        lr = f"{max(group['lr'] for group in state.optimizer.param_groups):.3g}"
        row = (epoch + 1, recipe.side(epoch), lr, f"{loss:.4f}", f"{accuracy:.4f}", f"{seconds:.1f}")
        state.rows.append(list(map(str, row)))
        if loop.team.is_first:
            _save(state, recipe, folder, classes, better)
        watch(state)
        tell(state.epoch)
        say(f"{recipe.run_name} epoch {epoch + 1}/{recipe.epochs} side {recipe.side(epoch)} loss {loss:.3f} "
            f"PublicTest {accuracy:.2%} {seconds:.0f} s", flush=True)  # fmt: skip


def _check_time(loop: Loop) -> None:
    """OutOfTime where an epoch as long as the ones before would end after the Unix time in $FERKIT_UNTIL."""
    state = loop.state
    ends = time.time() + state.seconds / max(state.epoch, 1)
    if loop.team.from_first(ends > float(os.environ.get("FERKIT_UNTIL", math.inf))):
        raise OutOfTime(f"{loop.recipe.run_name}: out of time after epoch {state.epoch} of {loop.recipe.epochs}")


def judge(model: nn.Module, faces: Faces, team: Team = Team()) -> float:  # noqa: B008 (frozen)
    """Accuracy in [0, 1]; every process judges its share, and none twice."""
    share = team.share(len(faces))
    predicted = team.gather(logits(model, faces.images[share])).argmax(1)
    return (predicted == faces.labels.cpu()).float().mean().item()


def _save(state: State, recipe: Recipe, folder: Path, classes: tuple[str, ...], best: bool) -> None:
    """The log, everything to go on with, and the weights where they are the best so far or end a cycle."""
    try:
        with whole_file(folder / "log.csv") as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([LOG_FIELDS, *state.rows])
        n = cycles(recipe, state.epoch)
        if recipe.snapshots and n > cycles(recipe, state.epoch - 1):
            save_weights(state.ema, folder / f"snapshot{n}.safetensors", recipe, classes)
        state.save(folder / "last.pt")
        if best:
            save_weights(state.ema, folder / BEST, recipe, classes)
    except (OSError, RuntimeError) as error:  # torch.save has RuntimeError for a full disk
        told = f"{folder}: epoch {state.epoch} could not be saved ({error})"
        raise OSError(f"{told}; make room, and the same call goes on from what was saved before") from error
