"""How far thermal lies off RGB in one pair, from the pictures alone."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image

WIDTH = 640
"""Shifts are told in pixels of pictures that are scaled to this width."""
REACH = 64
"""Largest shift that is looked for, in those pixels, in x and in y."""
SURE = 0.5
"""Confidence from which an estimate counts."""

_GRID = 320
"""Width at which the pictures are compared: as right as 640 within half a pixel (of 640), at a quarter of the cost."""
_STEP = WIDTH / _GRID
_RANGE = round(REACH / _STEP)
_AROUND = 6
"""Pixels of the grid around a peak that belong to it."""
_HALF, _SLOPE = 5.5, 2.5
"""Confidence over the peak's height in standard deviations of the rest. Calibrated where the truth is known: unrelated
pictures reached 5.5 in none of 411 real cases (5.0 in 0.7 %) and in 1.6 % of 250 generated ones (5.0 in 6 %); all 250
generated pairs of a known shift lay above 21 and were right within 3 px. Real aligned pairs lie around 6 to 50."""
_BUSY = 4.0
"""Largest weight of an edge against those around it."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shift:
    """Where thermal shows what RGB shows: ``dx`` px to the right and ``dy`` px below, at 640 px width."""

    dx: float
    dy: float
    confidence: float
    """0 to 1: how far the agreement stands out, no probability; below ``SURE``, the pictures do not tell."""
    other: tuple[float, float] | None = None
    """A second shift that is as sure: near and far things lie differently far off (parallax)."""

    @property
    def sure(self) -> bool:
        """Whether the estimate counts."""
        return self.confidence >= SURE

    @property
    def size(self) -> float:
        """Length of the shift in pixels."""
        return float(np.hypot(self.dx, self.dy))


def estimate(rgb: Image, thermal: Image, invalid: NDArray[np.bool_] | None = None) -> Shift | None:
    """Estimate the shift of thermal against RGB; None where a picture shows no edges at all.

    The directions of edges are correlated, weighted by how they stand out from those around them: which side is bright
    does not count, since it differs between the sensors. Rotation, scale and parallax make the estimate less sure.

    Args:
        rgb: H×W×3 or H×W.
        thermal: h×w of any unit, covering RGB's view; NaN counts as invalid.
        invalid: h×w, pixels of thermal that show nothing.
    """
    surface = correlation(rgb, thermal, invalid)
    if surface is None:
        return None
    best = np.unravel_index(int(surface.argmax()), surface.shape)
    rest = _without(surface, best)
    seen = rest[np.isfinite(rest)]
    mean, spread = float(seen.mean()), float(seen.std())
    if spread <= 0:
        return None
    peaks = np.where(surface >= cv2.dilate(surface, np.ones((5, 5), np.uint8)), rest, -np.inf)
    second = np.unravel_index(int(peaks.argmax()), peaks.shape)
    dx, dy = _place(surface, best)
    sure = _confidence((float(surface[best]) - mean) / spread)
    doubled = min(sure, _confidence((float(peaks[second]) - mean) / spread)) >= SURE
    return Shift(dx, dy, round(sure, 3), _place(surface, second) if doubled else None)


def correlation(rgb: Image, thermal: Image, invalid: NDArray[np.bool_] | None = None) -> Floats | None:
    """Normalised correlation of edge directions for each shift of up to ``REACH``; [y, x] in steps of 2 px; or None."""
    height = max(16, round(_GRID * rgb.shape[0] / rgb.shape[1]))
    if height > 4 * _GRID:
        return None
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb
    seen = thermal.astype(np.float32)
    hidden = ~np.isfinite(seen)
    if invalid is not None:
        hidden |= invalid
    if hidden.all():
        return None
    if hidden.any():
        seen[hidden] = seen[~hidden].mean()
    first, second = _edges(_scaled(grey.astype(np.float32), height)), _edges(_scaled(seen, height))
    hidden_there = cv2.resize(_border(thermal, hidden), (_GRID, height), interpolation=cv2.INTER_LINEAR) > 0
    second[cv2.dilate(hidden_there.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0] = 0
    scale = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return _correlate(first, second) / np.float32(scale) if scale > 0 else None


def _border(thermal: Image, hidden: NDArray[np.bool_]) -> Floats:
    """1 where thermal shows nothing: invalid pixels, and areas of nothing but the lowest value (warp borders)."""
    lowest = (thermal == np.nanmin(thermal)).astype(np.uint8)
    return np.asarray(np.maximum(cv2.morphologyEx(lowest, cv2.MORPH_OPEN, np.ones((7, 7))), hidden), np.float32)


def _scaled(image: Floats, height: int) -> Floats:
    how = cv2.INTER_AREA if image.shape[1] > _GRID else cv2.INTER_LINEAR
    return np.asarray(cv2.GaussianBlur(cv2.resize(image, (_GRID, height), interpolation=how), (0, 0), 1), np.float32)


def _edges(image: Floats) -> Floats:
    """H×W×2: cos, sin of twice the gradient's angle (so that it has no sign), times its weight."""
    x, y = cv2.Scharr(image, cv2.CV_32F, 1, 0), cv2.Scharr(image, cv2.CV_32F, 0, 1)
    size = cv2.magnitude(x, y)
    around = cv2.boxFilter(size, -1, (_GRID // 10 + 1, _GRID // 10 + 1))
    weight = np.minimum(size / (around + 0.5 * around.mean() + 1e-6), _BUSY)
    square = np.maximum(size * size, 1e-12)
    edges = np.dstack(((x * x - y * y) / square * weight, 2 * x * y / square * weight))
    return np.asarray((edges - edges.mean(axis=(0, 1))) * _window(image.shape[0])[..., None], np.float32)


@lru_cache(maxsize=16)
def _window(height: int) -> Floats:
    """Nearly 1 inside, 0 at the edges: the frame is no edge of the scene."""
    return np.asarray(cv2.createHanningWindow((_GRID, height), cv2.CV_32F) ** 0.25, np.float32)


def _correlate(first: Floats, second: Floats) -> Floats:
    """Sum of first · second over all pixels, for shifts of up to ±_RANGE in y and x."""
    height, width = (cv2.getOptimalDFTSize(edge + _RANGE) for edge in first.shape[:2])
    spectra = []
    for edges in (first, second):
        padded = np.zeros((height, width, 2), np.float32)
        padded[: edges.shape[0], : edges.shape[1]] = edges
        spectra.append(cv2.dft(padded))
    product = cv2.mulSpectrums(spectra[1], spectra[0], 0, conjB=True)
    found = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)[..., 0]
    around = np.arange(-_RANGE, _RANGE + 1)
    return np.asarray(found[np.ix_(around, around)], np.float32)


def _without(surface: Floats, peak: tuple[np.intp, ...]) -> Floats:
    rest = surface.copy()
    y, x = int(peak[0]), int(peak[1])
    rest[max(0, y - _AROUND) : y + _AROUND + 1, max(0, x - _AROUND) : x + _AROUND + 1] = -np.inf
    return rest


def _place(surface: Floats, peak: tuple[np.intp, ...]) -> tuple[float, float]:
    """The peak's dx, dy in pixels of ``WIDTH``, between grid points by a parabola."""
    y, x = int(peak[0]), int(peak[1])
    fine_x = _vertex(surface[y, x - 1 : x + 2]) if 0 < x < 2 * _RANGE else 0.0
    fine_y = _vertex(surface[y - 1 : y + 2, x]) if 0 < y < 2 * _RANGE else 0.0
    return round((x + fine_x - _RANGE) * _STEP, 2), round((y + fine_y - _RANGE) * _STEP, 2)


def _vertex(three: Floats) -> float:
    left, middle, right = (float(value) for value in three)
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))


def _confidence(height: float) -> float:
    return float(1 / (1 + np.exp(-_SLOPE * (height - _HALF))))
