"""Masks: a light pyramid decoder, cross-entropy and Dice, and mean intersection over union."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.errors import FusionError
from fusion.head_contract import Batch, Metric, PyramidHead
from fusion.layers import Activation, Norm, full_precision, separable
from fusion.normalise import Letterbox
from fusion.pixel_overlap import ious, mean_known
from fusion.records import PixelRecord

IGNORE = 255
"""Value of the pixels of a mask that are not judged."""
BACKGROUND = "background"
"""Name of class 0."""


class SegmentMetric(Metric):
    """Intersection over union, in the mean and per class; the background is class 0.

    A class that is neither true nor answered anywhere is left out of the mean; one that is answered but never true
    counts as 0. Counted by torchmetrics.
    """

    metrics: ClassVar[tuple[str, ...]] = ("miou", "miou_foreground")

    def record(self, answer: Mapping[str, Any], truth: Mapping[str, Any]) -> PixelRecord:
        """``class_map`` [H,W] against ``mask`` [H,W]; pixels of value 255 are not judged."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds: see fusion.classify

        found = torch.as_tensor(answer["class_map"])
        confusion = multiclass_confusion_matrix(
            found.flatten().long(),
            torch.as_tensor(truth["mask"], device=found.device).flatten().long(),
            len(self.classes) + 1,
            ignore_index=IGNORE,
            validate_args=False,  # it sorts all pixels to look at their values
        )
        return PixelRecord(confusion.cpu().numpy().astype(np.int64))

    def compute(self) -> dict[str, Any]:
        """``miou`` (background counted), ``miou_foreground``, ``per_class`` with iou and true pixels, ``confusion``."""
        sides = len(self.classes) + 1
        confusion = sum((r.confusion for r in self.records), np.zeros((sides, sides), np.int64))
        found, pixels = ious(confusion), confusion.sum(1).tolist()
        rows = {
            name: {"iou": float(iou), "pixels": count}
            for name, iou, count in zip([BACKGROUND, *self.classes], found, pixels, strict=True)
            if not np.isnan(iou)
        }
        return {
            "miou": mean_known(found),
            "miou_foreground": mean_known(found[1:]),
            "per_class": rows,
            "confusion": confusion.tolist(),
        }


class SegmentHead(PyramidHead):
    """A pyramid to stride 4, a separable convolution, and a score of each class and the background in each place.

    Sources: panoptic feature pyramids (Kirillov et al., CVPR 2019) for semantic masks from a feature pyramid; V-Net
    (Milletari et al., 3DV 2016) for Dice, here of each picture's own classes, beside cross-entropy.
    """

    metrics: ClassVar[tuple[str, ...]] = SegmentMetric.metrics
    criterion: ClassVar[tuple[str, str]] = ("miou", "max")
    truth: ClassVar[tuple[str, ...]] = ("mask",)
    measure: ClassVar[type[Metric]] = SegmentMetric

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        width: int = 64,
        norm: Norm = "batch",
        act: Activation = "relu",
    ) -> None:
        """As Head; class 0 is the background."""
        super().__init__(channels, strides, classes, width, norm, act)
        if classes >= IGNORE:
            raise FusionError(f"a mask has room for {IGNORE - 1} classes and the background, found {classes}")
        self.classes = classes + 1
        self.score = nn.Sequential(separable(width, norm, act), nn.Conv2d(width, self.classes, 1))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features from fine to coarse → ``scores`` [B,classes + 1,h,w], logits at stride 4."""
        return {"scores": self.score(self.pyramid(features))}

    def decode(self, maps: dict[str, Tensor], frame: Letterbox) -> dict[str, Tensor]:
        """Head maps → ``class_map`` uint8 [B,Hr,Wr] and its probability, ``confidence`` float32 [B,Hr,Wr]."""
        scores = frame.undo(maps["scores"].float())
        # Softmax's largest value without softmax, which takes ONNX Runtime 8 times as long as all of this (2026-11-21).
        confidence = (scores - scores.amax(1, keepdim=True)).exp().sum(1).reciprocal()
        return {"class_map": scores.argmax(1).to(torch.uint8), "confidence": confidence}

    def targets(self, batch: Batch, frame: Letterbox) -> dict[str, Tensor]:
        """``mask`` uint8 [B,canvas] and ``pixels`` float32 [B,classes + 1]: how many of each class it has."""
        mask = frame.place(batch["mask"], IGNORE)
        pixels = torch.stack([(mask == kind).flatten(1).sum(1) for kind in range(self.classes)], 1)
        return {"mask": mask, "pixels": pixels.float()}

    def counts(self, targets: dict[str, Tensor]) -> Tensor:
        """What the loss is divided by, float32 [2]: pixels that are judged; classes of each picture, summed."""
        return torch.stack([targets["pixels"].sum(), (targets["pixels"] > 0).sum().float()])

    def loss(self, maps: dict[str, Tensor], targets: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each pixel plus Dice of each picture's classes; contributions, as Head.

        Dice is of one picture, and not of a batch, so that it does not depend on how a batch is shared out.

        Returns:
            ``loss`` (to minimise), ``cross_entropy`` and ``dice``: scalars.
        """
        scores = full_precision(maps["scores"])
        mask, pixels = targets["mask"], targets["pixels"]
        logs = F.interpolate(scores, mask.shape[-2:], mode="bilinear", align_corners=False).log_softmax(1)
        true = mask.unsqueeze(1) == torch.arange(self.classes, device=mask.device).view(1, -1, 1, 1)
        # Sums over a selection: torch's own cross-entropy of pictures does not give the same bits twice on a GPU.
        entropy = -torch.where(true, logs, 0.0).sum() / counts[0].clamp(min=1)
        sure = torch.where((mask != IGNORE).unsqueeze(1), logs.exp(), 0.0)
        shared = torch.where(true, sure, 0.0).sum((2, 3))
        overlap = 2 * shared / (sure.sum((2, 3)) + pixels).clamp(min=1e-6)
        dice = torch.where(pixels > 0, 1 - overlap, 0.0).sum() / counts[1].clamp(min=1)
        return {"loss": entropy + dice, "cross_entropy": entropy.detach(), "dice": dice.detach()}
