"""What the model said of one pair: one class for each task, read from the bundle's outputs by their names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.prepare import Prepared, fit

BACKGROUND = "background"
"""Name of class 0 of a class map."""


@dataclass(frozen=True, slots=True)
class BoxAnswer:
    """Objects in one pair."""

    index: int
    """Number of the answer in this run, from 0."""
    boxes: NDArray[np.float32]
    """[N,6]: x1, y1, x2, y2 in pixels of the delivered RGB frame, score, class."""
    size: tuple[int, int]
    """Height, width of the delivered RGB frame, also where this pair lacks it."""

    @property
    def count(self) -> int:
        """Objects found."""
        return len(self.boxes)

    def as_json(self, classes: Sequence[str], rle: bool = False) -> dict[str, Any]:
        """``boxes``: a list of {box: [x1, y1, x2, y2], score, class}."""
        del rle
        return {
            "boxes": [
                {"box": [round(value, 3) for value in box], "score": round(score, 6), "class": classes[int(label)]}
                for *box, score, label in self.boxes.tolist()
            ]
        }

    @staticmethod
    def columns(classes: Sequence[str]) -> list[str]:
        """Of a table."""
        return ["class", "score", "x1", "y1", "x2", "y2"]

    def rows(self, classes: Sequence[str]) -> list[list[Any]]:
        """A row for each object."""
        return [[box["class"], box["score"], *box["box"]] for box in self.as_json(classes)["boxes"]]


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """A class for each pixel of one pair."""

    index: int
    """Number of the answer in this run, from 0."""
    class_map: NDArray[np.uint8]
    """[h,w] over the whole delivered RGB frame, at the model's resolution: 0 background, i for classes[i-1]."""
    confidence: NDArray[np.float32]
    """[h,w], 0 to 1."""
    size: tuple[int, int]
    """Height, width of the delivered RGB frame, also where this pair lacks it."""

    @property
    def count(self) -> int:
        """Classes found, the background apart."""
        return int(np.count_nonzero(np.bincount(self.class_map.reshape(-1))[1:]))

    def as_json(self, classes: Sequence[str], rle: bool = False) -> dict[str, Any]:
        """``classes``: name → {share of the pixels, mean confidence there}, of those that are there.

        With ``rle`` also ``masks``: name → {size: [h, w], counts}, COCO's uncompressed run lengths of each but the
        background, at the model's resolution.
        """
        flat = self.class_map.reshape(-1)
        pixels = np.bincount(flat)
        sums = np.bincount(flat, self.confidence.reshape(-1))
        there = {(BACKGROUND, *classes)[index]: index for index in np.flatnonzero(pixels).tolist()}
        told: dict[str, Any] = {
            "classes": {
                name: {
                    "share": round(float(pixels[index] / flat.size), 6),
                    "confidence": round(float(sums[index] / pixels[index]), 6),
                }
                for name, index in there.items()
            }
        }
        if rle:
            told["masks"] = {
                name: {"size": list(self.class_map.shape), "counts": run_lengths(self.class_map == index)}
                for name, index in there.items()
                if index
            }
        return told

    @staticmethod
    def columns(classes: Sequence[str]) -> list[str]:
        """Of a table."""
        return ["class", "share", "confidence"]

    def rows(self, classes: Sequence[str]) -> list[list[Any]]:
        """A row for each class that is there, the background included."""
        told = self.as_json(classes)["classes"]
        return [[name, figures["share"], figures["confidence"]] for name, figures in told.items()]


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    """The class of one pair as a whole."""

    index: int
    """Number of the answer in this run, from 0."""
    probabilities: NDArray[np.float32]
    """[C], they sum to 1."""
    size: tuple[int, int]
    """Height, width of the delivered RGB frame, also where this pair lacks it."""

    @property
    def count(self) -> int:
        """One label."""
        return 1

    def as_json(self, classes: Sequence[str], rle: bool = False) -> dict[str, Any]:
        """``class``, its ``probability``, and ``probabilities``: name → probability."""
        del rle
        values = [round(value, 6) for value in self.probabilities.tolist()]
        best = int(self.probabilities.argmax())
        named = dict(zip(classes, values, strict=True))
        return {"class": classes[best], "probability": values[best], "probabilities": named}

    @staticmethod
    def columns(classes: Sequence[str]) -> list[str]:
        """Of a table; one for each class."""
        return ["class", "probability", *(f"probability of {name}" for name in classes)]

    def rows(self, classes: Sequence[str]) -> list[list[Any]]:
        """One row."""
        told = self.as_json(classes)
        return [[told["class"], told["probability"], *told["probabilities"].values()]]


Answer = BoxAnswer | MapAnswer | LabelAnswer


def read_answer(
    outputs: Mapping[str, Image], prepared: Prepared, size: tuple[int, int], index: int, score: float
) -> Answer:
    """Take a batch of one; of boxes those whose score is at least ``score``, without the empty slots."""
    read = next(read for name, read in READERS.items() if name in outputs)
    return read(outputs, prepared, size, index, score)


def _read_boxes(
    outputs: Mapping[str, Image], prepared: Prepared, size: tuple[int, int], index: int, score: float
) -> BoxAnswer:
    boxes = np.asarray(outputs["boxes"][0], np.float32)
    boxes = boxes[(boxes[:, 4] >= score) & (boxes[:, 4] > 0)]
    boxes[:, :4] /= np.float32(prepared.scale)
    return BoxAnswer(index, boxes, size)


def _read_map(
    outputs: Mapping[str, Image], prepared: Prepared, size: tuple[int, int], index: int, score: float
) -> MapAnswer:
    del prepared, score
    class_map, confidence = outputs["class_map"][0], outputs["confidence"][0]
    height, width = fit(size, class_map.shape)[1]  # a canvas holds the frame at its top left; else this is the whole
    return MapAnswer(index, class_map[:height, :width], confidence[:height, :width], size)


def _read_label(
    outputs: Mapping[str, Image], prepared: Prepared, size: tuple[int, int], index: int, score: float
) -> LabelAnswer:
    del prepared, score
    return LabelAnswer(index, np.asarray(outputs["probabilities"][0], np.float32), size)


READERS: dict[str, Callable[[Mapping[str, Image], Prepared, tuple[int, int], int, float], Answer]] = {
    "boxes": _read_boxes,
    "class_map": _read_map,
    "probabilities": _read_label,
}
"""Output that tells the task → how an answer is read."""


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask: column by column, the first run is of zeros (perhaps none)."""
    flat = np.concatenate([[False], mask.reshape(-1, order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(run) for run in np.diff([0, *edges.tolist(), *([mask.size] if not flat[-2] else [])])]
