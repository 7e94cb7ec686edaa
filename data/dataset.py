"""Pairs of a card as training samples and batches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.augment.augmenter import Augmenter
from data.augment.pair import augment_pair
from data.augment.spec import AugmentSpec
from data.card import DatasetCard
from data.card_fields import IGNORE
from data.pairs import Truth, load_pair
from data.prepare import Preparer
from data.sample import SENSORS, Sample

Item = dict[str, Any]
Stacked = dict[str, Any]
Batch = dict[str, Any]
_SMALL = ("present", "index", "seed", "label")
_LISTS = ("boxes", "labels")
_UNKNOWN: dict[str, Callable[[tuple[int, int]], Truth]] = {
    "detect": lambda _: {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)},
    "segment": lambda size: {"mask": np.full(size, IGNORE, np.uint8)},
    "classify": lambda _: {"label": np.array(-1, np.int64)},
}
"""Task → what stands for the truth of a pair that nobody labelled, so that it stacks with others."""


class PairDataset(Dataset[Item]):
    """Samples of a card; a key is (index, seed), and all randomness is a function of the seed."""

    def __init__(
        self,
        card: DatasetCard,
        samples: Sequence[Sample],
        augment: AugmentSpec | None = None,
        sensors: Sequence[str] = SENSORS,
        task: str | None = "detect",
    ) -> None:
        """Take samples of ``card``; only ``sensors`` and the labels of ``task`` are read (None: no labels)."""
        self.samples = list(samples)
        self.sensors = tuple(sensors)
        self.task = task
        self._card = card
        self._preparer = Preparer(card.inputs(), card.load_rig())
        self._augmenter = None if augment is None else Augmenter(augment, card.thermal_spec)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Read, prepare and, where asked for, change one pair.

        Returns:
            rgb: Hr×Wr×3 uint8. thermal: Ht×Wt of the spec's dtype; at RGB's size when augmented. A sensor that is not
            there is zeros. present: float32 [2]. id, index, seed. For detect boxes: float32 [N,4] x1, y1, x2, y2 in
            pixels of ``rgb``, labels: int64 [N]; both are empty where nobody labelled the pair. For segment mask: uint8
            [Hr,Wr], 255 outside of the picture and where nobody labelled it. For classify label: int64 [], −1 where
            nobody said.
        """
        index, seed = key
        sample = self.samples[index]
        prepared, truth = load_pair(sample, self._preparer, self.sensors, self.task, self._card)
        if self.task is not None and not truth:
            truth = _UNKNOWN[self.task](self._preparer.inputs.rgb_size)
        if self._augmenter is not None:
            prepared, truth = augment_pair(self._augmenter, prepared, truth, seed)
        item = {"rgb": prepared.rgb, "thermal": prepared.thermal, "present": prepared.present, **truth}
        return item | {"id": sample.id, "index": index, "seed": seed}


def stack(samples: Sequence[Item]) -> Stacked:
    """Stack items of ``PairDataset`` so that they travel cheaply between processes; ``unpack`` makes the batch.

    Only the pictures and masks become tensors: each tensor takes a file descriptor and 0.2 ms to hand over, which for
    the boxes of a batch of 8 was three quarters of the main process's time (2026-11-21).
    """
    first = samples[0]
    pictures = {"rgb": torch.uint8, "thermal": torch.float32, "mask": torch.uint8}
    stacked: Stacked = {
        name: torch.empty(len(samples), *first[name].shape, dtype=dtype)
        for name, dtype in pictures.items()
        if name in first
    }
    for name, tensor in stacked.items():
        for row, sample in zip(tensor.numpy(), samples, strict=True):
            row[:] = sample[name]
    small = {"present": np.float32, "index": np.int64, "seed": np.int64, "label": np.int64}
    stacked |= {name: np.array([s[name] for s in samples], dtype) for name, dtype in small.items() if name in first}
    return (
        stacked
        | {name: [s[name] for s in samples] for name in _LISTS if name in first}
        | {"ids": [s["id"] for s in samples]}
    )


def unpack(stacked: Stacked) -> Batch:
    """Make the batch of what ``stack`` returned.

    Returns:
        rgb: uint8 [B,Hr,Wr,3]. thermal: float32 [B,Ht,Wt], since torch on the CPU lacks many operators for
        uint16. present: float32 [B,2]. ids: list of text. index, seed: int64 [B]. By task boxes, labels: lists of
        float32 [N,4] and int64 [N]; mask: uint8 [B,Hr,Wr]; label: int64 [B].
    """
    arrays: dict[str, NDArray[Any]] = {name: stacked[name] for name in _SMALL if name in stacked}
    small = {name: torch.from_numpy(array) for name, array in arrays.items()}
    lists = {name: [torch.from_numpy(array) for array in stacked[name]] for name in _LISTS if name in stacked}
    return stacked | small | lists
