"""The notebooks as jobs: each executed by papermill in the environment that runs this, its copy kept, failures shown.

By hand, `papermill notebooks/03_resemotenet.ipynb out.ipynb -p profile quick` does the same for one.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ferkit import DataError
from ferkit.atomic import project_root
from ferkit.jobs import Job

PROFILES = ("quick", "cpu", "full")
# Who uses runs that others train: two that need one run would get in each other's way. The last one needs all.
AFTER = {"10": ("04", "08"), "11": ("07", "08", "10"), "12": ("05", "08", "11")}
LAST = "13"
MARKER = "done"  # an empty file in a job's folder


class OutOfTime(Exception):
    """A notebook's training stopped at the time in $FERKIT_UNTIL; executed again, it goes on."""


def notebooks(only: str = "") -> list[Path]:
    """The notebooks in order, or those whose numbers `only` lists ("00,07"); ValueError for a number without one."""
    found = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise DataError(f"no notebooks in {project_root() / 'notebooks'}; run from a clone of the repository")
    wanted = [number.strip().zfill(2) for number in only.split(",") if number.strip()]
    numbers = [path.name[:2] for path in found]
    unknown = [number for number in wanted if number not in numbers]
    if unknown:
        raise ValueError(f"no notebook {', '.join(unknown)}; choose from {', '.join(numbers)}")
    return [path for path in found if not wanted or path.name[:2] in wanted]


def plan(paths: list[Path], parameters: dict, out: Path, resume: bool = False) -> list[Job]:
    """The notebooks as jobs, each with those of the parameters that it has, after those whose runs it uses.

    A job's folder, below `out`/logs, is named by the notebook's text and its parameters; unless `resume`, what is
    finished there is forgotten. Raises ValueError for a parameter that no notebook has, which papermill only logs.
    """
    from papermill import inspect_notebook

    known = {path: set(inspect_notebook(path)) for path in paths}
    if unknown := sorted(set(parameters) - set().union(*known.values())):
        choices = ", ".join(sorted(set().union(*known.values())))
        raise ValueError(f"no notebook has the parameter {', '.join(unknown)}; choose from {choices}")
    for unfinished in out.glob(".executing-*"):  # of a suite that was killed
        shutil.rmtree(unfinished)
    jobs = []
    for path in paths:
        mine = {name: value for name, value in parameters.items() if name in known[path]}
        arguments = ("suite", "execute", str(path), "--out", str(out.absolute()))
        arguments += tuple(word for name, value in mine.items() for word in ("-p", name, repr(value)))
        digest = hashlib.sha256(path.read_bytes() + repr(arguments).encode()).hexdigest()[:12]
        folder = out.absolute() / "logs" / f"{path.stem}-{digest}"
        for old in folder.parent.glob(f"{path.stem}-*"):
            if old != folder or not resume or not (out / path.name).exists():
                shutil.rmtree(old)
        names = tuple(p.stem for p in paths if p.name[:2] in _before(path.name[:2]))
        jobs.append(Job(path.stem, (*arguments, "--done", str(folder / MARKER)), folder, MARKER, after=names))
    return jobs


def _before(number: str) -> set[str]:
    """The notebooks that come before one, those before them included."""
    direct = AFTER.get(number, ()) if number != LAST else tuple(p.name[:2] for p in notebooks() if p.name[:2] != LAST)
    return set(direct).union(*map(_before, direct))


def execute(path: Path, out: Path, parameters: dict) -> None:
    """Execute one notebook into the folder `out`. papermill's bar on stderr says which cell runs.

    The copy, of a failed notebook too, takes its place at the end. Raises DataError with the failing cell and its
    traceback, and OutOfTime.
    """
    import nbformat
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".executing-") as temporary:
        copy = Path(temporary) / path.name
        os.environ["JUPYTER_PATH"] = str(_own_kernel(Path(temporary)))
        try:
            execute_notebook(
                path, copy, parameters, kernel_name="python3", cwd=path.parent,
                extra_arguments=["--log-level=ERROR"],  # the kernel's own chatter
            )  # fmt: skip
        except PapermillExecutionError as error:
            if error.ename == "OutOfTime":
                raise OutOfTime(f"{path.name}: {error.evalue}") from error
            trace = "\n".join(error.traceback[-6:])
            raise DataError(f"cell {error.cell_index} of {path.name}:\n{error.source}\n{trace}") from error
        except (RuntimeError, nbformat.ValidationError) as error:  # the kernel died, or the file is no notebook
            raise DataError(f"{path.name}: {type(error).__name__}: {error}") from error
        finally:
            if copy.exists():
                os.replace(copy, out / path.name)


def _own_kernel(folder: Path) -> Path:
    """A place for $JUPYTER_PATH, which Jupyter searches first, whose python3 is the Python that runs this."""
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": command, "display_name": "Python 3", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(about))
    return folder
