"""The static site: `ferkit report`."""

import argparse
from pathlib import Path


def add(commands) -> None:
    site = commands.add_parser("report", help="records and executed notebooks as a static site, without a network")
    site.add_argument("--notebooks", default="build/notebooks", metavar="FOLDER", help="(default: build/notebooks)")
    site.add_argument("--results", default="results", metavar="FOLDER", help="of records (default: results)")
    site.add_argument("--out", default="build/report", metavar="FOLDER", help="(default: build/report)")
    site.set_defaults(run=report)


def report(arguments: argparse.Namespace) -> None:
    from ferkit.report import build_report

    print(build_report(Path(arguments.notebooks), Path(arguments.results), Path(arguments.out)))
