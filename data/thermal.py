"""What the numbers of a thermal frame mean, and how raw counts become temperatures."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import DataError
from data.frame import Image

Unit = Literal["intensity8", "counts16", "celsius"]

DTYPES: dict[str, str] = {"intensity8": "uint8", "counts16": "uint16", "celsius": "float32"}
_MIN_SPAN: dict[str, float] = {"intensity8": 16.0, "counts16": 100.0, "celsius": 4.0}
_INVALID: dict[str, float] = {"intensity8": 0.0, "counts16": 0.0, "celsius": -1000.0}


class Planck(BaseModel):
    """Constants of the radiometric curve T = B / ln(R1 / (R2 · (S + O)) + F), as FLIR cameras store them.

    S is the raw count reduced to the object's own radiation; T is in Kelvin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r1: Annotated[float, Field(gt=0)]
    r2: Annotated[float, Field(gt=0)]
    b: Annotated[float, Field(gt=0)]
    f: float
    o: float
    emissivity: Annotated[float, Field(gt=0, le=1)] = 0.95
    reflected_celsius: float = 20.0


class ThermalSpec(BaseModel):
    """Unit, range and validity of thermal pixels; crosses into fusion and export as plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    polarity: Literal["white-hot", "black-hot"] = "white-hot"
    range: tuple[float, float] | None = None
    """Fixed range that maps to 0…1, in the unit; None: the range of each frame is measured."""
    min_span: Annotated[float, Field(gt=0)] = 16.0
    """Smallest span of a measured range, in the unit: a flat frame is not blown up into noise."""
    invalid: float = 0.0
    """The value of pixels that show nothing (outside the overlap, dead); valid pixels never carry it."""
    marked: bool = False
    """True: delivered frames already carry ``invalid`` (black warp borders). False: every pixel is valid."""
    planck: Planck | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_unit(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic hands in what it was given
        if not isinstance(values, dict) or values.get("unit") not in DTYPES:
            return values
        unit = values["unit"]
        filled: dict[str, Any] = {"min_span": _MIN_SPAN[unit], "invalid": _INVALID[unit]}
        if unit == "celsius":
            filled["range"] = (-20.0, 60.0)
        return {**filled, **values}

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.range is not None and self.range[1] - self.range[0] < self.min_span:
            raise ValueError(f"range {list(self.range)} is narrower than min_span {self.min_span:g}")
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """The one dtype of frames in this unit: uint8, uint16 or float32."""
        return np.dtype(DTYPES[self.unit])

    def require(self, image: Image, where: str) -> None:
        """Raise DataError unless ``image`` is H×W of this spec's dtype."""
        if image.ndim != 2 or image.dtype != self.dtype:
            found = f"{image.dtype} with {image.shape[2]} channels" if image.ndim == 3 else f"{image.dtype}"
            raise DataError(
                f"{where}: thermal is {found}, but unit '{self.unit}' means one channel of {self.dtype}; "
                f"correct the file, or thermal_spec.unit in the card (one of {', '.join(DTYPES)})"
            )

    def dead(self, image: Image) -> NDArray[np.bool_] | None:
        """H×W bool: pixels of a delivered frame that show nothing; None when all are valid."""
        if self.dtype.kind == "f":
            dead = ~np.isfinite(image) | (image == self.invalid)
        elif self.marked:
            dead = image == self.invalid
        else:
            return None
        return dead if dead.any() else None

    def separate(self, image: Image) -> Image:
        """Return a delivered frame whose valid pixels are off ``invalid``, by one step if need be."""
        if self.marked or self.dtype.kind == "f":
            return image
        if self.invalid == 0:
            return np.asarray(np.maximum(image, image.dtype.type(1)))
        return np.where(image == self.invalid, image.dtype.type(self.invalid - 1), image)


def counts_to_celsius(counts: Image, planck: Planck) -> NDArray[np.float32]:
    """Convert raw counts (H×W uint16) to °C (H×W float32) by the camera's Planck constants.

    The object's own radiation is the reading less what it reflects: S = (counts − (1 − ε)·S_reflected) / ε.
    Counts outside the curve become NaN.

    Source: Minkina & Dudzik, Infrared Thermography: Errors and Uncertainties, Wiley 2009, ch. 2.
    """
    kelvin = 273.15
    reflected = planck.r1 / (planck.r2 * (np.exp(planck.b / (planck.reflected_celsius + kelvin)) - planck.f)) - planck.o
    own = (counts.astype(np.float64) - (1 - planck.emissivity) * reflected) / planck.emissivity
    with np.errstate(invalid="ignore", divide="ignore"):
        celsius = planck.b / np.log(planck.r1 / (planck.r2 * (own + planck.o)) + planck.f) - kelvin
    return np.asarray(celsius, np.float32)
