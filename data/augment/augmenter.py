"""Random changes of a training pair: what they are is a function of the pair's seed alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.degrade import DEGRADATIONS
from data.augment.geometry import Boxes, Rgb, draw_geometry
from data.augment.library import Library
from data.augment.spec import AugmentSpec
from data.augment.values import Heat, join, split
from data.frame import Image
from data.thermal import ThermalSpec

Labels = NDArray[np.int64]
Mask = NDArray[np.uint8]

_TRANSFORMS = (
    "thermal", "rgb", "affine", "flip", "perspective", "misregistration", "dropout", "albumentations", *DEGRADATIONS
)  # fmt: skip
"""What has a seed of its own: one for all would tie draws together, and bright pictures would always be large.

A seed is that of its place in this list: new ones come last, so that a pair's seed gives what it always gave.
"""


@dataclass(frozen=True, slots=True)
class Augmented:
    """A changed pair."""

    rgb: Rgb
    """H×W×3; zeros where it is not there."""
    thermal: Image
    """H×W at RGB's size, of the spec's dtype; zeros where it is not there."""
    present: tuple[bool, bool]
    """Whether RGB, thermal is there."""
    boxes: Boxes | None
    """[N,4] x1, y1, x2, y2; those that left the picture are gone."""
    labels: Labels | None
    mask: Mask | None
    """H×W; data.card_fields.IGNORE where the picture shows nothing."""


class Augmenter:
    """Changes a pair; the same seed, the same answer, whatever came before."""

    def __init__(self, spec: AugmentSpec, thermal_spec: ThermalSpec) -> None:
        """Take what recipe and card say.

        Raises:
            DataError: albumentations has no such transform, or none of RGB's pixels alone.
        """
        self.spec = spec
        self.thermal_spec = thermal_spec
        self._library = Library(spec.albumentations) if spec.albumentations else None
        self._degradations = {name: one for name, one in DEGRADATIONS.items() if getattr(spec, name) > 0}

    def __call__(
        self,
        rgb: Rgb,
        thermal: Image,
        seed: int,
        present: Sequence[bool] = (True, True),
        boxes: Boxes | None = None,
        labels: Labels | None = None,
        mask: Mask | None = None,
    ) -> Augmented:
        """Change one pair; what is handed in stays as it is.

        Args:
            rgb: H×W×3 uint8.
            thermal: Of the spec's dtype and any size; it comes back at RGB's size.
            seed: From 0.
            present: Whether RGB, thermal is there; one that is not costs next to nothing.
            boxes: [N,4] float32 x1, y1, x2, y2 in pixels of ``rgb``.
            labels: [N] int64, of the boxes.
            mask: H×W uint8 of class indices, at RGB's size.
        """
        drawn = np.random.SeedSequence(seed).generate_state(len(_TRANSFORMS)).tolist()
        seeds = dict(zip(_TRANSFORMS, drawn, strict=True))
        size = rgb.shape[0], rgb.shape[1]
        there = self._dropped((bool(present[0]), bool(present[1])), seeds["dropout"])
        geometry = draw_geometry(self.spec, size, seeds)
        picture = self._exposed(rgb, seeds["rgb"]) if there[0] else None
        heat = self._warmed(thermal, size, seeds["thermal"]) if there[1] else None
        picture, heat = geometry.move(picture, heat)
        picture = np.zeros_like(rgb) if picture is None else picture
        frame = self._nothing(size, there[1]) if heat is None else join(heat, self.thermal_spec)
        picture, frame = self._degraded(picture, frame, there, seeds)
        if there[0] and self._library is not None:
            picture = self._library(picture, seeds["albumentations"])
        if boxes is not None:
            boxes, kept = geometry.move_boxes(boxes)
            labels = None if labels is None else labels[kept]
        return Augmented(picture, frame, there, boxes, labels, None if mask is None else geometry.move_mask(mask))

    def _dropped(self, present: tuple[bool, bool], seed: int) -> tuple[bool, bool]:
        spec = self.spec
        if not all(present) or not (spec.drop_rgb or spec.drop_thermal):
            return present
        drawn = np.random.default_rng(seed).random()
        return drawn >= spec.drop_rgb, not spec.drop_rgb <= drawn < spec.drop_rgb + spec.drop_thermal

    def _nothing(self, size: tuple[int, int], there: bool) -> Image:
        """Thermal that is absent, or of which no pixel is valid."""
        return np.full(size, self.thermal_spec.invalid if there else 0, self.thermal_spec.dtype)

    def _exposed(self, rgb: Rgb, seed: int) -> Rgb:
        """Another brightness and contrast, drawn as albumentations 2.0.8 did before: seeds keep their pictures."""
        contrast, brightness = self.spec.rgb_contrast, self.spec.rgb_brightness
        if not contrast and not brightness:
            return rgb
        rng = random.Random(seed)
        gain = 1 + rng.uniform(-contrast, contrast)
        shift = rng.uniform(-brightness, brightness) * sum(cv2.mean(rgb)) / 3
        table = np.clip(np.arange(256, dtype=np.float32) * gain + shift, 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(rgb, table), np.uint8)

    def _warmed(self, thermal: Image, size: tuple[int, int], seed: int) -> Heat | None:
        """Thermal at RGB's size with another gain and offset; None: no pixel of it is valid."""
        heat = split(thermal, self.thermal_spec, size)
        if heat is None or not (self.spec.thermal_gain or self.spec.thermal_offset):
            return heat
        rng = np.random.default_rng(seed)
        gain = 1 + rng.uniform(-self.spec.thermal_gain, self.spec.thermal_gain)
        shift = rng.uniform(-self.spec.thermal_offset, self.spec.thermal_offset) * (heat.high - heat.low)
        changed = cv2.addWeighted(heat.values, gain, heat.values, 0, heat.mean * (1 - gain) + shift)
        return heat.of(np.asarray(changed, np.float32))

    def _degraded(self, rgb: Rgb, thermal: Image, there: tuple[bool, bool], seeds: dict[str, int]) -> tuple[Rgb, Image]:
        for name, degradation in self._degradations.items():
            rng = np.random.default_rng(seeds[name])
            if there[degradation.sensor == "thermal"] and rng.random() < getattr(self.spec, name):
                rgb, thermal = degradation(rgb, thermal, rng, self.thermal_spec, rng.uniform(*self.spec.strength))
        return rgb, thermal
