import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ferkit import atomic, cli, jobs, records, suite
from ferkit.atomic import alone
from tests.test_jobs import wait_for

NOTEBOOKS = suite.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_the_house_style(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    assert len(code) <= 40 and len(prose) >= len(code)
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert all(len(cell["source"]) <= 25 for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert not re.search(r"!pip|%pip|(?<![\w./:<])/\w+/", text)
    titles = [line for cell in prose for line in cell["source"] if line.startswith("#")]
    assert titles[0].startswith(f"# {path.name[:2]} ") and "**In one sentence:**" in text
    wanted = ["## What you need\n", "## What we learned", "## Where to go next\n"]
    assert [t.strip() for t in titles if t.strip() in [w.strip() for w in wanted]] == [w.strip() for w in wanted]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_embedded_notebooks_run(path, tmp_path, monkeypatch):
    """As a newcomer runs them, each with seeds of its own, so that two can run at once."""
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    runs, number = atomic.project_root() / "runs", int(path.name[:2])

    def clear() -> None:
        for place in ("embedded*", "studies/embedded"):
            for found in runs.glob(f"{place}/*-s{number}[0-9]*"):
                shutil.rmtree(found) if found.is_dir() else found.unlink()

    clear()
    try:
        assert (
            cli.main(["suite", "run", "--only", f"{number}", "--out", str(tmp_path), "-p", "seed", f"{10 * number}"])
            == 0
        )
        CLAIMS.get(number, lambda _: None)(runs / "embedded")
    finally:
        clear()
    assert '"image/png"' in (tmp_path / path.name).read_text()


def reads_the_drawn_faces(runs):
    """The small network must read the drawn faces, but not their label noise."""
    metrics = records.read_record(runs / "compact-quick-s70")["metrics"]
    accuracy = (metrics["PublicTest"]["accuracy"]["value"] + metrics["PrivateTest"]["accuracy"]["value"]) / 2
    assert 0.85 < accuracy < 0.99


def shows_the_leak(runs):
    assert records.read_record(runs / "patt_lite_batch-quick-s40")["batch_independence"] > 0.05


CLAIMS = {4: shows_the_leak, 7: reads_the_drawn_faces}  # what is checked of a notebook's runs


@pytest.fixture
def suite_of(tmp_path, monkeypatch):
    """A function that makes a checkout of notebooks, one a source; the call of `suite run` on it, into its out/."""

    def make(*sources: str):
        (tmp_path / "notebooks").mkdir()
        for number, source in enumerate(sources):
            parameters = {"metadata": {"tags": ["parameters"]}, "source": 'data = ""\nprofile = ""\nseed = 0'}
            cells = [
                {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": []} | cell
                for i, cell in enumerate([parameters, {"source": source}])
            ]
            kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
            (tmp_path / "notebooks" / f"{number:02}_x.ipynb").write_text(text)
        return lambda *more: cli.main(["suite", "run", "--out", str(tmp_path / "out"), *more])

    monkeypatch.setattr(suite, "project_root", lambda: tmp_path)
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    return make


def test_a_failing_notebook_is_shown_counted_and_does_not_stop_the_rest(suite_of, tmp_path, capsys):
    run = suite_of("1 / 0", "import os; os._exit(3)", "print(profile, seed)")
    assert run("-p", "seed", "7", "--jobs", "3") == 1
    said = capsys.readouterr()
    assert "cell 2 of 00_x.ipynb:\n1 / 0\n" in said.out and "ZeroDivisionError" in said.out
    assert "DeadKernelError" in said.out and "1 of 3 notebooks ran" in said.out
    assert "failed: " in said.err and "00_x" in said.err and "01_x" in said.err and "02_x" not in said.err
    assert "quick 7" in (tmp_path / "out" / "02_x.ipynb").read_text()
    assert "ZeroDivisionError" in (tmp_path / "out" / "00_x.ipynb").read_text()
    assert not list((tmp_path / "out").glob(".executing*"))


def test_what_has_run_is_skipped_when_resumed_unless_it_or_its_parameters_changed(suite_of, tmp_path, capsys):
    counts = 'open("count", "a").write(profile + str(seed) + " ")'  # beside the notebook
    run, count = suite_of(counts), tmp_path / "notebooks" / "count"
    assert run() == run("--resume") == 0 and count.read_text() == "quick0 "
    assert "00_x: was done" in capsys.readouterr().out
    assert run("--resume", "-p", "seed", "1") == 0 and count.read_text() == "quick0 quick1 "
    assert run("-p", "seed", "1") == 0 and count.read_text() == "quick0 quick1 quick1 "
    path = tmp_path / "notebooks" / "00_x.ipynb"
    path.write_text(path.read_text().replace("str(seed)", "str(-seed)"))
    assert run("--resume", "-p", "seed", "1") == 0 and count.read_text() == "quick0 quick1 quick1 quick-1 "


def test_a_copy_that_is_gone_is_made_again(suite_of, tmp_path):
    run = suite_of("print(profile)")
    assert run() == 0
    (tmp_path / "out" / "00_x.ipynb").unlink()
    (tmp_path / "out" / ".executing-left").mkdir()  # by a kill
    assert run("--resume") == 0 and (tmp_path / "out" / "00_x.ipynb").exists()
    assert not list((tmp_path / "out").glob(".executing*"))


def test_a_mistyped_option_and_a_second_suite_forget_nothing(suite_of, tmp_path, capsys):
    run = suite_of("print(profile)")
    assert run() == 0
    assert run("--jobs", "0") == run("-p", "data", "x.csv") == run("--budget", "soon") == 1
    assert "say --data instead of -p" in capsys.readouterr().err
    with alone(tmp_path / "out"):  # as another suite would
        assert run() == 1
    assert "another process is at work here" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / "logs").glob("*/done"))) == 1


def test_ctrl_c_ends_the_kernel_too(suite_of, tmp_path):
    """Of a suite in a process of its own, interrupted while a cell runs."""
    suite_of("import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    code = f"import pathlib, ferkit.suite as s; s.project_root = lambda: pathlib.Path({str(tmp_path)!r})"
    code += (
        f"\nfrom ferkit.cli import main; raise SystemExit(main(['suite', 'run', '--out', {str(tmp_path / 'out')!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    pid = tmp_path / "notebooks" / "pid"
    wait_for(lambda: pid.exists() and pid.read_text())
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 130 and "add --resume" in said
    wait_for(lambda: not Path(f"/proc/{pid.read_text()}").exists() or "Z" in status_of(pid.read_text()))


def status_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_the_kernel_is_the_python_that_runs_the_suite(suite_of, tmp_path, monkeypatch):
    """Whatever else is registered under that name."""
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["no-such-python", "-f", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "share"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert suite_of("import sys; print(sys.executable)")() == 0
    assert sys.executable in (tmp_path / "out" / "00_x.ipynb").read_text()


def test_a_training_that_stops_in_time_is_no_failure(suite_of, capsys):
    run = suite_of("class OutOfTime(Exception):\n    pass\nraise OutOfTime('after epoch 3 of 9')")
    assert run("--budget", "1h") == jobs.OUT_OF_TIME
    assert "00_x: out of time" in (said := capsys.readouterr().out) and "with --resume goes on" in said
    assert run("--budget", "0s") == jobs.OUT_OF_TIME  # nothing is begun


def test_those_that_use_the_runs_of_others_come_after_them():
    planned = {job.name[:2]: job for job in suite.plan(NOTEBOOKS, {"seed": 1}, Path("out"))}
    for number, others in suite.AFTER.items():
        assert {name[:2] for name in planned[number].after} >= set(others)
    assert [job.after for job in suite.plan([NOTEBOOKS[4], NOTEBOOKS[11]], {}, Path("out"))] == [
        (),
        (NOTEBOOKS[4].stem,),  # by 10, which is left out
    ]
    assert len(planned[suite.LAST].after) == len(NOTEBOOKS) - 1
    with pytest.raises(ValueError, match=r"no notebook has the parameter sead; choose from .*seed"):
        suite.plan(NOTEBOOKS, {"sead": 1}, Path("out"))


def test_every_profile_has_a_kind_of_recipe():
    from ferkit.recipes import PROFILE_KINDS

    assert set(PROFILE_KINDS) == set(suite.PROFILES)


def test_project_root_is_the_checkout():
    assert (atomic.project_root() / "pyproject.toml").exists()
