"""Bad light and bad sensors: what training pairs may be changed by, and what ``rgbt evaluate --degrade`` judges in.

A degradation is a function of the pair, a random generator and a strength: at 0 nothing changes, at 1 the picture is as
bad as a camera in the field delivers it. None touches its input, and invalid thermal pixels stay invalid. They act in
the picture's own grid, after any geometry: columns, dead pixels and smear belong to the sensor. All are a few OpenCV
calls, about 2 ms or less for 480×640 (``rgbt bench --data`` prints each): albumentations' fog costs 79, its flare 30.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from data.augment.degrade_rgb import fog, glare, motion_blur, night, rgb_noise
from data.augment.degrade_thermal import agc_jump, column_noise, dead_pixels, frozen, thermal_drift, thermal_noise
from data.augment.values import Heat, join, split
from data.frame import Image
from data.thermal import ThermalSpec

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class OfRgb:
    """A change of RGB alone."""

    sensor: ClassVar[Literal["rgb", "thermal"]] = "rgb"
    change: Callable[[Rgb, np.random.Generator, float], Rgb]

    def __call__(
        self, rgb: Rgb, thermal: Image, rng: np.random.Generator, spec: ThermalSpec, strength: float = 1.0
    ) -> tuple[Rgb, Image]:
        """Change H×W×3 uint8, by 0 … 1; thermal is handed back as it is."""
        return (self.change(rgb, rng, strength) if strength else rgb), thermal


@dataclass(frozen=True, slots=True)
class OfThermal:
    """A change of thermal alone."""

    sensor: ClassVar[Literal["rgb", "thermal"]] = "thermal"
    change: Callable[[Heat, np.random.Generator, float], Heat]

    def __call__(
        self, rgb: Rgb, thermal: Image, rng: np.random.Generator, spec: ThermalSpec, strength: float = 1.0
    ) -> tuple[Rgb, Image]:
        """Change H×W of the spec's dtype, by 0 … 1; RGB is handed back as it is, and so is a frame without a value."""
        heat = split(thermal, spec) if strength else None
        if heat is None:
            return rgb, thermal
        return rgb, join(self.change(heat, rng, strength), spec)


DEGRADATIONS: dict[str, OfRgb | OfThermal] = {
    "night": OfRgb(night),
    "fog": OfRgb(fog),
    "glare": OfRgb(glare),
    "motion_blur": OfRgb(motion_blur),
    "rgb_noise": OfRgb(rgb_noise),
    "frozen": OfThermal(frozen),
    "thermal_drift": OfThermal(thermal_drift),
    "column_noise": OfThermal(column_noise),
    "thermal_noise": OfThermal(thermal_noise),
    "dead_pixels": OfThermal(dead_pixels),
    "agc_jump": OfThermal(agc_jump),
}
"""Name → what it does, in the order of the chain from scene to file: the light, the optics, the sensor, its gain."""
