"""What the card names, and what lies on the disk beside it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from data.card import SENSORS, DatasetCard, Sample, Split
from data.check.findings import Finding, Report
from data.errors import DataError
from data.labels.boxes import ONE_FILE_EACH
from data.patterns import id_of

_MOST_FILES = 2_000_000


def read_splits(card: DatasetCard, report: Report) -> dict[str, list[Sample]]:
    """List the pairs of every split; what is wrong with the lists or the labels becomes findings.

    Pairs whose labels are wrong are listed without them, where the split can be read at all.
    """
    by_split: dict[str, list[Sample]] = {}
    told: set[str] = set()
    for split in card.splits:
        try:
            by_split[split] = card.samples(split)
        except DataError as error:
            by_split[split] = list(_one_by_one(card, split, str(error), told, report))
    if not card.splits:
        report.add("error", "split", card.name, f"{card.path}: no splits")
    return {split: samples for split, samples in by_split.items() if samples}


def _one_by_one(card: DatasetCard, split: str, reason: str, told: set[str], report: Report) -> Iterator[Sample]:
    """The pairs of a split that cannot be read as a whole; every file of labels that is wrong is named."""

    def tell(text: str, where: str, kind: str) -> None:
        if text not in told:
            told.add(text)
            report.add("error", kind, where, text)

    try:
        ids = card.split_ids(split, {})
    except DataError as error:
        tell(str(error), split, "split")
        return
    each = card.labels is not None and card.labels.format in ONE_FILE_EACH
    if not ids or not each:
        tell(reason, split, "label" if ids or card.splits[split].coco is not None else "split")
    for one in ids:
        single = {split: Split(ids=(one,), sensors=card.splits[split].sensors)}
        if each:
            try:
                yield from card.model_copy(update={"splits": single}).at(card.path).samples(split)
                continue
            except DataError as error:
                tell(str(error), one, "label")
        bare = {"splits": single, "labels": None, "image_labels": None}
        yield from card.model_copy(update=bare).at(card.path).samples(split)


def beside(card: DatasetCard, named: set[str]) -> list[Finding]:
    """Pictures on the disk without a partner, and pairs there that no split names."""
    sensors = {"RGB": card.rgb, "thermal": card.thermal}
    patterns = [*sensors.values(), *([] if card.masks is None else [card.masks.path])]
    found = {sensor: _ids(card, pattern, patterns) for sensor, pattern in sensors.items()}
    whole = {split.sensors for split in card.splits.values()} <= {SENSORS}
    findings = []
    for sensor, other in (("RGB", "thermal"), ("thermal", "RGB")):
        alone = sorted(found[sensor] - found[other] - named)
        if alone and whole:
            text = f"{len(alone)} {sensor} pictures have no {other} partner {_first(alone)}; no split names them"
            findings.append(Finding("warning", "unpaired", alone[0], text))
    unused = sorted((found["RGB"] & found["thermal"]) - named)
    if unused:
        text = f"{len(unused)} pairs on the disk are in no split {_first(unused)}"
        findings.append(Finding("note", "unused", unused[0], text))
    return findings


def _first(ids: list[str]) -> str:
    shown = ", ".join(f"'{one}'" for one in ids[:3])
    return f"({shown}{', …' if len(ids) > 3 else ''})"


def _ids(card: DatasetCard, pattern: str, patterns: Sequence[str]) -> set[str]:
    """Ids of the files that follow a pattern, and no closer one: a_ir.png is thermal's {id}_ir.png, no RGB {id}.png."""
    closer = [other for other in patterns if len(other) > len(pattern)]
    return {
        one
        for name in _names(card.folder, pattern)
        if (one := id_of(name, pattern)) is not None and all(id_of(name, other) is None for other in closer)
    }


def _names(root: Path, pattern: str) -> Iterator[str]:
    """Paths below the root that may fit a pattern; links to folders are not followed, so that loops end."""
    fixed: list[str] = []
    for part in PurePosixPath(pattern).parent.parts:
        if "{" in part:
            break
        fixed.append(part)
    base, ending = root.joinpath(*fixed), PurePosixPath(pattern).suffix
    count = 0
    for folder, _, files in os.walk(base):
        for name in files:
            count += 1
            if count > _MOST_FILES:
                return
            if name.endswith(ending):
                yield (Path(folder) / name).relative_to(root).as_posix()
