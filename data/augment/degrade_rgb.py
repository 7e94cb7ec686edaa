"""What bad light and weather do to an RGB picture; see data.augment.degrade."""

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.values import noise

Rgb = NDArray[np.uint8]
_COARSE = 8
"""Light and fog vary slowly: they are computed for one pixel in 8×8."""


def night(rgb: Rgb, rng: np.random.Generator, strength: float) -> Rgb:
    """Little light: darker, the shadows most, with a tint of lamps or moon, and the noise of a high gain."""
    kept = 1 - strength * rng.uniform(0.75, 0.92)
    gamma = 1 + strength * rng.uniform(0.2, 0.6)
    warm = strength * rng.uniform(-0.2, 0.2)  # sodium lamps … moonlight
    level = np.linspace(0, 1, 256) ** gamma * 255 * kept
    table = np.stack([level * (1 + warm), level, level * (1 - warm)], axis=-1)
    dark = cv2.LUT(rgb, np.clip(table.round(), 0, 255).astype(np.uint8)[None])
    return _add_noise(dark, rng, strength * rng.uniform(2, 6))


def glare(rgb: Rgb, rng: np.random.Generator, strength: float) -> Rgb:
    """A low sun or a headlamp in the picture: a saturated core, a wide halo, and a veil over everything."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[0:height:_COARSE, 0:width:_COARSE].astype(np.float32) / width
    away = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 0.6) * height / width)
    core = rng.uniform(0.04, 0.12)
    light = 420 * np.exp(-((away / core) ** 2)) + 180 * np.exp(-away / rng.uniform(0.2, 0.4)) + rng.uniform(10, 50)
    tint = np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.7, 1.0)], np.float32)
    glow = np.minimum(light[..., None] * (tint * strength), 255).astype(np.uint8)
    return np.asarray(cv2.add(rgb, _full(glow, rgb)), np.uint8)


def fog(rgb: Rgb, rng: np.random.Generator, strength: float) -> Rgb:
    """Fog in banks, denser towards the horizon: what is behind fades into a bright grey.

    Thermal is left as it is: 8–14 µm pass through what the eye cannot.
    """
    height, width = rgb.shape[:2]
    rows, columns = -(-height // _COARSE), -(-width // _COARSE)
    horizon = rng.uniform(0.2, 0.5)
    row = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    depth = np.where(row < horizon, 1.0, 1 - 0.75 * (row - horizon) / (1 - horizon))
    banks = cv2.resize(rng.uniform(0.7, 1.3, (4, 6)).astype(np.float32), (columns, rows), interpolation=cv2.INTER_CUBIC)
    through = np.exp(-strength * rng.uniform(1.2, 2.5) * depth * banks)
    air = rng.uniform(170, 235)
    clear = np.repeat((255 * through).round().astype(np.uint8)[..., None], 3, axis=2)
    mist = np.repeat((air * (1 - through)).round().astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(cv2.add(cv2.multiply(rgb, _full(clear, rgb), scale=1 / 255), _full(mist, rgb)), np.uint8)


def motion_blur(rgb: Rgb, rng: np.random.Generator, strength: float) -> Rgb:
    """The camera moves while the shutter is open: a straight smear, mostly sideways.

    Each round averages the picture with itself moved by half of what is left, so that 4 rounds smear over 16 places.
    """
    reach = strength * rng.uniform(0.01, 0.03) * rgb.shape[1]
    angle = rng.normal(0, 0.35)
    smeared = rgb
    while reach >= 1:
        reach /= 2
        right, down = round(reach * np.cos(angle)), round(reach * np.sin(angle))
        if right or down:
            smeared = np.asarray(cv2.addWeighted(smeared, 0.5, _moved(smeared, right, down), 0.5, 0), np.uint8)
    return smeared


def rgb_noise(rgb: Rgb, rng: np.random.Generator, strength: float) -> Rgb:
    """A sensor at its highest gain: grain in each pixel, and blotches of colour."""
    height, width = rgb.shape[:2]
    blotches = 128 + strength * rng.uniform(4, 10) * noise(rng, -(-height // _COARSE), -(-width // _COARSE), 3)
    grainy = _add_noise(rgb, rng, strength * rng.uniform(10, 22))
    return np.asarray(cv2.addWeighted(grainy, 1, _full(blotches.round().astype(np.uint8), rgb), 1, -128), np.uint8)


def _add_noise(rgb: Rgb, rng: np.random.Generator, deviation: float) -> Rgb:
    return np.asarray(cv2.addWeighted(rgb, 1, noise(rng, *rgb.shape), deviation, 0, dtype=cv2.CV_8U), np.uint8)


def _full(coarse: Rgb, rgb: Rgb) -> Rgb:
    return np.asarray(cv2.resize(coarse, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _moved(rgb: Rgb, right: int, down: int) -> Rgb:
    """The picture moved by whole pixels; its edge goes on into what is uncovered."""
    height, width = rgb.shape[:2]
    edges = max(down, 0), max(-down, 0), max(right, 0), max(-right, 0)
    padded = cv2.copyMakeBorder(rgb, *edges, cv2.BORDER_REPLICATE)
    return np.asarray(padded[edges[1] : edges[1] + height, edges[3] : edges[3] + width], np.uint8)
