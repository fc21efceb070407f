"""Two processes on the CPU compute what one does: from Python, from torchrun, from a notebook."""

import os
import subprocess
import sys

import nbformat
import pytest
import torch

from ferkit import DataError, experiment, parallel, records, synthetic
from ferkit.parallel import Team
from ferkit.recipe import Recipe

# Batch norm, dropout, mixing, noise and a batch size that two do not divide. Sums in another order differ by rounding,
# which training amplifies, on one CPU more than on another: at lr 0.1 weights can differ by 5e-3 after three epochs, at
# this one by less than 1e-6, where one percent of lr makes 3e-4 and another seed more than 1.
RECIPE = Recipe("two", options={"width": 8, "drop": 0.5}, stages=((3, 32),), batch_size=31, policy="heavy",
                lr=0.01, precision="float32")  # fmt: skip
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def faces():
    return synthetic.embedded_faces(207)


@pytest.fixture(scope="module")
def alone(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "alone"
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # as many as two processes have together
    try:
        return folder, experiment.run(RECIPE, faces, folder, "cpu")
    finally:
        torch.set_num_threads(before)


def assert_same_training(ours, theirs):
    logs = [records.read_log(folder) for folder in (ours, theirs)]
    for key in ("loss", "public_accuracy"):
        values = [torch.tensor([float(row[key]) for row in log]) for log in logs]
        torch.testing.assert_close(*values, atol=TOLERANCE, rtol=0)
    ours, theirs = (torch.load(folder / "last.pt", weights_only=True)["ema"] for folder in (ours, theirs))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=TOLERANCE, rtol=0)


def test_two_processes_train_as_one(alone, faces, tmp_path):
    record = experiment.run(RECIPE, faces, tmp_path, "cpu", processes=2)
    assert_same_training(tmp_path, alone[0])
    assert record["metrics"]["PublicTest"]["n"] == len(faces.split("PublicTest")) == 31  # ragged for two
    assert record["metrics"]["PublicTest"]["confusion"] == alone[1]["metrics"]["PublicTest"]["confusion"]


def test_a_failing_process_is_quoted(faces, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"process \d of 2 failed: .*damaged checkpoint"):
        experiment.run(RECIPE, faces, tmp_path, "cpu", processes=2)


def ferkit(*launcher: str, folder) -> None:
    """`ferkit train` of a small network on the drawn faces, started by that launcher."""
    changes = ("options.width=8", "stages=((1, 24),)", "precision='float32'", "lr=0.01", "batch_size=128")
    arguments = ["--model", "compact", "--recipe", "quick", "--device", "cpu", "--out", str(folder)]
    arguments += [word for change in changes for word in ("--set", change)]
    environment = {k: v for k, v in os.environ.items() if k != "FERKIT_DATA"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "ferkit", "train", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("PrivateTest flip TTA") == 1  # one process speaks


def test_torchrun_trains_as_one_process(tmp_path):
    ferkit("-m", "torch.distributed.run", "--nproc-per-node", "2", folder=tmp_path / "two")
    ferkit(folder=tmp_path / "one")
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_two_processes_train_from_a_notebook(alone, tmp_path):
    from papermill import execute_notebook

    cells = [
        "from pathlib import Path\nfrom ferkit import experiment, synthetic\nfrom ferkit.recipe import Recipe",
        f"recipe = {RECIPE!r}",
        f"experiment.run(recipe, synthetic.embedded_faces(207), Path({str(tmp_path / 'run')!r}), 'cpu', processes=2)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False)
    assert_same_training(tmp_path / "run", alone[0])


@pytest.mark.parametrize("n, size", [(10, 1), (10, 3), (2, 3), (0, 2)])
def test_shares_take_every_row_once(n, size):
    shares = [range(n)[Team(rank, size).share(n)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_must_be_large_enough_to_share(faces, tmp_path):
    from ferkit.loop import Loop
    from ferkit.train import start

    device = torch.device("cpu")
    state = start(RECIPE, faces, device)
    with pytest.raises(ValueError, match="batch_size 31 is too small for 16 processes"):
        Loop(RECIPE, faces, state, device, Team(0, 16))
    with pytest.raises(ValueError, match="--compile is for one process"):
        Loop(RECIPE, faces, state, device, Team(0, 2), compiled=True)


def test_a_team_needs_a_device_for_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, message in (("mps", "on the CPU or on CUDA"), ("cuda", "2 processes for 1 GPUs on this machine")):
        with pytest.raises(ValueError, match=message), parallel.joined(torch.device(device)):
            pass
