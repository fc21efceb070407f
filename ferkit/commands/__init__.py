"""The `ferkit` command's parts: each has `add`, which adds its subcommands, and what they run.

Everything heavy is imported by the command that needs it.
"""

import argparse
import ast


def literal(text: str):
    """A value of the command line as Python would read it; what is no literal is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def positive(kind: type = int):
    """What reads a number above 0, for argparse's `type`."""

    def read(text: str):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
        return value

    read.__name__ = kind.__name__  # which argparse says where the text is none
    return read


def add_data(command: argparse.ArgumentParser, faces: str = "FER2013 as a file, folder or archive") -> None:
    """--data: the faces, as sources.load takes them."""
    command.add_argument("--data", metavar="PATH", help=f"{faces}, or embedded: drawn ones (default: $FERKIT_DATA)")


def add_labels(command: argparse.ArgumentParser) -> None:
    """--labels: whose labels the faces have."""
    command.add_argument("--labels", default="fer2013", help="fer2013, or ferplus: eight classes by ten people's votes")


def add_device(command: argparse.ArgumentParser) -> None:
    """--device: where the network computes."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
