"""Pictures, folders of them, videos and cameras, as frames one after the other."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit import DataError

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True)
class Source:
    """A picture, a video or a camera; `name` is its path below the folder it was found in, else its own name."""

    path: str
    name: str

    @property
    def is_camera(self) -> bool:
        return self.path.partition(":")[0] == "camera" and not Path(self.path).exists()

    @property
    def is_video(self) -> bool:
        return Path(self.path).suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Frame:
    """Pixels uint8 (H, W, 3), red first; of a video or camera also the frame's number and its time in seconds."""

    source: Source
    pixels: np.ndarray
    number: int | None = None
    seconds: float | None = None

    @property
    def grey(self) -> np.ndarray:
        """uint8 (H, W), by the weights of ITU-R 601 as Pillow's."""
        from PIL import Image

        return np.asarray(Image.fromarray(self.pixels).convert("L"))


def find_sources(places: list[str]) -> list[Source]:
    """The sources that files, folders (their pictures, in order of their paths) and `camera` or `camera:1` name.

    Raises DataError for a path that is not there and for a folder without pictures.
    """
    found = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
            if not inside:
                raise DataError(f"{path}: no pictures in this folder; {', '.join(PICTURES)} are looked for")
            found += [Source(str(p), p.relative_to(path).as_posix()) for p in inside]
        elif path.exists() or Source(place, place).is_camera:
            found.append(Source(place, path.name))
        else:
            raise DataError(f"{place}: no such file or folder")
    return found


def frames(source: Source, every: int = 1) -> Iterator[Frame]:
    """The frames of a source: one of a picture, every so manieth of a video or camera.

    Raises DataError, naming the file, where it cannot be decoded or opened.
    """
    if source.is_camera or source.is_video:
        yield from _moving(source, every)
    else:
        yield Frame(source, read_picture(source.path))


def read_picture(path: str | Path) -> np.ndarray:
    """A picture file of any mode as uint8 (H, W, 3), turned as its EXIF says, what is transparent white.

    16 bits a pixel become 8. Raises DataError when it cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):
                values = np.asarray(picture).astype(np.int64)
                shift = 8 if values.max() > 255 else 0
                return np.repeat((values >> shift).clip(0, 255).astype(np.uint8)[..., None], 3, 2)
            if picture.mode == "F":
                raise ValueError("its pixels are fractions, and what is white is not said")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # of a broken file, Pillow raises nearly anything
        raise DataError(f"{path}: not a picture that can be decoded ({error})") from error


def _moving(source: Source, every: int) -> Iterator[Frame]:
    import cv2

    which = source.path.partition(":")[2] or "0"
    if source.is_camera and not which.isdigit():
        raise DataError(f"{source.path}: a camera is camera, or camera: and its number")
    capture, begin, number = cv2.VideoCapture(int(which) if source.is_camera else source.path), time.monotonic(), 0
    try:
        while capture.grab():
            if number % every == 0:
                ok, pixels = capture.retrieve()
                if not ok:
                    break
                now = time.monotonic() - begin if source.is_camera else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                yield Frame(source, pixels[..., ::-1].copy(), number, now)
            number += 1
    finally:
        capture.release()
    if not number:
        told = "no camera of that number gives pictures" if source.is_camera else "not a video that can be decoded"
        raise DataError(f"{source.path}: {told}")


def why_no_window() -> str:
    """Why this OpenCV cannot show a window here; empty where it can."""
    import cv2

    lines = [line.split(":")[1].strip() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
    if lines[:1] in ([], ["NONE"]):
        return "this OpenCV is built without windows (opencv-python has them, the headless one does not)"
    import os

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no display here"
    return ""
