"""Recordings in the ids: pairs that are numbered in the order of time, frames that are missing, thermal that froze."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise

from data.check.findings import Finding

_NUMBERED = re.compile(r"(.*?)(\d{1,18})(\D*)", re.DOTALL)
_SHORTEST = 16
"""Pairs from which a numbering is taken for a recording."""
_BREAK = 10
"""A jump of more than so many usual steps begins another recording."""
_IRREGULAR = 0.05
"""Share of other steps up to which the numbering counts as regular."""
_SHOWN = 5


@dataclass(frozen=True)
class Recording:
    """Pairs with the same name up to a number, without a large jump, in order."""

    ids: tuple[str, ...]
    numbers: tuple[int, ...]
    step: int
    """The usual difference of two numbers."""

    @property
    def gaps(self) -> list[int]:
        """Numbers that are missing; none where the numbering is irregular or short."""
        jumps = [(a, b) for a, b in pairwise(self.numbers) if b - a != self.step]
        if len(self.ids) < _SHORTEST or len(jumps) > _IRREGULAR * len(self.ids):
            return []
        return [number for a, b in jumps for number in range(a + self.step, b, self.step)]

    def id_of(self, number: int) -> str:
        """The id that a number would have."""
        match = _NUMBERED.fullmatch(self.ids[0])
        assert match is not None
        return f"{match[1]}{number:0{len(match[2])}}{match[3]}"


def recordings(ids: Iterable[str]) -> list[Recording]:
    """Sort ids that end in a number (a suffix may follow) into recordings; the others are left out."""
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for one in ids:
        match = _NUMBERED.fullmatch(one)
        if match:
            groups[match[1], match[3]][int(match[2])] = one
    return [recording for group in groups.values() for recording in _recordings(group)]


def _recordings(group: Mapping[int, str]) -> Iterator[Recording]:
    numbers = sorted(group)
    differences = Counter(b - a for a, b in pairwise(numbers))
    step = min(differences, key=lambda jump: (-differences[jump], jump), default=1)
    start = 0
    for k in range(1, len(numbers) + 1):
        if k == len(numbers) or numbers[k] - numbers[k - 1] > _BREAK * step:
            part = tuple(numbers[start:k])
            yield Recording(tuple(group[number] for number in part), part, step)
            start = k


def missing_frames(found: Iterable[Recording]) -> list[Finding]:
    """Name the gaps of regularly numbered recordings."""
    findings = []
    for recording in found:
        gaps = recording.gaps
        if gaps:
            names = ", ".join(f"'{recording.id_of(number)}'" for number in gaps[:_SHOWN])
            more = f" and {len(gaps) - _SHOWN} more" if len(gaps) > _SHOWN else ""
            text = (
                f"the recording '{recording.ids[0]}' … '{recording.ids[-1]}' ({len(recording.ids)} pairs, numbered by "
                f"{recording.step}) lacks {names}{more}: frames were lost or left out"
            )
            findings.append(Finding("warning", "gap", recording.ids[0], text))
    return findings


def frozen_runs(
    found: Iterable[Recording], thermal: Mapping[str, bytes], rgb: Mapping[str, bytes]
) -> list[tuple[str, ...]]:
    """Runs of pairs whose thermal pixels are all the same while RGB changes.

    Args:
        found: The recordings.
        thermal: Digest of thermal's pixels, by id.
        rgb: Digest of RGB's pixels, by id.
    """
    runs = []
    for recording in found:
        known = (one for one in recording.ids if one in thermal and one in rgb)
        for _, run in groupby(known, key=lambda one: thermal[one]):
            ids = tuple(run)
            if len({rgb[one] for one in ids}) > 1:
                runs.append(ids)
    return runs


def frozen(runs: Iterable[tuple[str, ...]]) -> list[Finding]:
    """Say which runs of thermal frames stand still."""
    return [
        Finding(
            "warning",
            "frozen",
            run[0],
            f"thermal is frozen over {len(run)} pairs, '{run[0]}' to '{run[-1]}', while RGB changes: take them out, or "
            "the model learns from heat that is no longer there",
        )
        for run in runs
    ]
