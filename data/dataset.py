"""Pairs of a card as training samples and batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.augment.augmenter import Augmenter
from data.augment.spec import AugmentSpec
from data.card import SENSORS, DatasetCard, Sample
from data.pairs import load_pair
from data.prepare import Preparer

Item = dict[str, Any]
Stacked = dict[str, Any]
Batch = dict[str, Any]
_SMALL = ("present", "index", "seed")
_LISTS = ("boxes", "labels")


class PairDataset(Dataset[Item]):
    """Samples of a card; a key is (index, seed), and all randomness is a function of the seed."""

    def __init__(
        self,
        card: DatasetCard,
        samples: Sequence[Sample],
        augment: AugmentSpec | None = None,
        sensors: Sequence[str] = SENSORS,
    ) -> None:
        """Take samples of ``card``; only ``sensors`` are read."""
        self.samples = list(samples)
        self.sensors = tuple(sensors)
        self._preparer = Preparer(card.inputs(), card.load_rig())
        self._augmenter = None if augment is None else Augmenter(augment, card.thermal_spec)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Read, prepare and, where asked for, change one pair.

        Returns:
            rgb: Hr×Wr×3 uint8. thermal: Ht×Wt of the spec's dtype; at RGB's size when augmented. A sensor that is not
            there is zeros. present: float32 [2]. boxes: float32 [N,4] x1, y1, x2, y2 in pixels of ``rgb``. labels:
            int64 [N]; both are empty where nobody labelled the pair. id, index, seed.
        """
        index, seed = key
        sample = self.samples[index]
        prepared, boxes = load_pair(sample, self._preparer, self.sensors)
        labels = np.zeros(0, np.int64) if sample.labels is None else sample.labels
        boxes = np.zeros((0, 4), np.float32) if boxes is None else boxes
        rgb, thermal, present = prepared.rgb, prepared.thermal, prepared.present
        if self._augmenter is not None:
            there = (bool(present[0]), bool(present[1]))
            changed = self._augmenter(rgb, thermal, seed, there, boxes, labels)
            rgb, thermal, present = changed.rgb, changed.thermal, np.array(changed.present, np.float32)
            assert changed.boxes is not None and changed.labels is not None
            boxes, labels = changed.boxes, changed.labels
        return {
            "rgb": rgb,
            "thermal": thermal,
            "present": present,
            "boxes": boxes,
            "labels": labels,
            "id": sample.id,
            "index": index,
            "seed": seed,
        }


def stack(samples: Sequence[Item]) -> Stacked:
    """Stack items of ``PairDataset`` so that they travel cheaply between processes; ``unpack`` makes the batch.

    Only the pictures become tensors: each tensor takes a file descriptor and 0.2 ms to hand over, which for the boxes
    of a batch of 8 was three quarters of the main process's time (2026-11-21).
    """
    first = samples[0]
    rgb = torch.empty(len(samples), *first["rgb"].shape, dtype=torch.uint8)
    thermal = torch.empty(len(samples), *first["thermal"].shape)
    for array, name in ((rgb.numpy(), "rgb"), (thermal.numpy(), "thermal")):
        for row, sample in zip(array, samples, strict=True):
            row[:] = sample[name]
    return {
        "rgb": rgb,
        "thermal": thermal,
        "present": np.stack([s["present"] for s in samples]),
        "index": np.array([s["index"] for s in samples], np.int64),
        "seed": np.array([s["seed"] for s in samples], np.int64),
        "ids": [s["id"] for s in samples],
        **{name: [s[name] for s in samples] for name in _LISTS},
    }


def unpack(stacked: Stacked) -> Batch:
    """Make the batch of what ``stack`` returned.

    Returns:
        rgb: uint8 [B,Hr,Wr,3]. thermal: float32 [B,Ht,Wt], since torch on the CPU lacks many operators for
        uint16. present: float32 [B,2]. boxes, labels: lists of float32 [N,4] and int64 [N]. ids: list of text.
        index, seed: int64 [B].
    """
    arrays: dict[str, NDArray[Any]] = {name: stacked[name] for name in _SMALL}
    small = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return stacked | small | {name: [torch.from_numpy(array) for array in stacked[name]] for name in _LISTS}
