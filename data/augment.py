"""Random changes of a training pair; the only file that knows albumentations."""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.frame import Image
from data.prepare import RGB_PADDING
from data.thermal import ThermalSpec

Share = Annotated[float, Field(ge=0, le=1)]
Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]
Layer = NDArray[np.float32]

MIN_VISIBILITY = 0.3
"""Share of a box that must stay in the picture, else the box goes."""
_VALID = 1000.0
"""How far above ``invalid`` the second layer is where a pixel is valid; far for float32, beside 65535."""


class AugmentSpec(BaseModel):
    """How far a training pair may be changed; geometry moves both pictures and the boxes alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: Share = 0.5
    """Probability of a horizontal flip."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 5.0
    """Largest rotation to either side, in degrees."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Smallest and largest zoom; above 1 a part is cropped out."""
    crop: Share = 0.1
    """Largest shift of the cropped part, as a fraction of width and height."""
    rgb_brightness: Share = 0.2
    """Largest change, as a fraction of the frame's mean: a share of white would drown or blind the night."""
    rgb_contrast: Share = 0.2
    thermal_gain: Share = 0.1
    """Largest relative change of a pixel's distance to the frame's mean."""
    thermal_offset: Share = 0.05
    """Largest shift, as a fraction of the frame's span."""

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}, expected [smallest, largest], above 0")
        return self


class Augmenter:
    """Changes a pair; what it does is a function of the seed alone."""

    def __init__(self, spec: AugmentSpec, thermal_spec: ThermalSpec) -> None:
        self.spec = spec
        self.thermal_spec = thermal_spec
        self._pipeline = _pipeline(spec, thermal_spec.invalid)

    def __call__(
        self,
        rgb: NDArray[np.uint8],
        thermal: Image,
        boxes: Boxes,
        labels: Labels,
        seed: int,
        present: Sequence[bool] = (True, True),
    ) -> tuple[NDArray[np.uint8], Image, Boxes, Labels]:
        """Change one pair.

        Args:
            rgb: H×W×3 uint8.
            thermal: Of the spec's dtype and any size; it comes back at RGB's size.
            boxes: [N,4] float32 x1, y1, x2, y2 in pixels of ``rgb``.
            labels: [N] int64.
            seed: From 0.
            present: Whether RGB, thermal is there; one that is not costs next to nothing, and comes back as zeros.

        Returns:
            RGB, thermal, boxes and labels; boxes that left the picture are gone.
        """
        seeds = np.random.SeedSequence(seed).generate_state(1 + len(self._pipeline.transforms))
        size = rgb.shape[:2]
        layers: dict[str, Layer] = {}
        if present[1]:
            warm, valid = self._layers(thermal, size)
            self._photometric(warm, valid, np.random.default_rng(seeds[0]))
            layers = {"mask": warm, "valid": valid}
        # One seed for all would tie their draws together: bright pictures would always be large.
        for transform, own in zip(self._pipeline.transforms, seeds[1:].tolist(), strict=True):
            transform.set_random_seed(own)
        picture = rgb if present[0] else np.zeros(size, np.uint8)  # one channel will do to move the boxes
        changed = self._pipeline(image=picture, **layers, bboxes=boxes, index=np.arange(len(boxes)))
        index = np.array(changed["index"], np.int64)
        kept = np.array(changed["bboxes"], np.float32).reshape(-1, 4)
        moved = changed["image"] if present[0] else np.zeros_like(rgb)
        merged = self._merge(changed["mask"], changed["valid"]) if layers else np.zeros(size, thermal.dtype)
        return moved, merged, kept, labels[index]

    def _layers(self, thermal: Image, size: tuple[int, ...]) -> tuple[Layer, Layer]:
        """Values, and what tells valid ones, both H×W float32 at RGB's size: interpolation keeps the two apart."""
        invalid = self.thermal_spec.invalid
        dead = thermal == invalid
        warm = thermal.astype(np.float32)
        valid = np.full(thermal.shape, invalid + _VALID, np.float32)
        if dead.any():  # any valid value stands in, and is thrown out again by the second layer
            warm[dead] = warm[~dead].mean() if not dead.all() else 0.0
            valid[dead] = invalid
        if thermal.shape != size:
            warm, valid = (
                np.asarray(cv2.resize(layer, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)
                for layer in (warm, valid)
            )
        return warm, valid

    def _photometric(self, warm: Layer, valid: Layer, rng: np.random.Generator) -> None:
        gain = 1 + rng.uniform(-self.spec.thermal_gain, self.spec.thermal_gain)
        shift = rng.uniform(-self.spec.thermal_offset, self.spec.thermal_offset)
        seen = warm[::4, ::4][valid[::4, ::4] > self.thermal_spec.invalid + _VALID / 2]
        if seen.size:
            mean, span = float(seen.mean()), float(seen.max() - seen.min())
            warm *= gain
            warm += mean * (1 - gain) + shift * span

    def _merge(self, warm: Layer, valid: Layer) -> Image:
        """Back to the spec's dtype; every pixel that touches an invalid one is invalid, no other is."""
        dtype, invalid = self.thermal_spec.dtype, self.thermal_spec.invalid
        if dtype.kind == "u":
            limits = np.iinfo(dtype)
            np.clip(np.rint(warm, out=warm), limits.min, limits.max, out=warm)
        merged = warm.astype(dtype)
        np.putmask(merged, merged == invalid, invalid + (1 if invalid <= 0 else -1))
        np.putmask(merged, valid < invalid + 0.9995 * _VALID, invalid)
        return merged


def _pipeline(spec: AugmentSpec, invalid: float) -> Any:  # noqa: ANN401 - an albumentations.Compose
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask a server for its newest version
    import albumentations as alb  # takes seconds, and brings scipy: only who trains pays

    steps: list[Any] = []
    if spec.rgb_brightness or spec.rgb_contrast:
        steps.append(
            alb.RandomBrightnessContrast(spec.rgb_brightness, spec.rgb_contrast, brightness_by_max=False, p=1.0)
        )
    if spec.rotate_deg or spec.crop or spec.scale != (1.0, 1.0):
        steps.append(
            alb.Affine(
                scale=spec.scale,
                keep_ratio=True,
                translate_percent=(-spec.crop, spec.crop),
                rotate=(-spec.rotate_deg, spec.rotate_deg),
                rotate_method="ellipse",  # the box around a turned box would grow with every degree
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_LINEAR,
                fill=RGB_PADDING,
                fill_mask=invalid,  # for both thermal layers
                p=1.0,
            )
        )
    steps.append(alb.HorizontalFlip(p=spec.flip))  # also at 0: without any geometry Compose refuses boxes
    boxes = alb.BboxParams("pascal_voc", label_fields=["index"], clip=True, min_visibility=MIN_VISIBILITY)
    return alb.Compose(steps, bbox_params=boxes, additional_targets={"valid": "mask"})
