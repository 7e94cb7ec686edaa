"""A grid of pairs with their boxes, masks and classes: what a data set looks like, or what a model will see of it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.augment.augmenter import Augmenter
from data.augment.pair import augment_pair
from data.augment.spec import AugmentSpec
from data.card import SENSORS, DatasetCard, Sample
from data.card_fields import IGNORE
from data.frame import Image
from data.pairs import Truth, load_pair
from data.prepare import Prepared, Preparer
from pipelines.live.draw import COLOURS, draw_map, false_colour

_TILE = 256
"""Width of one picture in pixels."""
_GREY = (150, 150, 150)
"""Of regions that are ignored."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def card_grid(
    card: DatasetCard, split: str, count: int, augment: AugmentSpec | None, seed: int, columns: int = 4
) -> Image:
    """Draw up to ``count`` pairs, spread evenly over the split: H×W×3 uint8, RGB above thermal in each cell.

    Args:
        card: The data set.
        split: One of its splits.
        count: Largest number of pairs.
        augment: Draw them as training changes them by it; None: as they are.
        seed: Of the augmentation.
        columns: Pairs in a row.

    Raises:
        DataError: the split is unknown or empty, or a file is wrong.
    """
    samples = card.samples(split)
    chosen = [samples[k] for k in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)]
    preparer = Preparer(card.inputs(), card.load_rig())
    augmenter = None if augment is None else Augmenter(augment, card.thermal_spec)
    cells = [_cell(sample, card, preparer, augmenter, seed + k) for k, sample in enumerate(chosen)]
    blank = np.zeros_like(cells[0])
    columns = min(columns, len(cells))
    cells += [blank] * (-len(cells) % columns)
    rows = [np.hstack(cells[k : k + columns]) for k in range(0, len(cells), columns)]
    return np.vstack(rows)


def _cell(
    sample: Sample, card: DatasetCard, preparer: Preparer, augmenter: Augmenter | None, seed: int
) -> NDArray[np.uint8]:
    prepared, truth = _load(sample, card, preparer)
    if augmenter is not None:
        prepared, truth = augment_pair(augmenter, prepared, truth, seed)
    rgb, thermal, there = prepared.rgb, prepared.thermal, prepared.present > 0
    height = round(_TILE * rgb.shape[0] / rgb.shape[1])
    views = [
        np.asarray(cv2.resize(view, (_TILE, height), interpolation=cv2.INTER_AREA), np.uint8)
        for view in (rgb, false_colour(thermal, card.thermal_spec.invalid))
    ]
    for view, sensor, is_there in zip(views, SENSORS, there, strict=True):
        if not is_there:
            view[:] = 0
        _draw(view, truth, _TILE / rgb.shape[1], card.classes)
        if not is_there:
            cv2.putText(view, f"{sensor} is not there", (4, height // 2), _FONT, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    words = [sample.id, sample.scene or "", "" if truth else "(no labels)"]
    if "label" in truth:
        words.append(f"= {card.image_classes[int(truth['label'])]}")
    title = " ".join(word for word in words if word)
    cv2.putText(views[0], title, (4, height - 5), _FONT, 0.35, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack(views)


def _load(sample: Sample, card: DatasetCard, preparer: Preparer) -> tuple[Prepared, Truth]:
    """A pair with what is known of it for every task."""
    prepared, truth = load_pair(sample, preparer, task=None)
    for task in card.tasks():
        if sample.has(task):
            truth |= load_pair(sample, preparer, task=task, card=card)[1]
    return prepared, truth


def _draw(view: NDArray[np.uint8], truth: Truth, scale: float, names: Sequence[str]) -> None:
    """Tint a view by the mask, darken what is not judged, and draw the boxes, in place."""
    if "mask" in truth:
        mask = cv2.resize(truth["mask"], (view.shape[1], view.shape[0]), interpolation=cv2.INTER_NEAREST)
        view[mask == IGNORE] //= 3
        draw_map(view, truth["mask"], names)
    if "boxes" not in truth:
        return
    boxes = (truth["boxes"] * scale).round().astype(int).tolist()
    for (left, top, right, bottom), label in zip(boxes, truth["labels"].tolist(), strict=True):
        colour, name = (COLOURS[label % len(COLOURS)], names[label]) if label >= 0 else (_GREY, "ignored")
        cv2.rectangle(view, (left, top), (right, bottom), colour, 1)
        cv2.putText(view, name, (left, max(9, top - 2)), _FONT, 0.3, colour, 1, cv2.LINE_AA)
