"""The report: records and executed notebooks as one static site, that opens from disk without a network."""

import html
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import matplotlib
import nbformat

from ferkit import DataError
from ferkit.atomic import project_root
from ferkit.claims import CLAIMS, claims_table
from ferkit.leaderboard import entries
from ferkit.model_plots import claimed_and_measured
from ferkit.records import environment
from ferkit.report_table import html_table, record_place, results_html
from ferkit.site import build_site, check_libraries

TITLE = "ferkit report"
PAGES = ("studies", "ensembles", "leaks")  # Markdown pages beside the records
INTRODUCTION = """
How well do models of facial-emotion recognition really do on FER2013 and FER+? Every number here was measured under one
protocol: the model learned from Training, everything about it was chosen on PublicTest, and PrivateTest was read once,
by code that could not choose any more. Each model judges one face at a time, and each row links the records that it was
made of, from whose logits anyone can recompute it.
"""


@dataclass(frozen=True)
class Run:
    """A notebook as it was executed, or was not."""

    name: str
    title: str  # its first heading: number, subject and question
    state: str  # ok, failed at In [5]: ValueError, not finished, not run
    how: str = "–"  # profile and data
    seconds: float | None = None


def build_report(notebooks: Path, results: Path, out: Path) -> Path:
    """Build the site of the executed notebooks in one folder and the records below another; its index.html.

    Runs below runs/ beside `results` count too where they are results. The report takes the place of an older one when
    it is whole. Raises ValueError for missing libraries, a missing folder of records, unsound records and an `out` that
    is something else; DataError for a notebook that cannot be read. Notebooks that did not run are said to be so.
    """
    check_libraries()
    notebooks, results, out = Path(notebooks), Path(results), Path(out).absolute()
    before = out.with_name(f".{out.name}.before")
    if before.exists() and not out.exists():  # the last build was killed between the two renames
        os.replace(before, out)
    if out.exists() and not (out / "_static" / "report.js").exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and no report; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        source, extra, site = (Path(folder) / name for name in ("source", "extra", "site"))
        for place in (source / "notebooks", extra):
            place.mkdir(parents=True)
        runs = _write_notebooks(notebooks, source / "notebooks")
        _write_front(results, runs, source, extra)
        build_site(source, site, TITLE, extra)
        shutil.rmtree(before, ignore_errors=True)
        if out.exists():
            os.replace(out, before)
        os.replace(site, out)
        shutil.rmtree(before, ignore_errors=True)
    return out / "index.html"


def _write_notebooks(executed: Path, pages: Path) -> list[Run]:
    """Copy the executed notebooks to where pages are made of them; these and those that have not run, by name."""
    if executed.exists() and not executed.is_dir():
        raise ValueError(f"{executed} is no folder of executed notebooks")
    there = {path.stem: path for path in executed.glob("*.ipynb")}
    known = {path.stem: path for path in (project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    runs = []
    for name in sorted(there | known):
        notebook = _read(there.get(name) or known[name])
        if name not in there:
            runs.append(Run(name, _title(notebook, name), "not run"))
            continue
        if _title(notebook, "") == "":
            notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {name}"))
        about = notebook.metadata.get("papermill", {})
        given = about.get("parameters", {})
        how = ", ".join(Path(str(given[key])).name for key in ("profile", "data") if key in given) or "–"
        runs.append(Run(name, _title(notebook, name), _state(notebook), how, about.get("duration")))
        nbformat.write(notebook, pages / f"{name}.ipynb")
    return runs


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises what it stumbles over
        raise DataError(f"{path}: no readable notebook ({type(error).__name__}: {str(error)[:200]})") from error
    return notebook


def _title(notebook: nbformat.NotebookNode, otherwise: str) -> str:
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), otherwise)


def _state(notebook: nbformat.NotebookNode) -> str:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        for output in cell.outputs:
            if output.output_type == "error":
                return f"failed at In [{cell.execution_count}]: {output.ename}"
    return "not finished" if any(cell.source and cell.execution_count is None for cell in code) else "ok"


def _write_front(results: Path, runs: list[Run], source: Path, extra: Path) -> None:
    """index.md, the pages beside the records, the figure and the records themselves."""
    local, note = results.absolute().parent / "runs", ""
    try:
        found = entries(results, *([local] if local.is_dir() else []))
    except ValueError as error:  # not what is committed: a run that somebody tried must not prevent the report
        found, note = entries(results), f"Without the runs below runs/: {error}."
    measured = [(entry.name, entry.accuracy(), entry.record["metrics"]["PrivateTest"]["n"])
                for entry in found if entry.data == "fer2013"]  # fmt: skip
    figure = claimed_and_measured(list(CLAIMS), measured, "Claimed and measured, FER2013, PrivateTest")
    with matplotlib.rc_context({"svg.hashsalt": TITLE}):  # the same bytes from the same numbers
        figure.savefig(source / "claims.svg", facecolor="white", metadata={"Date": None})
    for folder, record in (run for entry in found for run in entry.runs):
        copy = extra / record_place(folder, record, results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "record.json", copy)
    pages = [name for name in PAGES if (results / f"{name}.md").exists()]
    for name in pages:
        shutil.copyfile(results / f"{name}.md", source / f"{name}.md")
    built = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    executed = [f"notebooks/{run.name}" for run in runs if run.state != "not run"]
    parts = [
        "---\nhide-toc: true\n---", "# Emotion recognition, measured", INTRODUCTION, "## Leaderboard",
        results_html(found, results), note,
        "## Claimed and measured", "What papers claim on the same split: a cross is a claim that cannot be compared.",
        "![Claimed accuracies beside measured ones](claims.svg)", claims_table(),
        "## Notebooks", _notebook_table(runs),
        f"Built {built}: {environment()}.",
        _toctree("Results", pages), _toctree("Notebooks", executed),
    ]  # fmt: skip
    (source / "index.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def _toctree(caption: str, names: list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"]) if names else ""


def _notebook_table(runs: list[Run]) -> str:
    rows = []
    for run in runs:
        page, title = f"notebooks/{quote(run.name)}.html", html.escape(run.title)
        state, wrong = html.escape(run.state), run.state not in ("ok", "not run")
        rows.append([
            (title if run.state == "not run" else f'<a href="{page}">{title}</a>', None),
            (f'<span class="failed">{state}</span>' if wrong else state, None), (html.escape(run.how), None),
            ("–" if run.seconds is None else f"{run.seconds:.0f}", run.seconds),
        ])  # fmt: skip
    return html_table((("Notebook", ""), ("State", ""), ("Profile, data", ""), ("Seconds", "")), rows, "notebooks")
