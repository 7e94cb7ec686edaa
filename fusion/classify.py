"""The class of a picture: pooled features, cross-entropy, accuracy and F1."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.head_contract import Batch, Head, Metric
from fusion.layers import Activation, Norm, conv_block, full_precision
from fusion.normalise import Letterbox
from fusion.records import LabelRecord

UNLABELLED = -1


class ClassifyMetric(Metric):
    """Accuracy over pictures, F1 in the mean over classes; a class neither true nor answered is left out of that mean.

    Counted by torchmetrics. Pictures that nobody labelled do not count.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")

    def record(self, answer: Mapping[str, Any], truth: Mapping[str, Any]) -> LabelRecord:
        """``probabilities`` [C] against ``label``, a whole number; -1: unlabelled."""
        found = torch.as_tensor(answer["probabilities"]).float().cpu().clone()
        return LabelRecord(found.numpy(), int(truth["label"]))

    def compute(self) -> dict[str, Any]:
        """``accuracy``, ``macro_f1``, ``per_class`` (precision, recall, f1, count), ``confusion`` (rows: true)."""
        from torchmetrics.functional import classification as count  # seconds, which who only asks would wait

        judged = [r for r in self.records if r.label != UNLABELLED]
        sides = len(self.classes)
        if not judged:
            nothing = np.zeros((sides, sides), np.int64).tolist()
            return {"accuracy": 0.0, "macro_f1": 0.0, "per_class": {}, "confusion": nothing}
        found = torch.tensor([int(r.probabilities.argmax()) for r in judged])
        true = torch.tensor([r.label for r in judged])
        confusion = count.multiclass_confusion_matrix(found, true, sides)
        by_class = {
            "precision": count.multiclass_precision(found, true, sides, average="none"),
            "recall": count.multiclass_recall(found, true, sides, average="none"),
            "f1": count.multiclass_f1_score(found, true, sides, average="none"),
        }
        return {
            "accuracy": float(count.multiclass_accuracy(found, true, sides, average="micro")),
            "macro_f1": float(count.multiclass_f1_score(found, true, sides, average="macro")),
            "per_class": {
                name: {key: float(values[k]) for key, values in by_class.items()} | {"count": int(confusion[k].sum())}
                for k, name in enumerate(self.classes)
                if confusion[k].any() or confusion[:, k].any()
            },
            "confusion": confusion.tolist(),
        }


class ClassifyHead(Head):
    """The features of every scale through a 1×1 convolution each, their means over all places, a linear layer.

    All scales, for the blends of all of them are to learn.

    Source: global average pooling (Lin et al., Network in Network, ICLR 2014).
    """

    metrics: ClassVar[tuple[str, ...]] = ClassifyMetric.metrics
    criterion: ClassVar[tuple[str, str]] = ("accuracy", "max")
    truth: ClassVar[tuple[str, ...]] = ("label",)
    measure: ClassVar[type[Metric]] = ClassifyMetric

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
        self.lateral = nn.ModuleList([conv_block(c, width, 1, norm, act) for c in channels])
        self.score = nn.Linear(width * len(channels), classes)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features → ``scores`` [B,classes], logits."""
        pooled = [lateral(f).mean((2, 3)) for lateral, f in zip(self.lateral, features, strict=True)]
        return {"scores": self.score(torch.cat(pooled, 1))}

    def decode(self, maps: dict[str, Tensor], frame: Letterbox) -> dict[str, Tensor]:
        """Head maps → ``probabilities`` float32 [B,classes]."""
        return {"probabilities": maps["scores"].float().softmax(1)}

    def targets(self, batch: Batch, frame: Letterbox) -> dict[str, Tensor]:
        """``label`` int64 [B]."""
        return {"label": batch["label"]}

    def counts(self, targets: dict[str, Tensor]) -> Tensor:
        """What the loss is divided by, float32 [1]: labelled pictures."""
        return (targets["label"] != UNLABELLED).sum().float().view(1)

    def loss(self, maps: dict[str, Tensor], targets: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Cross-entropy; contributions, as Head.

        Returns:
            ``loss`` (to minimise): a scalar.
        """
        scores = full_precision(maps["scores"])
        entropy = F.cross_entropy(scores, targets["label"], ignore_index=UNLABELLED, reduction="sum")
        return {"loss": entropy / counts[0].clamp(min=1)}
