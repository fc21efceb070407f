"""The `ferkit` command: one subcommand a task; a DataError or ValueError ends it with one line and status 1."""

import argparse
import sys
from pathlib import Path

from ferkit import DataError, __version__


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ferkit", description="Honest measurements of emotion recognition on FER2013."
    )
    parser.add_argument("--version", action="version", version=f"ferkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    data = commands.add_parser("data", help="what a source holds; download FER2013").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    info = data.add_parser("info", help="source, layout, counts, fingerprint, copies across splits, FER+ sizes")
    info.add_argument(
        "path", nargs="?", help="file, folder or archive (default: $FERKIT_DATA, a Kaggle input, embedded)"
    )
    info.add_argument("--no-cache", action="store_true", help="read the source anew")
    info.set_defaults(run=data_info)

    train = commands.add_parser("train", help="train a named recipe and measure it; continues an interrupted run")
    train.add_argument("--recipe", default="compact", help="a name from recipe.py (default: compact)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive")
    train.add_argument("--out", metavar="FOLDER", help="run folder (default: runs/<data>/<recipe>-s<seed>)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    train.set_defaults(run=train_recipe)

    evaluate = commands.add_parser("evaluate", help="recompute every metric of run folders from their logits")
    evaluate.add_argument("folders", nargs="+", metavar="FOLDER")
    evaluate.set_defaults(run=evaluate_runs)
    return parser


def data_info(arguments: argparse.Namespace) -> None:
    from ferkit.audit import describe
    from ferkit.sources import load

    print(describe(load(arguments.path, cache=not arguments.no_cache)))


def train_recipe(arguments: argparse.Namespace) -> None:
    from ferkit import records, sources
    from ferkit.recipe import get_recipe

    recipe = get_recipe(arguments.recipe, seed=arguments.seed)
    faces = sources.load(arguments.data)
    folder = Path(arguments.out or Path("runs") / faces.name / recipe.run_name)
    record = records.run(recipe, faces, folder, arguments.device)
    print(records.summary(record))
    print(f"in {folder}")


def evaluate_runs(arguments: argparse.Namespace) -> None:
    from ferkit import records

    wrong = 0
    for folder in arguments.folders:
        record, metrics = records.read_record(folder), records.measure(folder)
        print(records.summary(record | {"metrics": metrics}))
        for line in records.disagreements(record["metrics"], metrics):
            print(f"{folder}: {line}", file=sys.stderr)
            wrong += 1
    if wrong:
        raise DataError(f"{wrong} recorded values are not what the logits give")
    print("every recorded metric is what the logits give")


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, FloatingPointError, FileExistsError) as error:  # DataError is a ValueError
        print(f"ferkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ferkit: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
    return 0
