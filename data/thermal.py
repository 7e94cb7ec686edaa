"""What the numbers of a thermal frame mean, and how what files hold becomes the unit that the model sees."""

from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import DataError
from data.frame import Image

Unit = Literal["intensity8", "counts16", "celsius"]
Stored = Literal["unit", "decikelvin", "centikelvin", "linear", "planck", "radiometric"]

DTYPES: dict[str, str] = {"intensity8": "uint8", "counts16": "uint16", "celsius": "float32"}
KELVIN = 273.15
"""0 °C in Kelvin."""
_MIN_SPAN: dict[str, float] = {"intensity8": 16.0, "counts16": 100.0, "celsius": 4.0}
_INVALID: dict[str, float] = {"intensity8": 0.0, "counts16": 0.0, "celsius": -1000.0}
_SCALES: dict[str, tuple[float, float]] = {"decikelvin": (0.1, -KELVIN), "centikelvin": (0.01, -KELVIN)}

Box = tuple[
    Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]
]
"""x1, y1, x2, y2 in pixels; x2 and y2 are the first ones outside."""


class Planck(BaseModel):
    """Constants of the radiometric curve T = B / ln(R1 / (R2 · (S + O)) + F), as FLIR cameras store them.

    S is the raw count reduced to the object's own radiation; T is in Kelvin. Air and window are left out of the
    account unless a distance or a window is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r1: Annotated[float, Field(gt=0)]
    r2: Annotated[float, Field(gt=0)]
    b: Annotated[float, Field(gt=0)]
    f: float
    o: float
    emissivity: Annotated[float, Field(gt=0, le=1)] = 0.95
    reflected_celsius: float = 20.0
    distance_m: Annotated[float, Field(ge=0)] = 0.0
    """From camera to object; 0: no loss in the air."""
    atmospheric_celsius: float = 20.0
    humidity: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Relative, 1 is saturated."""
    window_transmission: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of a window before the lens; 1: none."""
    window_celsius: float = 20.0
    air: tuple[float, float, float, float, float] = (0.006569, 0.01262, -0.002276, -0.00667, 1.9)
    """alpha 1, alpha 2, beta 1, beta 2, X of the air's transmission."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        around = (self.reflected_celsius, self.atmospheric_celsius, self.window_celsius)
        if not all(-KELVIN < t < 5000 for t in around):  # false for NaN too
            raise ValueError(f"temperatures {around} °C of surroundings, air and window are not possible")
        with np.errstate(all="ignore"):
            transmission, counts = self.air_transmission(), [self.counts(t) for t in around]
        if not 0.01 <= transmission <= 1.5:
            raise ValueError(f"the air over {self.distance_m:g} m lets {transmission:g} of the radiation through")
        if not np.isfinite(counts).all():
            raise ValueError(f"the curve gives counts {counts} at temperatures {around} °C")
        return self

    def counts(self, celsius: float) -> float:
        """Raw count of a black body at that temperature, seen without air or window."""
        return float(self.r1 / (self.r2 * (np.exp(self.b / (celsius + KELVIN)) - self.f)) - self.o)

    def air_transmission(self) -> float:
        """Transmission of half the way between camera and object (the window is taken to stand in the middle)."""
        t = self.atmospheric_celsius
        water = self.humidity * np.exp(1.5587 + 0.06939 * t - 2.7816e-4 * t**2 + 6.8455e-7 * t**3)
        alpha1, alpha2, beta1, beta2, x = self.air
        path = -np.sqrt(self.distance_m / 2)
        first, second = (np.exp(path * (a + b * np.sqrt(water))) for a, b in ((alpha1, beta1), (alpha2, beta2)))
        return float(x * first + (1 - x) * second)


class ThermalSpec(BaseModel):
    """Unit, range and validity of thermal pixels; crosses into fusion and export as plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Unit
    """What the model sees, whatever files and cameras hold."""
    polarity: Literal["white-hot", "black-hot"] = "white-hot"
    range: tuple[float, float] | None = None
    """Fixed range that maps to 0…1, in the unit; None: the range of each frame is measured."""
    min_span: Annotated[float, Field(gt=0)] = 16.0
    """Smallest span of a measured range, in the unit: a flat frame is not blown up into noise."""
    invalid: float = 0.0
    """The value of pixels that show nothing (outside the overlap, dead); valid pixels never carry it."""
    marked: bool = False
    """True: delivered frames already carry ``invalid`` (black warp borders). False: every pixel is valid."""
    stored: Stored = "unit"
    """What files and cameras hold, converted on reading: unit (nothing to convert); to celsius: decikelvin,
    centikelvin, linear (raw · scale + offset), planck (raw counts and the constants below); radiometric: FLIR JPEG
    with raw counts and constants inside, to celsius or counts16."""
    channel: Annotated[int, Field(ge=0, le=3)] | None = None
    """Which channel of a file is thermal, from 0 in the file's order (MFNet: 3); None: its only one."""
    scale: float | None = None
    """°C of one raw step; with stored: linear."""
    offset: float | None = None
    """°C of raw 0; with stored: linear."""
    blank: tuple[Box, ...] = ()
    """Parts of the stored frame that show no scene (burnt-in text, telemetry rows); they become ``invalid``."""
    planck: Planck | None = None
    """Of all frames alike: where a camera's settings changed between frames, each setting needs a card of its own, for
    ``rgbt data check`` cannot tell. With stored: radiometric it replaces the constants in the files."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_unit(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic hands in what it was given
        if not isinstance(values, dict) or values.get("unit") not in DTYPES:
            return values
        unit = values["unit"]
        filled: dict[str, Any] = {"min_span": _MIN_SPAN[unit], "invalid": _INVALID[unit]}
        if unit == "celsius":
            filled["range"] = (-20.0, 60.0)
            if values.get("planck") is not None:
                filled["stored"] = "planck"
            elif values.get("scale") is not None:
                filled["stored"] = "linear"
        return {**filled, **values}

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if self.range is not None and self.range[1] - self.range[0] < self.min_span:
            raise ValueError(f"range {list(self.range)} is narrower than min_span {self.min_span:g}")
        if self.dtype.kind == "u" and not (self.invalid.is_integer() and 0 <= self.invalid <= np.iinfo(self.dtype).max):
            raise ValueError(f"invalid {self.invalid:g} is no value that {self.dtype} pixels can have")
        if self.stored in ("decikelvin", "centikelvin", "linear", "planck") and self.unit != "celsius":
            raise ValueError(f"stored: {self.stored} becomes degrees, so unit must be celsius, not {self.unit}")
        if self.stored == "radiometric" and self.unit == "intensity8":
            raise ValueError("stored: radiometric holds raw counts, so unit must be celsius or counts16")
        if self.stored == "planck" and self.planck is None:
            raise ValueError("stored: planck needs planck: {r1: …, r2: …, b: …, f: …, o: …}")
        if (self.stored == "linear") != (self.scale is not None) or (self.offset is not None and self.scale is None):
            raise ValueError("stored: linear and scale (with offset, 0 if left out) go together")
        for x1, y1, x2, y2 in self.blank:
            if x2 <= x1 or y2 <= y1:
                raise ValueError(f"blank: [{x1}, {y1}, {x2}, {y2}] is empty; it is x1, y1, x2, y2")
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """The one dtype of frames in this unit: uint8, uint16 or float32."""
        return np.dtype(DTYPES[self.unit])

    @property
    def marks(self) -> bool:
        """True: frames in the unit carry ``invalid`` where they show nothing."""
        return self.marked or bool(self.blank)

    def convert(self, raw: Image, where: str) -> Image:
        """Turn a frame as stored (H×W) into the unit; the same for files, videos and cameras.

        Raises:
            DataError: the frame's dtype is not one that this spec converts; ``where`` names it.
        """
        image = self._in_unit(raw, where)
        self.require(image, where)
        return self._blanked(image, where) if self.blank else image

    def _in_unit(self, raw: Image, where: str) -> Image:
        if self.dtype.kind == "f" and raw.dtype.kind == "f" and self.stored in ("unit", "radiometric"):
            return raw.astype(np.float32, copy=False)
        if self.stored in ("unit", "radiometric"):
            return raw
        if raw.ndim != 2 or raw.dtype.kind not in ("u" if self.stored == "planck" else "uif"):
            raise DataError(
                f"{where}: thermal is {raw.dtype} {raw.shape}, but stored: {self.stored} means one channel of raw "
                "numbers; correct the file, or thermal_spec.stored in the card"
            )
        if self.stored == "planck":
            assert self.planck is not None
            return counts_to_celsius(raw, self.planck)
        scale, offset = _SCALES.get(self.stored) or (self.scale or 0.0, self.offset or 0.0)
        celsius = raw.astype(np.float32) * np.float32(scale) + np.float32(offset)
        # Nothing is colder: cameras write 0 where they have no value.
        return np.where(celsius > -KELVIN + 1e-3, celsius, np.float32(self.invalid))

    def _blanked(self, image: Image, where: str) -> Image:
        height, width = image.shape
        for x1, y1, x2, y2 in self.blank:
            if x1 >= width or y1 >= height:
                raise DataError(
                    f"{where}: thermal_spec.blank [{x1}, {y1}, {x2}, {y2}] lies outside the frame of {width}×{height}"
                )
        kept = image if self.marked else self._off_invalid(image)
        kept = kept.copy() if kept is image else kept
        for x1, y1, x2, y2 in self.blank:
            kept[y1:y2, x1:x2] = self.invalid
        return kept

    def require(self, image: Image, where: str) -> None:
        """Raise DataError unless ``image`` is H×W of this spec's dtype."""
        if image.ndim != 2 or image.dtype != self.dtype:
            found = f"{image.dtype} with {image.shape[2]} channels" if image.ndim == 3 else f"{image.dtype}"
            raise DataError(
                f"{where}: thermal is {found}, but unit '{self.unit}' means one channel of {self.dtype}; "
                f"correct the file, or thermal_spec.unit in the card (one of {', '.join(DTYPES)})"
            )

    def dead(self, image: Image) -> NDArray[np.bool_] | None:
        """H×W bool: pixels of a frame in the unit that show nothing; None when all are valid."""
        if self.dtype.kind == "f":
            dead = ~np.isfinite(image) | (image == self.invalid)
        elif self.marks:
            dead = image == self.invalid
        else:
            return None
        return dead if dead.any() else None

    def separate(self, image: Image) -> Image:
        """Return a frame in the unit whose valid pixels are off ``invalid``, by one step if need be."""
        return image if self.marks else self._off_invalid(image)

    def _off_invalid(self, image: Image) -> Image:
        if self.dtype.kind == "f":
            return image
        if self.invalid == 0:
            return image if image.min() > 0 else np.asarray(np.maximum(image, image.dtype.type(1)))
        return np.where(image == self.invalid, image.dtype.type(self.invalid - 1), image)


def counts_to_celsius(counts: Image, planck: Planck) -> NDArray[np.float32]:
    """Convert raw counts of a radiometric camera to °C; NaN where a count lies outside the curve.

    What air, window and reflection add is taken off the count, as Minkina and Dudzik describe it (Infrared
    Thermography, 2009, as in the R package Thermimage).

    Args:
        counts: H×W (or any shape) unsigned counts.
        planck: Constants of the camera and conditions of the shot.

    Returns:
        float32 of the same shape, °C.
    """
    if counts.dtype in (np.uint8, np.uint16):  # a table: a logarithm for each pixel costs ten times as much
        return np.asarray(_curve(planck)[counts])
    return np.asarray(_celsius(counts.astype(np.float64), planck), np.float32)


@lru_cache(maxsize=16)
def _curve(planck: Planck) -> NDArray[np.float32]:
    """°C of every 16-bit count."""
    curve = _celsius(np.arange(1 << 16, dtype=np.float64), planck).astype(np.float32)
    curve.flags.writeable = False
    return curve


def _celsius(counts: NDArray[np.float64], planck: Planck) -> NDArray[np.float64]:
    half, window, emissivity = planck.air_transmission(), planck.window_transmission, planck.emissivity
    air, reflected = planck.counts(planck.atmospheric_celsius), planck.counts(planck.reflected_celsius)
    own = counts / (emissivity * half**2 * window)
    own -= (1 - half) * air / (emissivity * half) * (1 + 1 / (half * window))
    own -= (1 - window) * planck.counts(planck.window_celsius) / (emissivity * half * window)
    own -= (1 - emissivity) / emissivity * reflected
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        kelvin = planck.b / np.log(planck.r1 / (planck.r2 * (own + planck.o)) + planck.f)
        return np.where(kelvin > 0, kelvin, np.nan) - KELVIN
