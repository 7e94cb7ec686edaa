"""Auto unfreezing: whether the next block opens. Pure functions of a stage's plan, its rows and what was answered.

At the epoch before a block opens, what the model answers is compared with its answers at the decision before (at first
with those at the stage's entry). Where they are better by more than one standard error of the paired difference, the
block opens; else the stage ends. When all blocks are open there is nothing left to decide, and the stage runs to its
end.
"""

from fusion.bootstrap import Resampled, paired_difference
from fusion.checkpoint import Row
from fusion.guard import Rows
from fusion.plan import BRANCHES, StagePlan


def is_due(plan: StagePlan, epoch: int) -> bool:
    """Whether something is to be decided after ``epoch`` epochs: the stage decides for itself, and a block waits."""
    line = plan.stage.unfreeze
    return line is not None and line.auto and any(b.opens == epoch > 0 for b in plan.blocks if b.group is not None)


def anchor(rows: Rows) -> int:
    """The epoch whose answers the next decision is compared with: the last that led deeper, or else the entry."""
    return max((row["epoch"] for row in rows if row.get("decision", {}).get("deeper")), default=0)


def decide(plan: StagePlan, epoch: int, now: Resampled, before: Resampled) -> Row:
    """Decide by the task's metric on the validation pictures now and at the decision before.

    Returns:
        ``decision``: blocks open by now, gain, its standard error, and whether to go deeper; ``stopped`` where not.
    """
    found = paired_difference(now, before)
    blocks, deeper = _opened(plan, epoch), bool(found.mean > found.se)
    decision = {"blocks": blocks, "gain": found.mean, "se": found.se, "deeper": deeper}
    if deeper:
        return {"decision": decision}
    figures = f"the metric changed by {found.mean:+.4f}, standard error {found.se:.4f}"
    return {"decision": decision, "stopped": f"unfreezing stops at {_counted(blocks)}: {figures}"}


def undecided(plan: StagePlan, epoch: int) -> Row:
    """The decision at an epoch whose weights were thrown away: nothing was gained by it, so no further block opens."""
    blocks = _opened(plan, epoch)
    text = f"unfreezing stops at {_counted(blocks)}: epoch {epoch}, which was to decide, was thrown away"
    return {"decision": {"blocks": blocks, "gain": None, "se": None, "deeper": False}, "stopped": text}


def _opened(plan: StagePlan, epoch: int) -> int:
    """Blocks of the line's branches that train in the ``epoch``-th epoch, whoever has them."""
    line = plan.stage.unfreeze
    branches = BRANCHES if line is None or line.branch == "both" else (line.branch,)
    return sum(block.name.split(".")[0] in branches for block in plan.training(epoch - 1))


def _counted(blocks: int) -> str:
    return f"{blocks} block" if blocks == 1 else f"{blocks} blocks"
