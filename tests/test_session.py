"""What the Kaggle kernel does: what it takes from its input, the steps, what it leaves."""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from ferkit import DataError, atomic, cli, packing, session
from ferkit import kaggle as kernels


def run_folder(folder: Path, epochs: int, finished: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    (folder / "log.csv").write_text("epoch\n" + "".join(f"{i}\n" for i in range(epochs)))
    (folder / ("record.json" if finished else "last.pt")).write_text(f"{epochs}")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def test_of_two_versions_of_a_run_the_further_one_stays(tmp_path):
    inputs, root = tmp_path / "input", tmp_path / "root"
    (inputs / "other" / "runs" / "tensorboard").mkdir(parents=True)
    (inputs / "other" / "runs" / "tensorboard" / "events").write_text("not ours")
    run_folder(inputs / "v1" / "runs" / "fer2013" / "a-s0", 9)
    run_folder(inputs / "v2" / "runs" / "fer2013" / "a-s0", 5)
    run_folder(inputs / "v1" / "runs" / "fer2013" / "b-s0", 3)
    run_folder(inputs / "v2" / "runs" / "fer2013" / "b-s0", 2, finished=True)
    run_folder(inputs / "v1" / "runs" / "fer2013" / "c-s0", 3)
    run_folder(root / "runs" / "fer2013" / "c-s0", 4)
    run_folder(inputs / "mine" / "results" / "fer2013" / "d-s0", 1, finished=True)
    session.restore(inputs, root)
    found = {path.parent.name: session.progress(path.parent) for path in (root / "runs").rglob("recipe.json")}
    assert found == {"a-s0": (False, 9), "b-s0": (True, 2), "c-s0": (False, 4)}
    assert os.access(root / "runs" / "fer2013" / "a-s0" / "last.pt", os.W_OK)
    assert (root / "results" / "fer2013" / "d-s0" / "record.json").exists()
    assert not (root / "runs" / "tensorboard").exists()


def test_an_archive_of_runs_is_merged(tmp_path, capsys):
    (tmp_path / "input").mkdir()
    packing.pack([atomic.project_root() / "results" / "fer2013" / "compact-s0"], tmp_path / "input" / "any.zip")
    session.restore(tmp_path / "input", tmp_path / "root")
    assert "fer2013/compact-s0: recorded" in capsys.readouterr().out
    assert (tmp_path / "root" / "runs" / "fer2013" / "compact-s0" / "record.json").exists()


def test_wheels_of_missing_libraries_are_installed_without_the_network(tmp_path):
    name = "nowhere_to_be_found"
    with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "here = True\n")
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    (tmp_path / "numpy-0.1-py3-none-any.whl").write_bytes(b"not even a wheel: numpy is here")
    session.install(tmp_path, tmp_path / "libraries")
    assert [path.name for path in (tmp_path / "libraries").glob("*.py")] == [f"{name}.py"]


def test_what_a_session_does(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "input").mkdir()
    (tmp_path / "requirements.txt").touch()
    monkeypatch.setattr(session, "project_root", lambda: tmp_path)
    monkeypatch.setattr(session, "gpus", lambda: ["0", "1"])
    monkeypatch.setattr(session.Session, "prepare", lambda *_: None)
    monkeypatch.setattr(session.Session, "leave", lambda *_: None)
    monkeypatch.setattr(session.Session, "step", lambda _, *arguments, **how: asked.append(" ".join(arguments)))
    this = session.Session(tmp_path / "input", tmp_path / "work", 0.0)
    this.run("quick", "00", "")
    this.run("full", "", str(tmp_path / "fer2013.csv"))
    drawn, campaign, notebooks = [line for line in asked if not line.startswith("report")]
    assert drawn.startswith("suite run --data embedded --jobs 2 --profile quick --only 00 ")
    assert campaign.startswith(f"campaign run --data {tmp_path}/fer2013.csv --jobs 2 --done {tmp_path}/done.txt")
    assert notebooks.startswith(f"suite run --data {tmp_path}/fer2013.csv --jobs 2 --profile full ")
    assert not this.failures


def test_a_failing_step_is_named_and_stops_none_after_it(tmp_path, monkeypatch, capsys):
    root = tmp_path / "root"
    root.mkdir()
    (root / "requirements.txt").write_text("nowhere-to-be-found>=1.0  # why\n")
    monkeypatch.setattr(session, "project_root", lambda: root)
    monkeypatch.setattr(session, "restore", lambda *_: 1 / 0)
    for name in ("PYTHONPATH", "FERKIT_WEIGHTS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "input").mkdir()
    arguments = ["--input", str(tmp_path / "input"), "--working", str(tmp_path / "work"), "--minutes", "0.001"]
    assert cli.main(["kaggle", "session", "--profile", "quick", *arguments]) == 1
    said = capsys.readouterr()
    assert "restore FAILED: division by zero" in said.out and "suite: left out, the session's time is up" in said.out
    assert "not installed: nowhere-to-be-found;" in said.out
    assert said.err == "ferkit: failed: restore\n" and (tmp_path / "work" / "runs.zip").exists()
    assert (tmp_path / "work" / kernels.NAMES_FAILED).read_text() == "restore\n"  # the kernel itself ends well


def test_a_session_leaves_the_runs_of_a_checkout_alone(tmp_path, monkeypatch):
    (tmp_path / "root" / "runs").mkdir(parents=True)
    monkeypatch.setattr(session, "project_root", lambda: tmp_path / "root")
    with pytest.raises(DataError, match="is in the way"):
        session.Session(tmp_path, tmp_path / "work", 0.0).run("quick", "", "")
