"""Looking at every file of a data set before hours are spent on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.alignment import Shift
from data.card import DatasetCard, Sample
from data.check.alignment import LIMIT, Alignment, side, summarise
from data.check.duplicates import Prints, exact, near, views
from data.check.facts import HISTOGRAM, Facts, Looker
from data.check.findings import Report
from data.check.inventory import beside, read_splits
from data.check.labels import count_labels
from data.check.parallel import in_parallel
from data.check.sequences import Recording, frozen, frozen_runs, missing_frames, recordings
from data.check.values import wrong_range
from data.errors import DataError
from data.signs.look import look_at_files

Progress = Callable[[int, int], None]
"""Called with the number of pairs done and that of all."""

ALIGNED = 2000
"""Pairs whose shift is estimated unless told otherwise: more do not move the median."""
_OWN = 5
"""Sure estimates from which a recording is told apart from the rest."""


@dataclass
class _Seen:
    """What all pairs together are."""

    home: Mapping[str, Sequence[str]]
    """Id → the splits that name it."""
    values: NDArray[np.int64]
    """Thermal's histogram."""
    prints: Prints = field(default_factory=Prints)
    pixels: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"RGB": {}, "thermal": {}})
    """Sensor → id → digest of its pixels."""
    sizes: dict[str, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    classes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Split → pixels of each value of its masks."""
    resized: dict[str, tuple[Sample, tuple[int, int]]] = field(default_factory=dict)
    """Id → the pair and RGB's height, width, where its labels of boxes say another one."""
    same: list[str] = field(default_factory=list)
    """Ids of the pairs whose two pictures are one."""
    shifts: dict[str, Shift | None] = field(default_factory=dict)
    ranges: list[tuple[float, float]] = field(default_factory=list)

    def take(self, sample: Sample, facts: Facts) -> None:
        self.prints.ids.append(sample.id)
        self.prints.splits.append(self.home[sample.id][0])
        self.prints.digests.append(facts.digests)
        self.prints.hashes.append(facts.hashes)
        for sensor, digest in facts.pixels.items():
            self.pixels[sensor][sample.id] = digest
        for sensor, size in facts.sizes.items():
            self.sizes[sensor][size] += 1
            if sensor == "RGB" and sample.stated not in (None, size):
                self.resized[sample.id] = sample, size
        if facts.same:
            self.same.append(sample.id)
        if facts.classes is not None:
            for split in self.home[sample.id]:
                self.classes[split] = self.classes.get(split, np.zeros(256, np.int64)) + facts.classes
        if facts.high >= facts.low:
            self.ranges.append((facts.low, facts.high))
            self.values += facts.values["thermal"]
        if facts.compared:
            self.shifts[sample.id] = facts.shift


def check_card(
    card: DatasetCard,
    progress: Progress | None = None,
    workers: int | None = None,
    align: int = ALIGNED,
) -> Report:
    """Read every pair of every split, and compare files, labels, splits and alignment with the card.

    Args:
        card: The data set.
        progress: Told of each pair.
        workers: Pairs read at once; None: as many as there are cores.
        align: Pairs, spread evenly, whose shift is estimated; 0: none.
    """
    report = Report()
    try:
        card.inputs()
        looker = Looker(card)
    except DataError as error:
        report.add("error", "card", card.name, str(error))
        return report
    by_split = read_splits(card, report)
    samples = list({sample.id: sample for chosen in by_split.values() for sample in chosen}.values())
    looker.align = frozenset(_spread([sample.id for sample in samples if len(sample.sensors) == 2], align))
    home: dict[str, list[str]] = defaultdict(list)
    for split, chosen in by_split.items():
        for sample in chosen:
            home[sample.id].append(split)
    seen = _Seen(home, np.zeros(HISTOGRAM[card.thermal_spec.unit][2], np.int64))
    for done, (sample, facts) in enumerate(zip(samples, in_parallel(looker, samples, workers), strict=True), 1):
        report.extend(facts.findings)
        seen.take(sample, facts)
        if progress is not None:
            progress(done, len(samples))
    _tell(card, by_split, seen, report)
    return report


def _spread(ids: Sequence[str], most: int) -> list[str]:
    if most <= 0 or not ids:
        return []
    return [ids[k] for k in np.linspace(0, len(ids) - 1, min(most, len(ids))).round().astype(int)]


def _tell(card: DatasetCard, by_split: Mapping[str, Sequence[Sample]], seen: _Seen, report: Report) -> None:
    """What only shows over the whole set."""
    _same_ids(by_split, report)
    report.extend(beside(card, set(seen.home)))
    found = recordings(seen.home)
    report.extend(missing_frames(found))
    runs = frozen_runs(found, seen.pixels["thermal"], seen.pixels["RGB"])
    report.extend(frozen(runs))
    report.extend(exact(seen.prints, {one for run in runs for one in run}))
    report.extend(near(seen.prints))
    judged = [split for split in by_split if split not in (*card.unlabelled, "train")]
    if "train" in by_split:
        report.extend(views(seen.prints, "train", judged))
    _sizes(seen, report)
    _resized(seen, report)
    _one_picture(seen, report)
    if seen.ranges:
        lows, highs = np.array(seen.ranges).T
        report.thermal_range = (float(lows.min()), float(highs.max()))
        report.thermal_span = (float((highs - lows).min()), float((highs - lows).max()))
        report.extend(wrong_range(seen.values, report.thermal_range, card.thermal_spec))
    _signs(card, by_split, report)
    count_labels(by_split, seen.classes, card, report)
    report.alignment = summarise(seen.shifts)
    if report.alignment is not None:
        _tell_alignment(report.alignment, found, report)


def _same_ids(by_split: Mapping[str, Sequence[Sample]], report: Report) -> None:
    """A pair belongs to one split; but test_night may be a part of test, as some sets have official parts."""
    home: dict[str, str] = {}
    for split, samples in by_split.items():
        for sample in samples:
            other = home.setdefault(sample.id, split)
            if other != split and not split.startswith(f"{other}_"):
                text = f"pair '{sample.id}' is in the splits '{other}' and '{split}'"
                report.add("error", "duplicate", sample.id, text)


def _signs(card: DatasetCard, by_split: Mapping[str, Sequence[Sample]], report: Report) -> None:
    """False colour, polarity, overlays, telemetry and mounts, as a sample of the pairs shows them."""
    samples = {
        s.id: s for chosen in by_split.values() for s in chosen if "thermal" in s.sensors and s.thermal.is_file()
    }
    rgbs = [sample.rgb if "rgb" in sample.sensors else None for sample in samples.values()]
    signs = look_at_files([sample.thermal for sample in samples.values()], rgbs, card.thermal_spec, card.load_rig())
    for sign in signs:
        report.add(sign.level, sign.kind, "thermal", sign.text)


def _sizes(seen: _Seen, report: Report) -> None:
    for sensor, sizes in seen.sizes.items():
        report.sizes[sensor] = {f"{width}×{height}": count for (height, width), count in sizes.most_common()}
        if len(sizes) > 1:
            (height, width), count = sizes.most_common(1)[0]
            text = f"{sensor} pictures have {len(sizes)} sizes; {count} are {width}×{height} (width×height)"
            report.add("note", "size", sensor, text)


def _resized(seen: _Seen, report: Report) -> None:
    """Boxes that were drawn on pictures of another size lie elsewhere, also where none leaves its picture."""
    if not seen.resized:
        return
    sample, (height, width) = next(iter(seen.resized.values()))
    assert sample.stated is not None
    text = (
        f"{len(seen.resized)} RGB pictures are not as large as their boxes' labels say: the labels were made on "
        f"pictures of another size (first: {sample.rgb} is {width}×{height}, width×height, labels say "
        f"{sample.stated[1]}×{sample.stated[0]}); scale the labels, or use the pictures that they were made on"
    )
    report.add("error", "label", sample.id, text)


def _one_picture(seen: _Seen, report: Report) -> None:
    """The same picture in both folders: what looks like a pair is one sensor."""
    if seen.same:
        text = (
            f"{len(seen.same)} of {len(seen.home)} pairs have the same grey picture as RGB and as thermal (first: "
            f"'{seen.same[0]}'): one sensor's files lie in both places, or 'rgb' and 'thermal' in the card name one"
        )
        report.add("error", "duplicate", seen.same[0], text)


def _tell_alignment(alignment: Alignment, found: Sequence[Recording], report: Report) -> None:
    report.add("note" if alignment.verdict == "aligned" else "warning", "alignment", "", alignment.text())
    if alignment.verdict == "aligned" and (beyond := alignment.worst()):
        one, shift = beyond[0]
        text = f"{len(beyond)} pairs lie beyond {LIMIT:g} px (farthest: '{one}', ({shift.dx:+.0f}, {shift.dy:+.0f}) px)"
        report.add("warning", "alignment", one, text)
    for recording in found:
        _tell_recording(recording, alignment, report)
    if alignment.parallax:
        first = next(one for one, shift in alignment.shifts.items() if shift.other is not None)
        text = (
            f"in {alignment.parallax} pairs near and far things are shifted differently (parallax; first: '{first}'): "
            "no rig lays both on RGB"
        )
        report.add("warning", "alignment", first, text)


def _tell_recording(recording: Recording, alignment: Alignment, report: Report) -> None:
    """A recording that is shifted as a whole, unlike the rest of the set."""
    own = {one: alignment.shifts.get(one) for one in recording.ids if one in alignment.shifts}
    part = summarise(own)
    if part is None or part.sure < _OWN or part.verdict != "shifted" or part.systematic is None:
        return
    if alignment.verdict == "shifted" or part.pairs == alignment.pairs:
        return
    text = (
        f"the recording '{recording.ids[0]}' … '{recording.ids[-1]}' is shifted as a whole: thermal lies "
        f"{side(*part.systematic)} ({part.sure} of {part.pairs} pairs tell)"
    )
    report.add("warning", "alignment", recording.ids[0], text)
