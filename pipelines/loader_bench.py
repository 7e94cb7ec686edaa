"""What reading, preparing and augmenting a card's pairs costs beyond decoding their two files with bare OpenCV.

All is CPU time of one thread, and each pair is decoded bare just before or just after ours: the answer is the median of
the pairs' ratios, so that neither a busy machine nor one that slows down meanwhile decides.
"""

import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any

import cv2
import numpy as np

from data.augment.augmenter import Augmenter
from data.augment.degrade import DEGRADATIONS
from data.augment.spec import AugmentSpec
from data.card import SENSORS, DatasetCard, Sample
from data.dataset import PairDataset, stack
from data.errors import DataError
from data.pairs import load_pair
from data.prepare import Preparer
from export.bench import machine
from pipelines.freed_memory import keep_freed_memory

PAIRS = 120
"""Measured in each row, unless asked for otherwise."""
_WARM_UP = 8
_BATCH = 8
_FEED = 1000
"""Pairs per second that the workers are counted for."""
_STILL = AugmentSpec(
    flip=0, rotate_deg=0, scale=(1, 1), crop=0, rgb_brightness=0, rgb_contrast=0, thermal_gain=0, thermal_offset=0
)
_DEFAULT = AugmentSpec()
GEOMETRY = _STILL.model_copy(update={name: getattr(_DEFAULT, name) for name in ("flip", "rotate_deg", "scale", "crop")})
"""Flip and affine on both pictures, nothing else."""
_PARTS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 1.0},
    "affine": {name: getattr(_DEFAULT, name) for name in ("rotate_deg", "scale", "crop")},
    "perspective": {"perspective": 0.1},
    "misregistration": {"misregistration": 5.0},
    "rgb_brightness, rgb_contrast": {name: getattr(_DEFAULT, name) for name in ("rgb_brightness", "rgb_contrast")},
    "thermal_gain, thermal_offset": {name: getattr(_DEFAULT, name) for name in ("thermal_gain", "thermal_offset")},
    **{name: {name: 1.0, "strength": (1.0, 1.0)} for name in DEGRADATIONS},
}
"""Transform → the fields that switch it on, and nothing else."""


def measure_loader(
    card: DatasetCard, augment: AugmentSpec, name: str, task: str | None = None, pairs: int = PAIRS
) -> dict[str, Any]:
    """Measure the loader of a card's first split that has both sensors.

    Args:
        card: The data set.
        augment: Of the last row.
        name: Of the recipe that says so.
        task: Whose labels are read; a mask is decoded bare too. None: boxes where there are any, else no labels.
        pairs: Measured in each row.

    Returns:
        ``rows``: for no augmentation, flip and affine, and the recipe, ``loader_ratio`` (pairs per second over those of
        bare decoding), ``pairs_per_s`` of one core, ``ms_per_pair`` and ``augment_ms``, the workers that feed 1000
        pairs per second (putting into a batch included), and of what they were made. ``transforms_ms``: each alone.

    Raises:
        DataError: the card has no such pairs, OpenCV decodes one of their files not, or ``pairs`` is below 1.
    """
    if pairs < 1:
        raise DataError(f"--pairs is {pairs}; expected at least 1")
    samples = _samples(card)
    task = task or ("detect" if "detect" in card.tasks() else None)
    kinds = {"none": None, "flip + affine": GEOMETRY, name: augment}
    with _one_thread():
        stack_ms = _stack_ms(PairDataset(card, samples, augment, task=task))
        rows = [
            _row(row, samples, PairDataset(card, samples, spec, task=task), pairs, stack_ms)
            for row, spec in kinds.items()
        ]
        for row in rows:
            row["augment_ms"] = round(row["ms_per_pair"] - rows[0]["ms_per_pair"], 2)
        transforms = _transforms(card, samples, augment, max(8, pairs // 4))
    inputs = card.inputs()
    return {
        "card": str(card.path),
        "files": {sensor: getattr(samples[0], sensor).suffix for sensor in SENSORS},
        "size": {"rgb": list(inputs.rgb_size), "thermal": list(inputs.thermal_size)},
        "task": task,
        "rows": rows,
        "stack_ms": round(stack_ms, 2),
        "transforms_ms": transforms,
        "machine": machine() | {"load": f"{os.getloadavg()[0]:.1f}"},
    }


def _samples(card: DatasetCard) -> list[Sample]:
    for split in card.splits:
        samples = [one for one in card.samples(split) if set(SENSORS) <= set(one.sensors)]
        if samples:
            return samples
    raise DataError(f"{card.path}: no split has pairs of both sensors to read")


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker of ``rgbt train``: OpenCV without threads of its own, and freed memory kept."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    keep_freed_memory()
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _row(name: str, samples: Sequence[Sample], ours: PairDataset, pairs: int, stack_ms: float) -> dict[str, Any]:
    taken: list[tuple[float, float]] = []
    for k in range(_WARM_UP + pairs):
        index = k % len(samples)
        if k % 2:
            own, bare = _time(partial(ours.__getitem__, (index, k))), _time(partial(_bare, samples[index], ours.task))
        else:
            bare, own = _time(partial(_bare, samples[index], ours.task)), _time(partial(ours.__getitem__, (index, k)))
        taken.append((bare, own))
    del taken[:_WARM_UP]
    bare, own = (statistics.median(one[side] for one in taken) for side in (0, 1))
    return {
        "row": name,
        "loader_ratio": round(statistics.median(first / second for first, second in taken), 3),
        "pairs_per_s": round(1 / own, 1),
        "bare_pairs_per_s": round(1 / bare, 1),
        "ms_per_pair": round(1000 * own, 2),
        "workers_for_1000_pairs_per_s": math.ceil(_FEED * (own + stack_ms / 1000)),
    }


def _time(step: Callable[[], Any]) -> float:
    """CPU time of this thread; what the step made is freed only after it."""
    start = thread_time()
    made = step()
    taken = thread_time() - start
    del made
    return max(taken, 1e-9)


def _bare(sample: Sample, task: str | None) -> list[Any]:
    """What one writes by hand: nothing is checked, and nothing put into shape."""
    masks = [sample.mask] if task == "segment" and sample.mask is not None else []
    return [_read(path) for path in (sample.rgb, sample.thermal, *masks)]


def _read(path: Path) -> Any:  # noqa: ANN401 - a picture of any kind
    image = np.load(path, allow_pickle=False) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"{path}: OpenCV does not decode it, so that there is nothing to compare with")
    return image


def _stack_ms(ours: PairDataset) -> float:
    """Time for each pair to be put into a batch."""
    items = [ours[k % len(ours), k] for k in range(_BATCH)]
    return 1000 * statistics.median(_time(lambda: stack(items)) for _ in range(10)) / _BATCH


def _transforms(card: DatasetCard, samples: Sequence[Sample], augment: AugmentSpec, count: int) -> dict[str, float]:
    """Milliseconds that each adds, alone, to an augmenter that does nothing; on pairs in memory."""
    preparer = Preparer(card.inputs(), card.load_rig())
    loaded = [load_pair(sample, preparer, task=None)[0] for sample in samples[:_BATCH]]
    still = Augmenter(_STILL, card.thermal_spec)
    own = {f"albumentations.{one['name']}": {"albumentations": (one,)} for one in augment.albumentations}
    found: dict[str, float] = {}
    for name, fields in (_PARTS | own).items():
        changer = Augmenter(_STILL.model_copy(update=fields), card.thermal_spec)
        added = []
        for k in range(-2, count):
            pair = loaded[k % len(loaded)]
            without, taken = (_time(partial(one, pair.rgb, pair.thermal, k + 2)) for one in (still, changer))
            added += [taken - without] if k >= 0 else []
        found[name] = round(max(0.0, 1000 * statistics.median(added)), 2)
    return found
