"""The tasks: what a model can be asked, and what measures its answers."""

from collections.abc import Sequence

from fusion.classify import ClassifyHead
from fusion.detect import DetectHead
from fusion.head_contract import Head, Metric
from fusion.segment import SegmentHead

HEADS: dict[str, type[Head]] = {"detect": DetectHead, "segment": SegmentHead, "classify": ClassifyHead}
"""Task → its head."""


def metric_for(task: str, classes: Sequence[str]) -> Metric:
    """A fresh accumulator of a task's metrics, for whoever has no head at hand; ``classes`` without the background."""
    return HEADS[task].measure(classes)
