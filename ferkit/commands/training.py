"""One run and what it costs: `ferkit train`, `search` and `bench`."""

import argparse
import os
from pathlib import Path

from ferkit.commands import add_data, add_device, add_labels, literal, positive


def add(commands) -> None:
    train = commands.add_parser("train", help="train a named recipe and measure it; continues an interrupted run")
    train.add_argument("--model", default="compact", help="a name that ferkit models lists (default: compact)")
    train.add_argument(
        "--recipe", default="house", help="a kind that ferkit models lists, or study:NAME (default: house)"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="a field of the recipe, for example lr=0.05 or options.width=48; may be repeated",
    )
    train.add_argument("--exclude", metavar="FILE", help="of ferkit audit: learn without what a clean list leaves out")
    train.add_argument("--weights", metavar="PATH", help="start from this file of ImageNet weights, or from this run")
    train.add_argument("--seed", type=int, default=0)
    add_data(train)
    add_labels(train)
    train.add_argument(
        "--out", metavar="FOLDER", help="run folder (default: below runs/<data>, named by recipe and seed)"
    )
    add_device(train)
    train.add_argument(
        "--processes",
        type=positive(),
        default=1,
        metavar="N",
        help="train with N of them on this machine (torchrun: its own)",
    )
    train.add_argument("--compile", action="store_true", help="by torch.compile: a slow start, faster epochs on a GPU")
    train.set_defaults(run=train_recipe)

    hunt = commands.add_parser("search", help="hyper-parameters by Optuna; start it several times to share the work")
    hunt.add_argument("name", help="of the study; train its best recipe with --recipe study:NAME")
    hunt.add_argument("--model", default="compact", help="a name that ferkit models lists (default: compact)")
    hunt.add_argument("--recipe", default="study", help="the recipe that trials change (default: study)")
    hunt.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    hunt.add_argument(
        "--trials", type=positive(), default=25, metavar="N", help="finished trials of the study (default: 25)"
    )
    add_data(hunt)
    add_labels(hunt)
    add_device(hunt)
    hunt.set_defaults(run=search_recipe)

    speed = commands.add_parser("bench", help="images a second, memory and FLOP/s of models on this machine")
    speed.add_argument("models", nargs="*", default=["compact"], metavar="MODEL", help="(default: compact)")
    speed.add_argument("--recipe", help="(default: cpu on a CPU, else house)")
    speed.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    add_device(speed)
    speed.add_argument("--seconds", type=positive(float), default=3.0, help="of each measurement (default: 3)")
    speed.add_argument("--compile", action="store_true", help="train by torch.compile")
    speed.set_defaults(run=bench_models)


def train_recipe(arguments: argparse.Namespace) -> int:
    from ferkit import experiment, records, sources
    from ferkit.jobs import OUT_OF_TIME
    from ferkit.recipes import get_recipe, started_from
    from ferkit.train import OutOfTime
    from ferkit.weights import BEST

    changes = _changes(arguments.changes) | ({"exclude": arguments.exclude} if arguments.exclude else {})
    recipe = get_recipe(arguments.model, arguments.recipe, arguments.seed, **changes)
    weights = Path(arguments.weights) if arguments.weights else None
    if weights and weights.is_dir():  # a run
        weights /= BEST
    if weights:
        recipe = started_from(recipe, weights)
    say = print if int(os.environ.get("RANK", 0)) == 0 else (lambda _: None)  # one of torchrun's processes speaks
    faces = sources.load(arguments.data, labels=arguments.labels, say=say)
    folder = Path(arguments.out or experiment.run_folder(recipe, faces))
    try:
        record = experiment.run(recipe, faces, folder, arguments.device, weights, processes=arguments.processes,
                                compiled=arguments.compile)  # fmt: skip
    except OutOfTime as stopped:
        say(f"{stopped}; the same command goes on")
        return OUT_OF_TIME
    say(records.summary(record))
    say(f"in {folder}")
    return 0


def search_recipe(arguments: argparse.Namespace) -> None:
    from ferkit import atomic, sources
    from ferkit.recipes import get_recipe
    from ferkit.search import search

    base = get_recipe(arguments.model, arguments.recipe, **_changes(arguments.changes))
    faces = sources.load(arguments.data, labels=arguments.labels)
    report = search(arguments.name, base, faces, arguments.trials, atomic.project_root(), arguments.device)
    best = next(trial for trial in report["trials"] if trial["number"] == report["best_trial"])
    print(f"best of {len(report['trials'])} trials: {max(best['public_accuracy']):.2%} on PublicTest, {best['values']}")
    print(f"ferkit train --model {base.model} --recipe study:{arguments.name} trains and measures it")


def bench_models(arguments: argparse.Namespace) -> None:
    from ferkit.bench import HEADER, bench
    from ferkit.predict import pick_device
    from ferkit.recipes import get_recipe

    kind = arguments.recipe or ("cpu" if pick_device(arguments.device).type == "cpu" else "house")
    recipes = [get_recipe(model, kind, **_changes(arguments.changes)) for model in arguments.models]
    print(HEADER)
    for recipe in recipes:
        print(bench(recipe, arguments.device, arguments.seconds, arguments.compile).row(), flush=True)
    print("MB: the most that was held, on a CPU by the whole process. peak: TFLOP/s beside the fastest matrix product "
          "here in that precision.")  # fmt: skip


def _changes(given: list[str]) -> dict:
    """["lr=0.05", "options.width=48"] -> {"lr": 0.05, "options": {"width": 48}}."""
    changes: dict = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set wants KEY=VALUE, got {text!r}")
        if key in ("model", "kind", "seed"):
            raise ValueError(f"--set does not change the {key}; there are --model, --recipe and --seed")
        if key.startswith("options."):
            options = changes.setdefault("options", {})
            if not isinstance(options, dict):
                raise ValueError(f"options wants a value like {{'width': 16}}, got {options}")
            options[key.removeprefix("options.")] = literal(value)
        else:
            changes[key] = literal(value)
    return changes
