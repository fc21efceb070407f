"""What a measurement was made by: the commit of the code, the machine, and the versions of the libraries."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from ferkit.predict import pick_device

LIBRARIES = ("torch", "torchvision", "numpy", "timm", "scikit-learn", "scipy")


def code_version() -> dict:
    """The commit of this package's checkout and whether its code differs from it.

    A copy without git (on a machine that is lent) can be told its commit by $FERKIT_COMMIT; else None each.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        commit = os.environ.get("FERKIT_COMMIT")
        return {"commit": commit, "dirty": False if commit else None}


def measured_by(device: str = "auto") -> dict:
    """What a benchmark's file says of itself: machine, code, versions."""
    return {"machine": describe_machine(device), "code": code_version(), "versions": versions()}


def describe_machine(device: str = "auto") -> dict:
    """Device, its name and the threads in use."""
    where = pick_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else _processor()
    return {"device": where.type, "name": name, "threads": torch.get_num_threads(), "system": platform.system()}


def versions() -> dict[str, str | None]:
    """Python's and the libraries'; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: library_version(name) for name in LIBRARIES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def library_version(library: str) -> str | None:
    """Of an installed library, else None."""
    try:
        return version(library)
    except ModuleNotFoundError:
        return None
