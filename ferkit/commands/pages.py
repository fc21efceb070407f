"""What is made of records: `ferkit leaderboard`."""

import argparse
from pathlib import Path


def add(commands) -> None:
    table = commands.add_parser("leaderboard", help="the results table, from records")
    table.add_argument("--root", default="results", help="folder of run folders (default: results)")
    table.add_argument(
        "--write", metavar="FILE", help="put it and the claims between the markers of FILE; write ROOT/*.md"
    )
    table.set_defaults(run=leaderboard)


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
