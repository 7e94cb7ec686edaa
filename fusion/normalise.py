"""From raw sensor values to what an encoder expects; modules inside the model, hence inside the exported graph."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers import full_precision

BLOCK = 16
"""Side in pixels of the blocks whose means give a frame's range: one hot pixel moves no block mean far."""


class ThermalScale(BaseModel):
    """The part of the thermal spec that the graph needs (see data.thermal.ThermalSpec for the meaning)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    unit: str
    polarity: Literal["white-hot", "black-hot"]
    range: tuple[float, float] | None
    min_span: float
    invalid: float


class ModelInputs(BaseModel):
    """The part of the input description that the graph needs (see data.prepare.InputSpec)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rgb_size: tuple[int, int]
    """Height, width."""
    thermal: ThermalScale


class RgbNormalise(nn.Module):
    """uint8 RGB [B,H,W,3] → float32 [B,3,H,W] with the encoder's mean and standard deviation."""

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64)).view(1, -1, 1)
        offset = -255 * torch.tensor(mean, dtype=torch.float64).view(1, -1, 1) * scale
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("offset", offset.float(), persistent=False)

    def forward(self, rgb: Tensor, present: Tensor) -> Tensor:
        """``present`` is float32 [B]; an absent frame counts as black, whatever it held."""
        x = rgb.permute(0, 3, 1, 2).float()
        scale = self.scale * (present.view(-1, 1, 1) > 0.5)
        # Flat planes: else ONNX Runtime moves the transposition behind the arithmetic of an int8 graph, which then
        # goes over three values at a time, five times as slowly.
        return (x.flatten(2) * scale + self.offset).view(x.shape)


class ThermalNormalise(nn.Module):
    """Raw thermal [B,H,W] → float32 [B,1,H,W], about zero mean and unit deviation; invalid pixels become 0.

    The range is fixed where the spec gives one, else measured on each frame: minimum and maximum of 16×16
    block means over valid pixels, the span no smaller than ``min_span``. No sort, top-k or quantile: those are
    as slow as a small model, and TensorRT refuses them.
    """

    def __init__(self, scale: ThermalScale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, thermal: Tensor, present: Tensor) -> Tensor:
        """``present`` is float32 [B]; of an absent frame nothing remains, not even NaN."""
        x, valid = self.read(thermal, present)
        low, span = self._range(x, valid)
        z = ((x - low) / span).clamp(-1.0, 2.0)
        if self.scale.polarity == "black-hot":
            z = 1.0 - z
        return torch.where(valid, (z - 0.5) / 0.25, 0.0)

    def read(self, thermal: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Values as they are, [B,1,H,W], and where they show something (bool); float64 stays what it is."""
        there = present.view(-1, 1, 1, 1) > 0.5
        x = torch.where(there, full_precision(thermal).unsqueeze(1), 0.0)
        valid = there & (x != self.scale.invalid)
        if self.scale.unit == "celsius":  # only floats can hold NaN (unequal to itself) or infinity
            valid = valid & (x == x) & (x.abs() < 1e30)
            x = torch.where(valid, x, 0.0)
        return x, valid

    def _range(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale.range is not None:
            return x.new_tensor(self.scale.range[0]), x.new_tensor(self.scale.range[1] - self.scale.range[0])
        means, covered = block_means(x, valid)
        some = covered.flatten(1).any(1).view(-1, 1, 1, 1)
        low = torch.where(some, torch.where(covered, means, torch.inf).amin((1, 2, 3), keepdim=True), 0.0)
        high = torch.where(some, torch.where(covered, means, -torch.inf).amax((1, 2, 3), keepdim=True), 0.0)
        span = (high - low).clamp(min=self.scale.min_span)
        return (low + high - span) / 2, span


def block_means(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the valid pixels of each 16×16 block of [B,1,H,W], and whether a quarter of it is valid."""
    height, width = x.shape[-2:]
    # Of a size that is known only when a graph runs, more is added than fills a block: the pooling drops what is over.
    right, bottom = (-side % BLOCK if isinstance(side, int) else BLOCK - 1 for side in (width, height))
    padding = (0, right, 0, bottom)
    share = F.avg_pool2d(F.pad(valid.float(), padding), BLOCK)
    total = F.avg_pool2d(F.pad(torch.where(valid, x, 0.0), padding), BLOCK)
    # A block at the lower or right border may lie mostly outside the picture: any valid pixel of it counts there.
    area = F.avg_pool2d(F.pad(torch.ones_like(x), padding), BLOCK)
    return total / share.clamp(min=1e-6), share >= 0.25 * area


class Letterbox(nn.Module):
    """Scales [B,C,H,W] onto the network's canvas: bilinear, half-pixel, no antialias, top left, padding 0.

    Zero is the encoder's mean after normalisation. The content region follows RGB's aspect for both sensors, so
    equal places of the two feature maps show equal places of the scene.
    """

    def __init__(self, rgb_size: tuple[int, int], canvas: tuple[int, int]) -> None:
        super().__init__()
        self.rgb_size, self.canvas = rgb_size, canvas
        self.scale = min(canvas[0] / rgb_size[0], canvas[1] / rgb_size[1])
        self.content = (
            min(canvas[0], round(rgb_size[0] * self.scale)),
            min(canvas[1], round(rgb_size[1] * self.scale)),
        )
        self.to_rgb = (rgb_size[1] / self.content[1], rgb_size[0] / self.content[0])
        """RGB pixels for each pixel of the canvas, along x and y."""
        self.answer_size = rgb_size
        """Height, width of the maps that ``undo`` returns; export may ask for ``content_at`` a stride instead."""

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,canvas]."""
        if x.shape[-2:] != self.content:
            x = F.interpolate(x, self.content, mode="bilinear", align_corners=False)
        right, bottom = self.canvas[1] - self.content[1], self.canvas[0] - self.content[0]
        return F.pad(x, (0, right, 0, bottom)) if right or bottom else x

    def undo(self, x: Tensor) -> Tensor:
        """[B,C,h,w] at any stride over the canvas → [B,C,answer_size], bilinear; what lies in the padding is cut."""
        stride = self.canvas[0] // x.shape[-2]
        if any(side % stride for side in self.content):
            x, stride = F.interpolate(x, self.canvas, mode="bilinear", align_corners=False), 1
        x = x[:, :, : self.content[0] // stride, : self.content[1] // stride]
        if x.shape[-2:] == self.answer_size:
            return x
        return F.interpolate(x, self.answer_size, mode="bilinear", align_corners=False)

    def content_at(self, stride: int) -> tuple[int, int]:
        """Height, width of the content region at a stride over the canvas."""
        return -(-self.content[0] // stride), -(-self.content[1] // stride)

    def place(self, mask: Tensor, outside: int) -> Tensor:
        """Whole numbers [B,Hr,Wr] → [B,canvas], each the nearest; ``outside`` in the padding."""
        if mask.shape[-2:] != self.content:
            mask = F.interpolate(mask.unsqueeze(1), self.content, mode="nearest-exact").squeeze(1)
        right, bottom = self.canvas[1] - self.content[1], self.canvas[0] - self.content[0]
        return F.pad(mask, (0, right, 0, bottom), value=outside) if right or bottom else mask
