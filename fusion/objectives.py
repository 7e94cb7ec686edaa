"""What a stage minimises: the task's loss, or a thermal picture's reconstruction from itself."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers import conv_block, separable
from fusion.model import FusionModel, Sensor

Batch = dict[str, Any]
"""rgb, thermal, present, and for the task boxes and labels: see data.dataset.collate."""


class TaskObjective(nn.Module):
    """The head's loss on labelled pairs."""

    labelled = True

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        self.own = nn.ModuleList()
        """What the objective trains beside the model; nothing here."""

    def forward(self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None) -> dict[str, Tensor]:
        """Scalars ``loss`` and its terms, and the head's ``maps``."""
        maps = self.model.maps(batch["rgb"], batch["thermal"], batch["present"], keep, sensors)
        return self.model.loss(maps, batch["boxes"], batch["labels"]) | maps


class Decoder(nn.Module):
    """Deep features back to a one-channel picture: up to stride 4, then each cell paints its own 4×4 pixels.

    Only the two deepest scales are seen: through a shallow one a picture could be copied without learning anything.

    Source: sub-pixel convolution for the last step (Shi et al., CVPR 2016): a tenth of convolving at full size.
    """

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.deepest = conv_block(channels[-1], width, 1, "batch", "relu")
        self.deep = conv_block(channels[-2], width, 1, "batch", "relu")
        self.up = nn.ModuleList([separable(width, "batch", "relu") for _ in range(2)])
        self.paint = nn.Sequential(nn.Conv2d(width, 16, 1), nn.PixelShuffle(4))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Pyramid features to strides 16 and 32 → [B,1,H,W] at stride 1."""
        x = self.deepest(features[-1])
        x = F.interpolate(x, features[-2].shape[-2:], mode="nearest") + self.deep(features[-2])
        for up in self.up:
            x = up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        picture: Tensor = self.paint(x)
        return picture


def ssim(a: Tensor, b: Tensor, span: float, window: int = 7) -> Tensor:
    """Mean structural similarity of two batches [B,1,H,W] whose values span ``span``, over uniform windows.

    torchmetrics has the same with convolutions: 54 ms for a pair of 160×192 on one core, forward and backward,
    against 6 ms here (2026-11-21), where that was two thirds of a pretraining step.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, TIP 2004.
    """
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b, aa, bb, ab = (F.avg_pool2d(x, window, 1) for x in (a, b, a * a, b * b, a * b))
    squares = mean_a * mean_a + mean_b * mean_b
    product = mean_a * mean_b
    likeness = (2 * product + c1) * (2 * (ab - product) + c2) / ((squares + c1) * (aa + bb - squares + c2))
    return likeness.mean()


class AutoencodeObjective(nn.Module):
    """L1 + SSIM between a normalised thermal picture and its reconstruction; needs no labels."""

    labelled = False

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        assert model.thermal is not None
        self.model = model
        self.own = Decoder(model.thermal.channels)

    def forward(self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None) -> dict[str, Tensor]:
        """Scalars ``loss``, ``l1`` and ``ssim``, and the ``picture`` and its ``reconstruction`` [B,1,H,W]."""
        thermal = self.model.thermal
        assert thermal is not None
        picture = self.model.thermal_canvas(batch["thermal"], batch["present"][:, 1])
        made = self.own(thermal(picture))
        l1 = F.l1_loss(made, picture)
        similarity = ssim(made, picture, span=8.0)  # normalised values lie between −6 and 6, mostly −2 … 2
        loss = l1 + (1 - similarity)
        return {
            "loss": loss,
            "l1": l1.detach(),
            "ssim": similarity.detach(),
            "picture": picture,
            "reconstruction": made,
        }


OBJECTIVES: dict[str, type[TaskObjective] | type[AutoencodeObjective]] = {
    "task": TaskObjective,
    "autoencode": AutoencodeObjective,
}
