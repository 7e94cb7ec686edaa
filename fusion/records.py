"""What a model answered on one picture, and the truth: as much of both as the task's figures need."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class BoxRecord:
    """Boxes found and true ones, all in the same pixels."""

    boxes: Floats
    """[K,6]: x1, y1, x2, y2, score, class; only rows with score > 0."""
    target_boxes: Floats
    """[N,4]: x1, y1, x2, y2."""
    target_labels: Ints
    """[N]: class of each; ~class (below 0) of a region in which boxes of that class count neither way."""

    @staticmethod
    def pack(records: Sequence["BoxRecord"]) -> Arrays:
        """Arrays that hold all of them."""
        return {
            "boxes": np.concatenate([np.empty((0, 6), np.float32), *(r.boxes for r in records)], dtype=np.float32),
            "box_counts": np.array([len(r.boxes) for r in records], np.int64),
            "target_boxes": np.concatenate(
                [np.empty((0, 4), np.float32), *(r.target_boxes for r in records)], dtype=np.float32
            ),
            "target_labels": np.concatenate(
                [np.empty(0, np.int64), *(r.target_labels for r in records)], dtype=np.int64
            ),
            "target_counts": np.array([len(r.target_labels) for r in records], np.int64),
        }

    @classmethod
    def unpack(cls, arrays: Arrays) -> list[Self]:
        """Undo ``pack``."""
        found, targets = arrays["box_counts"].cumsum()[:-1], arrays["target_counts"].cumsum()[:-1]
        parts = (
            np.split(arrays["boxes"], found),
            np.split(arrays["target_boxes"], targets),
            np.split(arrays["target_labels"], targets),
        )
        return [cls(*part) for part in zip(*parts, strict=True)][: len(arrays["box_counts"])]


@dataclass(frozen=True, eq=False)
class PixelRecord:
    """How often which class was taken for which."""

    confusion: Ints
    """[C,C]: pixels of the row's true class that were answered as the column's; class 0 is the background."""

    @staticmethod
    def pack(records: Sequence["PixelRecord"]) -> Arrays:
        """An array that holds all of them."""
        return {"confusion": np.stack([r.confusion for r in records])}

    @classmethod
    def unpack(cls, arrays: Arrays) -> list[Self]:
        """Undo ``pack``."""
        return [cls(confusion) for confusion in arrays["confusion"]]


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """The probability of each class, and the true one."""

    probabilities: Floats
    """[C]."""
    label: int
    """-1: nobody labelled the picture."""

    @staticmethod
    def pack(records: Sequence["LabelRecord"]) -> Arrays:
        """Arrays that hold all of them."""
        return {
            "probabilities": np.stack([r.probabilities for r in records]),
            "label": np.array([r.label for r in records], np.int64),
        }

    @classmethod
    def unpack(cls, arrays: Arrays) -> list[Self]:
        """Undo ``pack``."""
        return [cls(p, int(k)) for p, k in zip(arrays["probabilities"], arrays["label"], strict=True)]


Record = BoxRecord | PixelRecord | LabelRecord
KINDS: dict[str, type[Record]] = {"boxes": BoxRecord, "confusion": PixelRecord, "probabilities": LabelRecord}
"""An array that only the packed records of one kind have → the kind."""


def save(path: Path, records: Sequence[Record]) -> None:
    """Write records, all of one kind, as one npz: whole or not at all."""
    kind = type(records[0]) if records else BoxRecord
    packed: Arrays = kind.pack(records)  # type: ignore[arg-type] # all of the first one's kind
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **packed)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> list[Record]:
    """Read what ``save`` wrote.

    Raises:
        FusionError: the file is missing or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        kind = next((kind for name, kind in KINDS.items() if name in arrays), None)
        if kind is None:
            raise ValueError("it holds something else")
        return list(kind.unpack(arrays))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise FusionError(f"{path}: no records of a validation: {error}; run the evaluation again") from error
