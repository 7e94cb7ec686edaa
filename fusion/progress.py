"""What an epoch took and came to: its clock, its row in the history, its line of text."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from fusion.checkpoint import Row
from fusion.faults import GRADIENT

TRAINING, VALIDATION = "training_seconds", "validation_seconds"
"""Where an epoch's totals keep the time of its parts."""
_WAITED, _PAIRS, _SKIPPED = "waited", "pairs", "skipped"
_SUMS = (TRAINING, VALIDATION, _WAITED, _PAIRS, _SKIPPED)
"""Totals of an epoch that are no means over its steps."""


class Clock:
    """Time of an epoch, and the part of it that was spent waiting for data."""

    def __init__(self) -> None:
        self._started, self._waited = time.perf_counter(), 0.0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches on."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def add_to(self, totals: dict[str, float], name: str) -> None:
        """Add the seconds since the clock was made, or since they were last added, to ``totals``; the waiting too."""
        now = time.perf_counter()
        for key, spent in ((name, now - self._started), (_WAITED, self._waited)):
            totals[key] = totals.get(key, 0.0) + spent
        self._started, self._waited = now, 0.0


def effort(totals: dict[str, float], steps: int) -> Row:
    """What an epoch took, whatever came of it: optimiser steps, seconds in all, and those of validation."""
    validation = totals.get(VALIDATION, 0.0)
    return {"steps": steps, "seconds": totals.get(TRAINING, 0.0) + validation, "validation_seconds": validation}


def epoch_row(totals: dict[str, float], steps: int) -> Row:
    """Means over the steps of an epoch, what it took, and the pace of its training.

    ``skipped`` counts the steps that fp16's scaler let move nothing.
    """
    training, waited, pairs, skipped = (totals.get(name, 0.0) for name in (TRAINING, _WAITED, _PAIRS, _SKIPPED))
    means = {
        name: total / (steps - skipped if name.startswith(GRADIENT) else steps)  # a skipped step has no norms
        for name, total in totals.items()
        if name not in _SUMS
    }
    if _SKIPPED in totals:
        means[_SKIPPED] = skipped
    return means | effort(totals, steps) | {"pairs_per_s": pairs / training, "wait_share": waited / training}


def epoch_line(row: Row, epochs: int, metric: str) -> str:
    """An epoch in one line of text; ``metric`` is the task's main figure."""
    when = f"epoch {row['epoch']}/{epochs}" if row["epoch"] else "at entry"
    parts = [f"{row['stage']:18} {when:12}"]
    for key, form in (("loss", ".3f"), ("val_loss", ".3f"), (metric, ".3f"), ("pairs_per_s", ".1f")):
        if key in row:
            parts.append(f"{key.replace('_per_', '/')} {row[key]:{form}}")
    if row["best"]:
        parts.append("best")
    parts += [f"{key.replace('_', ' ')}: {row[key]}" for key in ("warning", "rolled_back", "stopped") if key in row]
    return "  ".join(parts)
