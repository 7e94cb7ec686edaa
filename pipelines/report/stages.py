"""The history of a run, stage by stage, on one axis of epochs."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fusion.recipe import Recipe, Stage

BRANCHES = ("rgb", "thermal", "blend", "head")
"""The parts of a model, in the order in which pictures pass them."""


@dataclass(frozen=True)
class Span:
    """One stage, with its place on the axis of epochs."""

    number: int
    """From 1."""
    stage: Stage
    sensors: tuple[str, ...]
    start: int
    """Epochs of all stages before it."""
    rows: tuple[dict[str, Any], ...]
    """The stage's entry (epoch 0) and its epochs, as the trainer recorded them."""
    handed_on: dict[str, Any]
    """The row whose weights went on to the next stage."""

    @property
    def end(self) -> int:
        """Place of its last epoch."""
        return self.start + int(self.rows[-1]["epoch"])

    @property
    def length(self) -> int:
        """Number of its epochs."""
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
        return criterion(self.stage)

    def place(self, row: dict[str, Any]) -> int:
        """Where a row lies on the axis."""
        return self.start + int(row["epoch"])

    def points(self, key: str) -> tuple[list[int], list[float]]:
        """Places and values of the rows that carry ``key``."""
        rows = [row for row in self.rows if key in row]
        return [self.place(row) for row in rows], [float(row[key]) for row in rows]

    def rates(self, branch: str) -> list[float]:
        """Learning rates of the branch's blocks at the schedule's top, rising; empty when it is frozen."""
        rates: dict[str, float] = self.rows[-1]["lr"]
        return sorted(rate for block, rate in rates.items() if block.split(".")[0] == branch)

    def share(self, branch: str) -> tuple[int, int]:
        """How many of the branch's blocks train, and how many it has."""
        trains = len(self.rates(branch))
        return trains, trains + sum(block.split(".")[0] == branch for block in self.rows[-1]["frozen"])


def criterion(stage: Stage) -> str:
    """The figure of a history row by which the stage's best epoch is chosen: the higher AP50, or the lower loss."""
    return "ap50" if stage.objective == "task" else "val_loss"


def role_of(sensors: Sequence[str]) -> str:
    """The palette's role for a choice of sensors."""
    return sensors[0] if len(sensors) == 1 else "fused"


def spans(history: Iterable[dict[str, Any]], recipe: Recipe) -> list[Span]:
    """Group a run's history by stage; a stage of which no epoch is done has no place yet and is left out."""
    stages = {stage.name: stage for stage in recipe.stages}
    found: list[Span] = []
    for name, group in itertools.groupby(history, key=lambda row: row["stage"]):
        rows = tuple(group)
        if rows[-1]["epoch"]:
            start = found[-1].end if found else 0
            stage = stages[name]
            chosen = _handed_on(rows, recipe)
            found.append(Span(len(found) + 1, stage, recipe.sensors_of(stage), start, rows, chosen))
    return found


def _handed_on(rows: tuple[dict[str, Any], ...], recipe: Recipe) -> dict[str, Any]:
    if recipe.select == "last":
        return rows[-1]
    return [row for row in rows if row["best"]][-1]


def branches_of(stages: Iterable[Span]) -> list[str]:
    """The parts that the model has."""
    return [branch for branch in BRANCHES if any(span.share(branch)[1] for span in stages)]
