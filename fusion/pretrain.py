"""What stages without labels minimise: a thermal picture from itself, or the frozen RGB branch's features."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.encoders import STRIDES, Encoder
from fusion.errors import FusionError
from fusion.layers import conv_block, full_precision, separable
from fusion.model import FusionModel, Sensor
from fusion.seeds import patch_mask

Batch = dict[str, Any]
"""What data.dataset.unpack makes: rgb, thermal, present, seed, ids, and what a head names as its truth. ``prepare``
adds targets."""
LearnsFrom = Literal["labelled", "thermal", "pairs"]
"""Pictures with labels; all that have thermal; all that have both sensors."""

PATCH = 32
"""Side of the masked patches in pixels of the canvas."""
_MASKED = 0.6
_SPAN = 8.0
"""Of normalised thermal values, for SSIM: they lie between −6 and 6, mostly −2 … 2."""
_VALID = 0.999
"""Share of a pixel or window that must be valid: interpolation mixes borders in."""


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
        return full_precision(self.paint(x))


def ssim(a: Tensor, b: Tensor, span: float, window: int = 7) -> Tensor:
    """Structural similarity of two batches [B,1,H,W] whose values span ``span``: [B,1,H−6,W−6], each uniform window's.

    torchmetrics has the same with convolutions: 54 ms for a pair of 160×192 on one core, forward and backward,
    against 6 ms here (2026-11-21), where that was two thirds of a pretraining step.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, TIP 2004.
    """
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b, aa, bb, ab = (F.avg_pool2d(x, window, 1) for x in (a, b, a * a, b * b, a * b))
    squares = mean_a * mean_a + mean_b * mean_b
    product = mean_a * mean_b
    return (2 * product + c1) * (2 * (ab - product) + c2) / ((squares + c1) * (aa + bb - squares + c2))


class AutoencodeObjective(nn.Module):
    """L1 + SSIM between a normalised thermal picture and its reconstruction, over valid pixels; needs no labels."""

    learns_from: ClassVar[LearnsFrom] = "thermal"
    default_sensors: ClassVar[tuple[Sensor, ...] | None] = ("thermal",)
    title: ClassVar[str] = "The thermal branch learns to describe thermal pictures well enough to redraw them."

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        self.own = Decoder(_encoder(model, "thermal", "autoencode").channels)

    def prepare(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Add which pixels count; the loss is normalised by [number of samples that have any]."""
        valid = valid_pixels(self.model, batch)
        return batch | {"targets": {"valid": valid}}, valid.flatten(1).any(1).sum().float().view(1)

    def forward(
        self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None, counts: Tensor
    ) -> dict[str, Tensor]:
        """Contributions to ``loss``, ``l1`` and ``ssim``; ``picture`` and ``reconstruction`` [B,1,H,W]."""
        valid = batch["targets"]["valid"]
        picture = self.model.thermal_canvas(batch["thermal"], batch["present"][:, 1])
        made: Tensor = self.own(_encoder(self.model, "thermal", "autoencode")(picture))
        likeness = ssim(made, picture, _SPAN)
        windows = F.avg_pool2d(valid.to(picture.dtype), 7, 1) > _VALID
        samples = counts[0].clamp(min=1)
        l1 = _means((made - picture).abs(), valid).sum() / samples
        unlike = _means(1 - likeness, windows).sum() / samples
        similarity = _means(likeness, windows).sum() / samples
        return {
            "loss": l1 + unlike,
            "l1": l1.detach(),
            "ssim": similarity.detach(),
            "picture": picture,
            "reconstruction": made,
        }


class MaskedObjective(nn.Module):
    """L1 on the hidden patches of a normalised thermal picture, guessed from the others; needs no labels.

    Source: SimMIM (Xie et al., CVPR 2022): random patches of 32×32 at a ratio of 0.6, raw pixels as the goal, L1 on
    the hidden ones alone, a light decoder. Convolutions have no mask token, so hidden pixels are set to the mean (0).
    """

    learns_from: ClassVar[LearnsFrom] = "thermal"
    default_sensors: ClassVar[tuple[Sensor, ...] | None] = ("thermal",)
    title: ClassVar[str] = (
        "The thermal branch learns to guess hidden patches of thermal pictures from what surrounds them."
    )

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        self.own = Decoder(_encoder(model, "thermal", "masked").channels)

    def prepare(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Draw what is hidden from each sample's seed; the loss is normalised by [number of hidden valid pixels]."""
        valid = valid_pixels(self.model, batch)
        grid = (valid.shape[2] // PATCH, valid.shape[3] // PATCH)
        patches = patch_mask(batch["seed"], grid, _MASKED).to(valid.device)
        mask = patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).unsqueeze(1)
        return batch | {"targets": {"mask": mask, "valid": valid}}, (mask & valid).sum().float().view(1)

    def forward(
        self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None, counts: Tensor
    ) -> dict[str, Tensor]:
        """Contribution to ``loss``; ``picture`` and ``reconstruction`` [B,1,H,W], ``mask`` bool (True: hidden)."""
        mask, valid = batch["targets"]["mask"], batch["targets"]["valid"]
        picture = self.model.thermal_canvas(batch["thermal"], batch["present"][:, 1])
        made: Tensor = self.own(_encoder(self.model, "thermal", "masked")(torch.where(mask, 0.0, picture)))
        wrong = torch.where(mask & valid, (made - picture).abs(), 0.0)
        return {
            "loss": wrong.sum() / counts[0].clamp(min=1),
            "picture": picture,
            "reconstruction": made,
            "mask": mask,
        }


class DistillObjective(nn.Module):
    """Thermal features of every scale, through a 1×1 projector, learn to match the frozen RGB branch's on pairs.

    The goal is normalised over channels without affine, so that no scale and no loud channel dominates; the loss is
    smooth L1 (β = 2) plus one minus the cosine. Cells that show no valid thermal pixel are left out.

    Sources: projectors as regressors, FitNets (Romero et al., ICLR 2015); the normalised goal and smooth L1, Feature
    Distillation (Wei et al., 2022, arXiv 2205.14141); cosine beside smooth L1, AM-RADIO (Ranzinger et al., CVPR 2024).
    """

    learns_from: ClassVar[LearnsFrom] = "pairs"
    default_sensors: ClassVar[tuple[Sensor, ...] | None] = ("rgb", "thermal")
    title: ClassVar[str] = "The thermal branch learns to say of a scene what the frozen RGB branch says of it."

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        rgb, thermal = (_encoder(model, sensor, "distill") for sensor in ("rgb", "thermal"))
        widths = zip(thermal.channels, rgb.channels, strict=True)
        self.own = nn.ModuleList([nn.Conv2d(learner, teacher, 1) for learner, teacher in widths])

    def prepare(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Add which cells both sensors see; the loss of each scale is normalised by [their number at that scale]."""
        both = batch["present"].amin(1).view(-1, 1, 1, 1) > 0.5
        seen = (valid_pixels(self.model, batch) & both).float()
        cells = [F.avg_pool2d(seen, stride).squeeze(1) > 0.5 for stride in STRIDES]
        targets = {str(stride): some for stride, some in zip(STRIDES, cells, strict=True)}
        return batch | {"targets": targets}, torch.stack([some.sum() for some in cells]).float()

    def forward(
        self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None, counts: Tensor
    ) -> dict[str, Tensor]:
        """Contributions to ``loss``, ``smooth_l1`` and ``cosine``.

        Also ``match`` [B,1,h,w], the cosine at stride 8; ``picture`` [B,1,H,W] and ``rgb_picture`` [B,3,H,W].
        """
        rgb, thermal = (_encoder(self.model, sensor, "distill") for sensor in ("rgb", "thermal"))
        rgb_picture = self.model.rgb_canvas(batch["rgb"], batch["present"][:, 0])
        picture = self.model.thermal_canvas(batch["thermal"], batch["present"][:, 1])
        with torch.no_grad():
            goals = [_over_channels(features) for features in rgb(rgb_picture)]
        made = [full_precision(own(f)) for own, f in zip(self.own, thermal(picture), strict=True)]
        cells = [batch["targets"][str(stride)] for stride in STRIDES]
        cosines = [F.cosine_similarity(a, b, dim=1) for a, b in zip(made, goals, strict=True)]
        far = [F.smooth_l1_loss(a, b, reduction="none", beta=2.0).mean(1) for a, b in zip(made, goals, strict=True)]
        smooth_l1 = _mean_of_scales(far, cells, counts)
        unlike = _mean_of_scales([1 - cosine for cosine in cosines], cells, counts)
        return {
            "loss": smooth_l1 + unlike,
            "smooth_l1": smooth_l1.detach(),
            "cosine": _mean_of_scales(cosines, cells, counts).detach(),
            "match": cosines[STRIDES.index(8)].detach().unsqueeze(1),
            "picture": picture,
            "rgb_picture": rgb_picture,
        }


def valid_pixels(model: FusionModel, batch: Batch) -> Tensor:
    """Where the thermal canvas shows something: bool [B,1,H,W]; no pixel that touches an invalid one or padding."""
    _, valid = model.normalise["thermal"].read(batch["thermal"], batch["present"][:, 1])  # type: ignore[operator]
    whole: Tensor = model.letterbox(valid.float()) > _VALID
    return whole


def _encoder(model: FusionModel, sensor: Sensor, objective: str) -> Encoder:
    """The model's encoder for the sensor's own pictures."""
    encoder = model.rgb if sensor == "rgb" else model.thermal
    if encoder is None:
        raise FusionError(
            f"objective '{objective}' needs a {sensor} branch of its own, and the model has none (model.sensors "
            f"{list(model.config.sensors)}, model.blend.kind '{model.config.blend.kind}')"
        )
    return encoder


def _means(values: Tensor, where: Tensor) -> Tensor:
    """[B,1,H,W] → [B]: the mean of each sample's values where ``where`` is True; 0 where it never is."""
    total = torch.where(where, values, 0.0).flatten(1).sum(1)
    return total / where.flatten(1).sum(1).clamp(min=1)


def _over_channels(features: Tensor) -> Tensor:
    """[B,C,h,w] with mean 0 and deviation 1 over the channels of each cell."""
    last = full_precision(features).movedim(1, -1)
    return F.layer_norm(last, last.shape[-1:]).movedim(-1, 1)


def _mean_of_scales(values: Sequence[Tensor], cells: Sequence[Tensor], counts: Tensor) -> Tensor:
    """Mean over scales of the mean over cells; ``values`` and ``cells`` [B,h,w], ``counts`` [scales]."""
    sums = [torch.where(some, value, 0.0).sum() for value, some in zip(values, cells, strict=True)]
    return (torch.stack(sums) / counts.clamp(min=1)).mean()
