"""The runs that the results table needs: `ferkit campaign status`, `run` and `merge`."""

import argparse
import signal
import sys
from pathlib import Path

from ferkit import DataError
from ferkit.commands import add_data, add_device, positive


def add(commands) -> None:
    campaign = commands.add_parser("campaign", help="the runs that the results table needs").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    status = campaign.add_parser("status", help="what is done, and how long each run takes")
    status.set_defaults(run=campaign_status)
    take = campaign.add_parser("run", help="take the next unfinished runs, for as long as there is time")
    take.add_argument("--budget", required=True, metavar="TIME", help="for example 90s, 9m, 2h or 1h30m")
    add_data(take)
    add_device(take)
    take.add_argument("--processes", type=positive(), default=1, metavar="N", help="train each with N of them")
    take.add_argument("--compile", action="store_true", help="by torch.compile")
    take.add_argument("--jobs", type=int, default=1, metavar="N", help="so many runs at once on this machine")
    take.add_argument("--scheduler", metavar="ADDRESS", help="on a Dask cluster that shares this file system instead")
    take.add_argument("--machine", default="", choices=("gpu", "t4", "cpu"), help="whose minutes count (default: this)")
    take.add_argument("--pack", metavar="FILE", help="write what results/ does not have yet into this zip, under 16 MB")
    take.add_argument("--done", metavar="FILE", help="leave out the runs it names, one a line: finished elsewhere")
    take.set_defaults(run=campaign_run)
    for command in (status, take):
        command.add_argument("--only", default="*", metavar="PATTERN", help="runs of that name, for example 'resnet*'")
        command.add_argument("--list", metavar="FILE", help="(default: campaign.toml of the checkout)")
    merge = campaign.add_parser("merge", help="put the runs of an archive into runs/ and results/, checked")
    merge.add_argument("archive")
    merge.set_defaults(run=campaign_merge)


def _jobs(arguments: argparse.Namespace) -> list:
    from ferkit import atomic, campaign

    return campaign.load_campaign(arguments.list or atomic.project_root() / "campaign.toml", arguments.only)


def campaign_status(arguments: argparse.Namespace) -> None:
    from ferkit import atomic, campaign

    print(campaign.status(_jobs(arguments), atomic.project_root()))


def campaign_run(arguments: argparse.Namespace) -> None:
    from ferkit import atomic, campaign, packing
    from ferkit.jobs import seconds

    budget, jobs, root = seconds(arguments.budget), _jobs(arguments), atomic.project_root()
    done = Path(arguments.done).read_text().split() if arguments.done else []
    jobs = [job for job in jobs if job.name not in done]
    if arguments.jobs > 1 and arguments.processes > 1:
        raise ValueError("--jobs trains several runs, --processes one by several: choose one of them")
    if arguments.pack:
        atomic.check_file(arguments.pack)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is done gets packed

    def pack() -> None:
        if arguments.pack and (found := campaign.folders(jobs, root)):
            for left_out in packing.pack(found, arguments.pack):
                print(f"no room in {arguments.pack}: {left_out}", file=sys.stderr)

    def keep() -> None:
        try:
            pack()
        except OSError as error:  # a full disk, perhaps: the other runs go on, and the end tries again
            print(f"not packed: {error}", file=sys.stderr)

    failed = campaign.take(jobs, arguments.data, root, budget, arguments.device, here=arguments.machine,
                           processes=arguments.processes, compiled=arguments.compile, workers=arguments.jobs,
                           scheduler=arguments.scheduler, keep=keep)  # fmt: skip
    if failed:
        keep()
        raise DataError("; ".join(failed))
    pack()  # also of what was finished before
    if arguments.pack and not Path(arguments.pack).exists():
        print(f"no {arguments.pack}: results/ has all that is finished")


def campaign_merge(arguments: argparse.Namespace) -> None:
    from ferkit import atomic, packing

    told = packing.merge(arguments.archive, atomic.project_root())
    print("\n".join(told or [f"{arguments.archive}: no run is in it"]))
