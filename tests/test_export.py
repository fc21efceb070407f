"""Networks as ONNX files: all of the registry, what the file says, and what is refused."""

import json
import logging
import sys

import pytest
import torch

from ferkit import DataError, cli, export
from ferkit.atomic import project_root
from ferkit.labels import CLASSES
from ferkit.predict import logits
from ferkit.recipe import Recipe
from ferkit.synthetic import embedded_faces
from ferkit.weights import load_weights, save_weights
from tests.test_models import KINDS, narrow, settle, small

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'ferkit[export]'")
MODELS = [name for name in KINDS if not name.startswith("timm:")] + ["timm:mobilenetv3_large_100"]  # one of timm


def saved(path, name: str = "compact"):
    save_weights(settle(small(name)), path, Recipe(name, model=name, options=narrow(name)), CLASSES)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_torchs_logits_for_batches_of_any_size(name, tmp_path):
    weights = saved(tmp_path / "a.safetensors", name)
    assert export.export(weights, tmp_path / "a.onnx") <= export.TOLERANCE
    model, side = load_weights(weights)[0], narrow(name)["size"]
    faces = torch.nn.functional.interpolate(embedded_faces(33, seed=3).images[:, None].float(), (side, side)).round()
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"faces": (faces / 255).numpy()})[0])
    wanted = logits(model, faces[:, 0].byte())
    assert (found - wanted).abs().max() <= export.TOLERANCE * wanted.abs().max()


def test_the_file_says_what_it_takes_and_gives(tmp_path):
    export.export(saved(tmp_path / "best.safetensors"), tmp_path / "a.onnx", opset=20)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("faces", "tensor(float)", [1, 64, 64])
    assert isinstance(given.shape[0], str) and wanted.name == "logits" and wanted.shape[1] == 7
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CLASSES) and json.loads(about["recipe"])["model"] == "compact"
    assert "(N, 1, 64, 64)" in about["input"] and "1e-4" in about["tolerance"].replace("0.0001", "1e-4")
    import onnx

    assert [entry.version for entry in onnx.load(tmp_path / "a.onnx").opset_import if not entry.domain] == [20]


def test_the_command_takes_a_run_folder_and_else_the_shipped_weights(tmp_path, monkeypatch, capsys):
    saved(tmp_path / "best.safetensors")
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "a.onnx")]) == 0
    assert "a.onnx: logits as torch's in onnxruntime" in capsys.readouterr().out
    monkeypatch.setattr("ferkit.weights.SHIPPED", tmp_path / "none.safetensors")
    assert cli.main(["export", "--out", str(tmp_path / "b.onnx")]) == 1
    assert "none.safetensors is not in this copy of ferkit" in capsys.readouterr().err


def test_an_opset_that_there_is_not_is_told_in_one_line(tmp_path, caplog):
    with pytest.raises(ValueError, match="exporter wrote opset 18, not 99; choose that one"):
        export.export(saved(tmp_path / "a.safetensors"), tmp_path / "a.onnx", opset=99)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_differs_is_not_written(tmp_path, monkeypatch):
    weights = saved(tmp_path / "a.safetensors")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    (tmp_path / "a.onnx").write_text("before")
    with pytest.raises(DataError, match="onnxruntime's logits differ from torch's by .*nothing is written"):
        export.export(weights, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "before" and len(list(tmp_path.iterdir())) == 2


def test_no_number_is_no_agreement(tmp_path, monkeypatch):
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *given: [run(*given)[0] * float("nan")])
    with pytest.raises(DataError, match="differ from torch's by nan"):
        export.export(saved(tmp_path / "a.safetensors"), tmp_path / "a.onnx")


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is an ensemble.*export its members"):
        export.export(project_root() / "results" / "fer2013" / "ensemble", tmp_path / "a.onnx")
    with pytest.raises(DataError, match="has no best.safetensors"):
        export.export(project_root() / "results" / "fer2013" / "compact-s0", tmp_path / "a.onnx")
    weights = saved(tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="pip install onnx onnxruntime onnxscript"):
        export.export(weights, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
