"""From delivered frames to the arrays that a model or a bundle takes; the same for training and live."""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from data.errors import DataError
from data.frame import Image
from data.rig import Aligner, Rig, Size
from data.thermal import ThermalSpec

RGB_PADDING = 114
"""Grey level around an RGB picture that was fitted onto a canvas."""


class InputSpec(BaseModel):
    """Sizes and unit of what goes into the model; crosses into fusion and export as plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rgb_size: Size
    """Height, width."""
    thermal_size: Size
    """Height, width after alignment."""
    letterbox: bool = False
    """True: frames of any size are scaled onto this canvas, top left. False: frames have this size."""
    rig_baked: bool = False
    """Of a bundle: the graph warps thermal by the rig, so ``thermal_size`` is that of the camera's own frames."""
    thermal: ThermalSpec

    @model_validator(mode="after")
    def _one_canvas(self) -> Self:
        if self.letterbox and self.rgb_size != self.thermal_size:
            raise ValueError("a letterbox canvas is one size for both sensors")
        return self


@dataclass(frozen=True, slots=True)
class Prepared:
    """One pair as the model takes it."""

    rgb: NDArray[np.uint8]
    """Hr×Wr×3; zeros when absent."""
    thermal: Image
    """Ht×Wt of the spec's dtype, covering RGB's field of view; zeros when absent."""
    present: NDArray[np.float32]
    """[2]: 1 where RGB, thermal is there."""
    scale: float
    """Pixels of the canvas for each pixel of the delivered RGB frame; divide boxes by it."""
    content: tuple[int, int]
    """Height, width of the top left part of ``rgb`` that shows the frame; the rest is padding."""


class Preparer:
    """Checks sizes and dtypes, aligns thermal by the rig, and fits onto the canvas where there is one."""

    def __init__(self, inputs: InputSpec, rig: Rig) -> None:
        self.inputs = inputs
        self.rig = rig
        self._aligners: dict[tuple[tuple[int, int], tuple[int, int]], Aligner] = {}

    def __call__(
        self,
        rgb: Image | None,
        thermal: Image | None,
        where: str = "",
        *,
        rgb_size: tuple[int, int] | None = None,
    ) -> Prepared:
        """Prepare one pair of delivered images; either may be None.

        Args:
            rgb: H×W×3 uint8.
            thermal: H×W of the spec's dtype.
            where: Names the pair in an error.
            rgb_size: Height, width of the RGB frame that is absent, where it is known (canvas only).

        Raises:
            DataError: a frame has another size or dtype than declared.
        """
        assert rgb is not None or thermal is not None
        scale, content = 1.0, self.inputs.rgb_size
        if rgb is not None:
            self._check_rgb(rgb, where)
            rgb_size = (rgb.shape[0], rgb.shape[1])
        rgb_size = rgb_size or self.rig.rgb_size or (None if self.inputs.letterbox else self.inputs.rgb_size)
        aligned = None if thermal is None else self._align(rgb_size, thermal, where)
        if self.inputs.letterbox:
            if rgb_size is None:  # thermal alone: it covers RGB's view, in its own pixels
                assert aligned is not None
                rgb_size = (aligned.shape[0], aligned.shape[1])
            scale, content = fit(rgb_size, self.inputs.rgb_size)
            rgb = None if rgb is None else place(rgb, content, self.inputs.rgb_size, RGB_PADDING)
            if aligned is not None:
                aligned = self._place_thermal(aligned, content)
        return Prepared(
            rgb=np.zeros((*self.inputs.rgb_size, 3), np.uint8) if rgb is None else rgb,
            thermal=np.zeros(self.inputs.thermal_size, self.inputs.thermal.dtype) if aligned is None else aligned,
            present=np.array([rgb is not None, aligned is not None], np.float32),
            scale=scale,
            content=content,
        )

    def _check_rgb(self, rgb: Image, where: str) -> None:
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise DataError(f"{where}: RGB is {rgb.dtype} {rgb.shape}, expected H×W×3 uint8")
        if not self.inputs.letterbox and rgb.shape[:2] != self.inputs.rgb_size:
            height, width = self.inputs.rgb_size
            raise DataError(
                f"{where}: RGB frame is {rgb.shape[1]}×{rgb.shape[0]} (width×height), expected {width}×{height}"
            )

    def _align(self, rgb_size: tuple[int, int] | None, thermal: Image, where: str) -> Image:
        thermal_size = (thermal.shape[0], thermal.shape[1])
        key = (rgb_size or thermal_size, thermal_size)
        if key not in self._aligners:
            self._aligners[key] = self.rig.aligner(self.inputs.thermal, *key)
        aligner = self._aligners[key]
        if not self.inputs.letterbox and aligner.out_size != self.inputs.thermal_size:
            height, width = self.inputs.thermal_size
            raise DataError(
                f"{where}: thermal frame is {aligner.out_size[1]}×{aligner.out_size[0]} (width×height, "
                f"upright), expected {width}×{height}"
            )
        return aligner(thermal, where or "thermal")

    def _place_thermal(self, thermal: Image, content: tuple[int, int]) -> Image:
        spec = self.inputs.thermal
        invalid = thermal == spec.invalid
        placed = place(thermal, content, self.inputs.rgb_size, spec.invalid)
        if invalid.any():  # pixels that interpolation mixed with invalid ones are invalid
            mixed = place(invalid.astype(np.float32), content, self.inputs.rgb_size, 1.0) > 1e-3
            placed[mixed] = spec.invalid
        return placed


def fit(size: tuple[int, ...], canvas: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """Return the scale that fits ``size`` (height, width) into ``canvas``, and the content's size there."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    return scale, (min(canvas[0], round(size[0] * scale)), min(canvas[1], round(size[1] * scale)))


def place(image: Image, content: tuple[int, int], canvas: tuple[int, int], padding: float) -> Image:
    """Scale ``image`` to ``content`` (height, width; bilinear, half-pixel), top left on ``padding``."""
    scaled = cv2.resize(image, (content[1], content[0]), interpolation=cv2.INTER_LINEAR)
    placed = np.full((*canvas, *image.shape[2:]), padding, image.dtype)
    placed[: content[0], : content[1]] = scaled
    return placed
