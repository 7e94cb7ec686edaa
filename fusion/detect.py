"""Boxes: an anchor-free centre head, its loss, its decoding and its metric."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from fusion.head_contract import Batch, Metric, PyramidHead
from fusion.layers import Activation, Norm, full_precision, separable
from fusion.normalise import Letterbox
from fusion.records import BoxRecord

SLOTS = 100
"""Boxes in every answer (K); empty slots have score 0."""
SIZES = ("small", "medium", "large")
"""Of true boxes, by COCO's areas."""
_DISTANCE_UNIT = 16.0
"""Pixels of the network's canvas for one unit of the regressed distance."""
_SPREAD = 0.54 / 6
"""Standard deviation of an object's Gaussian as a share of its side (TTFNet, AAAI 2020)."""


_SPARED = 0.99
"""Heat of a cell that is no centre and costs nothing: the loss of other cells fades with the 4th power of 1 − heat."""


class DetectMetric(Metric):
    """COCO average precision: in all, per class with the precision–recall curve at an IoU of 0.5, and per size.

    Source: COCO's evaluation through torchmetrics and faster-coco-eval.
    """

    metrics: ClassVar[tuple[str, ...]] = ("ap50", "map")

    def record(self, answer: Mapping[str, Any], truth: Mapping[str, Any]) -> BoxRecord:
        """``boxes`` [K,6], rows of score 0 are empty, against ``boxes`` [N,4] and ``labels`` [N] in the same pixels.

        A label below 0 is ~class of a region: boxes of that class in it count neither as right nor as wrong.
        """
        found = torch.as_tensor(answer["boxes"]).float().cpu()
        # Copies: a view would keep a loader's shared memory open.
        return BoxRecord(
            boxes=found[found[:, 4] > 0].numpy(),
            target_boxes=torch.as_tensor(truth["boxes"]).float().cpu().reshape(-1, 4).clone().numpy(),
            target_labels=torch.as_tensor(truth["labels"]).long().cpu().clone().numpy(),
        )

    def compute(self) -> dict[str, Any]:
        """``ap50`` and ``map`` (means over the classes that occur), ``per_class`` with counts and curves, ``per_size``.

        ``per_size``: mAP of true boxes of an area below 32², up to 96², and above, in pixels of the RGB frame; a size
        that no true box has is left out.
        """
        count = np.bincount(
            np.concatenate([np.zeros(0, np.int64), *(r.target_labels[r.target_labels >= 0] for r in self.records)]),
            minlength=len(self.classes),
        ).tolist()
        if not any(count):
            return {"ap50": 0.0, "map": 0.0, "per_class": {}, "per_size": {}}
        summary = self._summary()
        rows = self._by_class(summary, count)
        return {
            "ap50": sum(r["ap50"] for r in rows.values()) / len(rows),
            "map": sum(r["map"] for r in rows.values()) / len(rows),
            "per_class": rows,
            "per_size": _by_size(summary["precision"]),
        }

    def _by_class(self, summary: dict[str, Tensor], count: list[int]) -> dict[str, dict[str, Any]]:
        seen = [int(c) for c in summary["classes"].reshape(-1)]
        precision = summary["precision"]  # IoU × recall × class × area × detections
        per_class: dict[str, dict[str, Any]] = {}
        for index, name in enumerate(self.classes):
            if not count[index]:
                continue
            every = precision[:, :, seen.index(index), 0, -1].clamp(min=0)
            per_class[name] = {
                "ap50": float(every[0].mean()),
                "map": float(every.mean()),
                "count": count[index],
                "precision": [round(float(p), 4) for p in every[0]],
                "recall": [i / 100 for i in range(101)],
            }
        return per_class

    def _summary(self) -> dict[str, Tensor]:
        from torchmetrics.detection import MeanAveragePrecision

        figures = MeanAveragePrecision(
            backend="faster_coco_eval",
            extended_summary=True,
            class_metrics=True,
            average="macro",
            sync_on_compute=False,  # records of other processes come in by extend
        )
        figures.warn_on_many_detections = False
        for record in self.records:
            found, labels = torch.from_numpy(record.boxes), torch.from_numpy(record.target_labels)
            true = {"boxes": torch.from_numpy(record.target_boxes), "labels": torch.where(labels < 0, ~labels, labels)}
            figures.update(
                [{"boxes": found[:, :4], "scores": found[:, 4], "labels": found[:, 5].long()}],
                [true | {"iscrowd": (labels < 0).long()}],
            )
        summary: dict[str, Tensor] = figures.compute()
        return summary


def _by_size(precision: Tensor) -> dict[str, float]:
    """MAP of each size; where COCO's evaluation knows no true box it says -1."""
    found = {}
    for at, size in enumerate(SIZES, start=1):  # 0: all
        values = precision[:, :, :, at, -1]
        if (values >= 0).any():
            found[size] = float(values[values >= 0].mean())
    return found


class DetectHead(PyramidHead):
    """A small top-down pyramid to stride 4, then a heat map of centres and four distances to the box's sides.

    Source: CenterNet (Zhou et al., 2019) for centres as peaks; TTFNet (Liu et al., AAAI 2020) for Gaussian-weighted
    box regression, which converges in few epochs.
    """

    metrics: ClassVar[tuple[str, ...]] = DetectMetric.metrics
    criterion: ClassVar[tuple[str, str]] = ("ap50", "max")
    truth: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    measure: ClassVar[type[Metric]] = DetectMetric

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
        self.classes = classes
        self.heat = nn.Sequential(separable(width, norm, act), nn.Conv2d(width, classes, 1))
        self.box = nn.Sequential(separable(width, norm, act), nn.Conv2d(width, 4, 1))
        logits = self.heat[-1]
        assert isinstance(logits, nn.Conv2d) and logits.bias is not None
        nn.init.constant_(logits.bias, -2.19)  # a score of 0.1 everywhere: focal loss starts calm

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features from fine to coarse → ``heat`` logits [B,classes,h,w], ``box`` distances [B,4,h,w] at stride 4."""
        x = self.pyramid(features)
        return {"heat": self.heat(x), "box": F.softplus(self.box(x)) * _DISTANCE_UNIT}

    def decode(self, maps: dict[str, Tensor], frame: Letterbox) -> dict[str, Tensor]:
        """Head maps → ``boxes`` float32 [B,K,6]: x1, y1, x2, y2 in RGB pixels, score, class; no NMS node.

        Peaks are picked on fp32 logits: quantised ones make plateaus.
        """
        heat, box = maps["heat"].float(), maps["box"].float()
        _, classes, height, width = heat.shape
        peak = F.max_pool2d(heat, 3, stride=1, padding=1) == heat
        scores = torch.where(peak, heat.sigmoid(), 0.0).flatten(1)
        score, index = scores.topk(min(SLOTS, classes * height * width), dim=1)
        cell = index % (height * width)
        kind = torch.div(index, height * width, rounding_mode="floor")
        distances = box.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, 4, -1))
        x = (cell % width).float() * self.stride
        y = torch.div(cell, width, rounding_mode="floor").float() * self.stride
        rows = [
            x - distances[:, 0],
            y - distances[:, 1],
            x + distances[:, 2],
            y + distances[:, 3],
            score,
            kind.float(),
        ]
        boxes = torch.stack(rows, 2)
        boxes = torch.where((score > 0).unsqueeze(2), boxes, 0.0)
        sx, sy = frame.to_rgb
        return {"boxes": boxes * boxes.new_tensor([sx, sy, sx, sy, 1.0, 1.0])}

    def targets(self, batch: Batch, frame: Letterbox) -> dict[str, Tensor]:
        """What the maps ought to say.

        Args:
            batch: ``boxes``: for each sample [N,4], x1, y1, x2, y2 in RGB pixels; ``labels``: for each [N], int64;
                one below 0 is ~class of a region in which no answer of that class is wrong.
            frame: How RGB lies on the canvas.

        Returns:
            ``heat`` [B,classes,h,w], ``weight`` [B,h,w], ``goal`` [B,4,h,w] (see ``draw_targets``), ``objects`` [B].
        """
        size = (frame.canvas[0] // self.stride, frame.canvas[1] // self.stride)
        sx, sy = frame.to_rgb
        drawn = [
            draw_targets(boxes / boxes.new_tensor([sx, sy, sx, sy]), labels, self.classes, size, self.stride)
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        heat, weight, goal = (torch.stack(part) for part in zip(*drawn, strict=True))
        objects = torch.stack([(labels >= 0).sum() for labels in batch["labels"]]).to(heat)
        return {"heat": heat, "weight": weight, "goal": goal, "objects": objects}

    def counts(self, targets: dict[str, Tensor]) -> Tensor:
        """What the loss is divided by, float [2]: number of objects, sum of the regression weights."""
        return torch.stack([targets["objects"].sum(), targets["weight"].sum()])

    def loss(self, maps: dict[str, Tensor], targets: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """Focal loss on centres plus GIoU on sides; contributions, to be summed over the parts of a batch.

        Args:
            maps: what ``forward`` returned.
            targets: what ``targets`` returned, for the same samples.
            counts: ``counts`` of the whole batch.

        Returns:
            ``loss`` (to minimise), ``centre`` and ``sides``: scalars.
        """
        heat, box = full_precision(maps["heat"]), full_precision(maps["box"])
        centre = _focal(heat, targets["heat"]) / counts[0].clamp(min=1)
        sides = _sides(box, targets["goal"], targets["weight"], self.stride) / counts[1].clamp(min=1e-6)
        return {"loss": centre + 5 * sides, "centre": centre.detach(), "sides": sides.detach()}


def draw_targets(
    boxes: Tensor, labels: Tensor, classes: int, size: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one sample's objects: heat [classes,h,w], regression weight [h,w], and the box of each cell [4,h,w].

    Where objects overlap, the smaller one owns the cell. A label below 0 is ~class of a region that is left alone.
    """
    height, width = size
    objects = labels >= 0
    if not objects.all():
        heat, weight, goal = draw_targets(boxes[objects], labels[objects], classes, size, stride)
        return _spare(heat, boxes[~objects] / stride, ~labels[~objects]), weight, goal
    heat, weight = boxes.new_zeros((classes, height, width)), boxes.new_zeros((height, width))
    goal = boxes.new_zeros((4, height, width))
    if len(boxes) == 0:
        return heat, weight, goal
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = area.argsort(descending=True, stable=True)
    boxes, labels, area = boxes[order], labels[order], area[order]
    gauss = _gaussians(boxes / stride, size)
    heat = torch.stack([torch.where((labels == k).view(-1, 1, 1), gauss, 0.0).amax(0) for k in range(classes)])
    inside = gauss > 0.1
    rank = torch.arange(1, len(boxes) + 1, device=boxes.device).view(-1, 1, 1)
    owner = (inside * rank).amax(0) - 1
    mine = (owner.unsqueeze(0) == rank - 1) * gauss
    share = mine / mine.sum((1, 2), keepdim=True).clamp(min=1e-6)
    weight = (share * (1 + area).log().view(-1, 1, 1)).sum(0)
    goal = boxes[owner.clamp(min=0)].permute(2, 0, 1)
    return heat, weight, goal


def _spare(heat: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Heat [classes,h,w] that asks for nothing in regions: next to no loss, whatever the answer; ``boxes`` in cells."""
    ys = torch.arange(heat.shape[1], device=heat.device).view(1, -1, 1)
    xs = torch.arange(heat.shape[2], device=heat.device).view(1, 1, -1)
    left, top, right, bottom = (side.view(-1, 1, 1) for side in boxes.unbind(1))
    inside = (xs >= left) & (xs <= right) & (ys >= top) & (ys <= bottom)
    spared = torch.stack([inside[labels == k].any(0) for k in range(len(heat))])
    return torch.where(spared, heat.clamp(min=_SPARED), heat)


def _gaussians(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N,h,w], each 1 at the cell nearest to its box's centre; ``boxes`` in cells."""
    ys = torch.arange(size[0], device=boxes.device, dtype=boxes.dtype).view(1, -1, 1)
    xs = torch.arange(size[1], device=boxes.device, dtype=boxes.dtype).view(1, 1, -1)
    cx = ((boxes[:, 0] + boxes[:, 2]) / 2).round().clamp(0, size[1] - 1).view(-1, 1, 1)
    cy = ((boxes[:, 1] + boxes[:, 3]) / 2).round().clamp(0, size[0] - 1).view(-1, 1, 1)
    sx = ((boxes[:, 2] - boxes[:, 0]) * _SPREAD).clamp(min=0.5).view(-1, 1, 1)
    sy = ((boxes[:, 3] - boxes[:, 1]) * _SPREAD).clamp(min=0.5).view(-1, 1, 1)
    return torch.exp(-((xs - cx) ** 2) / (2 * sx**2) - (ys - cy) ** 2 / (2 * sy**2))


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss of CornerNet, summed."""
    p = logits.sigmoid()
    centre = target == 1
    positive = (1 - p) ** 2 * F.logsigmoid(logits)
    negative = (1 - target) ** 4 * p**2 * F.logsigmoid(-logits)
    return -torch.where(centre, positive, negative).sum()


def _sides(distances: Tensor, goal: Tensor, weight: Tensor, stride: int) -> Tensor:
    """GIoU loss between the box that each cell regresses and the box it belongs to, weighted, summed."""
    batch, row, column = (weight > 0).nonzero(as_tuple=True)
    d = distances[batch, :, row, column]
    x, y = column * stride, row * stride
    regressed = torch.stack([x - d[:, 0], y - d[:, 1], x + d[:, 2], y + d[:, 3]], 1)
    losses = generalized_box_iou_loss(regressed, goal[batch, :, row, column], reduction="none")
    total: Tensor = (losses * weight[batch, row, column]).sum()
    return total
