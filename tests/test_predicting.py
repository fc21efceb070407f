"""Pictures in, emotions out: every kind of source and output of `ferkit predict`, with a small untrained network."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ferkit import DataError, cli, pictures, recognition
from ferkit.judge import Judge, load_judge
from ferkit.labels import CLASSES
from ferkit.models import create_model
from ferkit.recipe import Recipe
from ferkit.synthetic import embedded_faces
from ferkit.weights import SHIPPED, save_weights
from tests.test_detect import EYES_AND_MOUTH, PHOTOGRAPH, within


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_weights(create_model("compact", width=8), path, Recipe("compact", options={"width": 8}), CLASSES)
    return path


def predict(weights, *arguments) -> int:
    return cli.main(["predict", *map(str, arguments), "--model", str(weights)])


def write_video(path, n: int = 9, codec: str = "MJPG"):
    """The photograph, at ten frames a second, from the left side to the right."""
    photograph = cv2.resize(cv2.imread(str(PHOTOGRAPH)), (256, 300), interpolation=cv2.INTER_AREA)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (400, 300))
    for i in range(n):
        frame = np.full((300, 400, 3), 90, np.uint8)
        frame[:, 12 * i : 12 * i + 256] = photograph
        video.write(frame)
    video.release()
    return path


def test_a_photograph_as_table_json_and_annotated_copy(weights, tmp_path, capsys):
    assert predict(weights, PHOTOGRAPH, "--json", tmp_path / "a.json", "--annotate", tmp_path / "drawn") == 0
    header, row = capsys.readouterr().out.splitlines()
    (found,) = json.loads((tmp_path / "a.json").read_text())
    assert set(found) == {"file", "frame", "time", "box", "probabilities"} and found["frame"] is found["time"] is None
    assert within(found["box"], EYES_AND_MOUTH) and list(found["probabilities"]) == list(CLASSES)
    assert abs(sum(found["probabilities"].values()) - 1) < 1e-4
    best = max(found["probabilities"], key=found["probabilities"].get)
    assert header.split()[:3] == ["file", "face", "box"] and row.split()[:2] == ["grace_hopper.jpg", "1"]
    assert f"{best} {found['probabilities'][best]:.0%}" in row
    original, drawn = (
        np.asarray(Image.open(p)).astype(int) for p in (PHOTOGRAPH, tmp_path / "drawn" / PHOTOGRAPH.name)
    )
    left, top, _, height = found["box"]
    differs = np.abs(original - drawn).max(2) > 60
    assert differs[top : top + height, left - 3 : left + 4].mean() > 0.2  # a side of the box
    assert not differs[top + height + 20 :].any()


def test_json_to_the_output_is_nothing_but_json(weights, tmp_path, capsys):
    Image.new("L", (200, 200), 90).save(tmp_path / "flat.png")
    assert predict(weights, PHOTOGRAPH, tmp_path / "flat.png", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["box"] is None for item in found] == [False, True] and found[1]["probabilities"] is None


def test_no_face_is_a_row_that_says_so(weights, tmp_path, capsys):
    Image.new("L", (200, 200), 90).save(tmp_path / "flat.png")
    assert predict(weights, tmp_path / "flat.png") == 0
    assert "flat.png     –  no face found (of a crop of one face: --no-detect)" in capsys.readouterr().out


def test_crops_are_judged_as_training_saw_them(weights, tmp_path):
    faces = embedded_faces(20, seed=5).images
    for i, face in enumerate(faces):
        Image.fromarray(face.numpy()).save(tmp_path / f"{i:02}.png")
    judge = load_judge(weights, "cpu")
    found = list(recognition.recognise(judge, pictures.find_sources([str(tmp_path)]), None, pytest.fail))
    shares = torch.tensor([list(finding.shares.values()) for (finding,) in found])
    torch.testing.assert_close(shares, judge(faces).softmax(1), atol=1e-5, rtol=1e-4)
    assert [finding.frame.source.name for (finding,) in found] == [f"{i:02}.png" for i in range(20)]


def test_drawn_faces_are_found_too(weights, tmp_path):
    """Of the embedded faces, enlarged with their edges continued, the detector sees most."""
    for i, face in enumerate(embedded_faces(20, seed=0).images.numpy()):
        large = cv2.resize(face, (192, 192), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), cv2.copyMakeBorder(large, 99, 99, 99, 99, cv2.BORDER_REPLICATE))
    judge, detector = load_judge(weights, "cpu"), recognition.Detector()
    found = list(recognition.recognise(judge, pictures.find_sources([str(tmp_path)]), detector, pytest.fail))
    boxes = np.array([findings[0].box for findings in found if findings[0].box])
    assert len(boxes) > 10 and np.abs(np.median(boxes[:, 0] + boxes[:, 2] / 2) - 195) < 10


def test_crops_wait_for_each_other_and_stay_in_order(monkeypatch):
    sizes = []

    class Counting(Judge):
        def __call__(self, images, tta="none"):
            sizes.append(len(images))
            return images[:, 0, :2].float()

    sources = [pictures.Source(f"{i}.png", f"{i}.png") for i in range(5)]
    monkeypatch.setattr(recognition, "frames", lambda source, every: [
        pictures.Frame(source, np.full((48, 48, 3), int(source.name[0]), np.uint8))])  # fmt: skip
    monkeypatch.setattr(recognition, "BATCH", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the others would share a batch
    found = list(recognition.recognise(Counting((), ("a", "b")), sources, None, pytest.fail))
    assert sizes == [2, 2, 1] and [findings[0].frame.source for findings in found] == sources
    assert not list(recognition.recognise(Counting((), ("a", "b")), [], None, pytest.fail))


def test_a_folder_goes_on_after_a_broken_file(weights, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.png"):
        Image.new("RGB", (60, 50), (9, 99, 200)).save(tmp_path / name)
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("not looked at")
    assert predict(weights, tmp_path, "--no-detect", "--annotate", tmp_path.parent / "drawn") == 1
    out, error = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["file", "b.png", "sub/a.png"]
    assert error.count("\n") == 1 and "a.jpg: not a picture that can be decoded" in error
    assert sorted(p.name for p in (tmp_path.parent / "drawn").rglob("*.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize("codec, name", [("MJPG", "clip.avi"), ("mp4v", "clip.mp4")])
def test_a_video_has_times_and_every_nth_frame(weights, tmp_path, codec, name, capsys):
    clip = write_video(tmp_path / name, codec=codec)
    assert predict(weights, clip, "--every", 4, "--json", tmp_path / "a.json", "--annotate", tmp_path / "drawn") == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [item["frame"] for item in found] == [0, 4, 8]
    assert np.allclose([item["time"] for item in found], [0, 0.4, 0.8], atol=0.11)
    lefts = [item["box"][0] for item in found]
    assert np.allclose(np.diff(lefts), 48, atol=8)
    assert sorted(p.name for p in (tmp_path / "drawn" / name).iterdir()) == ["000000.jpg", "000004.jpg", "000008.jpg"]
    assert f"{name} @0." in capsys.readouterr().out


class Camera:
    """What cv2.VideoCapture(0) does with a camera that is unplugged, or stopped by Ctrl-C, after some frames."""

    def __init__(self, n: int, stop: bool = False) -> None:
        self.n, self.stop, self.released = n, stop, False

    def grab(self) -> bool:
        self.n -= 1
        if self.n < 0 and self.stop:
            raise KeyboardInterrupt
        return self.n >= 0

    def retrieve(self):
        return True, cv2.imread(str(PHOTOGRAPH))

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize("stop", [True, False])
def test_a_camera_prints_lines_until_ctrl_c_and_says_why_there_is_no_window(
    weights, tmp_path, monkeypatch, capsys, stop
):
    camera = Camera(3, stop)
    monkeypatch.setattr(cv2, "VideoCapture", lambda which: camera if which == 1 else pytest.fail("another camera"))
    monkeypatch.setattr(pictures, "why_no_window", lambda: "no display here")
    assert predict(weights, "camera:1", "--json", tmp_path / "a.json") == 0
    out, error = capsys.readouterr()
    assert out.count("camera:1 @0.") == 3 and "no window, only lines: no display here; Ctrl-C ends" in error
    assert camera.released and len(json.loads((tmp_path / "a.json").read_text())) == 3


def test_a_camera_has_a_window_where_opencv_can(weights, monkeypatch):
    shown, camera = [], Camera(5)
    monkeypatch.setattr(cv2, "VideoCapture", lambda which: camera)
    monkeypatch.setattr(pictures, "why_no_window", lambda: "")
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture.shape), raising=False)
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 2 else -1, raising=False)
    assert predict(weights, "camera") == 0
    assert shown == [(600, 512, 3)] * 2 and camera.released


def test_why_there_is_no_window(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert "built without windows" in pictures.why_no_window()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.setattr(pictures.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert pictures.why_no_window() == "no display here"
    monkeypatch.setenv("DISPLAY", ":0")
    assert pictures.why_no_window() == ""


def test_pictures_of_every_mode_are_read_alike(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40, 1))  # (40, 64), dark on the left
    grey = Image.fromarray(ramp)
    modes = {
        "L": grey, "RGB": grey.convert("RGB"), "RGBA": grey.convert("RGBA"), "LA": grey.convert("LA"),
        "P": grey.convert("P"), "I;16": Image.fromarray(ramp.astype(np.uint16) * 257), "I": grey.convert("I"),
    }  # fmt: skip
    for mode, picture in modes.items():
        path = tmp_path / f"{mode.replace(';', '')}.{'tif' if mode == 'I' else 'png'}"
        picture.save(path)
        found = pictures.read_picture(path)
        assert found.shape == (40, 64, 3) and np.abs(found - ramp[..., None].astype(int)).max() <= 1, mode
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (pictures.read_picture(tmp_path / "clear.png") == 255).all()
    turned = Image.Exif()
    turned[0x0112] = 6  # the right side is up
    grey.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    found = pictures.read_picture(tmp_path / "turned.jpg")
    assert found.shape == (64, 40, 3) and found[0].mean() < 10 < 240 < found[-1].mean()
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="f.tif: not a picture.*fractions"):
        pictures.read_picture(tmp_path / "f.tif")
    whole = (tmp_path / "RGB.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    turned[0x011A] = 2.5  # a resolution, which is then said to be text
    broken = turned.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    grey.save(tmp_path / "exif.jpg", exif=broken)
    for name in ("half.png", "missing.png", "exif.jpg"):
        with pytest.raises(DataError, match=f"{name}: not a picture that can be decoded"):
            pictures.read_picture(tmp_path / name)


@pytest.mark.parametrize(
    "make, arguments, message",
    [
        (None, ["nothere.jpg"], "nothere.jpg: no such file or folder"),
        ("empty", ["empty"], "empty: no pictures in this folder"),
        ("clip.avi", ["clip.avi"], "clip.avi: not a video that can be decoded"),
        ("a.png", ["a.png", "--every", "0"], "--every 0: give 1"),
        ("a.png", ["a.png", "--annotate", "."], "holds a.png itself; annotated pictures go to another folder"),
        ("a.png", ["a.png", "a.png", "--annotate", "out"], "would both be drawn to"),
        ("a.png", ["a.png", "--device", "gpu"], "unknown device 'gpu'"),
        (None, ["camera:x"], "camera:x: a camera is camera, or camera: and its number"),
    ],
)
def test_mistakes_end_with_one_line_and_status_1(weights, tmp_path, monkeypatch, capsys, make, arguments, message):
    monkeypatch.chdir(tmp_path)
    if make == "empty":
        (tmp_path / make).mkdir()
    elif make:
        (tmp_path / make).write_text("neither picture nor video")
    assert predict(weights, *arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("ferkit: ") and message in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    assert os.listdir(tmp_path) == ([make] if make else [])


def test_without_shipped_weights_it_says_what_to_name(tmp_path, monkeypatch, capsys):
    from ferkit import weights

    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "compact.safetensors")
    assert cli.main(["predict", str(PHOTOGRAPH)]) == 1
    assert (
        "compact.safetensors is not in this copy of ferkit; name a trained run: --model RUN" in capsys.readouterr().err
    )


def test_a_hastened_judge_says_the_same():
    if not SHIPPED.exists():
        pytest.skip("this copy of ferkit has no trained weights")
    judge, faces = load_judge(SHIPPED, "cpu"), embedded_faces(300, seed=1).images
    wanted = judge(faces).softmax(1)
    assert judge.hastened("float32").models == judge.models
    for precision in ("auto", "bfloat16"):
        fast = judge.hastened(precision)
        shares = fast(faces).softmax(1)
        torch.testing.assert_close(shares, wanted, atol=0.05, rtol=0)
        assert (shares.argmax(1) == wanted.argmax(1)).float().mean() > 0.98  # but for near ties
    assert next(fast.models[0].parameters()).dtype == torch.bfloat16
    assert next(judge.models[0].parameters()).dtype == torch.float32


def test_cores_that_judge_apart_judge_as_one(weights):
    judge, crops = load_judge(weights, "cpu"), embedded_faces(60).images[:31]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        apart = recognition.judge_crops(judge, crops)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(apart, judge(crops), atol=1e-5)
    assert torch.equal(recognition.judge_crops(judge, crops[:1]), judge(crops[:1]))
