"""How well a stage does on the validation split: its loss, the head's metric, and what each sensor carries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fusion.bootstrap import Record, resampled
from fusion.checkpoint import Row
from fusion.faults import culprits
from fusion.learner import split
from fusion.model import FusionModel, Sensor
from fusion.objectives import ALONE, Batch

PICTURES = 3
"""Validation pictures that a pretraining stage keeps for its report."""
_NAMED = 8
"""Most samples with a loss that is no number that are named, and that are looked for on each device."""


@dataclass
class Validated:
    """What one pass over the validation split found."""

    row: Row
    records: list[Record] = field(default_factory=list)
    """One for each picture, in the split's order; empty for a stage without labels."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """Of a stage without labels: what its objective showed for the first pictures."""
    fault: str = ""
    """Where the loss is no number: in words, in how many batches and on which samples; else empty."""


@dataclass
class _Share:
    """What one device found: by number of the batch."""

    terms: dict[int, dict[str, float]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    records: dict[str, dict[int, list[Record]]] = field(default_factory=dict)
    broken: dict[int, list[str]] = field(default_factory=dict)
    """Ids of the samples with a loss that is no number, in batches that have one; [] where enough are known."""


@torch.no_grad()
def validate(fabric: Fabric, objective: nn.Module, batches: Any, sensors: tuple[Sensor, ...]) -> Validated:  # noqa: ANN401 - a torch DataLoader
    """Measure an objective; every device looks at its share, and all return the same.

    Args:
        fabric: Device, precision, and the other processes.
        objective: Of fusion.objectives; put into eval mode.
        batches: This device's batches of the validation split.
        sensors: Sensors in use.

    Returns:
        ``val_loss`` and the loss's terms; for the task the head's metrics and, with both sensors in use, the first of
        them with either sensor alone. Where the loss is no number, the samples to blame.
    """
    objective.eval()
    model: FusionModel = objective.model  # type: ignore[assignment]
    task = objective.learns_from == "labelled"
    share, pictures = _Share(), {}
    for at, batch in enumerate(fabric.setup_dataloaders(batches, use_distributed_sampler=False)):
        number = at * fabric.world_size + fabric.global_rank
        with fabric.autocast():
            found = (
                _task(model, objective, batch, sensors, number, share) if task else _pretext(objective, batch, sensors)
            )
        share.terms[number] = {k: v.item() for k, v in found.items() if v.dim() == 0}
        share.sizes[number] = len(batch["ids"])
        if not math.isfinite(share.terms[number]["loss"]):
            share.broken[number] = _broken(fabric, objective, batch, sensors, share)
        if not task and number == 0:
            pictures = {k: v[:PICTURES].float().cpu() for k, v in found.items() if v.dim() > 0}
    whole = _gather(fabric, share)
    row = _means(whole)
    if not task:
        return Validated(row, pictures=pictures, fault=_fault(whole))
    records = {name: [r for n in sorted(by) for r in by[n]] for name, by in whole.records.items()}
    return Validated(row | _figures(model, records), records["all"], fault=_fault(whole))


def _broken(
    fabric: Fabric, objective: nn.Module, batch: Batch, sensors: tuple[Sensor, ...], share: _Share
) -> list[str]:
    """Ids of the samples that make a batch's loss no number; all of them where none does alone."""
    if sum(map(len, share.broken.values())) >= _NAMED:
        return []
    ids: Sequence[str] = batch["ids"]
    prepared, counts = objective.prepare(batch)  # type: ignore[operator]
    calls = ((one, sensors, None, counts) for one in split(prepared, len(ids)))
    return culprits(objective, calls, fabric) or list(ids)


def _fault(share: _Share) -> str:
    if not share.broken:
        return ""
    named = [one for number in sorted(share.broken) for one in share.broken[number]]
    others = " and others" if len(named) > _NAMED or not all(share.broken.values()) else ""
    batches = f"{len(share.broken)} of {len(share.sizes)} batches"
    return f"in {batches}, on samples {', '.join(named[:_NAMED])}{others}"


def _pretext(objective: nn.Module, batch: Batch, sensors: tuple[Sensor, ...]) -> dict[str, Tensor]:
    prepared, counts = objective.prepare(batch)  # type: ignore[operator]
    found: dict[str, Tensor] = objective(prepared, sensors, None, counts)
    return found


def _task(
    model: FusionModel, objective: nn.Module, batch: Batch, sensors: tuple[Sensor, ...], number: int, share: _Share
) -> dict[str, Tensor]:
    """Encode once; answer with all sensors, and with each alone."""
    batch, counts = objective.prepare(batch)  # type: ignore[operator]
    present: Tensor = batch["present"]
    features = model.features(batch["rgb"], batch["thermal"], present, sensors)
    maps = model.head(model.join(features, present))
    _record(model, maps, batch, share.records.setdefault("all", {}), number)
    for sensor in sensors if len(sensors) > 1 else ():
        alone = model.head(model.join(features, present * present.new_tensor(ALONE[sensor])))
        _record(model, alone, batch, share.records.setdefault(sensor, {}), number)
    return model.loss(maps, batch["targets"], counts)


def _record(
    model: FusionModel, maps: dict[str, Tensor], batch: Batch, records: dict[int, list[Record]], number: int
) -> None:
    metric = model.head.metric(model.config.classes)
    answers = model.answer(maps)
    for at in range(len(batch["ids"])):
        answer = {name: rows[at] for name, rows in answers.items()}
        metric.update(answer, {name: batch[name][at] for name in model.head.truth})
    records[number] = metric.records


def _gather(fabric: Fabric, share: _Share) -> _Share:
    """Join what all devices found."""
    if fabric.world_size == 1:
        return share
    shares: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(shares, share)
    whole = _Share()
    for one in shares:
        whole.terms |= one.terms
        whole.sizes |= one.sizes
        whole.broken |= one.broken
        for name, by_number in one.records.items():
            whole.records.setdefault(name, {}).update(by_number)
    return whole


def _means(share: _Share) -> Row:
    """Means over pictures, summed in the split's order: the same bits however many devices."""
    seen = sum(share.sizes.values())
    totals: dict[str, float] = {}
    for number in sorted(share.terms):
        for name, value in share.terms[number].items():
            totals[name] = totals.get(name, 0.0) + value * share.sizes[number]
    return {f"val_{name}": total / seen for name, total in totals.items()}


def _figures(model: FusionModel, records: dict[str, list[Record]]) -> Row:
    metric = model.head.metric(model.config.classes)
    metric.extend(records["all"])
    found, classes = metric.compute(), len(model.config.classes)
    main = model.head.criterion[0]
    alone = {f"{main}_{s}": resampled(model.task, records[s], classes).value() for s in ALONE if s in records}
    return {name: found[name] for name in model.head.metrics} | alone
