"""A Kaggle kernel: `ferkit kaggle build`, `push`, `status`, `output`, `logs`, and the `session` that runs inside."""

import argparse
import time
from pathlib import Path

from ferkit import DataError
from ferkit.kaggle import LONGEST, MINUTES
from ferkit.suite import PROFILES

FOLDER = "build/kaggle"


def add(commands) -> None:
    kaggle = commands.add_parser("kaggle", help="one self-contained Kaggle kernel").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    build = kaggle.add_parser("build", help="write the notebook and its metadata")
    build.add_argument("--out", default=FOLDER, metavar="FOLDER", help=f"(default: {FOLDER})")
    build.add_argument("--user", default="", metavar="NAME", help="on Kaggle (default: that of the credentials)")
    build.add_argument("--resume", action="store_true", help="attach the output of the kernel's last version")
    build.set_defaults(run=kaggle_build)
    push = kaggle.add_parser("push", help="push what build wrote, and start it")
    push.add_argument("folder", nargs="?", default=FOLDER, help=f"(default: {FOLDER})")
    push.set_defaults(run=kaggle_push)
    words = {
        "status": "how its last version is; of a failed one the end of its log",
        "logs": "what its last version printed",
        "output": "fetch what its last version left",
    }
    for (name, what), run in zip(words.items(), (kaggle_status, kaggle_logs, kaggle_output), strict=True):
        command = kaggle.add_parser(name, help=what)
        command.add_argument("kernel", nargs="?", metavar="USER/KERNEL", help=f"(default: that of {FOLDER})")
        command.set_defaults(run=run)
    command.add_argument("--to", default=f"{FOLDER}/output", metavar="FOLDER", help=f"(default: {FOLDER}/output)")
    session = kaggle.add_parser("session", help="what the kernel runs: restore, train, notebooks, report, output")
    session.add_argument("--input", default="/kaggle/input", metavar="FOLDER")
    session.add_argument("--working", default="/kaggle/working", metavar="FOLDER")
    session.add_argument("--data", default="", metavar="PATH", help="(default: found in the input)")
    session.set_defaults(run=kaggle_session)
    for command in (build, session):
        command.add_argument("--profile", default="full", choices=PROFILES)
        command.add_argument("--only", default="", metavar="NUMBERS", help="notebooks, for example 00,07")
        how_long = f"of the session (default: {MINUTES}; Kaggle has {LONGEST})"
        command.add_argument("--minutes", type=float, default=MINUTES, help=how_long)


def kaggle_build(arguments: argparse.Namespace) -> None:
    from ferkit import kaggle

    notebook, metadata = kaggle.build(
        arguments.out, arguments.user, profile=arguments.profile, only=arguments.only, minutes=arguments.minutes,
        resume=arguments.resume,
    )  # fmt: skip
    print(f"{notebook}: {notebook.stat().st_size:,} bytes; {metadata}: {kaggle.read_metadata(arguments.out)['id']}")


def kaggle_push(arguments: argparse.Namespace) -> None:
    from ferkit import kaggle

    print(kaggle.push(arguments.folder))


def _kernel(arguments: argparse.Namespace) -> str:
    from ferkit import kaggle

    return arguments.kernel or kaggle.read_metadata(FOLDER)["id"]


def kaggle_status(arguments: argparse.Namespace) -> None:
    from ferkit import kaggle

    print(kaggle.status(_kernel(arguments)))


def kaggle_logs(arguments: argparse.Namespace) -> None:
    from ferkit import kaggle

    print(kaggle.logs(_kernel(arguments)))


def kaggle_output(arguments: argparse.Namespace) -> None:
    from ferkit import kaggle

    archives = kaggle.output(_kernel(arguments), arguments.to)
    print("\n".join([f"in {arguments.to}", *(f"ferkit campaign merge {path}" for path in archives)]))
    for file in Path(arguments.to).rglob(kaggle.NAMES_FAILED):
        raise DataError(f"steps of that session failed: {', '.join(file.read_text().split())}; see ferkit kaggle logs")


def kaggle_session(arguments: argparse.Namespace) -> None:
    from ferkit.session import RESERVE, Session

    seconds = 60 * arguments.minutes
    ends = time.monotonic() + seconds - min(RESERVE, seconds / 10)
    session = Session(Path(arguments.input), Path(arguments.working), ends)
    session.run(arguments.profile, arguments.only, arguments.data)
    if session.failures:
        raise DataError(f"failed: {', '.join(session.failures)}")
