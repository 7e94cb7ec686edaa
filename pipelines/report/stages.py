"""The history of a run, stage by stage, on one axis of epochs."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fusion.model import HEADS
from fusion.recipe import Recipe, Schedule, Stage

Row = dict[str, Any]
"""One epoch as ``fusion.trainer`` recorded it; older runs lack some keys."""

BRANCHES = ("rgb", "thermal", "blend", "head")
"""The parts of a model, in the order in which pictures pass them."""


class Period(NamedTuple):
    """Epochs in a row in which the same blocks of a part train."""

    start: int
    end: int
    trains: int
    blocks: int


@dataclass(frozen=True)
class Span:
    """One stage, with its place on the axis of epochs."""

    number: int
    """From 1."""
    stage: Stage
    schedule: Schedule
    """The stage's own, or the recipe's."""
    sensors: tuple[str, ...]
    metric: str
    """The head's main metric, by whose name the rows carry it."""
    start: int
    """Epochs of all stages before it."""
    rows: tuple[Row, ...]
    """The stage's entry (epoch 0) and its epochs, as the trainer recorded them."""
    handed_on: Row
    """The row whose weights went on to the next stage."""

    @property
    def end(self) -> int:
        """Place of its last epoch."""
        return self.start + max(int(row["epoch"]) for row in self.rows)

    @property
    def length(self) -> int:
        """Number of its epochs, those that were thrown away included."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Half way between its entry and its last epoch."""
        return (self.start + self.end) / 2

    @property
    def role(self) -> str:
        """The palette's colour of the sensors in use."""
        return role_of(self.sensors)

    @property
    def criterion(self) -> str:
        """The key by which the trainer chose the stage's best epoch."""
        return self.metric if self.stage.is_task else "val_loss"

    @property
    def epochs(self) -> list[Row]:
        """The rows without the entry, one for each epoch; what broke off before it had rates has its neighbour's."""
        rows = [row for _, row in sorted({int(row["epoch"]): row for row in self.rows if row["epoch"]}.items())]
        known = next((row for row in rows if "lr" in row), {"lr": {}, "frozen": self.rows[0].get("frozen", [])})
        found = []
        for row in rows:
            known = row if "lr" in row else known
            found.append(row | {key: known[key] for key in ("lr", "frozen")})
        return found

    def place(self, row: Row) -> int:
        """Where a row lies on the axis."""
        return self.start + int(row["epoch"])

    def points(self, key: str) -> tuple[list[int], list[float]]:
        """Places and values of the rows that carry ``key`` as a number and were not thrown away."""
        rows = [row for row in self.rows if number(row, key) is not None and not row.get("rolled_back")]
        return [self.place(row) for row in rows], [float(row[key]) for row in rows]

    def periods(self, part: str) -> list[Period]:
        """What trains of a part, from epoch to epoch: gradual unfreezing begins a new period within the stage."""
        found = []
        for _, group in itertools.groupby(self.epochs, key=lambda row: _blocks(row, part)):
            rows = list(group)
            trains, frozen = (len(blocks) for blocks in _blocks(rows[0], part))
            found.append(Period(self.place(rows[0]) - 1, self.place(rows[-1]), trains, trains + frozen))
        return found

    def most(self, part: str) -> tuple[int, int]:
        """How many of the part's blocks train in the epoch in which most do, and how many it has."""
        return max((period[2:] for period in self.periods(part)), default=(0, 0))

    def average(self, key: str) -> float | None:
        """Mean over the epochs that carry ``key``, weighted by their seconds."""
        rows = [row for row in self.epochs if number(row, key) is not None]
        seconds = [float(row.get("seconds", 1.0)) for row in rows]
        if not sum(seconds):
            return None
        return sum(float(row[key]) * s for row, s in zip(rows, seconds, strict=True)) / sum(seconds)


def number(row: Row, key: str) -> float | None:
    """The row's value of ``key``; None where it has none, or one that is no finite number."""
    value = row.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def rates(row: Row, part: str) -> list[float]:
    """Top rates of the part's blocks that train in an epoch, rising; empty when it is frozen."""
    trains, _ = _blocks(row, part)
    return sorted(float(row["lr"][block]) for block in trains)


def _blocks(row: Row, part: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the part's blocks that train, and of those that are frozen."""
    frozen = {block for block in row.get("frozen", ()) if block.split(".")[0] == part}
    trains = {block for block in row.get("lr", ()) if block.split(".")[0] == part} - frozen
    return tuple(sorted(trains)), tuple(sorted(frozen))


def role_of(sensors: Sequence[str]) -> str:
    """The palette's role for a choice of sensors."""
    return sensors[0] if len(sensors) == 1 else "fused"


def spans(history: Iterable[Row], recipe: Recipe) -> list[Span]:
    """Group a run's history by stage; a stage of which no epoch is done has no place yet and is left out."""
    stages = {stage.name: stage for stage in recipe.stages}
    metric, _ = HEADS[recipe.model.head.kind].criterion
    found: list[Span] = []
    for name, group in itertools.groupby(history, key=lambda row: row["stage"]):
        rows = tuple(group)
        if rows[-1]["epoch"]:
            start = found[-1].end if found else 0
            stage = stages[name]
            schedule, sensors = recipe.schedule_of(stage), recipe.sensors_of(stage)
            chosen = _handed_on(rows, recipe)
            found.append(Span(len(found) + 1, stage, schedule, sensors, metric, start, rows, chosen))
    return found


def _handed_on(rows: tuple[Row, ...], recipe: Recipe) -> Row:
    kept = [row for row in rows if not row.get("rolled_back")]
    best = [row for row in kept if row.get("best")]
    if best and recipe.select == "best":
        return best[-1]
    last = rows[-1].get("back_to", kept[-1]["epoch"])
    return next(row for row in kept if row["epoch"] == last)


def parts_of(stages: Iterable[Span]) -> list[str]:
    """The parts that the model has."""
    return [part for part in BRANCHES if any(span.most(part)[1] for span in stages)]
