import json
import re
import shutil

import pytest

from ferkit import cli, records, suite

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
    runs, number = records.project_root() / "runs", int(path.name[:2])

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


def test_a_failing_notebook_is_shown_counted_and_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    def notebook(number: int, source: str) -> None:
        cells = [
            {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "source": 'data = ""\nprofile = ""'},
            {"cell_type": "code", "id": "b", "metadata": {}, "source": source},
        ]
        for cell in cells:
            cell |= {"execution_count": None, "outputs": []}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
        (tmp_path / "notebooks" / f"{number:02}_x.ipynb").write_text(text)

    (tmp_path / "notebooks").mkdir()
    notebook(0, "1 / 0")
    notebook(1, "import os; os._exit(3)")
    notebook(2, "print(profile)")
    monkeypatch.setattr(suite, "project_root", lambda: tmp_path)
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    assert cli.main(["suite", "run", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "1 / 0" in said.out and "ZeroDivisionError" in said.out and "DeadKernelError" in said.out
    assert "1 of 3 notebooks ran" in said.out and "failed: 00_x.ipynb, 01_x.ipynb" in said.err
    assert "quick" in (tmp_path / "out" / "02_x.ipynb").read_text()


def test_every_profile_has_a_kind_of_recipe():
    from ferkit.recipes import PROFILE_KINDS

    assert set(PROFILE_KINDS) == set(suite.PROFILES)


def test_project_root_is_the_checkout():
    assert (records.project_root() / "pyproject.toml").exists()
