"""What is made of records: `ferkit leaderboard`, and `report`, the static site."""

import argparse
from pathlib import Path


def add(commands) -> None:
    table = commands.add_parser("leaderboard", help="the results table, from records")
    table.add_argument("--root", default="results", help="folder of run folders (default: results)")
    table.add_argument(
        "--write", metavar="FILE", help="put it and the claims between the markers of FILE; write ROOT/*.md"
    )
    table.set_defaults(run=leaderboard)
    site = commands.add_parser("report", help="records and executed notebooks as a static site, without a network")
    site.add_argument("--notebooks", default="build/notebooks", metavar="FOLDER", help="(default: build/notebooks)")
    site.add_argument("--results", default="results", metavar="FOLDER", help="of records (default: results)")
    site.add_argument("--out", default="build/report", metavar="FOLDER", help="(default: build/report)")
    site.set_defaults(run=report)


def leaderboard(arguments: argparse.Namespace) -> None:
    from ferkit import ensemble_study, leaks, shipping, studies
    from ferkit.atomic import write_whole
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
            write_whole(root / name, text)
        if shipping.SHIPPED.exists():
            shipping.write_card()
    else:
        print(table)


def report(arguments: argparse.Namespace) -> None:
    from ferkit.report import build_report

    print(build_report(Path(arguments.notebooks), Path(arguments.results), Path(arguments.out)))
