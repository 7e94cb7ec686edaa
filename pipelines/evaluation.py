"""What was measured on a split: rows of figures, examples, and the same as text and JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.figures import BY_CLASS, SIZES, called

Kind = Literal["whole", "absent", "shift", "degraded"]
"""What was done to the pairs: nothing, a sensor taken away, thermal moved, a sensor's picture made worse."""
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a model with what it was given to see."""

    name: str
    sensors: tuple[str, ...]
    metrics: dict[str, float]
    """The task's figures, the main one first."""
    per_class: dict[str, dict[str, Any]]
    """Class → figures. detect: ap50, map, count, precision and recall (101 values each); segment: iou, pixels;
    classify: precision, recall, f1, count."""
    per_size: dict[str, float] = field(default_factory=dict)
    """detect: mAP of small, medium and large objects."""
    confusion: list[list[float]] | None = None
    """segment (background first) and classify: pixels or pictures of each true class (row), by answer (column)."""
    kind: Kind = "whole"

    @property
    def main(self) -> float:
        """The task's main figure."""
        return next(iter(self.metrics.values()))

    def as_json(self) -> dict[str, Any]:
        """Name, sensors and kind, the figures beside them, then the parts."""
        head = {"name": self.name, "sensors": list(self.sensors), "kind": self.kind}
        parts = {"per_class": self.per_class, "per_size": self.per_size, "confusion": self.confusion}
        return head | self.metrics | {name: part for name, part in parts.items() if part}


@dataclass(frozen=True)
class Example:
    """One pair as it was shown to the model, with what it answered and what is true."""

    id: str
    rgb: NDArray[np.uint8]
    """H×W×3."""
    thermal: NDArray[Any]
    """Ht×Wt in the card's unit, covering RGB's field of view."""
    answer: Arrays
    """The model's answer for this pair: boxes [K,6] in pixels of ``rgb``; class_map and confidence [H,W]; or
    probabilities [C]."""
    truth: Arrays
    """boxes [N,4] and labels [N]; mask [H,W]; or label."""
    invalid: float = 0.0
    """Value of the pixels of ``thermal`` that show nothing."""
    under: str = ""
    """What was done to the pair, in words; empty: nothing."""


@dataclass
class Evaluation:
    """What a split says of one or several models."""

    card: str
    split: str
    pairs: int
    classes: tuple[str, ...]
    """Without the background that a segmentation also answers."""
    task: str = "detect"
    rows: list[Row] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    records: list[list[Any]] = field(default_factory=list)
    """For each row what was answered on every pair, in the split's order; where thermal was moved, once for each
    direction, one after the other."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the task's figures, the main one first."""
        return tuple(self.rows[0].metrics) if self.rows else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that some row has figures of: truth or an answer has them."""
        names = dict.fromkeys(name for row in self.rows for name in row.per_class)
        order = {name: place for place, name in enumerate(self.classes)}
        return tuple(sorted(names, key=lambda name: order.get(name, -1)))  # the background first

    def changes(self) -> list[float | None]:
        """For each row its main figure minus that of the same model with nothing done to the pairs; None for itself."""
        found: list[float | None] = []
        base: float | None = None
        for row in self.rows:
            base = row.main if row.kind == "whole" else base
            found.append(None if row.kind == "whole" or base is None else row.main - base)
        return found

    def as_json(self) -> dict[str, Any]:
        """All but pictures and records, as plain JSON."""
        kept = {key: getattr(self, key) for key in ("card", "split", "pairs", "task")}
        rows = [row.as_json() | {"change": change} for row, change in zip(self.rows, self.changes(), strict=True)]
        return kept | {"classes": list(self.classes), "metrics": list(self.metrics), "rows": rows}


def table(evaluation: Evaluation) -> str:
    """The rows as text: the task's figures, what the change cost, by size where there are boxes, and by class."""
    rows, classes = evaluation.rows, evaluation.class_names
    key, title = BY_CLASS[evaluation.task]
    sizes = [size for size in SIZES if any(size in row.per_size for row in rows)]
    width = max([24, *(len(row.name) for row in rows)])
    told = f"{evaluation.split} split, {evaluation.pairs} pairs; by class: {title}"
    told += "; by size: mAP" if sizes else ""
    heads = [*(called(metric) for metric in evaluation.metrics), "change", *sizes, *classes]
    widths = [max(8, len(head)) for head in heads]
    lines = [told, _line("", width, heads, widths)]
    for row, change in zip(rows, evaluation.changes(), strict=True):
        values = [row.per_class.get(name, {}).get(key) for name in classes]
        cells = [*_cells(row.metrics.values()), "" if change is None else f"{change:+.3f}"]
        cells += _cells([*(row.per_size.get(size) for size in sizes), *values])
        lines.append(_line(row.name, width, cells, widths))
    return "\n".join(lines)


def _cells(values: Any) -> Iterator[str]:  # noqa: ANN401 - numbers, or None where there is none
    return (f"{value:.3f}" if value is not None else "–" for value in values)


def _line(name: str, width: int, cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = " ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
    return f"{name:{width}} {aligned}".rstrip()
