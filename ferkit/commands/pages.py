"""What is made of records and notebooks: `ferkit leaderboard` and `suite`."""

import argparse
import signal
from pathlib import Path

from ferkit import DataError
from ferkit.commands import literal


def add(commands) -> None:
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


def suite_run(arguments: argparse.Namespace) -> None:
    from ferkit import sources, suite

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the notebook is kept, its kernel ended
    where, why = sources.locate(arguments.data)
    print(f"data: {where or 'embedded faces'} ({why})")
    if where and not where.exists():
        raise DataError(f"{where}: no such file or folder; give a FER2013 file, folder or archive with --data")
    given = {name: literal(value) for name, value in arguments.p}
    paths = suite.notebooks(arguments.only)
    suite.check_parameters(paths, given)
    parameters = {"profile": arguments.profile, "data": str(where.resolve()) if where else "embedded", **given}
    outcomes = suite.run(paths, parameters, Path(arguments.out))
    failed = [outcome.notebook for outcome in outcomes if outcome.failure]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks ran; executed copies in {arguments.out}")
    if failed:
        raise DataError(f"failed: {', '.join(failed)}")
