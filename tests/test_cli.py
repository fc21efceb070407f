import os
import subprocess
import sys

import pytest

from ferkit import cli


def test_data_info_prints_counts_and_copies(sample, tmp_path, capsys):
    sample.csv(tmp_path / "fer2013.csv")
    sample.ferplus(tmp_path / "fer2013new.csv")
    assert cli.main(["data", "info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for part in (
        "42 faces",
        "NOT the official",
        "fingerprint",
        "PublicTest ",
        "are in Training to the bit",
        "FER+ majority",
    ):
        assert part in out


def test_training_predicting_and_evaluating_by_command(tmp_path, capsys, monkeypatch):
    from ferkit import sources, synthetic

    monkeypatch.delenv("FERKIT_DATA", raising=False)
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path / "none")
    monkeypatch.setattr(synthetic, "N_FACES", 200)
    folder = str(tmp_path / "run")
    changes = ["--set", "options.width=8", "--set", "stages=((1, 24),)", "--set", "precision=float32"]
    assert cli.main(["train", "--recipe", "quick", "--seed", "3", "--out", folder, *changes]) == 0
    assert cli.main(["evaluate", folder]) == 0
    out = capsys.readouterr().out
    assert (
        "compact-quick+options=width_8+stages=1_24+precision=float32-s3 on embedded" in out
        and "every recorded metric is what the logits give" in out
    )
    from PIL import Image

    Image.new("L", (50, 70), 100).save(tmp_path / "face.png")
    assert cli.main(["predict", str(tmp_path / "face.png"), "--no-detect", "--model", folder]) == 0
    assert "%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "info", "/nowhere.csv"], "no such file or folder"),
        (
            ["train", "--recipe", "best"],
            "no best recipe of 'compact'; it has ['house', 'cpu',",
        ),
        (["train", "--model", "best"], "no house recipe of 'best'; choose a model from"),
        (["train", "--set", "lr"], "--set wants KEY=VALUE"),
        (["train", "--set", "lr=True"], "lr wants a value like 0.1, got True"),
        (["train", "--set", "seed=3"], "--set does not change the seed"),
        (["train", "--set", "options=3", "--set", "options.width=8"], "options wants a value like"),
        (
            ["train", "--recipe", "quick", "--data", "embedded", "--out", __file__],
            "test_cli.py is a file; name a folder",
        ),
        (["bench", "--recipe", "quick", "--set", "options.width=0"], "leave layers without a channel"),
        (["export", "--out", "/tmp"], "/tmp is a folder; name a file"),
        (["search", "../../escaped", "--data", "embedded"], "a study's name is a folder's"),
        (["search", "s", "--set", "lr=50", "--data", "embedded"], "lr in (0, 1]"),
        (["models", "best"], "unknown model 'best'; choose from"),
        (["evaluate", "/nowhere"], "no readable record"),
        (["suite", "run", "--only", "99"], "no notebook 99"),
        (["suite", "run", "-p", "epochs", "3"], "no notebook has the parameter epochs"),
        (["data", "download", "--source", "x"], "unknown source"),
    ],
)
def test_mistakes_end_with_one_line_and_status_1(arguments, message, capsys):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("ferkit: ") and "Traceback" not in error


def test_output_that_nobody_reads_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ferkit", "models", "compact"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_models_and_help(capsys):
    assert cli.main(["models", "compact", "residual_masking", "timm:resnet18"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in out[1:3]] == [
        ["1x48x48", "973,383", "0.12"],
        ["3x224x224", "137,796,423", "43.81"],
    ]
    with pytest.raises(SystemExit):
        cli.main([])
