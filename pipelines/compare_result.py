"""What finished cells of rgbt compare say: figures with intervals, differences, and what to know beside them."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch

from export.bench import machine
from fusion.bootstrap import Difference, Estimate, Resampled, resampled
from fusion.bootstrap import compare as estimate_all
from fusion.bootstrap import load as load_records
from fusion.heads import HEADS
from pipelines.compare_cells import Cell
from pipelines.compare_effort import Effort, effort_of, watchers
from pipelines.compare_request import Request

DRAWS = 2000
FEW = 20
"""Validation pictures below which what they choose is largely chance."""
_NO_FIGURES = ("absent", "records")
"""What a measured row holds beside the task's figures."""
Verdict = Literal["better", "worse"]


@dataclass(frozen=True)
class Line:
    """One row of the table: a recipe, with all its sensors or with one taken away."""

    name: str
    recipe: str
    absent: str | None
    score: Estimate
    """The task's main figure."""
    others: dict[str, tuple[float, ...]]
    """Each other figure of the task → its value for each seed."""
    verdict: Verdict | None
    """Against the first recipe; None where the interval of the difference holds 0."""
    without: dict[str, Difference]
    """Sensor → the main figure without it minus that with it; empty where the recipe has one, or one is gone."""

    def mean(self, metric: str) -> float:
        """Over the seeds, of one of the other figures."""
        return sum(self.others[metric]) / len(self.others[metric])

    def as_json(self, metric: str) -> dict[str, Any]:
        """Plain JSON; the main figure stands under its name, others under theirs."""
        found = asdict(self)
        found[metric] = found.pop("score")
        for name, values in found.pop("others").items():
            found |= {name: self.mean(name), f"{name}_per_seed": values}
        return found


@dataclass(frozen=True)
class Comparison:
    """The whole answer."""

    card: str
    split: str
    task: str
    metric: str
    """The task's main figure, by which recipes are compared."""
    pictures: int
    seeds: int
    labels: float
    validation: str
    """In words: what training validated on."""
    rows: tuple[Line, ...]
    efforts: tuple[Effort, ...]
    warnings: tuple[str, ...]
    command: str
    machine: dict[str, str]

    @property
    def base(self) -> str:
        """The recipe that the others are compared with."""
        return self.efforts[0].name

    def effort(self, line: Line) -> Effort:
        """Of a row's recipe."""
        return next(effort for effort in self.efforts if effort.name == line.recipe)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"rows": [line.as_json(self.metric) for line in self.rows]}


def summarise(request: Request, cells: Sequence[Cell]) -> Comparison:
    """What finished cells say."""
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    setting = cells[0].setting
    efforts = tuple(effort_of(mine, request.out) for mine in by_name.values())
    metric, _ = HEADS[setting.task].criterion
    return Comparison(
        card=str(setting.source.path),
        split=setting.reported,
        task=setting.task,
        metric=metric,
        pictures=setting.pictures,
        seeds=request.seeds,
        labels=request.labels,
        validation=setting.validation,
        rows=tuple(_lines(by_name, metric)),
        efforts=efforts,
        warnings=tuple(_warnings(efforts, [mine[0] for mine in by_name.values()], request)),
        command=shlex.join(["rgbt", *sys.argv[1:]]),
        machine=_machine(cells[0].accelerator) | {"precision": request.precision, "jobs": str(request.jobs)},
    )


def _machine(accelerator: str) -> dict[str, str]:
    """What it was trained on."""
    found = {name: value for name, value in machine().items() if name in ("cpu", "cores", "system", "python")}
    found["accelerator"] = accelerator
    if accelerator == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found | {name: version(name) for name in ("torch", "timm")}


def _lines(by_name: dict[str, list[Cell]], metric: str) -> list[Line]:
    """A row for each recipe, then for each fused one a row without either sensor."""
    runs: dict[tuple[str, str | None], list[Resampled]] = {}
    others: dict[tuple[str, str | None], list[dict[str, float]]] = {}
    for name, cells in by_name.items():
        for cell in cells:
            for row in cell.measured()["rows"]:
                key, setting = (name, row["absent"]), cell.setting
                records = load_records(cell.folder / row["records"])
                classes = len(setting.card.classes_of(setting.task))
                runs.setdefault(key, []).append(resampled(setting.task, records, classes))
                others.setdefault(key, []).append({k: v for k, v in row.items() if k not in (*_NO_FIGURES, metric)})
    keys = sorted(runs, key=lambda key: key[1] is not None)  # stable: whole recipes first, in their order
    found = estimate_all({_row_name(*key): runs[key] for key in keys}, DRAWS)
    return [_line(key, found[_row_name(*key)], others[key], _without(key, runs)) for key in keys]


def _without(key: tuple[str, str | None], runs: dict[tuple[str, str | None], list[Resampled]]) -> dict[str, Difference]:
    """Sensor → what its absence does to a whole recipe, on the same pictures and seeds."""
    name, absent = key
    own = {sensor: these for (other, sensor), these in runs.items() if other == name and sensor is not None}
    if absent is not None or not own:
        return {}
    found = estimate_all({name: runs[key], **{_row_name(name, sensor): own[sensor] for sensor in own}}, DRAWS)
    changes = {sensor: found[_row_name(name, sensor)].difference for sensor in own}
    return {sensor: change for sensor, change in changes.items() if change is not None}


def _row_name(recipe: str, absent: str | None) -> str:
    return recipe if absent is None else f"{recipe}, {absent} absent"


def _line(
    key: tuple[str, str | None],
    estimate: Estimate,
    others: list[dict[str, float]],
    without: dict[str, Difference],
) -> Line:
    by_metric = {metric: tuple(seed[metric] for seed in others) for metric in others[0]}
    return Line(_row_name(*key), *key, estimate, by_metric, _verdict(estimate), without)


def _verdict(estimate: Estimate) -> Verdict | None:
    """A win or a loss is claimed only where the interval excludes 0."""
    if estimate.difference is None or estimate.difference.low <= 0 <= estimate.difference.high:
        return None
    return "better" if estimate.difference.low > 0 else "worse"


def _warnings(efforts: Sequence[Effort], cells: Sequence[Cell], request: Request) -> list[str]:
    """What the reader is to be told beside the table; ``cells`` has one of each recipe."""
    found, setting = [], cells[0].setting
    steps = {effort.name: effort.labelled_steps for effort in efforts}
    if len(set(steps.values())) > 1:
        listed = ", ".join(f"{name} {value:g}" for name, value in steps.items())
        found.append(f"the recipes differ in labelled optimiser steps ({listed}): more training may be all that helped")
    if request.seeds == 1:
        found.append("one seed: the intervals speak of the pictures alone, another seed may answer differently")
    steered = [cell.name for cell in cells if cell.recipe.select == "best" or watchers(cell.recipe)]
    if steered and setting.validated < FEW:
        found.append(
            f"what selects or guards in {', '.join(steered)} is {setting.validation}; with fewer than {FEW} pictures "
            "its choices are largely chance"
        )
    if setting.leaks:
        found.append(
            f"{setting.leaks} of the reported pictures are also in the split 'unlabelled', so pretraining saw them"
        )
    return found


def against(line: Line) -> str:
    """A row's difference to the first recipe, its interval, and what may be claimed."""
    difference = line.score.difference
    if difference is None:
        return "–"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] {line.verdict or ''}".rstrip()


def change_without(line: Line, sensor: str) -> str:
    """What a sensor's absence does to the main figure, on the row of the whole recipe."""
    return f"{line.without[sensor].mean:+.3f}" if sensor in line.without else ""
