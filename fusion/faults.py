"""Losses and gradients that are no numbers: which they are, where they stand, and on which samples."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from fusion.errors import FusionError
from fusion.plan import StagePlan

GRADIENT = "gradient_norm"
"""What the names of all gradients' norms begin with."""
_SHOWN = 8


class NonFinite(FusionError):
    """A loss or a gradient is no number; the weights are as they were before the step. All devices raise it alike."""


def non_finite(figures: Mapping[str, float]) -> list[str]:
    """Names of the figures that are no numbers."""
    return [name for name, value in figures.items() if not math.isfinite(value)]


def what(wrong: Sequence[str], figures: Mapping[str, float]) -> str:
    """Say in words which figures are no numbers: a loss, or else the gradients of some branches."""
    first = next((name for name in wrong if not name.startswith(GRADIENT)), None)
    if first is not None:
        return f"the {first} is {figures[first]}"
    branches = [name.removeprefix(f"{GRADIENT}_") for name in wrong if name != GRADIENT]
    return f"the gradient of {', '.join(branches) or 'all blocks together'} is {figures[wrong[-1]]}"


def where(groups: Iterable[Mapping[str, Any]], plan: StagePlan) -> str:
    """Say in words which of the recipe's groups have gradients that are no numbers; empty where none has.

    Args:
        groups: The optimiser's, with the name of their ``block``; their gradients are still there.
        plan: The stage's, which says to which group a block belongs.
    """
    owner = {block.name: block.group for block in plan.blocks}
    blocks = dict.fromkeys(group["block"] for group in groups if not all(map(_is_finite, group["params"])))
    if not blocks:
        return ""
    owners = sorted({"unfreeze" if owner[name] == -1 else f"groups.{owner[name]}" for name in blocks})
    return f"; gradients that are no numbers in {', '.join(owners)} ({_listed(list(blocks), 4)})"


def _is_finite(parameter: nn.Parameter) -> bool:
    return parameter.grad is None or bool(parameter.grad.isfinite().all())


@torch.no_grad()
def culprits(objective: nn.Module, calls: Iterable[tuple[Any, ...]], fabric: Fabric) -> list[str]:
    """Ids of this device's samples whose own loss is no number; none where only their gradients are to blame.

    In eval mode: one sample may be too little for a batch-norm to train on, and a norm over all devices would wait for
    the others. A bad sample has been through running statistics by now, so numbers stand in for what it left there.

    Args:
        objective: Of fusion.objectives.
        calls: Its arguments, with a batch of one sample each.
        fabric: Precision.
    """
    training = objective.training
    objective.eval()
    sane = {
        name: buffer.nan_to_num(1.0, 1.0, 1.0)
        for name, buffer in objective.named_buffers()
        if buffer.is_floating_point()
    }
    found = []
    with fabric.autocast():
        for call in calls:
            loss: Tensor = functional_call(objective, sane, call)["loss"]
            if not bool(loss.isfinite()):
                found.append(call[0]["ids"][0])
    objective.train(training)
    return found


def samples(fabric: Fabric, ids: Sequence[str], blamed: Sequence[str]) -> str:
    """The samples to blame on all devices, in the batch's order; the whole batch where nobody can tell.

    All devices have to call it.

    Args:
        fabric: The other processes.
        ids: Of this device's share of the batch.
        blamed: Those of them that ``culprits`` found.
    """
    shares: list[Any] = [(list(ids), list(blamed))]
    if fabric.world_size > 1:
        own, shares = shares[0], [None] * fabric.world_size
        torch.distributed.all_gather_object(shares, own)
    # Samples were dealt out to the devices one by one.
    dealt = itertools.zip_longest(*(share for share, _ in shares))
    every = [one for row in dealt for one in row if one is not None]
    bad = {one for _, some in shares for one in some}
    return _listed([one for one in every if one in bad or not bad], _SHOWN)


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
