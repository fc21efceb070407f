import pytest

from ferkit import cli


def test_data_info_prints_counts_and_copies(sample, tmp_path, capsys):
    sample.csv(tmp_path / "fer2013.csv")
    sample.ferplus(tmp_path / "fer2013new.csv")
    assert cli.main(["data", "info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for part in ("42 faces", "NOT the official", "fingerprint", "PublicTest ", "copy in Training", "FER+ majority"):
        assert part in out


def test_training_predicting_and_evaluating_by_command(tmp_path, capsys, monkeypatch):
    from ferkit import recipe, sources, synthetic

    monkeypatch.delenv("FERKIT_DATA", raising=False)
    monkeypatch.setattr(sources, "KAGGLE_INPUT", tmp_path / "none")
    tiny = recipe.Recipe("tiny", options={"width": 8}, stages=((1, 24),), precision="float32")
    monkeypatch.setitem(recipe.RECIPES, "tiny", tiny)
    monkeypatch.setattr(synthetic, "N_FACES", 200)
    folder = str(tmp_path / "run")
    assert cli.main(["train", "--recipe", "tiny", "--seed", "3", "--out", folder]) == 0
    assert cli.main(["evaluate", folder]) == 0
    out = capsys.readouterr().out
    assert "tiny-s3 on embedded" in out and "every recorded metric is what the logits give" in out
    from PIL import Image

    Image.new("L", (50, 70), 100).save(tmp_path / "face.png")
    assert cli.main(["predict", folder, str(tmp_path / "face.png")]) == 0
    assert "%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "info", "/nowhere.csv"], "no such file or folder"),
        (["train", "--recipe", "best"], "unknown recipe 'best'"),
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


def test_models_and_help(capsys):
    assert cli.main(["models"]) == 0 and "compact" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([])
