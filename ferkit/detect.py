"""Faces in a picture, by the detector that OpenCV's package brings, cut out as FER2013's were.

FER2013 was itself cropped by an OpenCV cascade (Goodfellow et al. 2013, arXiv 1307.0414). What this one finds of its
faces, and the margin at which crops are most like the originals: results/benchmarks/detecting.json.
"""

from pathlib import Path

import cv2
import numpy as np

from ferkit import DataError

CASCADE = "haarcascade_frontalface_alt2.xml"
MARGIN = 1.04  # side of a crop in sides of the detector's box
SIDE = 48  # pixels of a crop, FER2013's
SMALLEST = 32  # pixels of a face that is looked for
LARGEST = 1024  # pixels of the longer side at which a picture is searched; twice the side takes four times as long

Box = tuple[int, int, int, int]  # left, top, width, height in pixels; a crop's may reach beyond the picture


class Detector:
    """Boxes of the faces in a grey picture; DataError where the installed OpenCV has no detector in its package."""

    def __init__(self) -> None:
        path = Path(cv2.__file__).parent / "data" / CASCADE
        if not hasattr(cv2, "CascadeClassifier") or not path.exists():
            remedy = "pip install 'opencv-python-headless<5', or give crops of faces and --no-detect"
            raise DataError(f"OpenCV {cv2.__version__} comes without a face detector; {remedy}")
        self.cascade = cv2.CascadeClassifier(str(path))

    def __call__(self, grey: np.ndarray) -> list[Box]:
        """uint8 (H, W) -> square boxes to crop, the largest face first."""
        scale = min(1.0, LARGEST / max(grey.shape))
        size = tuple(max(1, round(scale * side)) for side in grey.shape[::-1])
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey
        found = self.cascade.detectMultiScale(small, scaleFactor=1.1, minNeighbors=5, minSize=(SMALLEST, SMALLEST))
        boxes = []
        for x, y, width, height in sorted(np.reshape(found, (-1, 4)).tolist(), key=lambda box: (-box[2], box)):
            side = round(MARGIN * width / scale)
            left, top = (x + width / 2) / scale - side / 2, (y + height / 2) / scale - side / 2
            boxes.append((round(left), round(top), side, side))
        return boxes


def central_square(grey: np.ndarray) -> Box:
    """The box of a picture (H, W) that is already a crop of one face."""
    height, width = grey.shape
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side, side


def crop(grey: np.ndarray, box: Box) -> np.ndarray:
    """What a box covers of a grey picture, uint8 (SIDE, SIDE); beyond the edges the edge goes on."""
    left, top, width, height = box
    rows = np.clip(np.arange(top, top + height), 0, grey.shape[0] - 1)
    columns = np.clip(np.arange(left, left + width), 0, grey.shape[1] - 1)
    how = cv2.INTER_AREA if width > SIDE else cv2.INTER_LINEAR
    return cv2.resize(grey[rows[:, None], columns], (SIDE, SIDE), interpolation=how)
