"""A grid of pairs with their boxes: what a data set looks like, or what a model will see of it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.augmenter import Augmenter
from data.augment.spec import AugmentSpec
from data.card import DatasetCard, Sample
from data.frame import Image
from data.pairs import load_pair
from data.prepare import Preparer
from pipelines.live.draw import COLOURS, false_colour

_TILE = 256
"""Width of one picture in pixels."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def card_grid(card: DatasetCard, split: str, count: int, augment: bool, seed: int, columns: int = 4) -> Image:
    """Draw up to ``count`` pairs, spread evenly over the split: H×W×3 uint8, RGB above thermal in each cell.

    Args:
        card: The data set.
        split: One of its splits.
        count: Largest number of pairs.
        augment: Draw them as training changes them, by the default AugmentSpec.
        seed: Of the augmentation.
        columns: Pairs in a row.

    Raises:
        DataError: the split is unknown or empty, or a file is wrong.
    """
    samples = card.samples(split)
    chosen = [samples[k] for k in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)]
    preparer = Preparer(card.inputs(), card.load_rig())
    augmenter = Augmenter(AugmentSpec(), card.thermal_spec) if augment else None
    cells = [_cell(sample, card, preparer, augmenter, seed + k) for k, sample in enumerate(chosen)]
    blank = np.zeros_like(cells[0])
    columns = min(columns, len(cells))
    cells += [blank] * (-len(cells) % columns)
    rows = [np.hstack(cells[k : k + columns]) for k in range(0, len(cells), columns)]
    return np.vstack(rows)


def _cell(
    sample: Sample, card: DatasetCard, preparer: Preparer, augmenter: Augmenter | None, seed: int
) -> NDArray[np.uint8]:
    prepared, boxes = load_pair(sample, preparer)
    labels = sample.labels if sample.labels is not None else np.zeros(0, np.int64)
    shown = boxes if boxes is not None else np.zeros((0, 4), np.float32)
    rgb, thermal = prepared.rgb, prepared.thermal
    if augmenter is not None:
        changed = augmenter(rgb, thermal, seed, boxes=shown, labels=labels)
        assert changed.boxes is not None and changed.labels is not None
        rgb, thermal, shown, labels = changed.rgb, changed.thermal, changed.boxes, changed.labels
    height = round(_TILE * rgb.shape[0] / rgb.shape[1])
    views = [
        np.asarray(cv2.resize(view, (_TILE, height), interpolation=cv2.INTER_AREA), np.uint8)
        for view in (rgb, false_colour(thermal, card.thermal_spec.invalid))
    ]
    for view in views:
        _draw(view, shown * (_TILE / rgb.shape[1]), labels, card.classes)
    scene = f" {sample.scene}" if sample.scene else ""
    title = f"{sample.id}{scene}" + ("" if boxes is not None else " (no labels)")
    cv2.putText(views[0], title, (4, height - 5), _FONT, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack(views)


def _draw(view: NDArray[np.uint8], boxes: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    for (left, top, right, bottom), label in zip(boxes.round().astype(int).tolist(), labels.tolist(), strict=True):
        colour = COLOURS[label % len(COLOURS)]
        cv2.rectangle(view, (left, top), (right, bottom), colour, 1)
        cv2.putText(view, names[label], (left, max(9, top - 2)), _FONT, 0.3, colour, 1, cv2.LINE_AA)
