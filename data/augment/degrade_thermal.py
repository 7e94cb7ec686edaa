"""What goes wrong inside a thermal camera; see data.augment.degrade."""

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.values import Heat, Valid, Values, noise

_COARSE = 8
"""Drift varies slowly over the picture: it is computed for one pixel in 8×8."""


def thermal_noise(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """Grain: a small or uncooled sensor before a scene of little contrast."""
    deviation = strength * rng.uniform(0.02, 0.06) * heat.span
    return heat.of(_plus(heat.values, noise(rng, *heat.values.shape), deviation))


def column_noise(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """Stripes: each column's read-out has an offset of its own, and each row's a third of it."""
    height, width = heat.values.shape
    deviation = strength * rng.uniform(0.02, 0.06) * heat.span
    columns, rows = deviation * noise(rng, 1, width), deviation / 3 * noise(rng, height, 1)
    return heat.of(heat.values + columns + rows)


def thermal_drift(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """The camera has warmed up since its last correction: gain and offset moved, and its corners look warmer."""
    height, width = heat.values.shape
    gain = 1 + strength * rng.uniform(-0.3, 0.3)
    offset = strength * rng.uniform(-0.3, 0.3) * heat.span
    y, x = np.mgrid[-1 : 1 : -(-height // _COARSE) * 1j, -1 : 1 : -(-width // _COARSE) * 1j]
    tilt = rng.uniform(-0.1, 0.1, 2)
    shading = rng.uniform(0.05, 0.3) * (x**2 + y**2) / 2 + tilt[0] * x + tilt[1] * y
    field = cv2.resize((strength * heat.span * shading).astype(np.float32), (width, height))
    drifted = cv2.addWeighted(heat.values, gain, field, 1, heat.mean * (1 - gain) + offset)
    return heat.of(np.asarray(drifted, np.float32))


def dead_pixels(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """Pixels stuck at the cold or the hot end, one by one and in short runs; the camera does not know of them."""
    count = round(strength * rng.uniform(0.0005, 0.003) * heat.values.size)
    stuck = rng.integers(heat.values.size, size=count)
    runs = stuck[: count // 4]
    ends = np.where(rng.random(count) < 0.5, heat.low, heat.high).astype(np.float32)
    values = heat.values.copy()
    values.ravel()[stuck] = ends
    values.ravel()[np.minimum(runs + 1, values.size - 1)] = ends[: len(runs)]
    return heat.of(values)


def frozen(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """The shutter is closed for a correction, and the camera repeats its last frame for up to half a second.

    A single frame shows it as a picture of some moments ago: sound, but taken from where the cameras no longer are, so
    that all of it is shifted and scaled against RGB, by up to 4 % of the width and 5 %. Boxes and masks stay with RGB.
    """
    height, width = heat.values.shape
    right = strength * rng.uniform(0.015, 0.04) * width * rng.choice([-1, 1])
    down = strength * rng.normal(0, 0.008) * height
    zoom = 1 - strength * rng.uniform(0, 0.05)  # moving on, things were further away
    matrix = np.array([
        [zoom, 0, (1 - zoom) * (width - 1) / 2 + right], [0, zoom, (1 - zoom) * (height - 1) / 2 + down]
    ])  # fmt: skip
    valid = None if heat.valid is None else np.asarray(_warped(heat.valid, matrix), np.uint8)
    return heat.of(np.asarray(_warped(heat.values, matrix), np.float32), valid)


def agc_jump(heat: Heat, rng: np.random.Generator, strength: float) -> Heat:
    """One very hot object enters: an exhaust, a lamp, the sun on metal.

    In a picture that the camera has already scaled to 8 bits everything else is squeezed together below it. In counts
    and °C nothing else changes, but whoever scales the frame by its own range squeezes it just so.
    """
    height, width = heat.values.shape
    kept = 1 - strength * rng.uniform(0.4, 0.75)  # share of the range that is left to the scene
    away = 1 if heat.spec.polarity == "white-hot" else -1
    cold, hot = (heat.low, heat.high) if away > 0 else (heat.high, heat.low)
    values = heat.values.copy()
    if heat.spec.unit == "intensity8":
        values = np.asarray(cv2.addWeighted(values, kept, values, 0, cold * (1 - kept)), np.float32)
        peak = 255.0 if away > 0 else 0.0
    else:
        peak = hot + away * heat.span * (1 / kept - 1)
    centre = int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.2, 0.9) * height)
    axes = tuple(max(1, round(share * width * strength)) for share in rng.uniform(0.008, 0.03, 2))
    cv2.ellipse(values, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(peak), -1)
    return heat.of(values)


def _plus(values: Values, other: Values, factor: float) -> Values:
    return np.asarray(cv2.addWeighted(values, 1, other, factor, 0), np.float32)


def _warped(layer: Values | Valid, matrix: NDArray[np.float64]) -> Values | Valid:
    """Mirrored at its edges: a frame of some moments ago shows something there too."""
    size = layer.shape[1], layer.shape[0]
    moved = cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved)
