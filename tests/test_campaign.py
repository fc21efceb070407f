"""Runs taken from a list, cut off and resumed, packed and put back; with the libraries that training needs alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from ferkit import DataError, atomic, campaign, cli, experiment, jobs, packing, records, sources, synthetic

# Two tiny runs of about a second, and the start of their processes; and one that is not for this machine.
CAMPAIGN = """
[[run]]
model = "compact"
recipe = "quick"
seeds = [0, 1]
data = "custom"
set = { stages = [[3, 24]], options = { width = 8 }, lr = 0.01, precision = "float32" }
minutes = { cpu = 0.1 }

[[run]]
model = "compact"
recipe = "house"
seeds = [0]
data = "custom"
minutes = { gpu = 0.1 }
"""


@pytest.fixture(scope="module", autouse=True)
def small_processes(tmp_path_factory):
    """One thread each, which on a busy machine is far quicker than two that wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("FERKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def listed(root):
    root.mkdir(parents=True, exist_ok=True)
    (root / "campaign.toml").write_text(CAMPAIGN)
    return campaign.load_campaign(root / "campaign.toml")


@pytest.fixture(scope="module")
def lent(drawn_csv, tmp_path_factory):
    """A machine on which the campaign ran to its end, its jobs, and the archive that it left."""
    root = tmp_path_factory.mktemp("lent")
    runs, calls = listed(root), []
    assert campaign.take(runs, drawn_csv, root, 600, "cpu", keep=lambda: calls.append(1)) == [] and calls == [1, 1]
    assert packing.pack(campaign.folders(runs, root), root / "runs.zip") == []
    return root, runs, root / "runs.zip"


def test_the_list_of_the_repository_holds_every_record():
    root = atomic.project_root()
    jobs = campaign.load_campaign(root / "campaign.toml")
    trained = [record for _, record in records.find_records(root / "results") if "members" not in record["recipe"]]
    done = {f"{record['data']['name']}/{record['run']}" for record in trained}
    assert done <= {job.name for job in jobs}, "a record whose run campaign.toml does not list"
    assert campaign.status(jobs, root).count(" done ") == len(done)


def test_jobs_are_taken_where_they_belong(lent):
    root, jobs, _ = lent
    *rows, last = campaign.status(jobs, root).splitlines()[1:]
    assert [row.split()[1] for row in rows] == ["done", "done", "to"] and last.startswith("2 of 3 done")


def test_what_is_done_elsewhere_or_lacks_its_weights_is_left_out(drawn_csv, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(jobs, "_Process", None)  # calling it would fail
    entry = '[[run]]\nmodel = "patt_lite"\nrecipe = "house"\nseeds = [0]\ndata = "custom"\nminutes = { cpu = 9 }\n'
    (tmp_path / "campaign.toml").write_text(CAMPAIGN + entry)
    (tmp_path / "done.txt").write_text("".join(f"{job.name}\n" for job in listed(tmp_path / "other")))
    arguments = ["--list", str(tmp_path / "campaign.toml"), "--done", str(tmp_path / "done.txt"), "--device", "cpu"]
    assert cli.main(["campaign", "run", "--budget", "9h", "--data", str(drawn_csv), *arguments]) == 0
    left_out = r"custom/patt_lite-s0: left out, no mobilenetv1_100\.\w+\.safetensors below \$FERKIT_WEIGHTS"
    assert re.search(left_out, capsys.readouterr().out)


def test_what_is_done_or_does_not_fit_is_left_alone(lent, drawn_csv, tmp_path, monkeypatch):
    root, runs, _ = lent
    monkeypatch.setattr(jobs, "_Process", None)  # calling it would fail
    assert campaign.take(runs, drawn_csv, root, 600, "cpu") == []
    for place, name in (("results", runs[0].name), ("runs", runs[1].name)):  # either is enough
        shutil.copytree(root / "runs" / name, tmp_path / place / name)
    assert campaign.take(runs, drawn_csv, tmp_path, 600, "cpu") == []
    shutil.rmtree(tmp_path / "runs")
    assert campaign.take(runs, drawn_csv, tmp_path, 15, "cpu") == []  # 11 s are less than a start and an epoch of two
    assert campaign.take([replace(runs[0], data="fer2013")], drawn_csv, tmp_path, 600, "cpu") == []  # other data
    assert campaign.take(runs, drawn_csv, tmp_path, 600, "cpu", here="t4") == []


def test_a_run_is_a_command_that_can_be_typed(drawn_csv, tmp_path, monkeypatch):
    odd = CAMPAIGN.replace("lr = 0.01", 'policy = "flip+mixup=0.3", lr = 1').replace("options", "warmup = 0, options")
    (tmp_path / "campaign.toml").write_text(odd)
    for run in campaign.load_campaign(tmp_path / "campaign.toml"):
        seen = []
        monkeypatch.setattr(experiment, "run", lambda recipe, *_, seen=seen, **__: seen.append(recipe))
        monkeypatch.setattr(records, "summary", str)
        assert cli.main(["train", *run.arguments, "--data", str(drawn_csv), "--out", str(tmp_path)]) == 0
        assert seen == [run.recipe]


def test_a_run_may_begin_with_a_file_of_the_checkout(drawn_csv, tmp_path, monkeypatch, capsys):
    entry = CAMPAIGN.replace("set = {", 'start = "given/w.safetensors"\nset = {')
    (tmp_path / "campaign.toml").write_text(entry)
    runs, seen = campaign.load_campaign(tmp_path / "campaign.toml"), []
    assert [run.recipe.name.endswith("+weights=w") for run in runs] == [True, True, False]
    monkeypatch.setattr(campaign, "run_commands", lambda commands, **_: seen.extend(commands) or [])
    assert campaign.take(runs, drawn_csv, tmp_path, 600, "cpu") == [] and not seen
    assert f"left out, {tmp_path / 'given' / 'w.safetensors'} is not there" in capsys.readouterr().out
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "w.safetensors").touch()
    campaign.take(runs, drawn_csv, tmp_path, 600, "cpu")
    assert seen and all(c.arguments[-2:] == ("--weights", str(tmp_path / "given" / "w.safetensors")) for c in seen)


def test_what_is_taken_is_the_data_that_was_asked_for(lent, drawn_csv, tmp_path, monkeypatch):
    runs, seen, draw = lent[1], [], synthetic.embedded_faces
    monkeypatch.setattr(synthetic, "embedded_faces", lambda: draw(20))
    monkeypatch.setattr(campaign, "run_commands", lambda commands, **how: seen.append((commands, how)) or [])
    monkeypatch.chdir(drawn_csv.parent)
    monkeypatch.setenv("FERKIT_DATA", str(drawn_csv))
    campaign.take(runs, drawn_csv.name, tmp_path, 600, "cpu", processes=2, compiled=True, workers=3, scheduler="x")
    campaign.take(runs, None, tmp_path, 600, "cpu")
    embedded = [replace(run, data="embedded") for run in runs]
    campaign.take(embedded, "embedded", tmp_path, 600, "cpu")
    (first, how), (second, _), (third, _) = [call for call in seen if call[0]]
    given = [command.arguments[command.arguments.index("--data") + 1] for command in (first[0], second[0], third[0])]
    assert given == [str(drawn_csv), str(drawn_csv), "embedded"] and [len(first), len(second), len(third)] == [2, 2, 2]
    line = " ".join(first[0].arguments)
    assert f"--out {tmp_path / 'runs' / runs[0].name} " in line and "--device cpu --processes 2" in line
    assert line.endswith("--compile") and (how["workers"], how["scheduler"]) == (3, "x")
    assert first[0].folder == tmp_path / "runs" / runs[0].name and first[0].seconds == campaign.START + 2
    monkeypatch.setattr(sources, "read", None)  # the environment's data would be read
    assert sources.load("embedded", say=seen.append).name == "embedded" and "--data embedded" in seen[-1]


def test_a_run_that_is_cut_off_goes_on_on_another_machine(lent, drawn_csv, tmp_path, monkeypatch, every_job_first):
    away, home, said = tmp_path / "away", tmp_path / "home", []
    runs = listed(away)
    with monkeypatch.context():
        every_job_first("""
import os, time
from ferkit import train
def check(loop):
    if loop.state.epoch == 1:
        time.sleep(max(0, float(os.environ["FERKIT_UNTIL"]) + 2 - time.time()))  # and nothing else is worth starting
        raise train.OutOfTime("time is up")
train._check_time = check
""")
        assert campaign.take(runs, drawn_csv, away, 20, "cpu", say=said.append) == []
    monkeypatch.delenv("PYTHONPATH")
    assert f"{runs[0].name}: out of time after" in said[2] and not (away / "runs" / runs[1].name).exists()
    assert "time is up; the same command goes on" in (away / "runs" / runs[0].name / "output.log").read_text()
    packing.pack(campaign.folders(runs, away), away / "runs.zip")
    assert packing.merge(away / "runs.zip", home) == [f"{runs[0].name}: to go on with"]
    assert "epoch 1 of 3" in campaign.status(runs, home)
    assert packing.merge(away / "runs.zip", home) == [f"{runs[0].name}: is as far here"]
    assert campaign.take(runs[:1], drawn_csv, home, 600, "cpu") == []
    assert packing.merge(away / "runs.zip", home) == [f"{runs[0].name}: is finished here"]
    ours, theirs = (campaign.find_record(runs[0], root) for root in (home, lent[0]))
    assert ours["metrics"] == theirs["metrics"] and len(ours["code"]) == 2  # one that was not cut off


def test_a_failing_run_does_not_stop_the_rest(drawn_csv, tmp_path):
    runs, calls = listed(tmp_path), []
    folder = tmp_path / "runs" / runs[0].name
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"rubbish")
    (folder / "log.csv").write_text("epoch\n")
    failed = campaign.take(runs, drawn_csv, tmp_path, 600, "cpu", workers=2, keep=lambda: calls.append(1))
    assert len(failed) == 1 and failed[0].startswith(f"{runs[0].name}: ") and "damaged checkpoint" in failed[0]
    assert campaign.find_record(runs[1], tmp_path) and calls == [1, 1]


def test_what_is_done_is_kept_when_it_is_interrupted(lent, drawn_csv, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    calls = []
    monkeypatch.setattr(campaign, "run_commands", interrupted)
    with pytest.raises(KeyboardInterrupt):
        campaign.take(lent[1], drawn_csv, tmp_path, 600, "cpu", keep=lambda: calls.append(1))
    assert calls == [1]


def test_what_is_packed_comes_back_whole(lent, tmp_path):
    root, jobs, archive = lent
    assert packing.merge(archive, tmp_path) == [f"{job.name}: recorded" for job in jobs[:2]]
    for job in jobs[:2]:
        for name in (*packing.RESULT, "best.safetensors"):
            there = (root / "runs" / job.name / name).read_bytes()
            assert (tmp_path / "runs" / job.name / name).read_bytes() == there
            if name in packing.RESULT:
                assert (tmp_path / "results" / job.name / name).read_bytes() == there
    assert campaign.folders(jobs, tmp_path) == []  # results/ has it all
    assert packing.merge(archive, tmp_path) == [f"{job.name}: is here already" for job in jobs[:2]]
    assert not list(tmp_path.glob(".merge-*"))


def test_records_come_before_weights_where_room_is_short(lent, tmp_path):
    root, jobs, _ = lent
    whole = campaign.folders(jobs, root)
    records_alone = sum(packing._size(folder, ("recipe.json", *packing.RESULT)) for folder in whole)
    left_out = packing.pack(whole, tmp_path / "runs.zip", limit=records_alone + 2000)
    assert len(left_out) == 2 and "best.safetensors" in left_out[0]
    assert (tmp_path / "runs.zip").stat().st_size <= records_alone + 2000
    assert packing.merge(tmp_path / "runs.zip", tmp_path) == [f"{job.name}: recorded" for job in jobs[:2]]


def test_what_is_packed_while_it_trains_is_of_one_moment(tmp_path, monkeypatch):
    """A whole epoch is saved between two reads: log, state and best weights must not be of different ones."""
    folder, epochs = tmp_path / "custom" / "run-s0", iter((b"1", b"2"))

    def save() -> None:
        for name, content in zip(("recipe.json", "log.csv", *packing.STATE), [b"{}", *[next(epochs)] * 3], strict=True):
            with atomic.whole_file(folder / name) as temporary:
                temporary.write_bytes(content)

    save()
    read, reads = packing.Path.read_bytes, []

    def slow_read(path):
        if reads.append(path.name) or len(reads) == 3:
            save()
        return read(path)

    monkeypatch.setattr(packing.Path, "read_bytes", slow_read)
    assert packing.pack([folder], tmp_path / "runs.zip") == [] and len(reads) == 8
    with zipfile.ZipFile(tmp_path / "runs.zip") as archive:
        assert [archive.read(name) for name in archive.namelist()] == [b"{}", b"2", b"2", b"2"]


def edited(archive, path, change):
    """A copy of an archive, its files {name: bytes} changed."""
    with zipfile.ZipFile(archive) as before:
        files = {name: before.read(name) for name in before.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as after:
        for name, content in files.items():
            after.writestr(name, content)
    return path


def embellish(files):
    name = next(name for name in files if name.endswith("record.json"))
    record = json.loads(files[name])
    record["metrics"]["PrivateTest"]["accuracy"]["value"] = 0.999
    files[name] = json.dumps(record).encode()


def swap(files):
    first, second = (name for name in files if name.endswith("record.json"))
    files[first], files[second] = files[second], files[first]


@pytest.mark.parametrize(
    "change, message",
    [
        (embellish, "PrivateTest/accuracy/value: recorded 0.999"),
        (swap, "its record is of"),
        (lambda files: files.update({"../../escape.py": b""}), "'../../escape.py' is no file of a run"),
        (lambda files: files.update({"a/b/notes.txt": b""}), "is no file of a run"),
        (lambda files: files.update({"a/b/log.csv": b""}), "neither a record nor a state.*; nothing was merged"),
        (lambda files: files.update({"a/b/recipe.json": b"{"}), "runs.zip/a/b/recipe.json: not readable"),
    ],
)
def test_what_does_not_belong_stays_out(lent, tmp_path, change, message):
    archive = edited(lent[2], tmp_path / "runs.zip", change)
    with pytest.raises(DataError, match=message):
        packing.merge(archive, tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


def test_a_truncated_archive_and_another_record_are_refused(lent, tmp_path):
    whole = lent[2].read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half.zip: no whole archive"):
        packing.merge(tmp_path / "half.zip", tmp_path / "home")
    packing.merge(lent[2], tmp_path / "home")
    record = tmp_path / "home" / "results" / lent[1][1].name / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": "another day"}))
    kept = record.read_text()
    with pytest.raises(DataError, match="is another than the archive's"):
        packing.merge(lent[2], tmp_path / "home")
    assert record.read_text() == kept


def test_nothing_is_merged_while_one_of_the_runs_is_trained_here(lent, tmp_path):
    _, jobs, archive = lent
    held = tmp_path / "runs" / max(job.name for job in jobs[:2])
    with atomic.alone(held), pytest.raises(DataError, match="another process is at work here"):
        packing.merge(archive, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]  # the one that is held


def test_an_unfinished_run_takes_its_snapshots_along(tmp_path):
    files = ("recipe.json", "log.csv", "snapshot1.safetensors", *packing.STATE)
    for name in files:
        atomic.write_whole(tmp_path / "custom" / "run-s0" / name, "{}")
    assert packing.pack([tmp_path / "custom" / "run-s0"], tmp_path / "runs.zip") == []
    assert packing.merge(tmp_path / "runs.zip", tmp_path) == ["custom/run-s0: to go on with"]
    assert {path.name for path in (tmp_path / "runs" / "custom" / "run-s0").iterdir()} == {*files, ".lock"}
    (tmp_path / "custom" / "run-s0" / "last.pt").write_bytes(bytes(9000))  # no room for the state, but for a snapshot
    assert len(packing.pack([tmp_path / "custom" / "run-s0"], tmp_path / "less.zip", limit=6000)) == 2
    assert packing.merge(tmp_path / "less.zip", tmp_path) == []


@pytest.mark.parametrize(
    "change, message",
    [
        (("seeds", "seed"), r"run 1 \(compact\): unknown \['seed'\]"),
        (("quick", "slow"), "there is no slow recipe of 'compact'"),
        (("cpu = 0.1", "laptop = 1"), "minutes must be above 0 for some of"),
        (("[0, 1]", "[0, 0]"), "more than once"),
        (("set = {", 'start = "a.safetensors"\nset = { pretrained = true,'), "from a.safetensors and from ImageNet"),
        (("[[run]]", "[run"), "no readable campaign"),
        ((CAMPAIGN, "run = 3"), "run is no list of tables"),
        (('model = "compact"', "model = 3"), r"run 1 \(3\)"),
    ],
)
def test_a_wrong_list_is_one_clear_error(tmp_path, change, message):
    (tmp_path / "campaign.toml").write_text(CAMPAIGN.replace(*change, 1))
    with pytest.raises(DataError, match=message):
        campaign.load_campaign(tmp_path / "campaign.toml")


def test_lengths_of_time():
    assert [jobs.seconds(text) for text in ("90s", "9m", "1h30m", "0.5m")] == [90, 540, 5400, 30]
    with pytest.raises(ValueError, match="'9' is no length of time; say for example 90s"):
        jobs.seconds("9")


def test_the_command_runs_packs_and_merges(lent, drawn_csv, tmp_path, monkeypatch, capsys):
    shutil.copytree(lent[0] / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / lent[1][1].name)
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    monkeypatch.setattr(atomic, "project_root", lambda: tmp_path)
    archive, data = str(tmp_path / "runs.zip"), str(drawn_csv)
    run = ["campaign", "run", "--budget", "9m", "--device", "cpu", "--only", "*-s1", "--pack", archive, "--data", data]
    assert cli.main([*run, "--jobs", "2"]) == 0
    assert cli.main(["campaign", "merge", archive]) == 0
    out = capsys.readouterr().out
    assert f"{lent[1][1].name}: done" in out and f"{lent[1][1].name}: recorded" in out
    assert cli.main(["campaign", "status", "--only", "no*"]) == 1
    assert "no run of" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "runs.zip").unlink()
    assert cli.main(run) == 0 and (tmp_path / "runs.zip").exists()  # nothing is left to train, and all to pack
    assert cli.main([*run[:-3], str(tmp_path), *run[-2:]]) == 1
    assert f"{tmp_path} is a folder; name a file" in capsys.readouterr().err
    assert cli.main([*run, "--jobs", "0"]) == 1
    assert "at least 1 job at once, got 0" in capsys.readouterr().err


def test_it_needs_no_library_that_a_bare_machine_lacks(drawn_csv, tmp_path):
    """torch, torchvision, timm, numpy, pandas, scikit-learn, safetensors and what those need; in every process."""
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text("""
import sys
needless = {"papermill", "kaggle", "pytorch_grad_cam", "matplotlib", "nbformat", "jupyterlab", "IPython", "distributed"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in needless:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
""")
    code = """
import sys
from pathlib import Path
from ferkit import campaign, cli, packing
root = Path(sys.argv[1])
jobs = campaign.load_campaign(root / "campaign.toml")
assert campaign.take(jobs[:1], sys.argv[2], root, 600, "cpu") == []
packing.pack(campaign.folders(jobs, root), root / "runs.zip")
packing.merge(root / "runs.zip", root)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "first")}
    command = [sys.executable, "-c", code, tmp_path, drawn_csv]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 done" in campaign.status(campaign.load_campaign(tmp_path / "campaign.toml"), tmp_path)


def test_a_grid_is_every_combination_one_seed_after_the_other(tmp_path):
    grid = 'recipe = "study"\nseeds = [0, 1]\nminutes = { cpu = 1 }\ngrid = { policy = ["none", "flip"], lr = [0.1] }'
    (tmp_path / "campaign.toml").write_text(f'[[run]]\nmodel = "compact"\n{grid}\n')
    jobs = campaign.load_campaign(tmp_path / "campaign.toml")
    assert [(job.recipe.seed, job.recipe.policy) for job in jobs] == [
        (0, "none"),
        (0, "flip"),
        (1, "none"),
        (1, "flip"),
    ]
    assert jobs[0].name == "fer2013/compact-study+policy=none+lr=0.1-s0"
