"""The two cameras of the synthetic rig: what their sensors make of light and heat."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.background import Field, Grid
from data.synthetic.site import Weather

COUNTS_PER_DEGREE = 36.0
"""Of the thermal camera: a scene of 55 °C between sky and engine spans some 2000 counts."""


@dataclass(frozen=True, slots=True)
class ThermalPattern:
    """What the thermal sensor adds to every frame until its next correction."""

    columns: Field
    """[1,W] counts."""
    shading: Field
    """H×W counts, warmer towards the corners."""
    dead: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Rows and columns of pixels that stick."""


def make_pattern(rng: np.random.Generator, size: tuple[int, int]) -> ThermalPattern:
    """Draw a sensor's fixed pattern for frames of ``size`` (height, width)."""
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])[None, :]
    count = max(1, size[0] * size[1] // 10000)
    return ThermalPattern(
        columns=rng.normal(0, 9, (1, size[1])).astype(np.float32),
        shading=(rng.uniform(10, 40) * (x**2 + y**2 - 0.6)).astype(np.float32),
        dead=(rng.integers(size[0], size=count), rng.integers(size[1], size=count)),
    )


def expose_rgb(
    light: Field, weather: Weather, grid: Grid, rng: np.random.Generator, noise: float = 1.0
) -> NDArray[np.uint8]:
    """Crop the margin away and make H×W×3 uint8 of light: exposure, ``noise`` times the usual noise, saturation."""
    edge = slice(grid.margin, -grid.margin or None)
    night = weather.condition == "night"
    values = rng.standard_normal((grid.height, grid.width, 3), dtype=np.float32)
    values *= 255 * (0.03 if night else 0.012) * noise
    values += light[edge, edge] * np.float32(255 * (1.25 if night else 1.0))
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def view_matrix(
    grid: Grid, thermal_size: tuple[int, int], shift: tuple[float, float], degrees: float = 0.0, zoom: float = 1.0
) -> NDArray[np.float64]:
    """3×3 from thermal pixels to RGB pixels (centres are whole numbers).

    Args:
        grid: Size of the RGB picture.
        thermal_size: Height, width.
        shift: To the right and down, in RGB pixels.
        degrees: Roll of the thermal camera about the picture's centre.
        zoom: Above 1 the thermal camera sees more than the RGB one.
    """
    height, width = thermal_size
    sx, sy = grid.width / width, grid.height / height
    scale = np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
    centre = ((grid.width - 1) / 2, (grid.height - 1) / 2)
    roll = np.vstack([cv2.getRotationMatrix2D(centre, degrees, zoom), [0, 0, 1]])
    return np.asarray(np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]]) @ roll @ scale)


def expose_thermal(
    celsius: Field,
    grid: Grid,
    view: NDArray[np.float64],
    pattern: ThermalPattern,
    offset: float,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """Look at the scene through ``view`` and make H×W uint16 counts of it; ``offset`` counts are 10 °C."""
    height, width = pattern.shading.shape
    canvas = np.array([[1, 0, grid.margin], [0, 1, grid.margin], [0, 0, 1]]) @ view
    seen = cv2.warpAffine(
        celsius, canvas[:2], (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    seen = cv2.GaussianBlur(seen, (3, 3), 0.6)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    counts = offset + (seen - 10) * COUNTS_PER_DEGREE + pattern.columns + pattern.shading + 7 * noise
    counts[pattern.dead] += 160
    return np.asarray(np.clip(counts, 1, 65535), np.uint16)
