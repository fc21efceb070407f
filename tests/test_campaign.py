"""Runs taken from a list, cut off and resumed, packed and put back; with the libraries that training needs alone."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from ferkit import DataError, campaign, cli, packing, records, synthetic, train

# Two tiny runs that take about a second each, and one that is not for this machine.
CAMPAIGN = """
[[run]]
model = "compact"
recipe = "quick"
seeds = [0, 1]
data = "embedded"
set = { stages = [[3, 24]], options = { width = 8 }, lr = 0.01, precision = "float32" }
minutes = { cpu = 0.1 }

[[run]]
model = "compact"
recipe = "house"
seeds = [0]
data = "embedded"
minutes = { gpu = 0.1 }
"""


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(200)


def listed(root):
    root.mkdir(parents=True, exist_ok=True)
    (root / "campaign.toml").write_text(CAMPAIGN)
    return campaign.load_campaign(root / "campaign.toml")


@pytest.fixture(scope="module")
def lent(faces, tmp_path_factory):
    """A machine on which the campaign ran to its end, its jobs, and the archive that it left."""
    root = tmp_path_factory.mktemp("lent")
    jobs, calls = listed(root), []
    assert campaign.take(jobs, faces, root, 600, "cpu", keep=lambda: calls.append(1)) == [] and calls == [1, 1]
    assert packing.pack(campaign.folders(jobs, root), root / "runs.zip") == []
    return root, jobs, root / "runs.zip"


def test_the_list_of_the_repository_holds_every_record():
    root = records.project_root()
    jobs = campaign.load_campaign(root / "campaign.toml")
    done = {f"fer2013/{record['run']}" for _, record in records.find_records(root / "results")}
    assert done <= {job.name for job in jobs}, "a record whose run campaign.toml does not list"
    assert campaign.status(jobs, root).count(" done ") == len(done)


def test_jobs_are_taken_where_they_belong(lent):
    root, jobs, _ = lent
    *rows, last = campaign.status(jobs, root).splitlines()[1:]
    assert [row.split()[1] for row in rows] == ["done", "done", "to"] and last.startswith("2 of 3 done")


def test_what_is_done_or_does_not_fit_is_left_alone(lent, faces, tmp_path, monkeypatch):
    root, jobs, _ = lent
    monkeypatch.setattr(campaign, "run", None)  # calling it would fail
    assert campaign.take(jobs, faces, root, 600, "cpu") == []
    assert campaign.take(jobs, faces, tmp_path, 2, "cpu") == []  # an epoch is expected to take two seconds


def cut_off(jobs, faces, root, monkeypatch, epochs):
    """The first job, its time up after so many epochs."""

    def check(loop, _deadline, left=[epochs]):  # noqa: B006 (counts over the calls)
        left[0] -= 1
        if left[0] < 0:
            raise train.OutOfTime("time is up")

    with monkeypatch.context() as patch:
        patch.setattr(train, "_check_time", check)
        assert campaign.take(jobs, faces, root, 600, "cpu") == []


def test_a_run_that_is_cut_off_goes_on_on_another_machine(lent, faces, tmp_path, monkeypatch, capsys):
    away, home = tmp_path / "away", tmp_path / "home"
    jobs = listed(away)
    cut_off(jobs, faces, away, monkeypatch, epochs=1)
    assert "time is up" in capsys.readouterr().out and not (away / "runs" / jobs[1].name).exists()
    packing.pack(campaign.folders(jobs, away), away / "runs.zip")
    assert packing.merge(away / "runs.zip", home) == [f"{jobs[0].name}: to go on with"]
    assert "epoch 1 of 3" in campaign.status(jobs, home)
    assert packing.merge(away / "runs.zip", home) == [f"{jobs[0].name}: is as far here"]
    assert campaign.take(jobs[:1], faces, home, 600, "cpu") == []
    assert packing.merge(away / "runs.zip", home) == [f"{jobs[0].name}: is finished here"]
    ours, theirs = (campaign.find_record(jobs[0], root) for root in (home, lent[0]))
    assert ours["metrics"] == theirs["metrics"] and len(ours["code"]) == 2  # one that was not cut off


def test_a_failing_run_does_not_stop_the_rest(faces, tmp_path):
    jobs = listed(tmp_path)
    folder = tmp_path / "runs" / jobs[0].name
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"rubbish")
    (folder / "log.csv").write_text("epoch\n")
    failed = campaign.take(jobs, faces, tmp_path, 600, "cpu")
    assert len(failed) == 1 and "damaged checkpoint" in failed[0]
    assert campaign.find_record(jobs[1], tmp_path)


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
        (lambda files: files.update({"a/b/log.csv": b""}), "neither a record nor a state"),
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


@pytest.mark.parametrize(
    "change, message",
    [
        (("seeds", "seed"), r"run 1 \(compact\): unknown \['seed'\]"),
        (("quick", "slow"), "there is no slow recipe of 'compact'"),
        (("cpu = 0.1", "laptop = 1"), "minutes must be above 0 for some of"),
        (("[0, 1]", "[0, 0]"), "more than once"),
        (("[[run]]", "[run"), "no readable campaign"),
    ],
)
def test_a_wrong_list_is_one_clear_error(tmp_path, change, message):
    (tmp_path / "campaign.toml").write_text(CAMPAIGN.replace(*change, 1))
    with pytest.raises(DataError, match=message):
        campaign.load_campaign(tmp_path / "campaign.toml")


def test_lengths_of_time():
    assert [campaign.seconds(text) for text in ("90s", "9m", "1h30m", "0.5m")] == [90, 540, 5400, 30]
    with pytest.raises(ValueError, match="'9' is no length of time; say for example 90s"):
        campaign.seconds("9")


def test_the_command_runs_packs_and_merges(lent, tmp_path, monkeypatch, capsys):
    shutil.copytree(lent[0] / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / lent[1][1].name)
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    monkeypatch.setattr(records, "project_root", lambda: tmp_path)
    monkeypatch.delenv("FERKIT_DATA", raising=False)
    archive = str(tmp_path / "runs.zip")
    assert cli.main(["campaign", "run", "--budget", "9m", "--device", "cpu", "--only", "*-s1", "--pack", archive]) == 0
    assert cli.main(["campaign", "merge", archive]) == 0
    out = capsys.readouterr().out
    assert f"{lent[1][1].name}: done" in out and f"{lent[1][1].name}: recorded" in out
    assert cli.main(["campaign", "status", "--only", "no*"]) == 1
    assert "no run of" in capsys.readouterr().err


def test_it_needs_no_library_that_a_bare_machine_lacks(tmp_path):
    """torch, torchvision, timm, numpy, pandas, scikit-learn, safetensors and what those need."""
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    code = """
import sys
needless = {"papermill", "kaggle", "pytorch_grad_cam", "matplotlib", "nbformat", "jupyterlab", "IPython"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in needless:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from ferkit import campaign, cli, packing, synthetic
root = Path(sys.argv[1])
jobs = campaign.load_campaign(root / "campaign.toml")
assert campaign.take(jobs[:1], synthetic.embedded_faces(200), root, 600, "cpu") == []
packing.pack(campaign.folders(jobs, root), root / "runs.zip")
packing.merge(root / "runs.zip", root)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
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
