"""What a stage's rows of history say: a jump the wrong way, and a figure that no longer improves. Pure functions.

A stage's rows are dicts, its entry (epoch 0) first; a row with ``rolled_back`` tells of weights that were thrown away,
and by ``back_to`` of the epoch whose weights took their place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fusion.recipe import EarlyStop, Guard

Rows = Sequence[Mapping[str, Any]]

_ROUNDING = 1e-9
"""A figure that lies at the tolerance to the last bit is within it."""


@dataclass(frozen=True)
class Verdict:
    """What to do about a jump."""

    action: Literal["warn", "stop", "rollback"]
    text: str
    """One sentence with the figures."""
    epoch: int
    """The last epoch to trust: where a rollback goes; with warn and stop too."""


def verdict(guard: Guard, rows: Rows) -> Verdict | None:
    """Judge the last row by those before it.

    A loss has jumped when it is above (1 + tolerance) × the best so far, a ``forgetting_…`` when it is above the
    tolerance itself, any other figure when it is more than the tolerance below the best. What is no number has jumped.

    Args:
        guard: What to watch.
        rows: Of this stage so far, the new epoch's last.

    Returns:
        None where nothing jumped, or nothing came before.
    """
    value, known = _value(rows[-1], guard.metric), _known(guard.metric, rows[:-1])
    if not known:
        return None
    best = _best(guard.metric, known)
    over = value - _limit(guard, known) if _falls(guard.metric) else _limit(guard, known) - value
    if math.isfinite(value) and over <= _ROUNDING:
        return None
    epoch, undone = refuge(guard, rows[:-1]), _rollbacks(rows)
    action = guard.on_jump
    if action == "rollback" and undone >= guard.at_most:
        action = "stop"
    after = f" after {_counted(undone, 'rollback')}" if undone and guard.on_jump == "rollback" else ""
    ends = {
        "warn": "",
        "stop": f"; the stage ends{after}",
        "rollback": f"; back to {named(epoch)} with rates × {guard.lr_factor:g} (rollback {undone + 1} of "
        f"{guard.at_most})",
    }
    return Verdict(action, f"epoch {rows[-1]['epoch']}: {_told(guard, value, known, best)}{ends[action]}", epoch)


def refuge(guard: Guard, rows: Rows) -> int:
    """The epoch that a rollback after these rows would go back to, so that its weights can be kept.

    The best by the guard's figure; with a ``forgetting_…`` the newest within the tolerance, for the least forgetful is
    the entry, before anything was learned.
    """
    known = _known(guard.metric, rows)
    if guard.metric.startswith("forgetting_"):
        within = [epoch for epoch, value in known.items() if value <= guard.tolerance + _ROUNDING]
        return max(within, default=min(known, default=0))
    return _best(guard.metric, known) if known else 0


def factor(guard: Guard, rows: Rows) -> float:
    """What the stage's rates are multiplied by after the rollbacks in its rows."""
    return float(guard.lr_factor ** _rollbacks(rows))


def lineage(rows: Rows) -> tuple[int, ...]:
    """Epochs whose steps the weights have in them after these rows; a rollback takes those after its goal away."""
    kept: dict[int, tuple[int, ...]] = {}
    now: tuple[int, ...] = ()
    for row in rows:
        if "rolled_back" in row:
            now = kept[row["back_to"]]
        elif row["epoch"]:
            now = (*now, row["epoch"])
        kept[row["epoch"]] = now
    return now


def exhausted(rule: EarlyStop, rows: Rows) -> str | None:
    """Why to end a stage early: no improvement by more than ``min_delta`` for ``patience`` epochs.

    An epoch that was rolled back does not count. The entry is what the first epochs have to beat.

    Returns:
        One sentence; None to go on.
    """
    best: tuple[int, float] | None = None
    waited = 0
    for row in rows:
        if "rolled_back" in row:
            continue
        value = _value(row, rule.metric)
        gain = math.inf if best is None else (best[1] - value) * (1 if _falls(rule.metric) else -1)
        if math.isfinite(value) and gain > rule.min_delta:
            best, waited = (row["epoch"], value), 0
        else:
            waited += 1
    if waited < rule.patience:
        return None
    since = "" if best is None else f" (best {best[1]:.4g} at {named(best[0])})"
    more = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return f"{rule.metric} has not improved{more} for {_counted(waited, 'epoch')}{since}; the stage ends early"


def named(epoch: int) -> str:
    """An epoch in words."""
    return f"epoch {epoch}" if epoch else "the stage's entry"


def _falls(metric: str) -> bool:
    """Whether less is better."""
    return "loss" in metric or metric.startswith("forgetting_")


def _value(row: Mapping[str, Any], metric: str) -> float:
    """A row's figure; NaN where it has none. At its entry a stage has forgotten nothing."""
    nothing = 0.0 if row["epoch"] == 0 and metric.startswith("forgetting_") else math.nan
    return float(row.get(metric, nothing))


def _known(metric: str, rows: Rows) -> dict[int, float]:
    """Epoch → figure, where there is a number and the weights were kept."""
    kept = {row["epoch"]: _value(row, metric) for row in rows if "rolled_back" not in row}
    return {epoch: value for epoch, value in kept.items() if math.isfinite(value)}


def _best(metric: str, known: Mapping[int, float]) -> int:
    """The epoch with the best figure; the first of equals."""
    return (min if _falls(metric) else max)(known, key=lambda epoch: known[epoch])


def _limit(guard: Guard, known: Mapping[int, float]) -> float:
    """The last figure that is no jump."""
    if guard.metric.startswith("forgetting_"):
        return guard.tolerance
    best = known[_best(guard.metric, known)]
    if not _falls(guard.metric):
        return best - guard.tolerance
    # A share of a loss at or below zero says nothing: then it is one of the largest magnitude that the stage has had.
    return best + guard.tolerance * (best if best > 0 else max(abs(value) for value in known.values()))


def _rollbacks(rows: Rows) -> int:
    return sum("rolled_back" in row for row in rows)


def _told(guard: Guard, value: float, known: Mapping[int, float], best: int) -> str:
    """The jump in words."""
    if not math.isfinite(value):
        return f"{guard.metric} is no number any more ({value})"
    if guard.metric.startswith("forgetting_"):
        return f"{guard.metric} is {100 * value:.1f} points, more than the {100 * guard.tolerance:.3g} tolerated"
    top = known[best]
    if not _falls(guard.metric):
        below = f"{100 * (top - value):.1f} points below {named(best)}"
        return f"{guard.metric} fell from {top:.4g} to {value:.4g}, {below} ({100 * guard.tolerance:.3g} tolerated)"
    above = f"{100 * (value / top - 1):.3g} % above {named(best)}" if top > 0 else f"above {named(best)}"
    return f"{guard.metric} rose from {top:.4g} to {value:.4g}, {above} ({100 * guard.tolerance:.3g} % tolerated)"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
