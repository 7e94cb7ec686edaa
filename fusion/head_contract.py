"""What every head is: maps out of features, an answer out of maps, a loss, a metric. And the pyramid that two share.

A new head is one file with a subclass of ``Head`` and one of ``Metric``, and a line in fusion.heads.HEADS; its main
metric over drawn pictures is a line in fusion.bootstrap.RESAMPLED. Everything else (training, validation, what each
sensor carries, export) asks only what is declared here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers import Activation, Norm, conv_block, separable
from fusion.normalise import Letterbox
from fusion.records import Record

Batch = Mapping[str, Any]
"""What data.dataset.unpack makes; a head reads the keys that it names in ``truth``."""


class Metric(ABC):
    """Accumulates what a model answered, one picture at a time; exact across processes, whose records are merged."""

    metrics: ClassVar[tuple[str, ...]]
    """Figures that it computes, from 0 to 1, more is better; the main one first."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.records: list[Any] = []
        """One for each picture, in the order of the calls."""

    def update(self, answer: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
        """Add one picture.

        Args:
            answer: One row of what the model answers, by name; arrays or tensors.
            truth: What is true of it, by the names of the head's ``truth``; in the answer's pixels.
        """
        self.records.append(self.record(answer, truth))

    def extend(self, records: Iterable[Record]) -> None:
        """Add the pictures that another process, or a run before, looked at."""
        self.records.extend(records)

    @abstractmethod
    def record(self, answer: Mapping[str, Any], truth: Mapping[str, Any]) -> Record:
        """What is kept of a picture: small, plain arrays, no view of what was handed in."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The figures named in ``metrics`` and ``per_class``: name → its figures; more where the task has more."""


class Head(nn.Module, ABC):
    """What every head is."""

    metrics: ClassVar[tuple[str, ...]]
    """Figures that its metric computes, the main one first."""
    criterion: ClassVar[tuple[str, str]]
    """The figure by which a checkpoint is the best, and its direction: max or min."""
    truth: ClassVar[tuple[str, ...]]
    """Keys of a batch that say what is true: a list or a tensor with one entry for each sample."""
    measure: ClassVar[type[Metric]]

    @abstractmethod
    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 64,
        norm: Norm = "batch",
        act: Activation = "relu",
    ) -> None:
        """Build it for features of these channels and strides, from fine to coarse.

        Args:
            channels: Of the features.
            strides: Of the features, in pixels of the canvas.
            classes: How many the data set names; a background is the head's own affair.
            width: Channels inside the head.
            norm: Its normalisation.
            act: Its activation.
        """
        super().__init__()

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features from fine to coarse → maps, each [B,…]."""

    @abstractmethod
    def decode(self, maps: dict[str, Tensor], frame: Letterbox) -> dict[str, Tensor]:
        """Maps → the answer, each [B,…]: what the graph returns, in pixels of the RGB frame."""

    @abstractmethod
    def targets(self, batch: Batch, frame: Letterbox) -> dict[str, Tensor]:
        """What the maps ought to say, tensors [B,…].

        Args:
            batch: Has the keys in ``truth``, in pixels of the RGB frame.
            frame: How that frame lies on the canvas.
        """

    @abstractmethod
    def counts(self, targets: dict[str, Tensor]) -> Tensor:
        """What the loss is divided by, float32 [n]: counts of the parts of a batch sum to those of the whole."""

    @abstractmethod
    def loss(self, maps: dict[str, Tensor], targets: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Contributions, to be summed over the parts of a batch: ``loss`` (to minimise) and its terms, scalars.

        Args:
            maps: What ``forward`` returned.
            targets: What ``targets`` returned, for the same samples.
            counts: ``counts`` of the whole batch.
        """

    def metric(self, classes: Sequence[str]) -> Metric:
        """A fresh accumulator."""
        return self.measure(classes)


class PyramidHead(Head):
    """A head on a small top-down pyramid: from the deepest features to the finest, adding a level at each step.

    Source: feature pyramid networks (Lin et al., CVPR 2017), with separable convolutions.
    """

    @abstractmethod
    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 64,
        norm: Norm = "batch",
        act: Activation = "relu",
    ) -> None:
        """As Head."""
        super().__init__(channels, strides, classes, width, norm, act)
        self.stride = strides[0]
        self.lateral = nn.ModuleList([conv_block(c, width, 1, norm, act) for c in channels])
        self.smooth = nn.ModuleList([separable(width, norm, act) for _ in channels[:-1]])

    def pyramid(self, features: Sequence[Tensor]) -> Tensor:
        """Features from fine to coarse → [B,width,h,w] at the finest stride."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        x: Tensor = levels[-1]
        for level, smooth in zip(reversed(levels[:-1]), reversed(list(self.smooth)), strict=True):
            x = smooth(level + F.interpolate(x, level.shape[-2:], mode="nearest"))
        return x
