"""What all changes of a picture share: a thermal frame's values apart from its invalid pixels, and cheap noise."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.thermal import ThermalSpec

Values = NDArray[np.float32]
Valid = NDArray[np.uint8]
"""H×W: 255 where a pixel shows something, 0 where it is invalid."""
_BANK = 1 << 21
_DEPTHS = {"uint8": cv2.CV_8U, "uint16": cv2.CV_16U, "float32": cv2.CV_32F}


@dataclass(frozen=True, slots=True)
class Heat:
    """A thermal frame to be changed: interpolation and noise keep values and validity apart."""

    values: Values
    """H×W, in the spec's unit; where a pixel is invalid, any valid value stands in. Its owner may write into it."""
    valid: Valid | None
    """None: all pixels are valid."""
    mean: float
    low: float
    high: float
    """Mean, smallest and largest of one valid pixel in sixteen."""
    spec: ThermalSpec

    @property
    def span(self) -> float:
        """Largest minus smallest, and no less than the spec's ``min_span``."""
        return max(self.high - self.low, self.spec.min_span)

    def of(self, values: Values, valid: Valid | None = None) -> Self:
        """The same frame with other values, and with another validity where one is given."""
        return replace(self, values=values, valid=self.valid if valid is None else valid)


def split(thermal: Image, spec: ThermalSpec, size: tuple[int, int] | None = None) -> Heat | None:
    """Copy a frame of the spec's dtype, scaled to ``size`` (height, width); None: no pixel of it is valid."""
    values: Values = thermal.astype(np.float32)
    valid: Valid | None = None
    if thermal.min() <= spec.invalid <= thermal.max():
        dead = thermal == spec.invalid
        if dead.all():
            return None
        values[dead] = values[~dead].mean()
        valid = np.where(dead, np.uint8(0), np.uint8(255))
    if size is not None and thermal.shape != size:
        values = np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        valid = None if valid is None else np.asarray(cv2.resize(valid, size[::-1]), np.uint8)
    seen = values[::4, ::4] if valid is None else values[::4, ::4][valid[::4, ::4] > 0]
    if not seen.size:  # a few valid pixels off the grid
        seen = values
    return Heat(values, valid, float(seen.mean()), float(seen.min()), float(seen.max()), spec)


def join(heat: Heat, spec: ThermalSpec) -> Image:
    """Back to the spec's dtype: a pixel that is not wholly valid is invalid, and no other is."""
    frame = np.asarray(cv2.add(heat.values, 0.0, dtype=_DEPTHS[spec.dtype.name]))  # rounds; stops at the dtype's ends
    if frame.min() <= spec.invalid <= frame.max():
        frame[frame == spec.invalid] = spec.invalid + (1 if spec.invalid <= 0 else -1)
    if heat.valid is not None:
        np.copyto(frame, spec.invalid, where=heat.valid < 255, casting="unsafe")
    return frame


def noise(rng: np.random.Generator, *shape: int) -> Values:
    """Normal noise of deviation 1: a stretch, drawn by ``rng``, of one fixed series; for reading only.

    Drawing all of it anew would take 7 ms for a 480×640 RGB picture.
    """
    count = int(np.prod(shape))
    series = _series()
    start = int(rng.integers(len(series) // 2))
    stretch = series[start : start + count]
    if len(stretch) < count:
        stretch = np.resize(np.roll(series, -start), count)
    return stretch.reshape(shape)


@cache
def _series() -> Values:
    return np.random.default_rng(0).standard_normal(_BANK, dtype=np.float32)
