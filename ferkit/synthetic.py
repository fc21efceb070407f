"""The embedded data set: drawn faces with known action units, in seconds, with nothing to download and no licence.

Each emotion is its EMFACS combination of action units (Friesen & Ekman 1983), with subtle, mixed and mislabelled
cases and ten simulated votes a face. It checks an installation and is the ground truth Grad-CAM is judged against;
it never stands in for FER2013 in a table.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ferkit.drawing import SIDE, UNITS, Identity, draw, place
from ferkit.faces import Faces
from ferkit.labels import CLASSES, FERPLUS_CLASSES, FERPLUS_TO_FER, VOTES

EMFACS = {
    "happy": (6, 12), "sad": (1, 4, 15), "surprise": (1, 2, 5, 26), "fear": (1, 2, 4, 5, 7, 20, 26),
    "angry": (4, 5, 7, 23), "disgust": (9, 15, 16), "contempt": (12, 14), "neutral": (),
}  # fmt: skip
EMOTIONS = tuple(EMFACS)
# Shares of the emotions, unequal as in FER2013; contempt has no class there and is called neutral.
SHARES = np.array([0.21, 0.15, 0.13, 0.13, 0.13, 0.07, 0.02, 0.16])
SPLIT_SHARES = (0.7, 0.15, 0.15)
SUBTLE, MIXED, MISLABELLED = 0.10, 0.06, 0.02
N_FACES, SEED = 2000, 2013


@dataclass(frozen=True)
class Truth:
    """What was drawn: who, units float32 (N, 14) over drawing.UNITS in 0..1, emotion int64 (N,) over EMOTIONS."""

    who: Identity
    units: np.ndarray
    emotion: np.ndarray

    def place(self, unit: int) -> np.ndarray:
        """bool (N, 48, 48): where that action unit shows in each picture, whether it pulls or not."""
        return place(self.who, unit)

    def shown(self, least: float = 0.3) -> np.ndarray:
        """bool (N, 48, 48): where each face's own emotion shows: its units that pull at least so much."""
        own = np.array([[unit in EMFACS[name] for unit in UNITS] for name in EMOTIONS])[self.emotion]
        pulls = own & (self.units >= least)
        places = (self.place(unit) & pulls[:, i, None, None] for i, unit in enumerate(UNITS))
        return np.logical_or.reduce(list(places))


def embedded_faces(n: int = N_FACES, seed: int = SEED) -> Faces:
    """n drawn faces in three splits; the same n and seed give the same bytes."""
    return embedded_truth(n, seed)[0]


def embedded_truth(n: int = N_FACES, seed: int = SEED) -> tuple[Faces, Truth]:
    """The faces and what is known about them, row for row. Raises ValueError for fewer than 20 faces."""
    if n < 20:
        raise ValueError(f"n must be at least 20 for three splits, got {n}")
    rng = np.random.default_rng(seed)
    emotion = rng.choice(len(EMOTIONS), n, p=SHARES)
    units, strength, second = _units(emotion, rng)
    who = _identities(emotion, rng)
    images = _render(who, units, seed)
    bounds = np.round(np.cumsum(SPLIT_SHARES) * n).astype(int)
    faces = Faces(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(_labels(emotion, rng)),
        usage=torch.from_numpy(np.searchsorted(bounds, np.arange(n), side="right").astype(np.uint8)),
        rows=torch.arange(n),
        votes=torch.from_numpy(_votes(emotion, strength, second, rng)),
        name="embedded",
    )
    return faces, Truth(who, units, emotion)


def _units(emotion: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intensities (n, 14), the emotion's strength (n,), and the second emotion (n,) of mixed faces, -1 elsewhere."""
    n = len(emotion)
    table = np.array([[unit in EMFACS[name] for unit in UNITS] for name in EMOTIONS], np.float32)
    strength = np.where(rng.random(n) < SUBTLE, rng.uniform(0.2, 0.5, n), rng.uniform(0.6, 1.0, n))
    units = table[emotion] * strength[:, None] * rng.uniform(0.7, 1.2, (n, len(UNITS)))
    units *= rng.random((n, len(UNITS))) > 0.06  # a unit that this person does not show
    units += rng.uniform(0, 0.15, (n, len(UNITS))) * (rng.random((n, len(UNITS))) < 0.2)  # a face at rest is not blank
    second = np.where(rng.random(n) < MIXED, rng.choice(len(EMOTIONS) - 2, n), -1)
    mixed = second >= 0
    units[mixed] = np.maximum(units[mixed], table[second[mixed]] * rng.uniform(0.2, 0.5, (mixed.sum(), 1)))
    return np.clip(units, 0, 1).astype(np.float32), strength, second


def _identities(emotion: np.ndarray, rng: np.random.Generator) -> Identity:
    n = len(emotion)

    def uniform(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    def chance(p: float) -> np.ndarray:
        return (rng.random((n, 1, 1)) < p).astype(np.float32)

    skin = uniform(0.32, 0.85)
    return Identity(
        angle=uniform(-0.2, 0.2), size=uniform(20.5, 24.5), shift_x=uniform(-2, 2), shift_y=uniform(-2, 1.5),
        turn=uniform(-0.8, 0.8), width=uniform(0.68, 0.82), skin=skin, hair=np.minimum(uniform(0.03, 0.75), skin * 0.8),
        background=uniform(0.05, 0.98), hairline=uniform(-0.85, -0.62), long_hair=chance(0.45), glasses=chance(0.12),
        moustache=chance(0.1), hand=chance(0.06), hand_x=uniform(-0.6, 0.6), hand_y=uniform(0.4, 0.9),
        light_x=uniform(-0.35, 0.35), light_y=uniform(-0.2, 0.15), eye_gap=uniform(0.30, 0.36),
        eye_size=uniform(0.85, 1.15), brow=uniform(0.05, 0.11), mouth=uniform(0.21, 0.27), lips=uniform(0.04, 0.085),
        gaze=uniform(-1, 1), one_sided=(emotion == EMOTIONS.index("contempt"))[:, None, None].astype(np.float32),
    )  # fmt: skip


def _render(who: Identity, units: np.ndarray, seed: int, chunk: int = 125) -> np.ndarray:
    """uint8 (n, 48, 48), camera noise included; chunks have generators of their own and run side by side."""
    images = np.empty((len(units), SIDE, SIDE), np.uint8)

    def render(start: int) -> None:
        part = slice(start, start + chunk)
        some = replace(who, **{f.name: getattr(who, f.name)[part] for f in fields(who)})
        pulls = {unit: units[part, i, None, None] for i, unit in enumerate(UNITS)}
        rng = np.random.default_rng((seed, start))
        picture = draw(some, pulls)
        n = len(picture)
        contrast, gain = rng.uniform(0.75, 1.15, (n, 1, 1)), rng.uniform(-0.08, 0.08, (n, 1, 1))
        picture = 0.5 + (picture - 0.5) * contrast + gain
        picture = picture + rng.normal(0, 1, picture.shape) * rng.uniform(0.005, 0.03, (n, 1, 1))
        images[part] = np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)

    with ThreadPoolExecutor() as pool:
        list(pool.map(render, range(0, len(units), chunk)))
    return images


def _labels(emotion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """FER2013 labels; a share of them is wrong, as in the original."""
    to_fer = np.array([CLASSES.index(name if name in CLASSES else "neutral") for name in EMOTIONS])
    labels = to_fer[emotion]
    wrong = rng.random(len(labels)) < MISLABELLED
    labels[wrong] = (labels[wrong] + rng.integers(1, len(CLASSES), wrong.sum())) % len(CLASSES)
    return labels.astype(np.int64)


def _votes(emotion: np.ndarray, strength: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ten votes a face over labels.VOTES: weak expressions drift to neutral, mixed ones to their second emotion."""
    names = {CLASSES[fer]: i for i, fer in enumerate(FERPLUS_TO_FER) if fer is not None} | {"contempt": 7}
    column = np.array([names[name] for name in EMOTIONS])
    n = len(emotion)
    p = np.full((n, len(VOTES)), 0.01)
    p[np.arange(n), column[emotion]] += strength
    p[:, FERPLUS_CLASSES.index("neutral")] += 0.8 * (1 - strength)
    mixed = second >= 0
    p[np.flatnonzero(mixed), column[second[mixed]]] += 0.4
    return rng.multinomial(10, p / p.sum(1, keepdims=True)).astype(np.uint8)
