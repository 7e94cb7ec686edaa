"""From a sample of a card to the arrays of one pair, the same for training, evaluation and golden pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.card import DatasetCard
from data.card_fields import IGNORE
from data.errors import DataError
from data.images import read_header, read_rgb, read_thermal
from data.labels.masks import read_mask
from data.prepare import Prepared, Preparer, fit
from data.sample import SENSORS, Sample

Truth = dict[str, NDArray[Any]]
"""What is known of a pair for a task, in pixels of the model's RGB: ``boxes`` float32 [N,4] and ``labels`` int64 [N];
``mask`` uint8 [Hr,Wr], 255 where nothing is judged; ``label`` int64 [] for the whole picture. Empty: nothing is."""


def load_pair(
    sample: Sample,
    preparer: Preparer,
    sensors: Sequence[str] = SENSORS,
    task: str | None = "detect",
    card: DatasetCard | None = None,
) -> tuple[Prepared, Truth]:
    """Read and prepare one pair; return it with what is known of it for ``task`` (None: nothing is looked for).

    A sensor that is not among ``sensors``, or that the sample lacks, is not read: zeros, and absent in ``present``.

    Args:
        sample: Of ``card``.
        preparer: For the card's inputs and rig.
        sensors: Those to read.
        task: detect, segment or classify; only its labels are read.
        card: Says what a mask's pixels mean; segment needs it.

    Raises:
        DataError: a file is missing, truncated, or not of the declared size, dtype or channels; or none is to be read.
    """
    there = [sensor for sensor in sensors if sensor in sample.sensors]
    if not there:
        raise DataError(f"pair '{sample.id}' has only {' and '.join(sample.sensors)}, not {' or '.join(sensors)}")
    rgb = read_rgb(sample.rgb) if "rgb" in there else None
    thermal = read_thermal(sample.thermal, preparer.inputs.thermal) if "thermal" in there else None
    # Boxes and masks are in RGB pixels, so a canvas needs RGB's size also where only thermal is read.
    sized = rgb is None and preparer.inputs.letterbox and "rgb" in sample.sensors
    rgb_size = read_header(sample.rgb).size if sized else None
    prepared = preparer(rgb, thermal, f"pair '{sample.id}'", rgb_size=rgb_size)
    if task is None or not sample.has(task):
        return prepared, {}
    delivered = rgb.shape[:2] if rgb is not None else rgb_size or preparer.inputs.rgb_size
    return prepared, _TRUTHS[task](sample, preparer, prepared.scale, (delivered[0], delivered[1]), card)


def _boxes(
    sample: Sample, preparer: Preparer, scale: float, delivered: tuple[int, int], card: DatasetCard | None
) -> Truth:
    assert sample.boxes is not None and sample.labels is not None
    height, width = preparer.inputs.rgb_size
    limits = np.array([width, height, width, height], np.float32)
    return {"boxes": np.clip(sample.boxes * np.float32(scale), 0, limits), "labels": sample.labels}


def _mask(
    sample: Sample, preparer: Preparer, scale: float, delivered: tuple[int, int], card: DatasetCard | None
) -> Truth:
    assert card is not None
    mask = read_mask(sample, card)
    if mask.shape != delivered:
        raise DataError(
            f"{sample.mask}: the mask is {mask.shape[1]}×{mask.shape[0]} (width×height), but the RGB frame of pair "
            f"'{sample.id}' is {delivered[1]}×{delivered[0]}"
        )
    if not preparer.inputs.letterbox:
        return {"mask": mask}
    canvas = preparer.inputs.rgb_size
    _, (height, width) = fit(delivered, canvas)
    placed = np.full(canvas, IGNORE, np.uint8)
    # EXACT: centres of pixels lie where they do in the pictures; plain nearest is off by half a pixel.
    placed[:height, :width] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return {"mask": placed}


def _label(
    sample: Sample, preparer: Preparer, scale: float, delivered: tuple[int, int], card: DatasetCard | None
) -> Truth:
    return {"label": np.array(sample.image_label, np.int64)}


_TRUTHS: dict[str, Callable[[Sample, Preparer, float, tuple[int, int], DatasetCard | None], Truth]] = {
    "detect": _boxes,
    "segment": _mask,
    "classify": _label,
}
