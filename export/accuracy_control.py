"""Quantisation that keeps its accuracy: the task's own metric is measured, and what costs too much stays in float."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from export.errors import ExportError

MOST_FLOAT = 0.5
"""Share of the layers that may stay in float; with more, the file is hardly faster than fp32."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the trade-off."""

    in_float: int
    """Layers left in float, those of the largest error."""
    metric: float
    """0 to 1."""
    drop: float
    """Points lost against fp32; negative where it is better."""

    def __str__(self) -> str:
        return f"{self.in_float} in float {self.metric:.4f} ({-self.drop:+.2f} points)"


@dataclass(frozen=True, slots=True)
class Controlled:
    """A quantised graph whose accuracy was measured."""

    graph: bytes
    float_layers: tuple[str, ...]
    """Left in float, the worst first."""
    metric_fp32: float
    metric_int8: float
    trials: tuple[Trial, ...]
    """What was measured on the way, by layers in float."""

    @property
    def drop(self) -> float:
        """Points lost."""
        return 100 * (self.metric_fp32 - self.metric_int8)

    @property
    def note(self) -> str:
        """What it cost, for bundle.json."""
        return f"{self.metric_fp32:.4f} in fp32, {self.metric_int8:.4f} in int8"


def too_few_pairs(metric: str, pairs: int, max_drop: float) -> str | None:
    """Say where the metric's steps are larger than the loss that is allowed; None where they are not, or are not known.

    Args:
        metric: ap50, miou or accuracy; only a share of the pairs, accuracy, has steps of a known size.
        pairs: On how many it is measured.
        max_drop: Points.
    """
    if metric != "accuracy" or not pairs or not max_drop or 100 / pairs <= max_drop + 1e-9:
        return None
    return (
        f"accuracy on {pairs} pairs moves in steps of {100 / pairs:.2f} points, so a loss of at most {max_drop:g} "
        f"allows none; validate on {math.ceil(100 / max_drop)} pairs or more to resolve --max-drop"
    )


def control(
    quantise: Callable[[Collection[str]], bytes],
    worst_first: Callable[[], Sequence[str]],
    metric: Callable[[bytes], float],
    fp32: bytes,
    max_drop: float = 1.0,
    progress: Callable[[str], None] = lambda line: None,
) -> Controlled:
    """Quantise all layers; where that loses more than ``max_drop`` points, leave as few as possible in float.

    Their number is doubled until the accuracy holds, then halved back to the smallest that was found to hold.

    Args:
        quantise: Layers to leave in float → the quantised graph.
        worst_first: All layers that are quantised, by falling error; asked only when it is needed.
        metric: A graph → the task's metric on the validation pairs, 0 to 1.
        fp32: The float graph.
        max_drop: Points; 1.0 is a hundredth of the metric.
        progress: Says one line for each trial.

    Raises:
        ExportError: with half of the layers in float too much is still lost; its text has the trade-off table.
    """
    whole = metric(fp32)
    progress(f"int8: the metric is {whole:.4f} in fp32, and may lose {max_drop:g} points")
    trials: dict[int, Trial] = {}
    ranked: list[str] = []

    def holds(count: int) -> bool:
        found = metric(quantise(ranked[:count]))
        trials[count] = Trial(count, found, 100 * (whole - found))
        progress(f"int8: {trials[count]}")
        return trials[count].drop <= max_drop + 1e-9

    good = 0
    if not holds(0):
        ranked = list(worst_first())
        good = _fewest(holds, int(MOST_FLOAT * len(ranked)))
    table = tuple(trials[count] for count in sorted(trials))
    if good < 0:
        raise ExportError(
            f"int8 loses more than {max_drop:g} points of {whole:.4f} even with half of its {len(ranked)} layers in "
            f"float: {'; '.join(map(str, table))}; allow more with --max-drop, or export fp16 or fp32"
        )
    kept = tuple(ranked[:good])
    return Controlled(quantise(kept), kept, whole, trials[good].metric, table)


def _fewest(holds: Callable[[int], bool], most: int) -> int:
    """Smallest number that was found to hold, by doubling and then bisecting; -1 where none up to ``most`` does."""
    bad, good = 0, 1
    while good <= most and not holds(good):
        bad, good = good, good * 2 if good == most else min(good * 2, most)
    if good > most:
        return -1
    while good - bad > 1:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if holds(middle) else (middle, good)
    return good
