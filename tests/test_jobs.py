"""Lists of commands: in order, side by side, cut off, failing, and on a cluster whose workers die."""

import fcntl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from ferkit import campaign, cli, jobs, records

SHOWS_VERSION = ("--version",)  # the quickest command there is, which needs no torch


def listed(root, *commands, marker="output.log"):
    """Jobs named a, b, c, ...; any process at all leaves an output.log."""
    return [jobs.Job(name, command, root / name, marker) for name, command in zip("abcdefg", commands, strict=False)]


def run(these, **how):
    """States by name, and what was said."""
    said = []
    outcomes = jobs.run(these, say=said.append, **how)
    return {outcome.job.name: outcome for outcome in outcomes}, said


def test_jobs_run_in_order_and_what_is_done_is_skipped(tmp_path):
    these, calls = listed(tmp_path, *[SHOWS_VERSION] * 3), []
    these[1].folder.mkdir()
    (these[1].folder / "output.log").write_text("of another day")
    outcomes, said = run(these, ended=lambda outcome: calls.append(outcome.job.name))
    assert {name: outcome.state for name, outcome in outcomes.items()} == {"a": "done", "b": "was done", "c": "done"}
    assert [line.split(":")[0] for line in said] == ["a", "a", "b", "c", "c"] and calls == ["a", "c"]
    log = (these[0].folder / "output.log").read_text().splitlines()
    assert log[0] == "$ ferkit --version" and log[1].startswith("ferkit ")
    assert (these[1].folder / "output.log").read_text() == "of another day"


def test_what_would_end_too_late_is_not_started(tmp_path):
    (early,), (late,) = listed(tmp_path / "early", SHOWS_VERSION), listed(tmp_path / "late", SHOWS_VERSION)
    late = jobs.Job("late", late.arguments, late.folder, late.marker, seconds=3600)
    outcomes, _ = run([late, early], until=time.time() + 1800)
    assert (outcomes["late"].state, outcomes["a"].state) == ("out of time", "done") and not late.folder.exists()


def test_a_failure_is_told_and_stops_nothing(tmp_path):
    these = listed(tmp_path, ("no-command",), SHOWS_VERSION, SHOWS_VERSION)
    these[1] = jobs.Job("b", SHOWS_VERSION, tmp_path / "b", marker="record.json")
    (tmp_path / "file").write_text("")
    these.append(jobs.Job("d", SHOWS_VERSION, tmp_path / "file" / "d"))
    outcomes, _ = run(these)
    assert [outcome.state for outcome in outcomes.values()] == ["failed", "failed", "done", "failed"]
    assert outcomes["a"].told.startswith("error: argument command: invalid choice: 'no-command'")
    assert outcomes["b"].told == "ended with status 0 and left no record.json"
    assert "Not a directory" in outcomes["d"].told


@pytest.mark.parametrize(
    "ends, state, told",
    [
        ("sys.exit(75)", "out of time", ""),
        ("sys.exit(3)", "failed", "ended with status 3"),  # not what an earlier run said
        ("print('ferkit: two'); print('lines'); sys.exit(1)", "failed", "two\nlines"),
        ("os.kill(os.getpid(), 9)", "failed", "ended with status -9 and left no record.json"),
    ],
)
def test_how_a_process_ended(tmp_path, every_job_first, ends, state, told):
    every_job_first(f"import sys\nimport ferkit.cli\ndef main():\n    {ends}\nferkit.cli.main = main")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "output.log").write_text("ferkit: what an earlier run said\n")
    outcomes, _ = run(listed(tmp_path, SHOWS_VERSION, marker="record.json"))
    assert (outcomes["a"].state, outcomes["a"].told) == (state, told)


def test_training_that_is_out_of_time_has_a_status_of_its_own(drawn_csv, tmp_path, monkeypatch, capsys):
    arguments = ["train", "--recipe", "quick", "--set", "precision=float32", "--data", str(drawn_csv)]
    monkeypatch.setenv("FERKIT_UNTIL", "0")
    assert cli.main([*arguments, "--out", str(tmp_path)]) == jobs.OUT_OF_TIME
    assert "out of time after epoch 0 of 30; the same command goes on" in capsys.readouterr().out


def test_several_run_at_once_and_share_the_cores(tmp_path, every_job_first, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(jobs.os, "cpu_count", lambda: 6)
    (tmp_path / "meet").mkdir()
    every_job_first(f"""
import pathlib, sys, time
meet = pathlib.Path({str(tmp_path / "meet")!r})
(meet / str(os.getpid())).write_text(os.environ["OMP_NUM_THREADS"])
end = time.time() + 600
while len(list(meet.iterdir())) < 2 and time.time() < end:  # one alone would wait in vain
    time.sleep(0.05)
if time.time() > end:
    os._exit(1)
""")
    outcomes, said = run(listed(tmp_path, SHOWS_VERSION, SHOWS_VERSION), workers=2)
    assert [outcome.state for outcome in outcomes.values()] == ["done", "done"]
    assert [path.read_text() for path in (tmp_path / "meet").iterdir()] == ["3", "3"]
    assert ["started" in line for line in said] == [True, True, False, False]


def test_what_comes_after_others_waits_for_them_however_they_end(tmp_path):
    these = listed(tmp_path, ("no-command",), SHOWS_VERSION, SHOWS_VERSION)
    these[1] = replace(these[1], after=("a", "of another list"))
    outcomes, said = run(these, workers=3)
    assert [outcome.state for outcome in outcomes.values()].count("done") == 2 and outcomes["a"].state == "failed"
    assert said.index(next(line for line in said if line.startswith("a: failed"))) < said.index(
        next(line for line in said if line.startswith("b: started"))
    )


def test_several_see_one_gpu_each_and_find_the_end_of_their_time(tmp_path, every_job_first, monkeypatch):
    monkeypatch.setattr(jobs, "gpus", lambda: ["4", "7"])
    every_job_first("""
if os.environ.get("CUDA_VISIBLE_DEVICES", "") + os.environ.get("FERKIT_UNTIL", ""):
    print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("FERKIT_UNTIL"))
import time
time.sleep(1)
""")
    until = round(time.time() + 600)
    run(listed(tmp_path / "two", SHOWS_VERSION, SHOWS_VERSION, SHOWS_VERSION), workers=2, until=until)
    saw = [(tmp_path / "two" / name / "output.log").read_text() for name in "abc"]
    assert f"sees 4 {until}" in saw[0] and f"sees 7 {until}" in saw[1] and "sees" in saw[2]
    run(listed(tmp_path / "one", SHOWS_VERSION))
    assert "sees" not in (tmp_path / "one" / "a" / "output.log").read_text()


@pytest.mark.parametrize(
    "given, n, names", [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), (None, 1, []), ("", 0, []), ("2", 1, [])]
)
def test_gpus_are_those_that_may_be_used(monkeypatch, given, n, names):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert jobs.gpus() == names


HOLDS_A_LOCK = """
import fcntl, time
import ferkit.cli
def main():
    lock = open({path!r}, "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("holding", flush=True)
    time.sleep(600)
ferkit.cli.main = main
"""


def wait_for(what, seconds=600):  # a busy machine is slow; nothing here waits where all is well
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_free(path) -> bool:
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_process_dies_with_the_one_that_started_it(tmp_path, every_job_first, end):
    lock, log = tmp_path / "lock", tmp_path / "a" / "output.log"
    every_job_first(HOLDS_A_LOCK.format(path=str(lock)))
    code = "import pathlib, signal, sys\nfrom ferkit import jobs\n"
    code += "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"  # as `ferkit campaign run` has it
    code += "jobs.run([jobs.Job('a', ('--version',), pathlib.Path(sys.argv[1]))])"
    with subprocess.Popen([sys.executable, "-c", code, log.parent], stderr=subprocess.DEVNULL) as parent:
        wait_for(lambda: log.exists() and "holding" in log.read_text())
        assert not is_free(lock)
        getattr(parent, end)()
    wait_for(lambda: is_free(lock))


def test_the_table_of_a_terminal_is_drawn_over_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    jobs.run(listed(tmp_path, ("no-command",), SHOWS_VERSION))
    out = capsys.readouterr().out
    first, *_, last = out.split("\x1b[J")
    assert first.splitlines()[-1].endswith("done 0, running 1, waiting 1, failed 0\n\x1b[2F".splitlines()[-1])
    assert last.splitlines()[-1] == "done 1, running 0, waiting 0, failed 1"
    assert "a  failed" in last and "started" not in out and all(len(line) < 60 for line in last.splitlines())


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "not an address"])
def test_a_cluster_that_does_not_answer_is_one_clear_error(tmp_path, monkeypatch, address):
    monkeypatch.setattr(jobs, "PATIENCE", 0.5)
    with pytest.raises(ValueError, match="no Dask scheduler answers at '.*start one with `dask scheduler`"):
        jobs.run(listed(tmp_path, SHOWS_VERSION), scheduler=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'ferkit\[cluster\]'"):
        jobs.run(listed(tmp_path, SHOWS_VERSION), scheduler=address)


CAMPAIGN = """
[[run]]
model = "compact"
recipe = "quick"
seeds = [0, 1, 2]
data = "custom"
set = { stages = [[3, 24]], options = { width = 8 }, lr = 0.01, precision = "float32" }
minutes = { cpu = 0.1 }
"""

# The first run of seed 0 does not get beyond its first epoch: it waits to be killed.
WAITS_TO_BE_KILLED = """
import pathlib, sys, time
if sys.orig_argv[sys.orig_argv.index("--seed") + 1] == "0":
    from ferkit import train
    def check(loop):
        while loop.state.epoch == 1 and not pathlib.Path({path!r}).exists():
            time.sleep(0.05)
    train._check_time = check
"""


def kill_its_worker(log, over, killed):
    """Kill -9 the worker under which the job of that log trains, once an epoch of it is saved."""
    import psutil

    try:
        wait_for(lambda: log.exists() and " epoch 1/3 " in log.read_text())
        for process in psutil.Process().children(recursive=True):
            command = ""
            with suppress(psutil.NoSuchProcess):  # one that has just ended
                command = " ".join(process.cmdline())
            if "--seed 0" in command:
                killed.append(process.parent().pid)
                process.parent().kill()
                process.wait(600)  # the training ends with its worker
    finally:
        over.touch()


def test_a_cluster_gets_over_the_death_of_a_worker(drawn_csv, tmp_path, every_job_first):
    distributed = pytest.importorskip("distributed")
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    listed = campaign.load_campaign(tmp_path / "campaign.toml")
    over, folder = tmp_path / "over", tmp_path / "runs" / listed[0].name
    every_job_first(WAITS_TO_BE_KILLED.format(path=str(over)))
    said, calls, killed = [], [], []
    killer = threading.Thread(target=kill_its_worker, args=(folder / "output.log", over, killed))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        killer.start()
        address, how = cluster.scheduler_address, dict(keep=lambda: calls.append(1), say=said.append)
        assert campaign.take(listed, drawn_csv, tmp_path, 3600, "cpu", scheduler=address, **how) == []
    killer.join()
    found = [campaign.find_record(job, tmp_path) for job in listed]
    assert len(killed) == 1 and all(found) and calls == [1, 1, 1]
    assert [len(record["code"]) for record in found] == [2, 1, 1]  # starts: only the killed one went on
    log = (folder / "output.log").read_text()
    assert [log.count(f" epoch {i}/3 ") for i in (1, 2, 3)] == [1, 1, 1]
    assert log.count("$ ferkit train") >= 2  # Dask may move it once more before it has begun
    assert len(records.read_log(folder)) == 3 and len(said) == 1 + 2 * 3
    assert all(sum(line.startswith(f"{job.name}: {what}") for line in said) == 1
               for job in listed for what in ("started", "done"))  # fmt: skip
