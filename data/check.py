"""Looking at every file of a data set before hours are spent on it."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.card import DatasetCard, Sample
from data.errors import DataError
from data.frame import Image
from data.images import read_rgb, read_thermal

Progress = Callable[[int, int], None]
"""Called with the number of pairs done and that of all."""

TINY = 4.0
"""Boxes with a side below this many pixels are pointed out: a detector of stride 4 hardly sees them."""


@dataclass
class Report:
    """What is wrong with a data set, and what it holds."""

    errors: list[str] = field(default_factory=list)
    """Lines: each makes training wrong, or stops it."""
    warnings: list[str] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Split → pairs, labelled pairs, boxes of each class."""
    thermal_range: tuple[float, float] | None = None
    """Lowest and highest valid value, in the unit."""
    thermal_span: tuple[float, float] | None = None
    """Smallest and largest difference between highest and lowest value of one frame."""
    box_sides: tuple[float, float, float] | None = None
    """Smallest, median, largest square root of a box's area, in RGB pixels."""

    def as_json(self) -> dict[str, Any]:
        """Plain content for ``--json``."""
        return asdict(self)


@dataclass(slots=True)
class _Seen:
    """What was found in the files of one pair."""

    digests: dict[str, str]
    """Of each sensor's file; empty when one is missing."""
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    low: float = np.inf
    """Lowest and highest valid value of thermal."""
    high: float = -np.inf


def check_card(card: DatasetCard, progress: Progress | None = None, threads: int = 8) -> Report:
    """Read every pair of every split and compare files, labels and splits with the card."""
    report = Report()
    by_split = _read_splits(card, report)
    unique = {sample.id: sample for samples in by_split.values() for sample in samples}
    samples = list(unique.values())
    seen: dict[str, _Seen] = {}
    with ThreadPoolExecutor(threads) as pool:
        for sample, found in zip(samples, pool.map(lambda one: _look(one, card), samples), strict=True):
            seen[sample.id] = found
            report.errors += found.errors
            report.warnings += found.warnings
            if progress is not None:
                progress(len(seen), len(samples))
    valid = [found for found in seen.values() if found.high >= found.low]
    if valid:
        spans = [found.high - found.low for found in valid]
        report.thermal_range = (min(found.low for found in valid), max(found.high for found in valid))
        report.thermal_span = (min(spans), max(spans))
    _compare_splits(by_split, seen, report)
    _count(by_split, card, report)
    return report


def _read_splits(card: DatasetCard, report: Report) -> dict[str, list[Sample]]:
    by_split: dict[str, list[Sample]] = {}
    try:
        card.inputs()
        labelled = card.read_labels()
    except DataError as error:
        report.errors.append(str(error))
        return by_split
    for split in card.splits:
        try:
            by_split[split] = card.samples(split)
        except DataError as error:
            report.errors.append(str(error))
    if not card.splits:
        report.errors.append(f"{card.path}: no splits")
    lost = labelled.keys() - {sample.id for samples in by_split.values() for sample in samples}
    if lost:
        report.warnings.append(f"{len(lost)} labelled pairs are in no split (first: '{min(lost)}')")
    return by_split


def _files(sample: Sample) -> dict[str, Path]:
    """The files that a sample must have, by what they hold."""
    files = {"RGB": sample.rgb} if "rgb" in sample.sensors else {}
    if "thermal" in sample.sensors:
        files["thermal"] = sample.thermal
    if sample.mask is not None and "rgb" in sample.sensors:  # it is drawn on RGB
        files["mask"] = sample.mask
    return files


def _look(sample: Sample, card: DatasetCard) -> _Seen:
    """Read the files of a pair; every problem becomes a line."""
    files = _files(sample)
    found = _Seen(digests={})
    for name, path in files.items():
        if not path.is_file():
            found.errors.append(f"{path}: missing {name} file of pair '{sample.id}'")
    if found.errors:
        return found
    images: dict[str, Image] = {}
    for name in (name for name in files if name != "mask"):
        try:
            images[name] = read_rgb(sample.rgb) if name == "RGB" else read_thermal(sample.thermal, card.thermal_spec)
        except DataError as error:
            found.errors.append(str(error))
    if "thermal" in images:
        _measure(sample, images["thermal"], card, found)
    if "RGB" in images and int(images["RGB"].max()) == int(images["RGB"].min()):
        found.warnings.append(f"{sample.rgb}: RGB is flat")
    if len(images) == len(sample.sensors):
        found.errors += _wrong_sizes(sample, {name: image.shape[:2] for name, image in images.items()}, card)
        if "mask" in files:
            found.errors += _wrong_mask(files["mask"], images["RGB"].shape[:2], len(card.classes))
    found.digests = {name: _digest(files[name]) for name in files if name != "mask"}
    return found


def _measure(sample: Sample, thermal: Image, card: DatasetCard, found: _Seen) -> None:
    dead = card.thermal_spec.dead(thermal)
    valid = thermal if dead is None else thermal[~dead]
    if valid.size:
        found.low, found.high = float(valid.min()), float(valid.max())
    if found.low >= found.high:
        found.warnings.append(
            f"{sample.thermal}: thermal is flat" if valid.size else f"{sample.thermal}: no valid pixel"
        )


def _wrong_sizes(sample: Sample, found: dict[str, tuple[int, ...]], card: DatasetCard) -> list[str]:
    lines = []
    for name, field_name, path, declared in (
        ("RGB", "rgb_size", sample.rgb, card.rgb_size),
        ("thermal", "thermal_size", sample.thermal, card.thermal_size),
    ):
        size = found.get(name)
        if size is not None and declared is not None and size != declared:
            lines.append(
                f"{path}: {size[1]}×{size[0]} (width×height), but the card says {field_name}: {list(declared)} "
                "(height, width)"
            )
    rgb = found.get("RGB")
    if rgb is not None and sample.boxes is not None and len(sample.boxes):
        right, bottom = sample.boxes[:, 2:].max(axis=0).tolist()
        if right > rgb[1] + 0.5 or bottom > rgb[0] + 0.5:
            lines.append(
                f"{sample.rgb}: {rgb[1]}×{rgb[0]} (width×height), but its boxes reach to ({right:g}, {bottom:g}): "
                "the labels were made on pictures of another size"
            )
    return lines


def _wrong_mask(path: Path, size: tuple[int, ...], classes: int) -> list[str]:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2 or mask.shape != size:
        return [f"{path}: expected one channel of class indices at RGB's size {size[1]}×{size[0]}"]
    if int(mask.max()) > classes:
        return [f"{path}: holds class index {int(mask.max())}, the card has {classes} classes (0 is background)"]
    return []


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()


def _compare_splits(by_split: dict[str, list[Sample]], seen: dict[str, _Seen], report: Report) -> None:
    """A pair that is trained on and tested on makes every figure too good."""
    home: dict[str, str] = {}
    files: dict[str, tuple[str, str]] = {}
    for split, samples in by_split.items():
        for sample in samples:
            other = home.setdefault(sample.id, split)
            if other != split:
                report.errors.append(f"pair '{sample.id}' is in the splits '{other}' and '{split}'")
                continue
            for sensor, digest in seen[sample.id].digests.items():
                first, where = files.setdefault(digest, (sample.id, split))
                if first == sample.id:
                    continue
                text = f"pairs '{first}' ({where}) and '{sample.id}' ({split}) have the same {sensor} file"
                (report.warnings if where == split else report.errors).append(text)


def _count(by_split: dict[str, list[Sample]], card: DatasetCard, report: Report) -> None:
    sides: list[float] = []
    tiny = 0
    for split, samples in by_split.items():
        labelled = [sample for sample in samples if sample.boxes is not None]
        counts: Counter[int] = Counter()
        for sample in labelled:
            assert sample.boxes is not None and sample.labels is not None
            counts.update(sample.labels.tolist())
            spans = sample.boxes[:, 2:] - sample.boxes[:, :2]
            sides += np.sqrt(spans.prod(axis=1)).tolist()
            tiny += int((spans.min(axis=1) < TINY).sum())
        classes = {name: counts[index] for index, name in enumerate(card.classes)}
        report.splits[split] = {"pairs": len(samples), "labelled": len(labelled), "boxes": classes}
        if split not in card.unlabelled and 0 < len(labelled) < len(samples):
            lacking = next(sample.id for sample in samples if sample.boxes is None)
            report.errors.append(
                f"split '{split}': {len(samples) - len(labelled)} of {len(samples)} pairs have no labels "
                f"(first: '{lacking}'); move them to the split 'unlabelled'"
            )
        for name, count in classes.items():
            if labelled and not count:
                report.warnings.append(f"split '{split}' has no box of class '{name}'")
    if sides:
        report.box_sides = (min(sides), float(np.median(sides)), max(sides))
    if tiny:
        report.warnings.append(f"{tiny} of {len(sides)} boxes have a side below {TINY:g} RGB pixels")
