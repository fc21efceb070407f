"""The `ferkit` command: one subcommand a task; a DataError or ValueError ends it with one line and status 1."""

import argparse
import os
import sys

from ferkit import __version__
from ferkit.commands import campaign, data, kaggle, measuring, pages, predicting, suite, training


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ferkit", description="Honest measurements of emotion recognition on FER2013."
    )
    parser.add_argument("--version", action="version", version=f"ferkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for part in (data, training, measuring, predicting, campaign, pages, suite, kaggle):
        part.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # what reads our output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, FloatingPointError, OSError) as error:  # DataError is a ValueError
        print(f"ferkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ferkit: interrupted; what was finished is kept", file=sys.stderr)
        return 130
