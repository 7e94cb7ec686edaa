"""Pairs with what was answered and what is true, on both sensors."""

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from pipelines.evaluation import Evaluation, Example
from pipelines.live.draw import COLOURS, draw_boxes, draw_label, draw_map, false_colour
from pipelines.report.shell import jpeg

SCORE = 0.3
"""Least score of a box that is drawn; that of ``rgbt live`` unless told otherwise."""
LIKELIEST = 3
"""Classes of a picture that are told, with their probabilities."""
_WIDTH = 384
"""Pixels of a view: sharp in two columns on a desktop and in one on a phone, small in the file."""
_DASH = 5
_GREY = (150, 150, 150)
_LINE = '<svg class="key" viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5H25" stroke="var(--ink)" {}/></svg>'
_SOLID, _DASHED = _LINE.format('stroke-width="3"'), _LINE.format('stroke-width="2" stroke-dasharray="4 3"')
_THIN = _LINE.format('stroke-width="1.5"')


class _Way(NamedTuple):
    """How a task's answers are shown."""

    draw: Callable[[NDArray[np.uint8], Example, Sequence[str]], None]
    """Onto a view of the whole pair, of any size."""
    tell: Callable[[Example, Sequence[str]], tuple[str, str]]
    """What was answered and what is true, in words."""
    used: Callable[[Example], set[int]]
    """Classes that have a colour in it."""
    marks: tuple[tuple[str, str], ...]
    """Legend: a mark, and what it says."""


def pictures(evaluation: Evaluation) -> str:
    """Legend and one figure for each example."""
    way = WAYS[evaluation.task]
    shown = "".join(_figure(example, evaluation.classes, way) for example in evaluation.examples)
    return f'{_legend(evaluation, way)}\n<div class="examples">{shown}</div>'


def _legend(evaluation: Evaluation, way: _Way) -> str:
    used = {label for example in evaluation.examples for label in way.used(example)}
    entries = [f"<li>{_swatch(at)}{escape(name)}</li>" for at, name in enumerate(evaluation.classes) if at in used]
    entries += [f"<li>{mark}{words}</li>" for mark, words in way.marks]
    return f'<ul class="legend">{"".join(entries)}</ul>' if entries else ""


def _swatch(label: int) -> str:
    fill = "rgb({} {} {})".format(*COLOURS[label % len(COLOURS)])
    return (
        '<svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        f'<rect x="0.5" y="-1.5" width="25" height="13" rx="2" fill="{fill}" stroke="var(--muted)"/></svg>'
    )


def _figure(example: Example, classes: Sequence[str], way: _Way) -> str:
    views = []
    if example.rgb.any():  # a sensor that the model does not take, or that is taken away, is all zeros
        views.append(("RGB", example.rgb))
    if example.thermal.any():
        views.append(("Thermal", false_colour(example.thermal, example.invalid)))
    found, truth = way.tell(example, classes)
    images = "".join(
        f'<img src="{jpeg(_draw(view, example, classes, way))}" width="{_WIDTH}" height="{_height(example)}" '
        f'alt="{escape(f"{sensor} view of pair {example.id}. Found: {found}. True: {truth}.")}">'
        for sensor, view in views
    )
    css = "views" if len(views) > 1 else "views one"
    under = f" ({escape(example.under)})" if example.under else ""
    return (
        f'<figure><div class="{css}">{images}</div><figcaption><strong>{escape(example.id)}</strong>{under}'
        f'<span class="note">found: {escape(found)} · true: {escape(truth)}</span></figcaption></figure>'
    )


def _height(example: Example) -> int:
    height, width, _ = example.rgb.shape
    scaled: int = round(height * _WIDTH / width)
    return scaled


def _draw(view: Image, example: Example, classes: Sequence[str], way: _Way) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if view.shape[1] > _WIDTH else cv2.INTER_LINEAR
    picture = np.asarray(cv2.resize(view, (_WIDTH, _height(example)), interpolation=how), np.uint8)
    way.draw(picture, example, classes)
    return picture


def _sure(example: Example) -> NDArray[np.float32]:
    """[K,6]: the boxes that are drawn."""
    boxes: NDArray[np.float32] = example.answer["boxes"]
    return boxes[boxes[:, 4] >= SCORE]


def _draw_boxes(picture: NDArray[np.uint8], example: Example, classes: Sequence[str]) -> None:
    """True boxes dashed, regions that are ignored dashed in grey, found boxes with class and score.

    These from the lowest up, so that the surest lies on top.
    """
    factor = picture.shape[1] / example.rgb.shape[1]
    for box, label in zip(example.truth["boxes"] * factor, example.truth["labels"].tolist(), strict=True):
        _dashed(picture, np.round(box).astype(int).tolist(), COLOURS[label % len(COLOURS)] if label >= 0 else _GREY)
    found = _sure(example).copy()
    found[:, :4] *= factor
    draw_boxes(picture, found[np.argsort(found[:, 4], kind="stable")], classes)


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


def _tell_boxes(example: Example, classes: Sequence[str]) -> tuple[str, str]:
    counted = []
    for labels in (_sure(example)[:, 5].astype(int), _true_labels(example)):
        numbers = sorted(Counter(labels.tolist()).items())
        counted.append(", ".join(f"{count} × {classes[label]}" for label, count in numbers) or "nothing")
    return counted[0], counted[1]


def _true_labels(example: Example) -> NDArray[np.int64]:
    """Of true boxes, without the regions that are ignored."""
    labels: NDArray[np.int64] = example.truth["labels"]
    return labels[labels >= 0]


def _classes_of_boxes(example: Example) -> set[int]:
    return {int(label) for label in (*_true_labels(example).tolist(), *_sure(example)[:, 5].tolist())}


def _draw_mask(picture: NDArray[np.uint8], example: Example, classes: Sequence[str]) -> None:
    """What was answered as a tint, the true outlines white upon black."""
    draw_map(picture, example.answer["class_map"], classes)
    truth: Any = cv2.resize(example.truth["mask"], picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for label in _named(truth, classes):
        outlines, _ = cv2.findContours((truth == label).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for shade, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.drawContours(picture, outlines, -1, shade, width)


def _named(mask: NDArray[np.uint8], classes: Sequence[str]) -> list[int]:
    """The classes of a mask: neither background nor what is not judged."""
    return [label for label in np.unique(mask).tolist() if 0 < label <= len(classes)]


def _tell_mask(example: Example, classes: Sequence[str]) -> tuple[str, str]:
    told = []
    for mask in (example.answer["class_map"], example.truth["mask"]):
        shares = [(classes[label - 1], float((mask == label).mean())) for label in _named(mask, classes)]
        told.append(", ".join(f"{name} {100 * share:.1f} %" for name, share in shares) or "background alone")
    return told[0], told[1]


def _classes_of_mask(example: Example) -> set[int]:
    return {int(label) - 1 for label in np.unique(example.answer["class_map"]).tolist() if label}


def _draw_label(picture: NDArray[np.uint8], example: Example, classes: Sequence[str]) -> None:
    draw_label(picture, example.answer["probabilities"], classes)


def _tell_label(example: Example, classes: Sequence[str]) -> tuple[str, str]:
    sure: NDArray[np.float32] = example.answer["probabilities"]
    best = np.argsort(-sure, kind="stable")[:LIKELIEST].tolist()
    return ", ".join(f"{classes[label]} {sure[label]:.2f}" for label in best), classes[int(example.truth["label"])]


def _classes_of_label(example: Example) -> set[int]:
    return {int(example.answer["probabilities"].argmax())}


WAYS: dict[str, _Way] = {
    "detect": _Way(
        _draw_boxes, _tell_boxes, _classes_of_boxes, ((_SOLID, f"found, score ≥ {SCORE:g}"), (_DASHED, "true"))
    ),
    "segment": _Way(_draw_mask, _tell_mask, _classes_of_mask, ((_THIN, "true outline, white upon black"),)),
    "classify": _Way(_draw_label, _tell_label, _classes_of_label, ()),
}
"""Task → how its answers are shown."""
