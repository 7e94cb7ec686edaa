"""What is labelled: boxes, pixels and pictures of each class per split, and what of it harms training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.card import DatasetCard, Sample
from data.card_fields import IGNORE
from data.check.findings import Report

TINY = 4.0
"""Boxes with a side below this many pixels are pointed out: a detector of stride 4 hardly sees them."""


def count_labels(
    by_split: Mapping[str, Sequence[Sample]],
    pixels: Mapping[str, NDArray[np.int64]],
    card: DatasetCard,
    report: Report,
) -> None:
    """Fill in ``report.splits`` and ``report.box_sides``, and add what is odd about the labels.

    Args:
        by_split: The pairs of each split.
        pixels: Split → [256] pixels of each value of its masks.
        card: The data set.
        report: To be filled.
    """
    readable = not any(one.level == "error" and one.kind == "label" for one in report.findings)
    for split, samples in by_split.items():
        counts: dict[str, Any] = {"pairs": len(samples), "labelled": _labelled(samples, split, card)}
        counts["boxes"] = _boxes(samples, card)
        if card.masks is not None:
            counts["pixels"] = _pixels(pixels.get(split), card)
        if card.image_labels is not None:
            kinds = Counter(sample.image_label for sample in samples if sample.image_label is not None)
            counts["pictures"] = {name: kinds[index] for index, name in enumerate(card.image_classes)}
        report.splits[split] = counts
        if split not in card.unlabelled:
            _half_labelled(split, samples, card, report)
            if readable:
                _never_labelled(split, samples, card, report)
            _absent_classes(split, counts, report)
    _clipped(by_split, report)
    _empty(by_split, report)
    _sides(by_split, report)


def _labelled(samples: Sequence[Sample], split: str, card: DatasetCard) -> int:
    if split in card.unlabelled:
        return 0
    return sum(any(sample.has(task) for task in card.tasks()) for sample in samples)


def _boxes(samples: Sequence[Sample], card: DatasetCard) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for sample in samples:
        if sample.labels is not None:
            counts.update(sample.labels[sample.labels >= 0].tolist())
    return {name: counts[index] for index, name in enumerate(card.classes)} if card.labels is not None else {}


def _pixels(counts: NDArray[np.int64] | None, card: DatasetCard) -> dict[str, int]:
    counted = np.zeros(256, np.int64) if counts is None else counts
    named = {name: int(counted[index]) for index, name in enumerate(card.classes, 1)}
    return {"background": int(counted[0]), **named, "ignored": int(counted[IGNORE])}


def _half_labelled(split: str, samples: Sequence[Sample], card: DatasetCard, report: Report) -> None:
    """A pair without labels in a split of labelled ones would be learnt from as if nothing were there."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for task in card.tasks():
        lacking = tuple(sample.id for sample in samples if not sample.has(task))
        if lacking and len(lacking) < len(samples):
            tasks.setdefault(lacking, []).append(task)
    for lacking, named in tasks.items():
        said = "" if len(card.tasks()) == 1 else f" for {' and '.join(named)}"
        text = (
            f"split '{split}': {len(lacking)} of {len(samples)} pairs have no labels{said} "
            f"(first: '{lacking[0]}'); move them to the split 'unlabelled'"
        )
        report.add("error", "label", split, text)


def _never_labelled(split: str, samples: Sequence[Sample], card: DatasetCard, report: Report) -> None:
    """A path of labels that no file has would make every pair one that nobody looked at."""
    lacking = [task for task in card.tasks() if not any(sample.has(task) for sample in samples)]
    if not lacking:
        return
    harms = len(lacking) == len(card.tasks()) and split in ("train", "val")
    text = (
        f"split '{split}': none of {len(samples)} pairs has labels for {' and '.join(lacking)} (first: "
        f"'{samples[0].id}'); does the card name the place where they lie?"
    )
    report.add("error" if harms else "warning", "label", split, text)


def _absent_classes(split: str, counts: Mapping[str, Any], report: Report) -> None:
    for kind, word in (("boxes", "box"), ("pixels", "pixel"), ("pictures", "picture")):
        named = counts.get(kind, {})
        absent = [name for name, count in named.items() if not count and name not in ("background", "ignored")]
        if absent and any(named.values()):
            names = ", ".join(f"'{name}'" for name in absent)
            report.add("warning", "class", split, f"split '{split}' has no {word} of class {names}")


def _clipped(by_split: Mapping[str, Sequence[Sample]], report: Report) -> None:
    """Boxes that overlap their picture; those wholly outside are errors of the files that hold them."""
    lines = [(sample.id, line) for samples in by_split.values() for sample in samples for line in sample.clipped]
    if lines:
        text = f"{len(lines)} boxes leave their pictures and are clipped to them (first: {lines[0][1]})"
        report.add("warning", "box", lines[0][0], text)


def _empty(by_split: Mapping[str, Sequence[Sample]], report: Report) -> None:
    """Boxes without width or height, each with its file and line: training leaves them out."""
    found = {line: sample.id for samples in by_split.values() for sample in samples for line in sample.empty}
    for line, one in found.items():
        report.add("warning", "box", one, line)


def _sides(by_split: Mapping[str, Sequence[Sample]], report: Report) -> None:
    sides: list[float] = []
    tiny = doubled = 0
    first = ""
    for sample in (sample for samples in by_split.values() for sample in samples):
        if sample.boxes is None or sample.labels is None:
            continue
        boxes, labels = sample.boxes[sample.labels >= 0], sample.labels[sample.labels >= 0]
        spans = boxes[:, 2:] - boxes[:, :2]
        sides += np.sqrt(spans.prod(axis=1)).tolist()
        tiny += int((spans.min(axis=1, initial=np.inf) < TINY).sum())
        rows = np.column_stack((boxes, labels))
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice and not doubled:
            first = sample.id
        doubled += twice
    if sides:
        report.box_sides = (min(sides), float(np.median(sides)), max(sides))
    if tiny:
        report.add("warning", "box", "", f"{tiny} of {len(sides)} boxes have a side below {TINY:g} RGB pixels")
    if doubled:
        text = f"{doubled} boxes are there twice, with the same class (first in pair '{first}'): each counts twice"
        report.add("warning", "box", first, text)
