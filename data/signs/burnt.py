"""What does not belong to the scene: burnt-in text, constant borders, rows of telemetry, false colours."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.signs.sign import Sign, finite, plane
from data.thermal import ThermalSpec

_LEAST = 6
"""Frames that are needed to say what never changes."""
_STILL, _MOVED, _CONTRAST, _SHARP = 0.04, 0.12, 0.2, 0.4
"""Parts of the values' span: a pixel that changes less is still; the scene must have changed more; a mark stands out
from what is around it by more, and from the pixel beside it by the last. Lamps before a fixed camera stay too, but
optics blur them: chosen on six groups of real frames, where still pixels of the scene had steps up to 0.22 (90th
percentile) and text drawn into the same frames, through JPEG 90, mostly above 0.6.
"""
_MARK_PIXELS, _BORDER = 12, 0.003
_BOXES = 8
_EDGE_ROWS = 8
"""Rows at the top and at the bottom that may be telemetry."""
_OFTEN = 0.8
_COLOUR = 12.0
"""Mean distance of R, G, B that lossy coding of a grey picture stays under."""


def find_false_colour(frames: Sequence[Image]) -> list[Sign]:
    """Say when three channels differ: a palette was laid over the measurement."""
    apart = [
        _apart(frame) if frame.ndim == 3 and frame.shape[2] >= 3
        else 0.0
        for frame in frames
    ]  # fmt: skip
    found = [one for one in apart if one > _COLOUR]
    if not found:
        return []
    text = (
        f"{len(found)} of {len(frames)} thermal frames are false colour (channels differ by {np.mean(found):.0f} on "
        "average): they hold no measurement; deliver the grey or raw frames"
    )
    return [Sign("false_colour", text)]


def _apart(frame: Image) -> float:
    few = frame[::4, ::4, :3].astype(np.float32)
    return float(np.ptp(few, axis=2).mean())


def find_border(frames: Sequence[Image], spec: ThermalSpec | None) -> list[Sign]:
    """Say which part at the frame's edge is always the same number; nothing where the spec says that it is marked."""
    alike = _same_size(frames)
    if len(alike) < _LEAST or (spec is not None and spec.marked):
        return []
    low, high, mean = _over_time(alike)
    return _border((low == high) & ~_known(low, spec), mean)


def find_overlay(frames: Sequence[Image], spec: ThermalSpec | None) -> list[Sign]:
    """Say which sharp marks are the same in all frames although the scene changes: burnt-in text."""
    alike = _same_size(frames)
    if len(alike) < _LEAST:
        return []
    low, high, mean = _over_time(alike)
    span = max(float(np.percentile(high, 99) - np.percentile(low, 1)), 1e-6)
    change = high - low
    if float(np.median(change)) < _MOVED * span:  # a fixed camera and a still scene: everything stays
        return []
    around = cv2.medianBlur(np.clip((mean - low.min()) / span * 255, 0, 255).astype(np.uint8), 31) / 255 * span
    marks = (change < _STILL * span) & (np.abs(mean - low.min() - around) > _CONTRAST * span) & ~_known(low, spec)
    beside = np.ones((3, 3), np.uint8)
    step = np.maximum(cv2.dilate(mean, beside) - mean, mean - cv2.erode(mean, beside))
    boxes, pixels = _boxes(marks & (step > _SHARP * span))
    if not boxes:
        return []
    text = (
        f"{pixels} pixels never change over {len(alike)} frames and stand out: burnt-in text or marks, at "
        f"{', '.join(str(list(box)) for box in boxes[:3])}{' …' if len(boxes) > 3 else ''} (x1, y1, x2, y2)"
    )
    blank = [list(box) for box in (*(spec.blank if spec is not None else ()), *boxes)]
    return [Sign("overlay", text, {"thermal_spec": {"blank": blank}}, 0.9)]


def without_empty(frame: Image, value: float) -> Image:
    """The frame as H×W, with the median of the others where pixels are ``value`` or not finite."""
    one = plane(frame)
    empty = one == value if one.dtype.kind != "f" else (one == value) | ~np.isfinite(one)
    if not empty.any() or empty.all():
        return one
    return np.where(empty, np.median(one[~empty]).astype(one.dtype), one)


def _known(image: Image, spec: ThermalSpec | None) -> NDArray[np.bool_]:
    """H×W bool: what the spec blanks already."""
    known = np.zeros(image.shape, bool)
    for x1, y1, x2, y2 in spec.blank if spec is not None else ():
        known[y1:y2, x1:x2] = True
    return known


def find_telemetry(frames: Sequence[Image], spec: ThermalSpec | None) -> list[Sign]:
    """Say which first or last rows have nothing to do with the rows beside them."""
    alike = _same_size(frames)
    if len(alike) < 2 or alike[0].shape[0] < 6 * _EDGE_ROWS:
        return []
    height, width = alike[0].shape
    known = {
        y for x1, y1, x2, y2 in (spec.blank if spec is not None else ()) if x2 - x1 >= width for y in range(y1, y2)
    }
    foreign = np.mean([_foreign_rows(frame) for frame in alike], axis=0) >= _OFTEN
    signs = []
    for name, rows in (("first", range(_EDGE_ROWS)), ("last", range(height - 1, height - 1 - _EDGE_ROWS, -1))):
        found = [row for row in rows if foreign[row if name == "first" else row - height]]
        if not found or len(found) == _EDGE_ROWS or set(found) <= known:
            continue
        count = max(abs(row - rows[0]) + 1 for row in found)
        top = 0 if name == "first" else height - count
        blank = [list(box) for box in (spec.blank if spec is not None else ())] + [[0, top, width, top + count]]
        text = f"the {name} {count} row{'s' * (count > 1)} of {height} hold other numbers than a picture: telemetry"
        signs.append(Sign("telemetry", text, {"thermal_spec": {"blank": blank}}, 0.9))
    return signs


def _foreign_rows(frame: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[2·8] bool: first rows, then last ones, that differ from the picture inside; constant rows are a border."""
    outer = np.vstack([frame[:_EDGE_ROWS], frame[-_EDGE_ROWS:]])
    inner = frame[_EDGE_ROWS:-_EDGE_ROWS]
    first, last = (np.repeat(frame[row][None], _EDGE_ROWS, axis=0) for row in (_EDGE_ROWS, -1 - _EDGE_ROWS))
    spread = float(inner.std()) + 1e-6
    step = np.abs(outer - np.vstack([first, last])).mean(axis=1)
    # Over as many rows, the picture itself changes by so much.
    usual = float(np.abs(inner[:-_EDGE_ROWS] - inner[_EDGE_ROWS:]).mean(axis=1).max())
    rough = np.abs(np.diff(outer, axis=1)).mean(axis=1)
    usual_rough = float(np.median(np.abs(np.diff(inner, axis=1)).mean(axis=1))) + 1e-6
    deviation = outer.std(axis=1)
    unlike = (rough > 4 * usual_rough) | (deviation < 0.2 * spread)
    return np.asarray((step > 1.5 * usual) & (step > spread) & unlike & (deviation > 0))


def _same_size(frames: Sequence[Image]) -> list[NDArray[np.float32]]:
    """The frames of the commonest size, one channel each."""
    if not frames:
        return []
    common = Counter(frame.shape[:2] for frame in frames).most_common(1)[0][0]
    return [finite(plane(frame)) for frame in frames if frame.shape[:2] == common]


def _over_time(frames: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
    low, high, total = frames[0].copy(), frames[0].copy(), np.zeros_like(frames[0])
    for frame in frames:
        np.minimum(low, frame, out=low)
        np.maximum(high, frame, out=high)
        total += frame / len(frames)
    return low, high, total


def _border(constant: NDArray[np.bool_], mean: NDArray[np.float32]) -> list[Sign]:
    """A constant area that touches the frame's edge: a warp left it, or the camera frames its picture."""
    _, areas = cv2.connectedComponents(constant.astype(np.uint8), connectivity=4)
    edge = {int(one) for line in (areas[0], areas[-1], areas[:, 0], areas[:, -1]) for one in line} - {0}
    parts = [areas == one for one in edge]
    alike = [part for part in parts if float(np.ptp(mean[part])) < 1e-3]
    border = np.logical_or.reduce(alike) if alike else np.zeros_like(constant)
    share = float(border.mean())
    if share < _BORDER or share > 0.9:
        return []
    value = float(np.median(mean[border]))
    change = {"thermal_spec": {"marked": True, "invalid": value}}
    text = f"{share:.1%} of the frame, at its edge, is always {value:g}: a border that shows nothing"
    return [Sign("overlay", text, change, 0.9)]


def _boxes(marks: NDArray[np.bool_]) -> tuple[list[tuple[int, int, int, int]], int]:
    """Boxes around marks that lie together, the largest first, and how many pixels they have."""
    closed = cv2.morphologyEx(marks.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 15), np.uint8))
    count, areas, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    pixels = np.bincount(areas[marks], minlength=count)
    kept = [one for one in np.argsort(-pixels) if one and pixels[one] >= _MARK_PIXELS][:_BOXES]
    boxes = []
    for x, y, width, height in stats[kept, :4].tolist():
        right, bottom = min(x + width + 2, marks.shape[1]), min(y + height + 2, marks.shape[0])
        boxes.append((max(0, x - 2), max(0, y - 2), right, bottom))
    return boxes, int(pixels[kept].sum())
