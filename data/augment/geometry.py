"""Where the pixels of a pair go: one matrix for both pictures, the boxes and the mask, and one warp for all of it."""

import random
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.spec import AugmentSpec
from data.augment.values import Heat, Values
from data.card_fields import IGNORE
from data.prepare import RGB_PADDING

Rgb = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Matrix = NDArray[np.float64]
"""3×3, from pixels of the picture to pixels of the changed one; the middle of the first pixel is (0, 0)."""
Layer = TypeVar("Layer", Rgb, Values)

MIN_VISIBILITY = 0.3
"""Share of a box that must stay in the picture, else the box goes."""
_MIN_SIDE = 1.0
"""Pixels of a box that must stay each way."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What was drawn for one pair."""

    size: tuple[int, int]
    """Height, width."""
    flip: bool
    """Whether ``matrix`` mirrors; where there is none, a flip is all that moves."""
    matrix: Matrix | None
    """Of RGB, boxes and mask, the flip included; None: no warp is needed."""
    shift: tuple[float, float] | None
    """Of thermal against RGB after all that, right and down; None: it lies on RGB."""

    def move(self, rgb: Rgb | None, heat: Heat | None) -> tuple[Rgb | None, Heat | None]:
        """Move what is there; uncovered RGB is grey, uncovered thermal invalid, as is what touches an invalid pixel."""
        if rgb is None or heat is None or self.matrix is None or self.shift is not None:
            moved = None if rgb is None else self._move(rgb, self.matrix, RGB_PADDING)
            return moved, None if heat is None else self._move_alone(heat)
        # OpenCV warps four channels faster than three: validity costs nothing beside RGB.
        four = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
        if heat.valid is not None:
            cv2.insertChannel(heat.valid, four, 3)
        four = self._move(np.asarray(four, np.uint8), self.matrix, RGB_PADDING)
        seen = np.asarray(cv2.extractChannel(four, 3), np.uint8)
        values = self._move(heat.values, self.matrix, heat.mean)
        return np.asarray(cv2.cvtColor(four, cv2.COLOR_RGBA2RGB), np.uint8), heat.of(values, seen)

    def move_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Move H×W of class indices: the nearest pixel's, and ``IGNORE`` where nothing is."""
        return self._move(mask, self.matrix, IGNORE, cv2.INTER_NEAREST)

    def move_boxes(self, boxes: Boxes) -> tuple[Boxes, NDArray[np.intp]]:
        """Move [N,4]; return the boxes that are still in the picture, and which of the N they are.

        A turned box is drawn around the ellipse inside it: around its corners it would grow with every degree.
        """
        height, width = self.size
        edges = np.array([width, height, width, height], np.float32)
        if self.matrix is None:
            mirrored = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
            return (mirrored if self.flip else boxes), np.arange(len(boxes))
        inside = np.clip(boxes, 0, edges).astype(np.float64)
        whole = self._around_ellipses(inside)
        clipped = np.clip(whole, 0, edges)
        sides, before = clipped[:, 2:] - clipped[:, :2], whole[:, 2:] - whole[:, :2]
        visible = sides.prod(axis=1) >= MIN_VISIBILITY * before.prod(axis=1)
        index = np.flatnonzero(visible & (sides >= _MIN_SIDE).all(axis=1))
        return clipped[index].astype(np.float32), index

    def _around_ellipses(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes around what becomes of the ellipses in ``boxes``, by the lines that touch them (the dual conic)."""
        assert self.matrix is not None
        to_middle = _translation(0.5, 0.5) @ self.matrix @ _translation(-0.5, -0.5)  # boxes count from pixels' edges
        circle = np.zeros((len(boxes), 3, 3))
        circle[:, [0, 1], [0, 1]] = (boxes[:, 2:] - boxes[:, :2]) / 2
        circle[:, :2, 2] = (boxes[:, 2:] + boxes[:, :2]) / 2
        circle[:, 2, 2] = 1
        moved = to_middle @ circle
        conic = (moved * (1, 1, -1)) @ moved.transpose(0, 2, 1)
        scale, middle = conic[:, 2:, 2], conic[:, :2, 2]
        root = np.sqrt(np.maximum(middle**2 - conic[:, [0, 1], [0, 1]] * scale, 0))
        ends = np.stack([(middle + root) / scale, (middle - root) / scale])
        return np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1)

    def _move_alone(self, heat: Heat) -> Heat:
        matrix = self.matrix
        if self.shift is not None:
            upright = _mirror(self.size) if self.flip else np.eye(3)
            matrix = _translation(*self.shift) @ (upright if matrix is None else matrix)
        valid = heat.valid
        if matrix is not None and valid is None:
            valid = np.full(self.size, 255, np.uint8)
        values = self._move(heat.values, matrix, heat.mean)
        return heat.of(values, None if valid is None else self._move(valid, matrix, 0))

    def _move(self, layer: Layer, matrix: Matrix | None, fill: float, how: int = cv2.INTER_LINEAR) -> Layer:
        if matrix is None:
            return np.asarray(cv2.flip(layer, 1), layer.dtype) if self.flip else layer
        size = self.size[1], self.size[0]
        border = (fill, fill, fill, 0) if layer.ndim == 3 else (fill,)
        if np.array_equal(matrix[2], (0, 0, 1)):
            warped = cv2.warpAffine(layer, matrix[:2], size, None, how, cv2.BORDER_CONSTANT, border)
        else:
            warped = cv2.warpPerspective(layer, matrix, size, None, how, cv2.BORDER_CONSTANT, border)
        return np.asarray(warped, layer.dtype)


def draw_geometry(spec: AugmentSpec, size: tuple[int, int], seeds: dict[str, int]) -> Geometry:
    """Draw what moves a pair of RGB's ``size`` (height, width); each part has a seed of its own in ``seeds``."""
    matrix = _draw_affine(spec, size, random.Random(seeds["affine"]))
    flip = spec.flip > 0 and (spec.flip >= 1 or random.Random(seeds["flip"]).random() < spec.flip)
    if flip and matrix is not None:
        matrix = _mirror(size) @ matrix
    if spec.perspective:
        corners = _corners(size)
        moved = np.random.default_rng(seeds["perspective"]).uniform(-spec.perspective, spec.perspective, (4, 2))
        tilt = cv2.getPerspectiveTransform(corners, (corners + moved * size[::-1]).astype(np.float32))
        upright = _mirror(size) if flip and matrix is None else np.eye(3)
        matrix = tilt @ (upright if matrix is None else matrix)
    shift = None
    if spec.misregistration:
        right, down = np.random.default_rng(seeds["misregistration"]).uniform(-1, 1, 2) * spec.misregistration
        shift = (float(right), float(down))
    return Geometry(size, flip, matrix, shift)


def _draw_affine(spec: AugmentSpec, size: tuple[int, int], rng: random.Random) -> Matrix | None:
    """Drawn in the order and by the formula of albumentations 2.0.8, which did it before: seeds keep their pictures."""
    if not (spec.rotate_deg or spec.crop or spec.scale != (1.0, 1.0)):
        return None
    height, width = size
    right, down = int(rng.uniform(-spec.crop, spec.crop) * width), int(rng.uniform(-spec.crop, spec.crop) * height)
    rng.random(), rng.random()  # of the shear that there is not
    zoom = rng.uniform(*spec.scale)
    rng.random()  # of a second zoom
    angle = np.radians(rng.uniform(-spec.rotate_deg, spec.rotate_deg))
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    x, y = width / 2 - 0.5, height / 2 - 0.5
    matrix = _translation(x + right, y + down) @ turn @ _translation(-x, -y)
    return None if np.allclose(matrix, np.eye(3), atol=1e-9) else matrix


def _translation(right: float, down: float) -> Matrix:
    return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]], np.float64)


def _mirror(size: tuple[int, int]) -> Matrix:
    return np.array([[-1, 0, size[1] - 1], [0, 1, 0], [0, 0, 1]], np.float64)


def _corners(size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - np.float32(0.5)
