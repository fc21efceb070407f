"""Bars: written over in a terminal, an updated display in a notebook, silence in a log."""

import io
import sys
from types import SimpleNamespace

import pytest

from ferkit import progress


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 0)


def test_a_log_gets_no_bar(monkeypatch, capsys):
    progress.bar("run", 4)(2)
    assert capsys.readouterr().out == ""


def test_a_terminal_is_written_over(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    tell = progress.bar("run", 4)
    tell(1)
    tell(4)
    assert terminal.getvalue() == f"\x1b[Krun {'█' * 5}{'░' * 15} 1.0 of 4\r\x1b[Krun {'█' * 20} 4.0 of 4\r"


def test_a_notebook_keeps_the_last_state(monkeypatch):
    import IPython
    import IPython.display

    updates = []
    handle = SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", lambda *_, **how: handle)
    tell = progress.bar("run", 2)
    tell(0.5)
    tell(2)
    assert updates == [f"run {'█' * 5}{'░' * 15} 0.5 of 2", f"run {'█' * 20} 2.0 of 2"]


def test_pictures_of_a_bar_have_a_distance(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(progress, "PAUSE", 1000)
    tell = progress.bar("run", 100)
    for done in range(101):
        tell(done)
    assert terminal.getvalue().count("\r") == 2  # the first, and the end
