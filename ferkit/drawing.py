"""Batches of grey faces drawn from numbers: who it is (Identity) and which facial muscles pull (action units).

Face coordinates: the head's centre is (0, 0), x grows to the right, y downwards, the chin lies near y = 1. Shapes
are signed distances softened over one pixel. Every parameter is float32 (N, 1, 1) and draws a whole batch at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

SIDE = 48
UNITS = (1, 2, 4, 5, 6, 7, 9, 12, 14, 15, 16, 20, 23, 26)  # FACS numbers (Ekman & Friesen 1978)
# Where each unit shows, as (x, y, half-width, half-height) of ellipses in face coordinates; x is mirrored.
PLACES = {
    1: (0.17, -0.50, 0.20, 0.22), 2: (0.44, -0.50, 0.18, 0.20), 4: (0.12, -0.36, 0.20, 0.20),
    5: (0.33, -0.20, 0.22, 0.13), 6: (0.45, 0.00, 0.24, 0.20), 7: (0.33, -0.12, 0.22, 0.13),
    9: (0.10, 0.22, 0.30, 0.44), 12: (0.25, 0.52, 0.30, 0.26), 14: (0.38, 0.52, 0.14, 0.16),
    15: (0.28, 0.62, 0.18, 0.16), 16: (0.00, 0.68, 0.28, 0.14), 20: (0.22, 0.60, 0.28, 0.18),
    23: (0.00, 0.56, 0.30, 0.14), 26: (0.00, 0.68, 0.30, 0.26),
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Everything about a picture but the emotion; each field float32 (N, 1, 1)."""

    angle: ndarray  # radians
    size: ndarray  # pixels per unit of face coordinates
    shift_x: ndarray  # pixels
    shift_y: ndarray
    turn: ndarray  # head turned left or right, -1..1: features slide over the head
    width: ndarray  # half-width of the head
    skin: ndarray  # grey in 0..1, as are hair and background
    hair: ndarray
    background: ndarray
    hairline: ndarray  # y
    long_hair: ndarray  # 0 or 1, as are glasses, moustache and hand
    glasses: ndarray
    moustache: ndarray
    hand: ndarray
    hand_x: ndarray
    hand_y: ndarray
    light_x: ndarray
    light_y: ndarray
    eye_gap: ndarray  # half the distance between the eyes
    eye_size: ndarray
    brow: ndarray  # thickness
    mouth: ndarray  # half-width
    lips: ndarray  # thickness
    gaze: ndarray
    one_sided: ndarray  # 1 where units 12 and 14 pull the right corner only (contempt)


class Canvas:
    """A batch of pictures and the face coordinates of their pixels."""

    def __init__(self, who: Identity) -> None:
        pixel = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
        across, down = pixel[None, None, :] - who.shift_x, pixel[None, :, None] - who.shift_y
        cos, sin = np.cos(who.angle), np.sin(who.angle)
        self.head_x = (cos * across + sin * down) / who.size
        self.y = (cos * down - sin * across) / who.size
        self.x = self.head_x - 0.22 * who.turn * np.maximum(1 - self.head_x**2 - self.y**2, 0)
        self.softness = 1.2 / who.size
        self.image = np.broadcast_to(who.background, self.x.shape).astype(np.float32)

    def cover(self, distance: ndarray) -> ndarray:
        """Share of each pixel inside a shape, from its signed distance (negative inside)."""
        return np.clip(0.5 - distance / self.softness, 0, 1)

    def paint(self, cover: ndarray, grey: ndarray | float, opacity: ndarray | float = 1.0) -> None:
        self.image += cover * opacity * (grey - self.image)


def ellipse(x: ndarray, y: ndarray, a: ndarray | float, b: ndarray | float) -> ndarray:
    """Signed distance, nearly, to an ellipse about the origin with half-axes a and b."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * np.minimum(a, b)


def stroke(x: ndarray, y: ndarray, curve: ndarray, slope: ndarray, half: ndarray | float, thick: ndarray | float):
    """Signed distance to the line y = curve(x), |x| < half, with that slope and thickness."""
    return np.maximum(np.abs(y - curve) / np.sqrt(1 + slope**2) - thick / 2, np.abs(x) - half)


def draw(who: Identity, units: dict[int, ndarray]) -> ndarray:
    """Grey pictures float32 (N, 48, 48), about 0..1, of identities whose action units pull with 0..1."""
    canvas = Canvas(who)
    _head(canvas, who, units)
    shade = canvas.image.copy()  # skin under the features, for lids and lips
    for side in (-1, 1):
        _eye(canvas, who, units, side, shade)
        _brow(canvas, who, units, side)
        _cheek(canvas, who, units, side, shade)
    _nose(canvas, units, shade)
    _mouth(canvas, who, units, shade)
    _wrinkles(canvas, units, shade)
    _covers(canvas, who)
    return canvas.image


def place(who: Identity, unit: int) -> ndarray:
    """Where an action unit shows: bool (N, 48, 48)."""
    canvas, (x, y, a, b) = Canvas(who), PLACES[unit]
    right = ellipse(canvas.x - x, canvas.y - y, a, b) < 0
    left = ellipse(canvas.x + x, canvas.y - y, a, b) < 0
    return right | (left & (who.one_sided == 0)) if unit in (12, 14) else right | left


def _head(c: Canvas, who: Identity, units: dict[int, ndarray]) -> None:
    x, y, jaw = c.head_x, c.y, 1 + 0.10 * units[26]
    c.paint(c.cover(ellipse(x, y + 0.15, who.width + 0.16, 1.05)), who.hair)
    c.paint(c.cover(np.maximum(np.abs(x) - who.width - 0.14, -y - 0.1)), who.hair, who.long_hair)
    c.paint(c.cover(np.maximum(np.abs(x) - 0.42, 0.6 - y)), who.skin * 0.75)
    light = 1 + who.light_x * x + who.light_y * y - 0.22 * (x**2 / who.width**2 + y**2 * 0.6) ** 2
    head = ellipse(x * (1 + 0.18 * np.maximum(y, 0)), np.where(y > 0, y / jaw, y), who.width, 0.98)
    c.paint(c.cover(head), np.clip(who.skin * light, 0.03, 1))
    fringe = np.maximum(head - 0.05, y - who.hairline - 0.12 * x**2 / who.width**2)
    c.paint(c.cover(fringe), who.hair)


def _eye(c: Canvas, who: Identity, units: dict[int, ndarray], side: int, shade: ndarray) -> None:
    x, y = c.x - side * who.eye_gap, c.y + 0.14
    half = 0.165 * who.eye_size
    height = 0.085 * who.eye_size * (1 + 0.95 * units[5] - 0.5 * units[7] - 0.30 * units[6])
    bow = np.maximum(1 - (x / half) ** 2, 0)
    upper = -height * bow
    lower = (0.7 * height - 0.05 * units[6] - 0.03 * units[7]) * bow
    inside = np.maximum(np.maximum(upper - y, y - lower), np.abs(x) - half)
    opening = c.cover(inside)
    c.paint(opening, np.minimum(0.95, 0.45 + 0.55 * shade))
    iris = c.cover(ellipse(x - 0.05 * who.gaze, y, 0.085, 0.085))
    c.paint(np.minimum(opening, iris), 0.10)
    lid = stroke(x, y, upper, -2 * upper * x / half**2, half, 0.045)
    c.paint(c.cover(lid), shade * 0.30)
    c.paint(c.cover(stroke(x, y, lower, np.zeros_like(x), half * 0.8, 0.025)), shade * 0.6, 0.4 + 0.5 * units[7])
    fold = stroke(x, y, upper - 0.07, np.zeros_like(x), half, 0.03)
    c.paint(c.cover(fold), shade * 0.7, 0.5 * (1 - units[4]) * (1 - units[7]))
    bag = stroke(x, y, 0.13 - 0.25 * x**2, np.zeros_like(x), 0.17, 0.035)
    c.paint(c.cover(bag), shade * 0.62, 0.85 * units[6])


def _brow(c: Canvas, who: Identity, units: dict[int, ndarray], side: int) -> None:
    inner = -0.36 - 0.19 * units[1] + 0.12 * units[4] * (1 - 0.9 * units[1]) + 0.06 * units[9]
    outer = -0.37 - 0.16 * units[2] * (1 - 0.6 * units[4]) - 0.03 * units[4] + 0.06 * units[1] * (1 - units[2])
    start, length = 0.15 - 0.06 * units[4], 0.38
    t = (side * c.x - start) / length
    curve = inner + (outer - inner) * t - 0.20 * np.clip(t, 0, 1) * (1 - np.clip(t, 0, 1)) * (0.35 + units[2])
    slope = (outer - inner) / length
    line = stroke(t - 0.5, c.y, curve, slope, 0.5, who.brow * (1.25 - 0.5 * np.clip(t, 0, 1)))
    c.paint(c.cover(line), np.minimum(who.hair, who.skin * 0.55) * 0.8)


def _cheek(c: Canvas, who: Identity, units: dict[int, ndarray], side: int, shade: ndarray) -> None:
    x, y, none = side * c.x, c.y, np.zeros_like(c.x)
    for tilt in (-0.5, 0.0, 0.5):  # crow's feet
        feet = stroke(x - 0.60, y, -0.13 + tilt * (x - 0.54), tilt + none, 0.07, 0.025)
        c.paint(c.cover(feet), shade * 0.6, 0.7 * units[6])
    pull = units[12] * (1 - who.one_sided * (side < 0))
    fold = 0.20 + 0.24 * (y - 0.22) + 0.5 * pull * (y - 0.22) * (0.75 - y)
    depth = np.clip(pull + 0.8 * units[9] + 0.35 * units[15] + 0.12, 0, 1)
    line = stroke(y - 0.40, x, fold + 0.04 * pull, 0.25 + none, 0.17, 0.035)
    c.paint(c.cover(line), shade * 0.58, 0.8 * depth)
    bulge = np.exp(-(((x - 0.42) / 0.16) ** 2) - ((y - 0.16) / 0.12) ** 2)
    c.paint(bulge, np.minimum(shade * 1.3, 1), 0.55 * np.maximum(units[6], 0.6 * pull))


def _nose(c: Canvas, units: dict[int, ndarray], shade: ndarray) -> None:
    x, y, none = c.x, c.y + 0.04 * units[9], np.zeros_like(c.x)
    c.paint(c.cover(stroke(y - 0.05, x, 0.07 + 0.10 * (y + 0.15), 0.1 + none, 0.22, 0.03)), shade * 0.72, 0.6)
    for side in (-1, 1):
        c.paint(c.cover(ellipse(x - side * 0.075, y - 0.28, 0.045 + 0.012 * units[9], 0.028)), shade * 0.35)
        wing = stroke(y - 0.25, side * x, 0.15 + 0.02 * units[9] + none, none, 0.05, 0.03)
        c.paint(c.cover(wing), shade * 0.6, 0.4 + 0.6 * units[9])
        for level in (-0.12, -0.03, 0.06):  # wrinkles over the bridge
            line = stroke(side * x - 0.07, y, level - 0.5 * (side * x - 0.07), none - 0.5, 0.07, 0.028)
            c.paint(c.cover(line), shade * 0.5, 0.9 * units[9])


def _mouth(c: Canvas, who: Identity, units: dict[int, ndarray], shade: ndarray) -> None:
    pull = units[12] * np.where(c.x > 0, 1, 1 - who.one_sided)
    wide = 1 + 0.42 * pull + 0.40 * units[20] - 0.25 * units[23] - 0.22 * units[26] * (1 - units[20]) - 0.08 * units[16]
    half = who.mouth * wide
    u = c.x / half
    lift = 0.20 * pull - 0.20 * units[15] - 0.05 * units[20]
    middle = 0.57 + 0.06 * pull - 0.05 * units[15] - 0.03 * units[9] + 0.05 * units[26]
    line, slope = middle - lift * u**2, -2 * lift * u / half
    bow = np.sqrt(np.maximum(1 - u**2, 0))
    up = (0.05 * units[12] * (1 - who.one_sided) + 0.07 * units[9] + 0.03 * units[20] + 0.09 * units[26]) * bow
    down = (0.09 * units[12] * (1 - who.one_sided) + 0.10 * units[16] + 0.07 * units[20] + 0.30 * units[26]) * bow
    lip = who.lips * (1 - 0.65 * units[23]) * (0.35 + 0.65 * np.maximum(1 - u**2, 0))
    edge = np.abs(u) - 1
    outside = np.maximum(np.maximum(line - up - lip - c.y, c.y - line - down - 1.25 * lip), edge * half)
    c.paint(c.cover(outside), shade * 0.66)
    gap = np.maximum(np.maximum(line - up - c.y, c.y - line - down), edge * half)
    opening = c.cover(gap) * np.clip((up + down) / 0.04, 0, 1)
    c.paint(opening, 0.08)
    teeth = np.clip(units[12] * (1 - who.one_sided) + units[20] + 0.8 * units[9] + 0.6 * units[16], 0, 1)
    upper_teeth = c.cover(np.maximum(gap + 0.01, c.y - line + up - 0.085)) * np.clip((up + down) / 0.05, 0, 1)
    c.paint(upper_teeth, 0.92, teeth)
    seam = stroke(c.x, c.y, line, slope, half * 1.04, 0.03 + 0.02 * units[23])
    c.paint(c.cover(seam), shade * 0.28, 1 - np.clip((up + down) / 0.06, 0, 1))
    for side in (-1, 1):
        dimple = stroke(c.y - middle + lift, side * c.x, half + 0.05, np.zeros_like(u), 0.09, 0.04)
        c.paint(c.cover(dimple), shade * 0.5, units[14] * (1 - who.one_sided * (side < 0)))
    below = stroke(c.x, c.y, middle + down + 0.15 + 0.2 * c.x**2, np.zeros_like(u), 0.16, 0.04)
    c.paint(c.cover(below), shade * 0.65, np.clip(0.25 + 0.6 * units[15] + 0.4 * units[16] + 0.4 * units[23], 0, 1))


def _wrinkles(c: Canvas, units: dict[int, ndarray], shade: ndarray) -> None:
    x, y, none = c.x, c.y, np.zeros_like(c.x)
    for level in (-0.62, -0.70):  # across the forehead
        line = stroke(x, y, level + 0.08 * x**2 + none, none, 0.16 + 0.2 * units[2], 0.022)
        c.paint(c.cover(line), shade * 0.68, 0.75 * units[1])
    for side in (-1, 1):  # between the brows
        line = stroke(y + 0.36, side * x, 0.045 + none, none, 0.10, 0.03)
        c.paint(c.cover(line), shade * 0.45, 0.9 * units[4] * (1 - 0.6 * units[1]))


def _covers(c: Canvas, who: Identity) -> None:
    beard = np.maximum(np.abs(c.x) - 0.22, np.abs(c.y - 0.42) - 0.045)
    c.paint(c.cover(beard), who.hair * 0.9, 0.85 * who.moustache)
    for side in (-1, 1):
        rim = np.abs(ellipse(c.x - side * who.eye_gap, c.y + 0.13, 0.25, 0.19)) - 0.022
        c.paint(c.cover(rim), 0.08, who.glasses)
    c.paint(c.cover(np.maximum(np.abs(c.x) - 0.09, np.abs(c.y + 0.15) - 0.02)), 0.08, who.glasses)
    hand = ellipse(c.x - who.hand_x, c.y - who.hand_y, 0.20, 0.34)
    c.paint(c.cover(hand), np.clip(who.skin * 1.05, 0, 1), who.hand)
    c.paint(c.cover(np.abs(hand) - 0.02), who.skin * 0.55, who.hand)
