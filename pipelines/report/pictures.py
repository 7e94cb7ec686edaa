"""Pairs with what was found and what is true, on both sensors."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from pipelines.evaluate import Evaluation, Example
from pipelines.live.draw import COLOURS, draw_boxes, false_colour
from pipelines.report.shell import jpeg

SCORE = 0.3
"""Least score of a box that is drawn; that of ``rgbt live`` unless told otherwise."""
_WIDTH = 384
"""Pixels of a view: sharp in two columns on a desktop and in one on a phone, small in the file."""
_DASH = 5


def pictures(evaluation: Evaluation) -> str:
    """Legend and one figure for each example."""
    shown = "".join(_figure(example, evaluation.classes) for example in evaluation.examples)
    return f'{_legend(evaluation)}\n<div class="examples">{shown}</div>'


def _legend(evaluation: Evaluation) -> str:
    used = {int(k) for e in evaluation.examples for k in (*e.truth_labels.tolist(), *_found(e)[:, 5].tolist())}
    entries = [
        f"<li>{_swatch(index)}{escape(name)}</li>" for index, name in enumerate(evaluation.classes) if index in used
    ]
    dashed = '<path d="M1 5H25" stroke="var(--ink)" stroke-width="2" stroke-dasharray="4 3"/>'
    solid = '<path d="M1 5H25" stroke="var(--ink)" stroke-width="3"/>'
    lines = [
        f'<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>{text}</li>'
        for line, text in ((solid, f"found, score ≥ {SCORE:g}"), (dashed, "true"))
    ]
    return f'<ul class="legend">{"".join(entries + lines)}</ul>'


def _swatch(label: int) -> str:
    fill = "rgb({} {} {})".format(*COLOURS[label % len(COLOURS)])
    return (
        '<svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        f'<rect x="0.5" y="-1.5" width="25" height="13" rx="2" fill="{fill}" stroke="var(--muted)"/></svg>'
    )


def _found(example: Example) -> NDArray[np.float32]:
    return example.found[example.found[:, 4] >= SCORE]


def _figure(example: Example, classes: Sequence[str]) -> str:
    views = []
    if example.rgb.any():  # a sensor that the model does not take is all zeros
        views.append(("RGB", example.rgb))
    if example.thermal.any():
        views.append(("Thermal", false_colour(example.thermal, example.invalid)))
    found, truth = _tell(example, classes)
    images = "".join(
        f'<img src="{jpeg(_draw(view, example, classes))}" width="{_WIDTH}" height="{_height(example)}" '
        f'alt="{escape(f"{sensor} view of pair {example.id}. Found: {found}. True: {truth}.")}">'
        for sensor, view in views
    )
    css = "views" if len(views) > 1 else "views one"
    return (
        f'<figure><div class="{css}">{images}</div><figcaption><strong>{escape(example.id)}</strong>'
        f'<span class="note">found: {escape(found)} · true: {escape(truth)}</span></figcaption></figure>'
    )


def _tell(example: Example, classes: Sequence[str]) -> tuple[str, str]:
    """What was found and what is true, in words."""
    counted = []
    for labels in (_found(example)[:, 5].astype(int), example.truth_labels):
        numbers = sorted(Counter(labels.tolist()).items())
        counted.append(", ".join(f"{count} × {classes[label]}" for label, count in numbers) or "nothing")
    return counted[0], counted[1]


def _height(example: Example) -> int:
    height, width, _ = example.rgb.shape
    scaled: int = round(height * _WIDTH / width)
    return scaled


def _draw(view: Image, example: Example, classes: Sequence[str]) -> NDArray[np.uint8]:
    factor = _WIDTH / example.rgb.shape[1]
    how = cv2.INTER_AREA if view.shape[1] > _WIDTH else cv2.INTER_LINEAR
    picture = np.asarray(cv2.resize(view, (_WIDTH, _height(example)), interpolation=how), np.uint8)
    for box, label in zip(example.truth * factor, example.truth_labels.tolist(), strict=True):
        _dashed(picture, np.round(box).astype(int).tolist(), COLOURS[label % len(COLOURS)])
    found = _found(example).copy()
    found[:, :4] *= factor
    # From the lowest score up, so that the surest label lies on top.
    draw_boxes(picture, found[np.argsort(found[:, 4], kind="stable")], classes)
    return picture


def _dashed(picture: NDArray[np.uint8], box: Sequence[int], colour: tuple[int, int, int]) -> None:
    """A thin dashed rectangle with a shadow, to be seen on dark and on bright ground."""
    for shift, shade in ((1, (0, 0, 0)), (0, colour)):
        x1, y1, x2, y2 = (side + shift for side in box)
        for x in range(x1, x2, 2 * _DASH):
            for y in (y1, y2):
                cv2.line(picture, (x, y), (min(x + _DASH, x2), y), shade, 1)
        for y in range(y1, y2, 2 * _DASH):
            for x in (x1, x2):
                cv2.line(picture, (x, y), (x, min(y + _DASH, y2)), shade, 1)
