"""What finished runs say: `ferkit evaluate`, `ensemble`, `teach` and `robustness`."""

import argparse
import sys
from pathlib import Path

from ferkit import DataError
from ferkit.commands import add_data, add_device, add_labels


def add(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="recompute every metric of run folders from their logits")
    evaluate.add_argument("folders", nargs="+", metavar="FOLDER")
    evaluate.add_argument("--subset", choices=("clean", "copied", "conflicting"), help="of test images, by an audit")
    evaluate.add_argument("--audit", metavar="FILE", help="(default: results/audit/<data>.json)")
    evaluate.set_defaults(run=evaluate_runs)

    several = commands.add_parser("ensemble", help="combine measured runs, fitted on PublicTest, into a run folder")
    several.add_argument("folders", nargs="+", metavar="RUN", help="run folders")
    several.add_argument("--out", required=True, metavar="FOLDER", help="of the ensemble")
    several.add_argument(
        "--method", default="auto", help="auto (what expects most of new faces), mean_logits, mean_probabilities, "
        "geometric_mean, majority_vote, borda_count, simplex_weights, class_weights, greedy_selection, stacking, "
        "best_member, uniform_soup, greedy_soup",
    )  # fmt: skip
    several.add_argument("--tempered", action="store_true", help="a temperature for each member, and one for the whole")
    several.add_argument("--views", action="store_true", help="a face and its mirror image are two members of each run")
    several.add_argument("--snapshots", action="store_true", help="of each run its snapshots are the members")
    several.add_argument("--seed", type=int, default=0, help="of bags and folds")
    several.add_argument("--data", metavar="PATH", help="the runs' faces, for soups and unmeasured snapshots")
    add_labels(several)
    add_device(several)
    several.set_defaults(run=combine_runs)

    teacher = commands.add_parser(
        "teach", help="write a teacher's file for the recipe field teacher, from runs of folds"
    )
    teacher.add_argument("folders", nargs="+", metavar="RUN", help="of every recipe all folds (--set fold=(0,3) ...)")
    teacher.add_argument("--out", required=True, metavar="FILE", help="for example results/teachers/study.npz")
    add_data(teacher)
    add_labels(teacher)
    add_device(teacher)
    teacher.set_defaults(run=write_teacher)

    corrupted = commands.add_parser("robustness", help="accuracy of run folders under fifteen corruptions, PrivateTest")
    corrupted.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders with best.safetensors")
    add_data(corrupted, "the faces that the runs were measured on")
    add_labels(corrupted)
    add_device(corrupted)
    corrupted.set_defaults(run=measure_robustness)


def evaluate_runs(arguments: argparse.Namespace) -> None:
    from ferkit import records

    if arguments.subset:
        return _evaluate_part(arguments)
    if arguments.audit:
        raise ValueError("--audit says which images are clean, copied or conflicting; add --subset")
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


def _evaluate_part(arguments: argparse.Namespace) -> None:
    from ferkit import audit, records

    for folder in arguments.folders:
        record = records.read_record(folder)
        report = audit.load_audit(arguments.audit or audit.audit_file(record["data"]["name"]))
        metrics = records.measure_parts(folder, report, records.JUDGED)
        kept = {name: values for name, values in metrics.items() if name.endswith(arguments.subset)}
        if not kept:
            raise DataError(f"{folder}: no {arguments.subset} images among those that it was measured on")
        print(records.summary(record | {"metrics": kept}))


def combine_runs(arguments: argparse.Namespace) -> None:
    from ferkit import records, sources
    from ferkit.ensemble_run import ensemble
    from ferkit.members import snapshots

    faces = sources.load(arguments.data, labels=arguments.labels) if arguments.data else None
    paths = [Path(folder) for folder in arguments.folders]
    if arguments.snapshots:
        paths = [snapshot for path in paths for snapshot in snapshots(path, faces, arguments.device)]
    record = ensemble(paths, arguments.out, arguments.method, faces, tempered=arguments.tempered,
                      views=arguments.views, seed=arguments.seed, device=arguments.device)  # fmt: skip
    for name, value in record["selected"].get("expected", {}).items():
        print(f"{name:<20}expects {value:.2%} of new faces (fitted on one half of PublicTest, judged on the other)")
    for name, share in record["weights"].items():
        print(f"{share:7.1%}  {name}")
    print(records.summary(record))
    print(f"in {arguments.out}")


def write_teacher(arguments: argparse.Namespace) -> None:
    from ferkit import sources
    from ferkit.distillation import teach

    faces = sources.load(arguments.data, labels=arguments.labels)
    accuracy = teach([Path(folder) for folder in arguments.folders], faces, Path(arguments.out), arguments.device)
    print(f"{arguments.out}: right on {accuracy:.2%} of the training faces, each judged by networks that never saw it")
    print(f"ferkit train --set \"teacher='{arguments.out}'\" learns from it")


def measure_robustness(arguments: argparse.Namespace) -> None:
    from ferkit import records, robustness, sources

    recorded = {Path(folder): records.read_record(folder) for folder in arguments.folders}
    faces = sources.load(arguments.data, labels=arguments.labels)
    for folder, record in recorded.items():
        records.check_faces(folder, record, faces)
    for folder in recorded:
        measured = (folder / robustness.FILE).exists()
        print(f"{folder}" + (f" has {robustness.FILE}, which is only read" if measured else ""), flush=True)
        print(robustness.robustness_table(robustness.obtain(folder, faces, arguments.device)), flush=True)
