"""The `ferkit` command: one subcommand a task; a DataError or ValueError ends it with one line and status 1."""

import argparse
import ast
import math
import os
import signal
import sys
import time
from pathlib import Path

from ferkit import DataError, __version__


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ferkit", description="Honest measurements of emotion recognition on FER2013."
    )
    parser.add_argument("--version", action="version", version=f"ferkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    for add in (_data_commands, _run_commands, _campaign_commands, _page_commands):
        add(commands)
    return parser


def _data_commands(commands) -> None:
    data = commands.add_parser("data", help="what a source holds; download FER2013").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    info = data.add_parser("info", help="source, layout, counts, fingerprint, copies across splits, FER+ sizes")
    info.add_argument(
        "path", nargs="?", help="file, folder or archive (default: $FERKIT_DATA, a Kaggle input, embedded)"
    )
    info.add_argument("--no-cache", action="store_true", help="read the source anew")
    info.set_defaults(run=data_info)
    look = commands.add_parser("audit", help="copies inside and across splits, contradicting labels")
    look.add_argument("path", nargs="?", help="file, folder or archive (default: as data info)")
    look.add_argument("--labels", default="fer2013", help="fer2013 or ferplus")
    look.add_argument("--json", metavar="FILE", help="write it with its row numbers, for --exclude and --subset")
    look.set_defaults(run=audit_data)
    fetch = data.add_parser("download", help="fetch FER2013 with the official Kaggle client, and verify it")
    fetch.add_argument("--source", default="msambare/fer2013", help="msambare/fer2013, deadskull7/fer2013 or challenge")
    fetch.add_argument("--to", default="data", metavar="FOLDER", help="(default: data)")
    fetch.set_defaults(run=data_download)

    models = commands.add_parser("models", help="the models: input, parameters, GFLOPs, recipes")
    models.add_argument("names", nargs="*", metavar="NAME", help="for example timm:vit_tiny_patch16_224 (default: all)")
    models.set_defaults(run=show_models)


def _run_commands(commands) -> None:
    train = commands.add_parser("train", help="train a named recipe and measure it; continues an interrupted run")
    train.add_argument("--model", default="compact", help="a name that ferkit models lists (default: compact)")
    train.add_argument("--recipe", default="house", help="house, paper, cpu, study or quick (default: house)")
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
    train.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive; embedded: drawn faces")
    train.add_argument("--labels", default="fer2013", help="fer2013, or ferplus: eight classes by ten people's votes")
    train.add_argument(
        "--out", metavar="FOLDER", help="run folder (default: below runs/<data>, named by recipe and seed)"
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    train.add_argument(
        "--processes", type=int, default=1, metavar="N", help="train with N of them on this machine (torchrun: its own)"
    )
    train.add_argument("--compile", action="store_true", help="by torch.compile: a slow start, faster epochs on a GPU")
    train.add_argument(
        "--until", type=float, default=math.inf, metavar="SECONDS",
        help="start no epoch that would end after this Unix time; exit status 75: it goes on when called again",
    )  # fmt: skip
    train.set_defaults(run=train_recipe)

    hunt = commands.add_parser("search", help="hyper-parameters by Optuna; start it several times to share the work")
    hunt.add_argument("name", help="of the study; train its best recipe with --recipe study:NAME")
    hunt.add_argument("--model", default="compact", help="a name that ferkit models lists (default: compact)")
    hunt.add_argument("--recipe", default="study", help="the recipe that trials change (default: study)")
    hunt.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    hunt.add_argument("--trials", type=int, default=25, metavar="N", help="finished trials of the study (default: 25)")
    hunt.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive")
    hunt.add_argument("--labels", default="fer2013", help="fer2013 or ferplus")
    hunt.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    hunt.set_defaults(run=search_recipe)

    speed = commands.add_parser("bench", help="images a second, memory and FLOP/s of models on this machine")
    speed.add_argument("models", nargs="*", default=["compact"], metavar="MODEL", help="(default: compact)")
    speed.add_argument("--recipe", help="(default: cpu on a CPU, else house)")
    speed.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    speed.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    speed.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default: 3)")
    speed.add_argument("--compile", action="store_true", help="train by torch.compile")
    speed.set_defaults(run=bench_models)

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
    several.add_argument("--labels", default="fer2013", help="fer2013 or ferplus")
    several.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    several.set_defaults(run=combine_runs)

    teacher = commands.add_parser(
        "teach", help="write a teacher's file for the recipe field teacher, from runs of folds"
    )
    teacher.add_argument("folders", nargs="+", metavar="RUN", help="of every recipe all folds (--set fold=(0,3) ...)")
    teacher.add_argument("--out", required=True, metavar="FILE", help="for example results/teachers/study.npz")
    teacher.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive")
    teacher.add_argument("--labels", default="fer2013", help="fer2013 or ferplus")
    teacher.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    teacher.set_defaults(run=write_teacher)

    corrupted = commands.add_parser("robustness", help="accuracy of run folders under fifteen corruptions, PrivateTest")
    corrupted.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders with best.safetensors")
    corrupted.add_argument("--data", metavar="PATH", help="the faces that the runs were measured on")
    corrupted.add_argument("--labels", default="fer2013", help="fer2013 or ferplus")
    corrupted.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    corrupted.set_defaults(run=measure_robustness)

    predict = commands.add_parser("predict", help="emotions of face pictures (cropped to the face), by a trained run")
    predict.add_argument("folder", help="a run folder with its weights, or an ensemble of such")
    predict.add_argument("pictures", nargs="+", metavar="PICTURE")
    predict.set_defaults(run=predict_pictures)


def _campaign_commands(commands) -> None:
    campaign = commands.add_parser("campaign", help="the runs that the results table needs").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    status = campaign.add_parser("status", help="what is done, and how long each run takes")
    status.set_defaults(run=campaign_status)
    take = campaign.add_parser("run", help="take the next unfinished runs, for as long as there is time")
    take.add_argument("--budget", required=True, metavar="TIME", help="for example 90s, 9m, 2h or 1h30m")
    take.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive")
    take.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    take.add_argument("--processes", type=int, default=1, metavar="N", help="train each with N of them")
    take.add_argument("--compile", action="store_true", help="by torch.compile")
    take.add_argument("--jobs", type=int, default=1, metavar="N", help="so many runs at once on this machine")
    take.add_argument("--scheduler", metavar="ADDRESS", help="on a Dask cluster that shares this file system instead")
    take.add_argument("--machine", default="", choices=("gpu", "t4", "cpu"), help="whose minutes count (default: this)")
    take.add_argument("--pack", metavar="FILE", help="write what results/ does not have yet into this zip, under 16 MB")
    take.set_defaults(run=campaign_run)
    for command in (status, take):
        command.add_argument("--only", default="*", metavar="PATTERN", help="runs of that name, for example 'resnet*'")
        command.add_argument("--list", metavar="FILE", help="(default: campaign.toml of the checkout)")
    merge = campaign.add_parser("merge", help="put the runs of an archive into runs/ and results/, checked")
    merge.add_argument("archive")
    merge.set_defaults(run=campaign_merge)


def _page_commands(commands) -> None:
    table = commands.add_parser("leaderboard", help="the results table, from records")
    table.add_argument("--root", default="results", help="folder of run folders (default: results)")
    table.add_argument(
        "--write", metavar="FILE", help="put it and the claims between the markers of FILE; write ROOT/*.md"
    )
    table.set_defaults(run=leaderboard)

    suite = commands.add_parser("suite", help="the notebooks as a batch").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    batch = suite.add_parser("run", help="execute notebooks with papermill into build/notebooks")
    batch.add_argument("--profile", default="quick", choices=("quick", "cpu", "full"))
    batch.add_argument("--data", metavar="PATH", help="FER2013 as a file, folder or archive")
    batch.add_argument("--only", default="", metavar="NUMBERS", help="for example 00,07")
    batch.add_argument("--out", default="build/notebooks", metavar="FOLDER")
    batch.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a notebook parameter"
    )
    batch.set_defaults(run=suite_run)


def data_info(arguments: argparse.Namespace) -> None:
    from ferkit.audit import describe
    from ferkit.sources import load

    print(describe(load(arguments.path, cache=not arguments.no_cache)))


def audit_data(arguments: argparse.Namespace) -> None:
    from ferkit.audit import audit, save_audit, told
    from ferkit.sources import load

    report = audit(load(arguments.path, labels=arguments.labels)).report()
    print(told(report))
    if arguments.json:
        save_audit(report, Path(arguments.json))
        print(f"in {arguments.json}")


def data_download(arguments: argparse.Namespace) -> None:
    from ferkit.download import download

    path = download(arguments.source, arguments.to)
    print(f"verified {path}; use it with --data {path}")


def show_models(arguments: argparse.Namespace) -> None:
    import torch

    from ferkit.models import create_model, list_models
    from ferkit.models.outline import cost
    from ferkit.recipes import kinds

    print(f"{'model':<32}{'input':<12}{'parameters':>12}{'GFLOPs':>9}  recipes   (GFLOPs: a multiply-add is two)")
    for name in arguments.names or list_models():
        with torch.device("meta"):  # shapes only
            model = create_model(name)
        spec, (parameters, gflops) = model.input_spec, cost(model)
        size = f"{spec.channels}x{spec.size}x{spec.size}"
        print(f"{name:<32}{size:<12}{parameters:>12,}{gflops:>9.2f}  {', '.join(kinds(name))}")


def train_recipe(arguments: argparse.Namespace) -> int:
    from ferkit import records, sources
    from ferkit.jobs import OUT_OF_TIME
    from ferkit.recipes import get_recipe, started_from
    from ferkit.train import OutOfTime

    changes = _changes(arguments.changes) | ({"exclude": arguments.exclude} if arguments.exclude else {})
    recipe = get_recipe(arguments.model, arguments.recipe, arguments.seed, **changes)
    weights = Path(arguments.weights) if arguments.weights else None
    if weights and weights.is_dir():  # a run
        weights /= "best.safetensors"
    if weights and not recipe.pretrained:  # not the run that starts at random
        recipe = started_from(recipe, weights)
    say = print if int(os.environ.get("RANK", 0)) == 0 else (lambda _: None)  # one of torchrun's processes speaks
    faces = sources.load(arguments.data, labels=arguments.labels, say=say)
    folder = Path(arguments.out or records.run_folder(recipe, faces))
    deadline = time.monotonic() + arguments.until - time.time()
    try:
        record = records.run(recipe, faces, folder, arguments.device, weights, processes=arguments.processes,
                             compiled=arguments.compile, deadline=deadline)  # fmt: skip
    except OutOfTime as stopped:
        say(f"{stopped}; the same command goes on")
        return OUT_OF_TIME
    say(records.summary(record))
    say(f"in {folder}")
    return 0


def search_recipe(arguments: argparse.Namespace) -> None:
    from ferkit import records, sources
    from ferkit.recipes import get_recipe
    from ferkit.search import search

    base = get_recipe(arguments.model, arguments.recipe, **_changes(arguments.changes))
    faces = sources.load(arguments.data, labels=arguments.labels)
    report = search(arguments.name, base, faces, arguments.trials, records.project_root(), arguments.device)
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
        if key.startswith("options."):
            changes.setdefault("options", {})[key.removeprefix("options.")] = _literal(value)
        else:
            changes[key] = _literal(value)
    return changes


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

    recorded = {Path(folder): records.read_record(folder)["data"] for folder in arguments.folders}
    faces = sources.load(arguments.data, labels=arguments.labels)
    for folder, data in recorded.items():
        if data["fingerprint"] != faces.fingerprint:
            raise DataError(f"{folder} was measured on {data['name']}, fingerprint {data['fingerprint']}; these are "
                            f"{faces.name}, {faces.fingerprint}: give its own with --data and --labels")  # fmt: skip
    for folder in recorded:
        measured = (folder / robustness.FILE).exists()
        print(f"{folder}" + (f" has {robustness.FILE}, which is only read" if measured else ""), flush=True)
        print(robustness.robustness_table(robustness.obtain(folder, faces, arguments.device)), flush=True)


def predict_pictures(arguments: argparse.Namespace) -> None:
    from ferkit.judge import load_judge
    from ferkit.predict import read_picture

    judge = load_judge(arguments.folder)
    for path in arguments.pictures:
        p = judge(read_picture(path)).softmax(1)[0]
        ranked = sorted(zip(p.tolist(), judge.classes, strict=True), reverse=True)
        print(f"{path}: " + ", ".join(f"{name} {share:.0%}" for share, name in ranked))


def _jobs(arguments: argparse.Namespace) -> list:
    from ferkit import campaign, records

    return campaign.load_campaign(arguments.list or records.project_root() / "campaign.toml", arguments.only)


def campaign_status(arguments: argparse.Namespace) -> None:
    from ferkit import campaign, records

    print(campaign.status(_jobs(arguments), records.project_root()))


def campaign_run(arguments: argparse.Namespace) -> None:
    from ferkit import campaign, packing, records

    budget, jobs, root = campaign.seconds(arguments.budget), _jobs(arguments), records.project_root()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is done gets packed

    def keep() -> None:
        if arguments.pack:
            for left_out in packing.pack(campaign.folders(jobs, root), arguments.pack):
                print(f"no room in {arguments.pack}: {left_out}", file=sys.stderr)

    failed = campaign.take(jobs, arguments.data, root, budget, arguments.device, here=arguments.machine,
                           processes=arguments.processes, compiled=arguments.compile, workers=arguments.jobs,
                           scheduler=arguments.scheduler, keep=keep)  # fmt: skip
    if failed:
        raise DataError("; ".join(failed))


def campaign_merge(arguments: argparse.Namespace) -> None:
    from ferkit import packing, records

    print("\n".join(packing.merge(arguments.archive, records.project_root())))


def leaderboard(arguments: argparse.Namespace) -> None:
    from ferkit import ensemble_study, leaks, studies
    from ferkit.atomic import whole_file
    from ferkit.claims import claims_table
    from ferkit.leaderboard import results_table, write_between_markers

    table = results_table(arguments.root)
    if arguments.write:
        root = Path(arguments.root)
        pages = {"studies.md": studies.page(root), "ensembles.md": ensemble_study.page(root)}
        pages["leaks.md"] = leaks.page(root)
        write_between_markers(Path(arguments.write), table)
        write_between_markers(Path(arguments.write), claims_table(), "claims")
        for name, text in pages.items():
            with whole_file(root / name) as temporary:
                temporary.write_text(text)
    else:
        print(table)


def _literal(text: str):
    """A notebook parameter as Python would read it; what is no literal is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def suite_run(arguments: argparse.Namespace) -> None:
    from ferkit import sources, suite

    where, why = sources.locate(arguments.data)
    print(f"data: {where or 'embedded faces'} ({why})")
    if where and not where.exists():
        raise DataError(f"{where}: no such file or folder; give a FER2013 file, folder or archive with --data")
    given = {name: _literal(value) for name, value in arguments.p}
    paths = suite.notebooks(arguments.only)
    suite.check_parameters(paths, given)
    parameters = {"profile": arguments.profile, "data": str(where.resolve()) if where else "embedded", **given}
    outcomes = suite.run(paths, parameters, Path(arguments.out))
    failed = [outcome.notebook for outcome in outcomes if outcome.failure]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks ran; executed copies in {arguments.out}")
    if failed:
        raise DataError(f"failed: {', '.join(failed)}")


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, FloatingPointError, OSError) as error:  # DataError is a ValueError
        print(f"ferkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ferkit: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
