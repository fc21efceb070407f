"""Emotions of the faces in pictures, videos and camera frames: found, judged many at a time, told, drawn."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ferkit import DataError
from ferkit.atomic import whole_file
from ferkit.detect import SIDE, Box, Detector, central_square, crop
from ferkit.judge import Judge
from ferkit.labels import ALIASES, COLOURS
from ferkit.pictures import PICTURES, Frame, Source, frames

BATCH = 256  # crops that are judged together, of one picture or of many
HELD = 2**28  # bytes of pixels that wait for them at most
WORTH_TELLING = 0.05  # share of a class that is not the first


@dataclass(frozen=True)
class Finding:
    """One face, or that there is none (no box). The box may reach beyond the picture, as a crop does."""

    frame: Frame
    face: int  # 1 is the largest of its frame
    box: Box | None = None
    shares: dict[str, float] | None = None  # of each class, in the model's order

    @property
    def ranked(self) -> list[tuple[str, float]]:
        return sorted(self.shares.items(), key=lambda item: -item[1])

    def as_json(self) -> dict:
        """{file, frame, time, box, probabilities}; frame and time of videos and cameras, else null."""
        box = list(self.box) if self.box else None
        shares = {name: round(share, 6) for name, share in self.shares.items()} if self.shares else None
        frame = self.frame
        return {"file": frame.source.path, "frame": frame.number, "time": frame.seconds, "box": box,
                "probabilities": shares}  # fmt: skip

    def row(self, width: int) -> str:
        """A line of the table; `width` characters are the file's."""
        frame = self.frame
        name = frame.source.name + (f" @{frame.seconds:.2f} s" if frame.seconds is not None else "")
        if not self.box:
            return f"{name:<{width}}     –  no face found (of a crop of one face: --no-detect)"
        left, top, side, height = self.box
        (best, share), *others = self.ranked
        told = ", ".join(f"{name} {share:.0%}" for name, share in others if share >= WORTH_TELLING)
        place = f"{left},{top} {side}x{height}"
        return f"{name:<{width}}  {self.face:>4}  {place:<20}  {f'{best} {share:.0%}':<15}  {told}".rstrip()


def header(sources: list[Source]) -> tuple[str, int]:
    """The table's first line, and the characters of its first column."""
    moving = any(source.is_video or source.is_camera for source in sources)
    width = max(4, *(len(source.name) for source in sources)) + (12 if moving else 0)
    return f"{'file':<{width}}  {'face':>4}  {'box':<20}  {'emotion':<15}  others of 5 % and more", width


def recognise(
    judge: Judge, sources: list[Source], detector: Detector | None, failed: Callable[[DataError], None], every: int = 1
) -> Iterator[list[Finding]]:
    """What is found in each frame of the sources, in order: a list with a finding a face, or one without a box.

    detector: None takes a picture's central square for the face. failed: told of each source that cannot be decoded;
    the others go on. Crops wait until BATCH are there to be judged together; those of a camera do not wait.
    """
    waiting: list[tuple[Frame, list[Box], np.ndarray]] = []
    n = held = 0
    for frame in _frames(sources, every, failed):
        grey = frame.grey
        boxes = [central_square(grey)] if detector is None else detector(grey)
        crops = np.stack([crop(grey, box) for box in boxes]) if boxes else np.empty((0, SIDE, SIDE), np.uint8)
        waiting.append((frame, boxes, crops))
        n, held = n + len(boxes), held + frame.pixels.nbytes
        if n >= BATCH or held >= HELD or frame.source.is_camera:
            yield from _judged(judge, waiting)
            waiting, n, held = [], 0, 0
    yield from _judged(judge, waiting)


def _frames(sources: list[Source], every: int, failed: Callable[[DataError], None]) -> Iterator[Frame]:
    for source in sources:
        try:
            yield from frames(source, every)
        except DataError as error:
            failed(error)


def _judged(judge: Judge, waiting: list[tuple[Frame, list[Box], np.ndarray]]) -> Iterator[list[Finding]]:
    if not waiting:
        return
    crops = np.concatenate([crops for _, _, crops in waiting])
    shares = iter(judge_crops(judge, torch.from_numpy(crops)).softmax(1).tolist() if len(crops) else [])
    for frame, boxes, _ in waiting:
        found = [Finding(frame, i, box, dict(zip(judge.classes, next(shares), strict=True)))
                 for i, box in enumerate(boxes, start=1)]  # fmt: skip
        yield found or [Finding(frame, 0)]


def judge_crops(judge: Judge, crops: Tensor) -> Tensor:
    """Logits (N, C) of uint8 (N, H, W) crops; on a CPU each core judges a part of them by itself.

    Cores that share every layer wait for each other (results/benchmarks/judging.json), beside other work for long.
    """
    n = torch.get_num_threads()
    if n == 1 or len(crops) < n or next(judge.models[0].parameters()).device.type != "cpu":
        return judge(crops)
    with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as cores:  # of these threads alone
        return torch.cat(list(cores.map(judge, crops.chunk(n))))


def drawn(frame: Frame, findings: list[Finding]):
    """The frame as a Pillow picture, with a box and the first emotion at each face."""
    from PIL import Image, ImageColor, ImageDraw, ImageFont

    picture = Image.fromarray(frame.pixels)
    pen, size = ImageDraw.Draw(picture), max(12, min(picture.size) // 25)
    for finding in findings:
        if not finding.box:
            continue
        left, top, width, height = finding.box
        name, share = finding.ranked[0]
        colour = COLOURS.get(ALIASES.get(name, name), "#4d4d4d")
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=max(2, size // 8))
        text, font = f"{name} {share:.0%}", ImageFont.load_default(size)
        ink = "black" if sum(ImageColor.getrgb(colour)) > 380 else "white"
        place = max(0, left), max(0, top - size - 4)
        pen.rectangle(pen.textbbox(place, text, font), fill=colour)
        pen.text(place, text, ink, font)
    return picture


def save_drawn(findings: list[Finding], folder: Path) -> Path:
    """Draw what was found in a frame into a folder, under the picture's name; of a video <name>/<frame>.jpg."""
    from PIL import Image

    frame = findings[0].frame
    path = target(frame.source, folder)
    if frame.number is not None:
        path = path / f"{frame.number:06}.jpg"
    with whole_file(path) as temporary:
        drawn(frame, findings).save(temporary, Image.registered_extensions()[path.suffix.lower()])
    return path


def target(source: Source, folder: Path) -> Path:
    """Where what was found in a source is drawn: a file, of a video or camera a folder."""
    if source.is_video or source.is_camera:
        return folder / source.name.replace(":", "-")
    path = folder / source.name
    return path if path.suffix.lower() in PICTURES else path.with_name(f"{path.name}.png")


def check_targets(sources: list[Source], folder: Path) -> None:
    """ValueError where drawn pictures would lie among the sources, or two of them under one name."""
    taken: dict[Path, str] = {}
    for source in sources:
        if Path(source.path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{folder} holds {source.path} itself; annotated pictures go to another folder")
        path = target(source, folder)
        if path in taken:
            raise ValueError(f"{taken[path]} and {source.path} would both be drawn to {path}; do one at a time")
        taken[path] = source.path
