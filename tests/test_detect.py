"""The detector on the one photograph of a face that an installed package brings: matplotlib's of Grace Hopper."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image

from ferkit import DataError, detect

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
EYES_AND_MOUTH = np.array([(230, 185), (305, 190), (268, 275)])  # x, y, by looking


@pytest.fixture(scope="module")
def grey():
    return np.array(Image.open(PHOTOGRAPH).convert("L"))


def within(box, points) -> bool:
    left, top, width, height = box
    return bool(((points > (left, top)) & (points < (left + width, top + height))).all())


def test_a_face_is_found_and_fills_its_box(grey):
    (box,) = detect.Detector()(grey)
    assert within(box, EYES_AND_MOUTH) and box[2] == box[3]
    assert 2.5 < box[2] / (305 - 230) < 4  # eyes lie a third of FER2013's side apart, give or take
    assert abs(box[0] + box[2] / 2 - 268) < 15


@pytest.mark.parametrize("scale", [0.4, 3.0])
def test_its_place_does_not_depend_on_the_size_of_the_picture(grey, scale):
    (box,) = detect.Detector()(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    (expected,) = detect.Detector()(grey)
    assert np.allclose(np.array(box) / scale, expected, atol=20)


def test_several_faces_come_largest_first_and_none_from_a_flat_picture(grey):
    pair = np.full((600, 900), 128, np.uint8)
    pair[:, :512] = grey
    pair[200:500, 600:856] = cv2.resize(grey, (256, 300), interpolation=cv2.INTER_AREA)
    first, second = detect.Detector()(pair)
    assert within(first, EYES_AND_MOUTH) and within(second, EYES_AND_MOUTH / 2 + (600, 200))
    assert detect.Detector()(np.full((300, 300), 128, np.uint8)) == []
    assert detect.Detector()(np.zeros((5, 9), np.uint8)) == []


def test_a_crop_of_a_whole_crop_is_itself_and_edges_go_on():
    face = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    assert (detect.crop(face, (0, 0, 48, 48)) == face).all()
    beyond = detect.crop(face, (-48, -48, 48, 48))
    assert (beyond == face[0, 0]).all()
    assert detect.crop(np.full((500, 400), 9, np.uint8), (350, 450, 200, 200)).tolist() == [[9] * 48] * 48
    assert detect.crop(np.full((10, 10), 9, np.uint8), (0, 0, 10, 10)).shape == (48, 48)


def test_a_picture_as_thin_as_a_hair_has_no_face():
    for shape in ((1, 5000), (5000, 1), (3, 40000)):
        assert detect.Detector()(np.full(shape, 9, np.uint8)) == []


def test_the_central_square():
    assert detect.central_square(np.zeros((60, 90))) == (15, 0, 60, 60)
    assert detect.central_square(np.zeros((91, 60))) == (0, 15, 60, 60)


def test_without_a_bundled_detector_it_says_what_to_install(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(DataError, match="without a face detector; pip install 'opencv-python-headless<5'.*--no-detect"):
        detect.Detector()


def test_fer2013_is_cropped_again_as_it_was(real_faces):
    """Faces with their edges continued: most are found, and in the median where and as large as they are."""
    found, n, side = [], 60, 192
    for face in real_faces.split("PublicTest").images[:n].numpy():
        large = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
        boxes = detect.Detector()(cv2.copyMakeBorder(large, 96, 96, 96, 96, cv2.BORDER_REPLICATE))
        found += [(np.array(boxes[0]) - (96, 96, 0, 0)) / side] if boxes else []
    left, top, width, height = np.median(found, 0)
    assert len(found) > n / 2 and abs(width - 1) < 0.06 and width == height
    assert abs(left + width / 2 - 0.5) < 0.03 and abs(top + height / 2 - 0.5) < 0.03
