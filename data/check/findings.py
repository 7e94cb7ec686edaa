"""What a check answers: findings, counts, and how thermal lies on RGB."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data.check.alignment import Alignment

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know of a data set."""

    level: Level
    """error: it makes training wrong, or stops it. warning: look at it. note: good to know."""
    kind: str
    """What it is about, in one word: missing, unreadable, size, label, duplicate, alignment, …"""
    where: str
    """Id of the pair, name of the split, or the file."""
    text: str
    """One line that says it all."""


@dataclass
class Report:
    """What is wrong with a data set, and what it holds."""

    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Split → pairs, labelled pairs, boxes, pixels and pictures of each class."""
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sensor → "width×height" → how many."""
    thermal_range: tuple[float, float] | None = None
    """Lowest and highest valid value, in the unit."""
    thermal_span: tuple[float, float] | None = None
    """Smallest and largest difference between highest and lowest value of one frame."""
    box_sides: tuple[float, float, float] | None = None
    """Smallest, median, largest square root of a box's area, in RGB pixels."""
    alignment: Alignment | None = None
    """None: not looked at, or no pair has both sensors."""

    @property
    def errors(self) -> list[str]:
        """Lines, each of which makes training wrong."""
        return self.lines("error")

    @property
    def warnings(self) -> list[str]:
        """Lines to look at."""
        return self.lines("warning")

    @property
    def notes(self) -> list[str]:
        """Lines that are good to know."""
        return self.lines("note")

    def lines(self, level: Level) -> list[str]:
        """The texts of one level, in order."""
        return [finding.text for finding in self.findings if finding.level == level]

    def add(self, level: Level, kind: str, where: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, kind, where, text))

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add findings."""
        self.findings.extend(findings)

    def as_json(self) -> dict[str, Any]:
        """Plain content for ``--json``."""
        return {"errors": self.errors, "warnings": self.warnings, **asdict(self)}
