"""Pairs of a card as training samples and batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.augment import Augmenter, AugmentSpec
from data.card import DatasetCard, Sample
from data.pairs import SENSORS, load_pair
from data.prepare import Preparer

Item = dict[str, Any]
Batch = dict[str, Any]


class PairDataset(Dataset[Item]):
    """The pairs of one or several splits; a key is (index, seed), and all randomness is a function of the seed."""

    def __init__(
        self,
        card: DatasetCard,
        split: str | Sequence[str],
        augment: AugmentSpec | None = None,
        sensors: Sequence[str] = SENSORS,
    ) -> None:
        splits = [split] if isinstance(split, str) else list(split)
        self.samples: list[Sample] = [sample for name in splits for sample in card.samples(name)]
        self.sensors = tuple(sensors)
        self._preparer = Preparer(card.inputs(), card.load_rig())
        self._augmenter = None if augment is None else Augmenter(augment, card.thermal_spec)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Read, prepare and, where asked for, change one pair.

        Returns:
            rgb: Hr×Wr×3 uint8. thermal: Ht×Wt of the spec's dtype; at RGB's size when augmented.
            present: float32 [2]. boxes: float32 [N,4] x1, y1, x2, y2 in pixels of ``rgb``. labels: int64 [N].
            labelled: False where nobody labelled this pair, and boxes are empty. id, index, seed, and scale:
            pixels of ``rgb`` for each pixel of the delivered RGB frame.
        """
        index, seed = key
        sample = self.samples[index]
        prepared, boxes = load_pair(sample, self._preparer, self.sensors)
        labels = np.zeros(0, np.int64) if sample.labels is None else sample.labels
        boxes = np.zeros((0, 4), np.float32) if boxes is None else boxes
        rgb, thermal = prepared.rgb, prepared.thermal
        if self._augmenter is not None:
            rgb, thermal, boxes, labels = self._augmenter(rgb, thermal, boxes, labels, seed)
        return {
            "rgb": rgb,
            "thermal": thermal,
            "present": prepared.present,
            "boxes": boxes,
            "labels": labels,
            "labelled": sample.boxes is not None,
            "id": sample.id,
            "index": index,
            "seed": seed,
            "scale": prepared.scale,
        }


def collate(samples: Sequence[Item]) -> Batch:
    """Stack items of ``PairDataset`` into a batch.

    Returns:
        rgb: uint8 [B,Hr,Wr,3]. thermal: float32 [B,Ht,Wt], since torch on the CPU lacks many operators for
        uint16. present: float32 [B,2]. boxes, labels: lists of float32 [N,4] and int64 [N]. labelled: bool [B].
        ids: list of text. index, seed: int64 [B]. scale: float32 [B].
    """
    return {
        "rgb": torch.from_numpy(np.stack([s["rgb"] for s in samples])),
        "thermal": torch.from_numpy(np.stack([s["thermal"].astype(np.float32) for s in samples])),
        "present": torch.from_numpy(np.stack([s["present"] for s in samples])),
        "boxes": [torch.from_numpy(s["boxes"]) for s in samples],
        "labels": [torch.from_numpy(s["labels"]) for s in samples],
        "labelled": torch.tensor([s["labelled"] for s in samples]),
        "ids": [s["id"] for s in samples],
        "index": torch.tensor([s["index"] for s in samples]),
        "seed": torch.tensor([s["seed"] for s in samples]),
        "scale": torch.tensor([s["scale"] for s in samples], dtype=torch.float32),
    }
