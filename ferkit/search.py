"""Hyper-parameters by Optuna: tree-structured Parzen estimator, bad trials stopped early, PublicTest as the only judge.

A study is a folder, runs/studies/<data>/<name>, that any number of processes and machines may work on at once
(`ferkit search`): its journal holds the trials, a run folder each their states. A trial whose process was killed is
taken up again, from its last epoch. study.json is what is kept: every trial, and the best one's recipe, which
`ferkit train --recipe study:<name>` trains and measures.

Sources: Bergstra et al. 2011 (TPE), Akiba et al. 2019 (arXiv 1907.10902), Golovin et al. 2017 (median stopping).
"""

import json
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from ferkit import DataError
from ferkit.atomic import alone, project_root, write_whole
from ferkit.checkpoint import State
from ferkit.faces import Faces
from ferkit.machine import code_version, measured_by
from ferkit.models import create_model
from ferkit.protocols import arrange
from ferkit.recipe import Recipe
from ferkit.train import fit, silent

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
BATCH_SIZES, POLICIES, SCHEDULES = (64, 128, 256), ("flip", "light", "standard"), ("cosine", "one_cycle")
WEIGHT_DECAYS = (1e-5, 5e-3)


def suggest(trial: Trial, base: Recipe) -> dict:
    """The search space: a trial's values, by name; pictures are the base's last ones or smaller."""
    side = base.stages[-1][1]
    sides = sorted({side, *(min(side, max(8, 8 * round(side * factor / 8))) for factor in (0.5, 0.75))})
    values = {
        "lr": trial.suggest_float("lr", base.lr / 10, min(base.lr * 5, 1.0), log=True),
        "weight_decay": trial.suggest_float("weight_decay", *WEIGHT_DECAYS, log=True),
        "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05),
        "policy": trial.suggest_categorical("policy", POLICIES),
        "mixup": trial.suggest_float("mixup", 0.0, 0.4, step=0.1),
        "schedule": trial.suggest_categorical("schedule", SCHEDULES),
        "side": trial.suggest_categorical("side", sides),
    }
    if _takes_drop(base):
        values["drop"] = trial.suggest_float("drop", 0.0, 0.5, step=0.1)
    return values


def _values(base: Recipe) -> dict:
    """The base recipe's own values, as `suggest` names them, where they are in its space; the others are drawn.

    Its stages become one, of the last one's side.
    """
    values = {"lr": base.lr, "weight_decay": base.weight_decay, "batch_size": base.batch_size, "policy": base.policy,
              "label_smoothing": base.label_smoothing, "mixup": 0.0, "schedule": base.schedule,
              "side": base.stages[-1][1]}  # fmt: skip
    choices = {"batch_size": BATCH_SIZES, "policy": POLICIES, "schedule": SCHEDULES,
               "label_smoothing": (0.0, 0.05, 0.1, 0.15, 0.2)}  # fmt: skip
    there = {key: value for key, value in values.items() if value in choices.get(key, (value,))}
    low, high = WEIGHT_DECAYS
    return {key: value for key, value in there.items() if key != "weight_decay" or low <= value <= high}


def _takes_drop(base: Recipe) -> bool:
    with suppress(ValueError), torch.device("meta"):
        create_model(base.model, **(base.options | {"drop": 0.0}))
        return True
    return False


def recipe_of(base: Recipe, values: dict, name: str) -> Recipe:
    """The base recipe with those values, at its number of epochs."""
    options = base.options | {"size": values["side"]} | ({"drop": values["drop"]} if "drop" in values else {})
    policy = values["policy"] + (f"+mixup={values['mixup']:.1f}" if values["mixup"] else "")
    taken = {key: values[key] for key in ("batch_size", "label_smoothing", "schedule")}
    rates = {key: float(f"{values[key]:.3g}") for key in ("lr", "weight_decay")}
    return replace(base, name=name, options=options, policy=policy, stages=((base.epochs, values["side"]),), **taken,
                   **rates)  # fmt: skip


def search(
    name: str, base: Recipe, faces: Faces, n_trials: int, root: Path, device: str = "auto", *,
    seed: int | None = None, say: Callable[[str], None] = print,
) -> dict:  # fmt: skip
    """Work on a study until n_trials have finished, whoever ran them; what study.json holds.

    seed: of the sampler, for a study that one process runs; several need one each, or none. PrivateTest is not
    touched. Raises DataError for a study of another recipe or other data, ValueError for another protocol,
    a name that is no folder's, no trial, and a base whose lr is not in (0, 1].
    """
    if not re.fullmatch(r"[\w+=-][\w.+=-]*", name):
        raise ValueError(f"a study's name is a folder's, of letters, digits and . + = - _; got {name!r}")
    if not 0 < base.lr <= 1 or n_trials < 1:
        raise ValueError(f"a search needs a trial and a base with lr in (0, 1], got {n_trials} and {base.lr}")
    if base.protocol != "standard":
        raise ValueError(f"a search is by the standard protocol, which chooses on PublicTest; got {base.protocol}")
    folder = root / "runs" / "studies" / faces.name / name
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))), study_name=name,
        direction="maximize", load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, n_startup_trials=8, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
    )  # fmt: skip
    with alone(folder / "ask", wait=True):
        _claim(study, base, faces)
    train = _trainer(base, faces, folder, device)
    while len(study.get_trials(deepcopy=False, states=FINISHED)) < n_trials:
        with ExitStack() as held:
            with alone(folder / "ask", wait=True):  # so that a running trial that nobody holds has lost its process
                _revive(study, folder)
                trial = study.ask()
                held.enter_context(alone(folder / f"held{trial.number}"))
            state, value = train(trial)
            study.tell(trial, value, state)
            say(f"{name} trial {trial.number}: {state.name.lower()}{f', PublicTest {value:.2%}' if value else ''}")
    return write_study(study, base, faces, folder, device)


def obtain(name: str, base: Recipe, faces: Faces, n_trials: int, device: str = "auto", seed: int | None = None) -> dict:
    """What study.json holds: of the committed study of that name and data where there is one, else of a search."""
    root = project_root()
    committed = root / "results" / "studies" / f"{name}.json"
    if committed.exists() and (report := json.loads(committed.read_text()))["data"]["fingerprint"] == faces.fingerprint:
        return report
    return search(name, base, faces, n_trials, root, device, seed=seed)


def _claim(study: optuna.Study, base: Recipe, faces: Faces) -> None:
    mine = json.loads(json.dumps({"base": asdict(base), "fingerprint": faces.fingerprint}))
    for key, value in mine.items():
        if study.user_attrs.setdefault(key, value) != value:
            raise DataError(f"study {study.study_name} is of another {key}; give this one another name")
        study.set_user_attr(key, value)
    if not study.trials:  # the first to be tried is what there is
        study.enqueue_trial(_values(base))


def _trainer(base: Recipe, faces: Faces, folder: Path, device: str) -> Callable:
    """A function that trains a trial, or goes on with it, to (state, value)."""
    there = arrange(faces, base)
    training, public = there.training, there.choosing

    def train(trial: Trial) -> tuple[TrialState, float | None]:
        recipe = recipe_of(base, suggest(trial, base), f"trial{trial.user_attrs.get('goes_on', trial.number)}")
        n_told, begin = 0, time.perf_counter()

        def tell(state: State) -> None:
            nonlocal n_told
            for accuracy in state.history[n_told:]:  # of epochs before a kill too
                trial.report(accuracy, n_told)
                n_told += 1

        def watch(state: State) -> None:
            tell(state)
            if n_told < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            state = fit(recipe, training, public, folder / recipe.name, device=device, source=code_version(),
                        watch=watch, say=silent)  # fmt: skip
            tell(state)  # of a trial that was killed after its last epoch
            return TrialState.COMPLETE, state.best
        except (optuna.TrialPruned, FloatingPointError):  # a rate that is too high is a result as well
            return TrialState.PRUNED, None
        finally:
            trial.set_user_attr("seconds", round(time.perf_counter() - begin, 1))

    return train


def _revive(study: optuna.Study, folder: Path) -> None:
    """Put the trials whose processes are gone back into the queue: nobody holds them."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with suppress(DataError), alone(folder / f"held{trial.number}"):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"goes_on": trial.user_attrs.get("goes_on", trial.number)})


def write_study(study: optuna.Study, base: Recipe, faces: Faces, folder: Path, device: str) -> dict:
    """Write study.json: every trial that finished, the importance of each value, the best recipe."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    reached = {trial.value for trial in trials if trial.state == TrialState.COMPLETE}
    judge = optuna.importance.FanovaImportanceEvaluator(seed=0)  # Hutter et al. 2014
    importance = optuna.importance.get_param_importances(study, evaluator=judge) if len(reached) > 2 else {}
    report = {
        "schema": 1,
        "study": study.study_name,
        "data": {"name": faces.name, "fingerprint": faces.fingerprint, "official": faces.is_official},
        "objective": "PublicTest accuracy, best epoch",
        "n": {usage: len(faces.split(usage)) for usage in ("Training", "PublicTest")},
        "base": asdict(base),
        "best": asdict(recipe_of(base, study.best_params, f"{base.name}+study={study.study_name}")),
        "best_trial": study.best_trial.number,
        "importance": {key: round(float(value), 4) for key, value in importance.items()},
        "trials": [_as_json(trial) for trial in trials],
    } | measured_by(device)
    report["versions"]["optuna"] = optuna.__version__
    write_whole(folder / "study.json", json.dumps(report, indent=1) + "\n")
    return report


def _as_json(trial: FrozenTrial) -> dict:
    accuracies = [round(trial.intermediate_values[epoch], 6) for epoch in sorted(trial.intermediate_values)]
    return {"number": trial.number, "state": trial.state.name.lower(), "values": trial.params,
            "public_accuracy": accuracies, "seconds": trial.user_attrs.get("seconds")}  # fmt: skip
