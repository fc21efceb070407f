"""The notebooks as a batch: `ferkit suite run`, and `execute`, by which it runs each."""

import argparse
import math
import signal
import time
from pathlib import Path

from ferkit import DataError
from ferkit.atomic import alone
from ferkit.commands import add_data, literal
from ferkit.suite import PROFILES


def add(commands) -> None:
    suite = commands.add_parser("suite", help="the notebooks as a batch").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    batch = suite.add_parser("run", help="execute notebooks with papermill into build/notebooks")
    batch.add_argument("--profile", default="quick", choices=PROFILES)
    add_data(batch)
    batch.add_argument("--only", default="", metavar="NUMBERS", help="for example 00,07")
    batch.add_argument("--jobs", type=int, default=1, metavar="N", help="so many notebooks at once on this machine")
    batch.add_argument("--scheduler", metavar="ADDRESS", help="on a Dask cluster that shares this file system instead")
    batch.add_argument("--resume", action="store_true", help="skip what ran with the same text and parameters")
    batch.add_argument(
        "--budget", metavar="TIME", help="for example 2h; trainings stop in time and go on when called again"
    )
    one = suite.add_parser("execute", help="execute one notebook with papermill, in the environment of this command")
    one.add_argument("notebook", metavar="FILE")
    one.add_argument("--done", metavar="FILE", help="to write when it ran")
    for command in (batch, one):
        command.add_argument("--out", default="build/notebooks", metavar="FOLDER", help="(default: build/notebooks)")
        command.add_argument(
            "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a notebook parameter"
        )
    batch.set_defaults(run=suite_run)
    one.set_defaults(run=suite_execute)


def suite_run(arguments: argparse.Namespace) -> int:
    from ferkit import jobs, sources, suite

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, for those that run the notebooks too
    if arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs}: at least 1 at once")
    if given := {"profile", "data"}.intersection(name for name, _ in arguments.p):
        raise ValueError(f"say --{' and --'.join(sorted(given))} instead of -p")
    until = time.time() + jobs.seconds(arguments.budget) if arguments.budget else math.inf
    where, why = sources.locate(arguments.data)
    print(f"data: {where or 'embedded faces'} ({why})")
    if where and not where.exists():
        raise DataError(f"{where}: no such file or folder; give a FER2013 file, folder or archive with --data")
    parameters = {"profile": arguments.profile, "data": str(where.resolve()) if where else "embedded"}
    parameters |= {name: literal(value) for name, value in arguments.p}
    with alone(out := Path(arguments.out)):
        planned = suite.plan(suite.notebooks(arguments.only), parameters, out, arguments.resume)
        try:
            outcomes = jobs.run(planned, workers=arguments.jobs, scheduler=arguments.scheduler, until=until)
        except KeyboardInterrupt:
            print("\nstopped; add --resume to skip the notebooks that have run")
            raise
    states = [outcome.state for outcome in outcomes]
    print(f"{len(planned) - states.count('failed') - states.count('out of time')} of {len(planned)} notebooks ran; "
          f"executed copies in {arguments.out}")  # fmt: skip
    if "failed" in states:
        raise DataError(f"failed: {', '.join(outcome.job.name for outcome in outcomes if outcome.state == 'failed')}")
    if "out of time" in states:
        print("out of time; the same command with --resume goes on")
        return jobs.OUT_OF_TIME
    return 0


def suite_execute(arguments: argparse.Namespace) -> int:
    from ferkit import jobs, suite

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: its kernel ends with it, its copy stays
    parameters = {name: literal(value) for name, value in arguments.p}
    try:
        suite.execute(Path(arguments.notebook).absolute(), Path(arguments.out).absolute(), parameters)
    except suite.OutOfTime as stopped:
        print(stopped)
        return jobs.OUT_OF_TIME
    if arguments.done:
        Path(arguments.done).touch()
    return 0
