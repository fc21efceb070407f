"""The notebooks as one batch: each executed by papermill with parameters, its copy kept, failures shown and counted."""

import time
from dataclasses import dataclass
from pathlib import Path

from ferkit import DataError
from ferkit.records import project_root

PROFILES = ("quick", "cpu", "full")


@dataclass(frozen=True)
class Outcome:
    """One notebook's execution; `failure` is the failing cell and its error, or None."""

    notebook: str
    copy: Path
    seconds: float
    failure: str | None = None


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


def check_parameters(paths: list[Path], given: dict[str, str]) -> None:
    """ValueError for a parameter that no notebook has: papermill itself would only log it."""
    from papermill import inspect_notebook

    known = sorted(set().union(*(inspect_notebook(path) for path in paths)))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"no notebook has the parameter {', '.join(unknown)}; choose from {', '.join(known)}")


def run(paths: list[Path], parameters: dict, out: Path) -> list[Outcome]:
    """Execute notebooks one after the other into `out`, telling of each; a failure does not stop the rest."""
    import nbformat
    from papermill import execute_notebook, inspect_notebook
    from papermill.exceptions import PapermillExecutionError

    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for i, path in enumerate(paths, 1):
        print(f"[{i}/{len(paths)}] {path.stem} ...", end=" ", flush=True)
        start, failure = time.perf_counter(), None
        mine = {name: value for name, value in parameters.items() if name in inspect_notebook(path)}
        try:
            execute_notebook(
                path,
                out / path.name,
                mine,
                kernel_name="python3",
                progress_bar=False,
                cwd=path.parent,
                extra_arguments=["--log-level=ERROR"],
            )  # the kernel's own chatter
        except PapermillExecutionError as error:
            trace = "\n".join(error.traceback[-6:])
            failure = f"cell {error.cell_index} of {path.name}:\n{error.source}\n{trace}"
        except (RuntimeError, nbformat.ValidationError) as error:  # the kernel died, or the file is no notebook
            failure = f"{path.name}: {type(error).__name__}: {error}"
        outcomes.append(Outcome(path.name, out / path.name, time.perf_counter() - start, failure))
        print(f"{'FAILED after' if failure else 'ok'} {outcomes[-1].seconds:.0f} s", flush=True)
        if failure:
            print(failure, flush=True)
    return outcomes
