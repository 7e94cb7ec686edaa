"""How the thermal camera's picture lies on the RGB camera's, in space and in time."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import DataError
from data.frame import Image
from data.thermal import ThermalSpec
from data.yaml_file import read_model, write_model

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Row = tuple[float, float, float]

ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
FLIPS = {"horizontal": 1, "vertical": 0, "both": -1}


class Rig(BaseModel):
    """Geometry and time offset of one mounted pair of cameras.

    The default rig says: thermal already covers RGB's field of view, upright and in step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rgb_size: Size | None = None
    """Height, width of RGB frames in pixels; required with a homography."""
    thermal_size: Size | None = None
    """Height, width of thermal frames as delivered; required with a homography."""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise that turn the delivered thermal frame upright; done before the flip."""
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    homography: tuple[Row, Row, Row] | None = None
    """3×3, from pixels of the upright thermal frame to RGB pixels; pixel centres are whole numbers."""
    time_offset_ms: float = 0.0
    """Added to thermal capture times to bring them onto RGB's clock."""

    @model_validator(mode="after")
    def _homography_is_usable(self) -> Self:
        if self.homography is None:
            return self
        if self.rgb_size is None or self.thermal_size is None:
            raise ValueError("a homography needs rgb_size and thermal_size: the picture sizes it was measured at")
        if abs(np.linalg.det(np.array(self.homography))) < 1e-12:
            raise ValueError("the homography cannot be inverted")
        return self

    @property
    def time_offset_ns(self) -> int:
        """Nanoseconds to add to thermal capture times."""
        return round(self.time_offset_ms * 1e6)

    @property
    def moves(self) -> bool:
        """Whether thermal frames are turned, flipped or warped."""
        return bool(self.rotate) or self.flip != "none" or self.homography is not None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a rig YAML; DataError names file, field and line."""
        return read_model(path, cls)

    def save(self, path: Path) -> None:
        """Write the rig as YAML, atomically."""
        write_model(path, self)

    def aligner(self, spec: ThermalSpec, rgb_size: tuple[int, int], thermal_size: tuple[int, int]) -> "Aligner":
        """Prepare the warp for frames of these sizes (height, width as delivered).

        Raises:
            DataError: the sizes differ from those the rig was measured at.
        """
        for name, declared, found in (
            ("rgb", self.rgb_size, rgb_size),
            ("thermal", self.thermal_size, thermal_size),
        ):
            if declared is not None and declared != found:
                raise DataError(
                    f"the rig was measured with {name} frames of {declared[1]}×{declared[0]} (width×height), "
                    f"these are {found[1]}×{found[0]}; use the rig of this camera mode, or calibrate again"
                )
        return Aligner(self, spec, rgb_size, thermal_size)


@dataclass(frozen=True)
class Aligner:
    """Brings thermal frames onto RGB's field of view, at the (upright) thermal camera's pixel count."""

    rig: Rig
    spec: ThermalSpec
    rgb_size: tuple[int, int]
    thermal_size: tuple[int, int]

    @property
    def out_size(self) -> tuple[int, int]:
        """Height, width of the aligned frame: the delivered size, swapped by a quarter turn."""
        height, width = self.thermal_size
        return (width, height) if self.rig.rotate in (90, 270) else (height, width)

    @cached_property
    def matrix(self) -> NDArray[np.float64] | None:
        """3×3, from upright thermal pixels to pixels of the aligned frame; None when there is no warp."""
        if self.rig.homography is None:
            return None
        (height, width), (rgb_height, rgb_width) = self.out_size, self.rgb_size
        sx, sy = width / rgb_width, height / rgb_height
        # Pixel centres: x_out + 0.5 = (x_rgb + 0.5) · sx
        scale = np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]])
        return np.asarray(scale @ np.array(self.rig.homography))

    @cached_property
    def outside(self) -> NDArray[np.bool_] | None:
        """H×W bool: pixels of the aligned frame that thermal does not see; None when it sees them all."""
        if self.matrix is None:
            return None
        seen = self._warp(np.ones(self.out_size, np.float32), 0.0)
        outside = seen < 1 - 1e-3
        return outside if outside.any() else None

    def sampling_map(self) -> NDArray[np.float32]:
        """Where each aligned pixel comes from, for a warp elsewhere (``rgbt export --bake-rig``).

        Returns:
            [H,W,2] over the aligned frame: x, y in pixels of the frame as delivered; NaN where it sees nothing.
        """
        height, width = self.out_size
        x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
        if self.matrix is not None:
            x, y, z = np.einsum("ij,jhw->ihw", np.linalg.inv(self.matrix), np.stack([x, y, np.ones_like(x)]))
            x, y = x / z, y / z
        if self.rig.flip in ("horizontal", "both"):
            x = width - 1 - x
        if self.rig.flip in ("vertical", "both"):
            y = height - 1 - y
        rows, columns = self.thermal_size[0] - 1, self.thermal_size[1] - 1
        turned = {0: (x, y), 90: (y, rows - x), 180: (columns - x, rows - y), 270: (columns - y, x)}
        places = np.stack(turned[self.rig.rotate], -1).astype(np.float32)
        if self.outside is not None:
            places[self.outside] = np.nan
        return places

    def __call__(self, image: Image, where: str = "thermal") -> Image:
        """Return the aligned frame, H×W of the spec's dtype; unseen pixels carry ``spec.invalid``.

        Raises:
            DataError: the frame's size or dtype is not the declared one; ``where`` names it in the text.
        """
        self.spec.require(image, where)
        if image.shape != self.thermal_size:
            raise DataError(
                f"{where}: thermal frame is {image.shape[1]}×{image.shape[0]} (width×height), "
                f"expected {self.thermal_size[1]}×{self.thermal_size[0]}"
            )
        if self.rig.rotate:
            image = cv2.rotate(image, ROTATIONS[self.rig.rotate])
        if self.rig.flip != "none":
            image = cv2.flip(image, FLIPS[self.rig.flip])
        dead = self.spec.dead(image)
        if self.matrix is None:
            return self._fill(self.spec.separate(image), dead)
        if dead is not None:  # interpolation must not mix an invalid pixel into a valid one
            dead = self._warp(dead.astype(np.float32), 0.0) > 1e-3
            image = np.where(np.isfinite(image), image, 0) if self.spec.dtype.kind == "f" else image
        warped = self._warp(self.spec.separate(image), self.spec.invalid)
        return self._fill(warped, _either(dead, self.outside))

    def _fill(self, image: Image, invalid: NDArray[np.bool_] | None) -> Image:
        if invalid is None:
            return image
        return np.asarray(np.where(invalid, self.spec.dtype.type(self.spec.invalid), image))

    def _warp(self, image: Image, border: float) -> Image:
        height, width = self.out_size
        warped = cv2.warpPerspective(
            image,
            self.matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border,
        )
        return np.asarray(warped)


def _either(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b
