"""From a sample of a card to the arrays of one pair, the same for training, evaluation and golden pairs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.card import SENSORS, Sample
from data.errors import DataError
from data.images import read_header, read_rgb, read_thermal
from data.prepare import Prepared, Preparer


def load_pair(
    sample: Sample, preparer: Preparer, sensors: Sequence[str] = SENSORS
) -> tuple[Prepared, NDArray[np.float32] | None]:
    """Read and prepare one pair; return it with its boxes in pixels of the model's RGB (None: unlabelled).

    A sensor that is not among ``sensors``, or that the sample lacks, is not read: zeros, and absent in ``present``.

    Raises:
        DataError: a file is missing, truncated, or not of the declared size, dtype or channels; or none is to be read.
    """
    there = [sensor for sensor in sensors if sensor in sample.sensors]
    if not there:
        raise DataError(f"pair '{sample.id}' has only {' and '.join(sample.sensors)}, not {' or '.join(sensors)}")
    rgb = read_rgb(sample.rgb) if "rgb" in there else None
    thermal = read_thermal(sample.thermal, preparer.inputs.thermal) if "thermal" in there else None
    # Boxes are in RGB pixels, so a canvas needs RGB's size also where only thermal is read.
    sized = rgb is None and preparer.inputs.letterbox and "rgb" in sample.sensors
    rgb_size = read_header(sample.rgb).size if sized else None
    prepared = preparer(rgb, thermal, f"pair '{sample.id}'", rgb_size=rgb_size)
    if sample.boxes is None:
        return prepared, None
    height, width = preparer.inputs.rgb_size
    boxes = sample.boxes * np.float32(prepared.scale)
    return prepared, np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
