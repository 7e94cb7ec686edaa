"""The dense form: what the full graph does around its network, in numpy and OpenCV.

For engines that take neither raw integers nor top-k (NCNN, LiteRT): ``prepare`` makes canvases of raw frames, the
engine makes head maps of them, ``decode`` makes answers of those. Each equals what the full graph does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from export.dense_spec import DenseSpec, DenseThermal

__all__ = ["DenseSpec", "DenseThermal", "answer", "decode", "prepare", "row_by_row"]

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""An engine: inputs by name → outputs by name."""

_HUGE = 1e30
"""From here on a temperature counts as infinite."""


def answer(run: Run, feeds: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    """Answer a batch of raw pairs (as ``prepare`` takes them) by a dense network; as ``decode`` returns them."""
    return decode(run(prepare(feeds, spec)), spec)


def row_by_row(run: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a network of batch 1 on feeds of any batch, one row after the other."""
    count = len(next(iter(feeds.values())))
    rows = [run({name: values[at : at + 1] for name, values in feeds.items()}) for at in range(count)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def prepare(feeds: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    """Raw frames → what the network takes, float32.

    Args:
        feeds: ``rgb`` uint8 [B,Hr,Wr,3], ``thermal`` [B,Ht,Wt] of the unit's dtype, ``present`` float32 [B,2]. What an
            absent sensor's buffer holds does not matter.
        spec: The bundle's.

    Returns:
        The inputs that ``spec.inputs`` names, with the batch in place of 1; canvases of absent sensors are zero.
    """
    present = feeds["present"]
    makers = {
        "rgb": lambda: _canvases(feeds["rgb"], present[:, 0], 3, spec, _rgb_maker(spec)),
        "thermal": lambda: _canvases(feeds["thermal"], present[:, 1], 1, spec, _thermal_maker(spec)),
        "rgb_present": lambda: _flags(present[:, 0]),
        "thermal_present": lambda: _flags(present[:, 1]),
    }
    return {name: makers[name]() for name in spec.inputs}


def _flags(present: Array) -> Array:
    return present.astype(np.float32).reshape(-1, 1, 1, 1)


def _canvases(
    frames: Array, present: Array, channels: int, spec: DenseSpec, normalise: Callable[[Array], Array]
) -> Array:
    """Normalised and laid on the canvas, [B,channels,H,W]: bilinear, half-pixel, top left."""
    height, width = spec.content
    out = np.zeros((len(frames), channels, *spec.canvas), np.float32)
    for frame, there, canvas in zip(frames, present, out, strict=True):
        if there:
            picture = _resized(normalise(frame), spec.content)
            canvas[:, :height, :width] = picture.transpose(2, 0, 1) if picture.ndim == 3 else picture
    return out


def _resized(picture: Array, size: tuple[int, int]) -> Array:
    """[h,w] or [h,w,C] at another height and width."""
    if picture.shape[:2] == size:
        return picture
    resized: Array = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized


def _rgb_maker(spec: DenseSpec) -> Callable[[Array], Array]:
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    table = ((np.arange(256, dtype=np.float32)[:, None] - mean) / std)[None]  # an entry for each value and channel

    def normalise(frame: Array) -> Array:
        looked_up: Array = cv2.LUT(np.ascontiguousarray(frame), table)
        return looked_up

    return normalise


def _thermal_maker(spec: DenseSpec) -> Callable[[Array], Array]:
    scale = spec.thermal

    def normalise(frame: Array) -> Array:
        x = frame.astype(np.float32)
        valid = x != np.float32(scale.invalid)
        if scale.unit == "celsius":  # only floats can hold NaN or infinity
            valid &= np.abs(x) < _HUGE  # false of NaN
            x = np.where(valid, x, np.float32(0))
        low, span = _range(x, valid, scale)
        z = np.clip((x - low) / span, np.float32(-1), np.float32(2))
        if scale.polarity == "black-hot":
            z = 1 - z
        return np.where(valid, (z - np.float32(0.5)) / np.float32(0.25), np.float32(0))

    return normalise


def _range(x: Array, valid: Array, scale: DenseThermal) -> tuple[np.float32, np.float32]:
    """Where 0 of a frame's scale lies, and how far 1 is from it."""
    if scale.range is not None:
        return np.float32(scale.range[0]), np.float32(scale.range[1] - scale.range[0])
    share = _block_means(valid.astype(np.float32), scale.block)
    # A block at the lower or right border may lie mostly outside the picture: any valid pixel of it counts there.
    covered = share >= 0.25 * _block_means(np.ones_like(x), scale.block)
    means = _block_means(np.where(valid, x, np.float32(0)), scale.block) / np.maximum(share, np.float32(1e-6))
    low, high = (means[covered].min(), means[covered].max()) if covered.any() else (np.float32(0), np.float32(0))
    span = np.maximum(high - low, np.float32(scale.min_span))
    return np.float32((low + high - span) / np.float32(2)), np.float32(span)


def _block_means(x: Array, side: int) -> Array:
    """Means of blocks of [H,W], which is filled up with zeros to whole blocks."""
    height, width = x.shape
    x = np.pad(x, ((0, -height % side), (0, -width % side)))
    rows = x.reshape(-1, side, x.shape[1]).sum(1, dtype=np.float64)
    means: Array = (rows.reshape(len(rows), -1, side).sum(2) / side**2).astype(np.float32)
    return means


def decode(maps: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    """Head maps of a batch → what the full graph answers: ``boxes``; ``class_map``, ``confidence``; ``probabilities``.

    Args:
        maps: float32, the outputs that ``spec.outputs`` names, with the batch in place of 1.
        spec: The bundle's.
    """
    return DECODERS[spec.task](maps, spec)


def _decode_boxes(maps: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    slots = min(spec.slots, int(np.prod(maps["heat"].shape[1:])))
    boxes = np.zeros((len(maps["heat"]), slots, 6), np.float32)
    for heat, box, rows in zip(maps["heat"], maps["box"], boxes, strict=True):
        found = _peaks(heat, box, slots, spec)
        rows[: len(found)] = found
    return {"boxes": boxes}


def _peaks(heat: Array, box: Array, slots: int, spec: DenseSpec) -> Array:
    """[N,6] of the best N ≤ slots cells that are the highest among their neighbours, by falling score."""
    around = np.stack([cv2.dilate(plane, np.ones((3, 3), np.uint8)) for plane in heat])
    kind, row, column = np.nonzero(around == heat)
    with np.errstate(over="ignore"):  # far below zero: 1 / (1 + inf) is 0, as it should be
        score = 1 / (1 + np.exp(-heat[kind, row, column]))
    best = np.argsort(-score, kind="stable")[:slots]
    best = best[score[best] > 0]
    kind, row, column = kind[best], row[best], column[best]
    left, up, right, down = box[:, row, column]
    x, y = (column * spec.stride).astype(np.float32), (row * spec.stride).astype(np.float32)
    sx, sy = np.array(spec.to_rgb, np.float32)
    sides = [(x - left) * sx, (y - up) * sy, (x + right) * sx, (y + down) * sy]
    found: Array = np.stack([*sides, score[best], kind.astype(np.float32)], 1)
    return found


def _decode_masks(maps: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    pairs = [_mask(scores, spec) for scores in maps["scores"]]
    return {"class_map": np.stack([kind for kind, _ in pairs]), "confidence": np.stack([sure for _, sure in pairs])}


def _mask(scores: Array, spec: DenseSpec) -> tuple[Array, Array]:
    """Logits [C,h,w] → class and its probability for each pixel of the mask."""
    planes = np.stack([_undone(plane, spec) for plane in scores])
    best, kind = planes[0].copy(), np.zeros(spec.answer_size, np.uint8)
    for index, plane in enumerate(planes[1:], start=1):
        kind[plane > best] = index
        np.maximum(best, plane, out=best)
    planes -= best
    return kind, 1 / np.exp(planes, out=planes).sum(0)


def _undone(plane: Array, spec: DenseSpec) -> Array:
    """[h,w] at any stride over the canvas → the mask's height and width; what lies in the padding is cut off."""
    stride = spec.canvas[0] // plane.shape[0]
    if any(side % stride for side in spec.content):
        plane, stride = _resized(plane, spec.canvas), 1
    shown = plane[: spec.content[0] // stride, : spec.content[1] // stride]
    return _resized(np.ascontiguousarray(shown), spec.answer_size)


def _decode_classes(maps: Mapping[str, Array], spec: DenseSpec) -> dict[str, Array]:
    scores = maps["scores"]
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return {"probabilities": powers / powers.sum(1, keepdims=True)}


DECODERS: dict[str, Callable[[Mapping[str, Array], DenseSpec], dict[str, Array]]] = {
    "detect": _decode_boxes,
    "segment": _decode_masks,
    "classify": _decode_classes,
}
"""Task → how its head maps are read."""
