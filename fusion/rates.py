"""Learning rates as pure functions of the step, and the optimiser's groups that carry them."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from fusion.plan import PlannedBlock
    from fusion.recipe import Schedule

_FRESH_STEPS = 20
"""Steps over which the rate of a block rises whose optimiser moments are empty although the stage is under way."""
_ONE_CYCLE_START = 1 / 25
"""First rate of a one-cycle as a share of the top: torch's OneCycleLR has the same."""


def _constant(_: float, __: "Schedule") -> float:
    return 1.0


def _cosine(progress: float, schedule: "Schedule") -> float:
    return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * progress)) / 2


def _triangle(progress: float, schedule: "Schedule") -> float:
    within = (progress * schedule.cycles) % 1.0
    return schedule.floor + (1 - schedule.floor) * (1 - abs(2 * within - 1))


SCHEDULES: dict[str, tuple[Callable[[float, "Schedule"], float], float]] = {
    "constant": (_constant, 0.05),
    "cosine": (_cosine, 0.05),
    "onecycle": (_cosine, 0.3),
    "cyclic": (_triangle, 0.0),
}
"""Name → its curve after the warm-up over progress 0…1, and its usual share of warm-up."""


def rate(schedule: "Schedule", step: int, steps: int) -> float:
    """Share of the top rate at ``step`` (from 0) of a stage of ``steps``; a pure function, with no scheduler object."""
    curve, usual = SCHEDULES[schedule.kind]
    warm = round((usual if schedule.warmup is None else schedule.warmup) * steps)
    if step < warm:
        if schedule.kind == "onecycle":
            return _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * (1 - math.cos(math.pi * step / warm)) / 2
        return (step + 1) / (warm + 1)
    return curve((step - warm) / max(1, steps - warm), schedule)


def fresh(number: int, per_epoch: int, opens: int, kept: Sequence[int]) -> float:
    """Share of its rate that a block has while its moments are young: it opened late, or a rollback emptied them.

    Args:
        number: Step of the stage, from 0.
        per_epoch: Steps of an epoch.
        opens: Epoch (from 0) at which the block opens.
        kept: Epochs (from 0) before this one whose steps the weights and moments still have in them.

    Returns:
        1 where the moments began with the stage: its own warm-up has seen to that.
    """
    epoch, step = divmod(number, per_epoch)
    trained = [one for one in (*kept, epoch) if one >= opens]
    done = (len(trained) - 1) * per_epoch + step
    return min(1.0, (done + 1) / _FRESH_STEPS) if trained[0] else 1.0


def parameter_groups(
    blocks: "list[PlannedBlock]", modules: dict[str, list[nn.Module]], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups, one or two for each training block: matrices with weight decay, vectors without.

    Each carries ``block``, ``top`` (its rate at the schedule's top), ``opens`` (epoch of the stage at which it begins)
    and ``l2_sp`` beside the optimiser's own settings.
    """
    groups: list[dict[str, Any]] = []
    for block in blocks:
        parameters = [p for module in modules[block.name] for p in module.parameters(recurse=False)]
        for decays in (True, False):
            chosen = [p for p in parameters if (p.dim() > 1) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                own = {"block": block.name, "top": block.lr, "opens": block.opens, "l2_sp": block.l2_sp}
                groups.append({"params": chosen, "lr": block.lr, "weight_decay": decay, **own})
    return groups
