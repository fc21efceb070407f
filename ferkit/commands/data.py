"""What the data are, and what models there are: `ferkit data`, `audit` and `models`."""

import argparse
from pathlib import Path

from ferkit.commands import add_labels


def add(commands) -> None:
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
    add_labels(look)
    look.add_argument("--json", metavar="FILE", help="write it with its row numbers, for --exclude and --subset")
    look.set_defaults(run=audit_data)
    fetch = data.add_parser("download", help="fetch FER2013 with the official Kaggle client, and verify it")
    fetch.add_argument("--source", default="msambare/fer2013", help="msambare/fer2013, deadskull7/fer2013 or challenge")
    fetch.add_argument("--to", default="data", metavar="FOLDER", help="(default: data)")
    fetch.set_defaults(run=data_download)

    models = commands.add_parser("models", help="the models: input, parameters, GFLOPs, recipes")
    models.add_argument("names", nargs="*", metavar="NAME", help="for example timm:vit_tiny_patch16_224 (default: all)")
    models.set_defaults(run=show_models)


def data_info(arguments: argparse.Namespace) -> None:
    from ferkit.audit import describe
    from ferkit.sources import load

    print(describe(load(arguments.path, cache=not arguments.no_cache)))


def audit_data(arguments: argparse.Namespace) -> None:
    from ferkit.atomic import check_file
    from ferkit.audit import audit, save_audit, told
    from ferkit.sources import load

    if arguments.json:
        check_file(arguments.json)
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
