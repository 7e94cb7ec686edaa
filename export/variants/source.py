"""What a variant is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.bundle_info import Array, Inputs, Variant

if TYPE_CHECKING:
    import torch

LEAST_PAIRS = 8
"""Fewer calibration pairs than this say too little about the range of a layer."""

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Feeds of batch 1 → the answer, each [1, …]."""


@dataclass(frozen=True)
class Metric:
    """The task's main metric on the validation pairs."""

    name: str
    """ap50, miou or accuracy."""
    pairs: int
    of: Callable[[Run], float]
    """A way to answer → its figure, 0 to 1."""


@dataclass(frozen=True)
class Source:
    """The trained model, real pairs to calibrate on, and the task's metric."""

    model: "torch.nn.Module"
    """On the CPU, in eval mode: ``forward(rgb, thermal, present)`` on raw values."""
    graph: bytes
    """The fp32 graph, as written to model.onnx."""
    inputs: Inputs
    task: str
    calibration: Sequence[Mapping[str, Array]]
    """Feeds of batch 1 (``rgb``, ``thermal``, ``present``), drawn over day and night."""
    metric: Callable[[Run], float]
    """The task's main metric of a way to answer, on the validation pairs, 0 to 1."""
    max_drop: float
    """Points of the metric that a quantised model may lose; 1.0 is a hundredth."""
    progress: Callable[[str], None]
    """Says one line of progress."""


Maker = Callable[[Source, Path], Variant]
"""Writes a variant's files into the folder of a bundle that is being written, and describes it."""
