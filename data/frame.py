"""Frames and pairs: what a camera delivered, and when."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Image = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one sensor."""

    image: Image
    """RGB: H×W×3 uint8. Thermal: H×W uint8, uint16 or float32, in the unit of its ThermalSpec."""
    time_ns: int
    """Capture time in nanoseconds on the clock that all sources of a rig share."""
    sequence: int
    """Number of the frame in its source, from 0; gaps are frames the source lost."""
    source: str
    """Name of the source, without credentials."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True)
class Pair:
    """An RGB and a thermal frame of one moment; either may be absent, never both."""

    rgb: Frame | None
    thermal: Frame | None

    def __post_init__(self) -> None:
        assert self.rgb is not None or self.thermal is not None, "a pair needs at least one frame"

    @property
    def skew_ns(self) -> int | None:
        """Capture time of thermal minus that of RGB in nanoseconds; None when a sensor is absent."""
        if self.rgb is None or self.thermal is None:
            return None
        return self.thermal.time_ns - self.rgb.time_ns

    @property
    def time_ns(self) -> int:
        """Capture time of the newer frame in nanoseconds."""
        return max(f.time_ns for f in (self.rgb, self.thermal) if f is not None)
