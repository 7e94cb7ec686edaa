"""What an epoch took and came to: its clock, its row in the history, its line of text."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from fusion.checkpoint import Row

_SUMS = ("seconds", "waited", "pairs", "skipped")
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

    def add_to(self, totals: dict[str, float]) -> None:
        """Add both, in seconds."""
        spent = {"seconds": time.perf_counter() - self._started, "waited": self._waited}
        for name, value in spent.items():
            totals[name] = totals.get(name, 0.0) + value


def epoch_row(totals: dict[str, float], steps: int) -> Row:
    """Means over the steps of an epoch, and its pace; ``skipped`` counts those that fp16's scaler let move nothing."""
    seconds, waited, pairs, skipped = (totals.get(name, 0.0) for name in _SUMS)
    means = {
        name: total / (steps - skipped if name.startswith("gradient_norm") else steps)  # a skipped step has no norms
        for name, total in totals.items()
        if name not in _SUMS
    }
    if "skipped" in totals:
        means["skipped"] = skipped
    return means | {"seconds": seconds, "pairs_per_s": pairs / seconds, "wait_share": waited / seconds}


def epoch_line(row: Row, epochs: int) -> str:
    """An epoch in one line of text."""
    when = f"epoch {row['epoch']}/{epochs}" if row["epoch"] else "at entry"
    parts = [f"{row['stage']:18} {when:12}"]
    for key, form in (("loss", ".3f"), ("val_loss", ".3f"), ("ap50", ".3f"), ("pairs_per_s", ".1f")):
        if key in row:
            parts.append(f"{key.replace('_per_', '/')} {row[key]:{form}}")
    if row["best"]:
        parts.append("best")
    parts += [f"{key.replace('_', ' ')}: {row[key]}" for key in ("warning", "rolled_back", "stopped") if key in row]
    return "  ".join(parts)
