"""How thermal lies on RGB over a whole data set: what is systematic, and which pairs differ from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.alignment import Shift

LIMIT = 3.0
"""Pixels at 640 px width within which a pair counts as aligned."""
_AGREE = 0.6
"""Share of the sure estimates that must lie together."""
_TELLING = 0.1
"""Share of the pairs that must have a sure estimate."""
_FEWEST = 3

Verdict = Literal["aligned", "shifted", "not pixel-aligned"]


@dataclass(frozen=True)
class Alignment:
    """Shifts at 640 px width: where thermal shows what RGB shows, dx to the right and dy below."""

    verdict: Verdict
    pairs: int
    """How many were compared."""
    sure: int
    """In how many the edges of both pictures agree on a shift; the figures below are of these."""
    systematic: tuple[float, float] | None
    """Median dx, dy."""
    within: float | None
    """Share of pairs whose shift is at most 3 px."""
    together: float | None
    """Share of pairs that lie at most 3 px from the systematic shift."""
    parallax: int
    """Pairs in which near and far things are shifted differently."""
    shifts: dict[str, Shift]
    """Of every compared pair, by id; one without any edges is left out."""

    def worst(self) -> list[tuple[str, Shift]]:
        """The pairs to look at: those beyond 3 px, the farthest first; without any sure one, the least agreeing."""
        sure = [(one, shift) for one, shift in self.shifts.items() if shift.sure]
        if self.systematic is None:
            return sorted(self.shifts.items(), key=lambda item: item[1].confidence)
        return sorted((item for item in sure if item[1].size > LIMIT), key=lambda item: -item[1].size)

    def text(self) -> str:
        """The verdict in one line."""
        if self.systematic is None or self.within is None:
            told, others = (f"only in {self.sure}", "the others") if self.sure else ("in none", "they")
            return (
                f"not pixel-aligned: {told} of {self.pairs} pairs do the edges of RGB and thermal agree on a shift; "
                f"{others} are paired by name only, or differ by more than a shift"
            )
        dx, dy = self.systematic
        told = f"{self.sure} of {self.pairs} pairs tell; median shift of thermal ({dx:+.1f}, {dy:+.1f}) px, "
        told += f"{self.within:.0%} within {LIMIT:g} px, at 640 px width"
        if self.verdict == "aligned":
            return f"aligned: {told}"
        if self.verdict == "shifted":
            return f"thermal lies {side(dx, dy)} on RGB in the whole set ({told}): name a rig in the card that moves it"
        return f"not pixel-aligned: the shifts of the pairs do not agree ({told})"


def summarise(shifts: Mapping[str, Shift | None]) -> Alignment | None:
    """Judge the set by the estimates of its pairs (None: a picture without edges); None without pairs."""
    if not shifts:
        return None
    found = {one: shift for one, shift in shifts.items() if shift is not None}
    sure = np.array([(shift.dx, shift.dy) for shift in found.values() if shift.sure]).reshape(-1, 2)
    parallax = sum(shift.other is not None for shift in found.values())
    if len(sure) < max(_TELLING * len(shifts), min(_FEWEST, len(shifts))):
        return Alignment("not pixel-aligned", len(shifts), len(sure), None, None, None, parallax, found)
    middle = np.median(sure, axis=0)
    within = float((np.hypot(*sure.T) <= LIMIT).mean())
    together = float((np.hypot(*(sure - middle).T) <= LIMIT).mean())
    verdict: Verdict = "not pixel-aligned"
    if within >= _AGREE:
        verdict = "aligned"
    elif together >= _AGREE:
        verdict = "shifted"
    systematic = (round(float(middle[0]), 2), round(float(middle[1]), 2))
    return Alignment(verdict, len(shifts), len(sure), systematic, round(within, 4), round(together, 4), parallax, found)


def side(dx: float, dy: float) -> str:
    """A shift in words: ``26 px too far up and 4 px too far right``."""
    parts = []
    if abs(dy) >= 0.5:
        parts.append(f"{abs(dy):.0f} px too far {'down' if dy > 0 else 'up'}")
    if abs(dx) >= 0.5:
        parts.append(f"{abs(dx):.0f} px too far {'right' if dx > 0 else 'left'}")
    return " and ".join(parts) or "where it should be"
