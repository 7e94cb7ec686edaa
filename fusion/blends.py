"""How the features of the two sensors become one, at one scale; an absent sensor is cut out by selection."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from fusion.layers import Activation, Norm, conv_block

Anchor = Literal["rgb", "thermal"]


def cut(features: Tensor, present: Tensor) -> Tensor:
    """[B,C,h,w] with the samples whose ``present`` (float32 [B]) is 0 set to zero, even where they hold NaN.

    Selection, not multiplication: 0 × NaN is NaN, and its gradient would poison the encoder.
    """
    return torch.where(present.view(-1, 1, 1, 1) > 0.5, features, 0.0)


class Joint(nn.Module, ABC):
    """What every blend is: built from the branches' channels, asked with the features of both.

    With an ``act`` the other sensor's features pass a 1×1 convolution, ``norm`` and ``act`` first. What follows that
    has no bias, so an absent sensor adds exactly nothing, also after training. (A batch-norm here counts the zeros
    of absent sensors among its statistics; a group-norm sees each sample alone.)
    """

    def __init__(
        self, rgb: int, thermal: int, anchor: Anchor, norm: Norm = "none", act: Activation | None = None
    ) -> None:
        super().__init__()
        self.anchor = anchor
        self.channels, self.others = (rgb, thermal) if anchor == "rgb" else (thermal, rgb)
        self.before = None if act is None else conv_block(self.others, self.others, 1, norm, act)

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> Tensor:
        """[B,C,h,w] of each sensor and ``present`` [B,2] → [B,anchor's C,h,w]."""
        rgb, thermal = cut(rgb, present[:, 0]), cut(thermal, present[:, 1])
        if self.anchor == "rgb":
            return self.blend(rgb, self._prepared(thermal, present[:, 1]))
        return self.blend(thermal, self._prepared(rgb, present[:, 0]))

    def _prepared(self, other: Tensor, there: Tensor) -> Tensor:
        return other if self.before is None else cut(self.before(other), there)  # again: it has a bias

    @abstractmethod
    def blend(self, anchor: Tensor, other: Tensor) -> Tensor:
        """Features of the anchor and of the other sensor, absent ones zero → [B,anchor's C,h,w]."""


class ZeroResidual(Joint):
    """The anchor's features plus a zero-initialised 1×1 convolution of the other sensor's.

    At the start the fused model *is* the anchor's: nothing the other sensor says can harm it.

    Source: zero convolutions of ControlNet (Zhang et al., ICCV 2023).
    """

    def __init__(
        self, rgb: int, thermal: int, anchor: Anchor, norm: Norm = "none", act: Activation | None = None
    ) -> None:
        super().__init__(rgb, thermal, anchor, norm, act)
        self.other = zero_projection(self.others, self.channels)

    def blend(self, anchor: Tensor, other: Tensor) -> Tensor:
        """As Joint.blend."""
        added: Tensor = self.other(other)
        return anchor + added


class Gated(ZeroResidual):
    """A zero residual that is let through by gates: for each place and channel, how far the other sensor is believed.

    The gates see both sensors, through a bottleneck of an eighth of the channels.

    Source: gated multimodal units (Arevalo et al., 2017), with the anchor kept as it is.
    """

    def __init__(
        self, rgb: int, thermal: int, anchor: Anchor, norm: Norm = "none", act: Activation | None = None
    ) -> None:
        super().__init__(rgb, thermal, anchor, norm, act)
        hidden = max(8, self.channels // 8)
        # Not ReLU: features that are never negative would leave some of the few hidden channels dead from the start.
        self.gate = nn.Sequential(
            nn.Conv2d(rgb + thermal, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, self.channels, 1), nn.Sigmoid()
        )

    def blend(self, anchor: Tensor, other: Tensor) -> Tensor:
        """As Joint.blend."""
        added: Tensor = self.gate(torch.cat([anchor, other], 1)) * self.other(other)
        return anchor + added


class CrossAttention(Joint):
    """The anchor's features plus what its places ask of all places of the other sensor, through a zero projection.

    Linear in the number of places: keys and values are first summed up in one small matrix for each head, which every
    place then reads. Such a sum forgets where things are, so each place also gets the other sensor's values about
    itself, through a 3×3 convolution of each channel.

    Source: Efficient Attention (Shen et al., WACV 2021); locally enhanced values as in CSWin (Dong et al., CVPR 2022).
    """

    heads = 2

    def __init__(
        self, rgb: int, thermal: int, anchor: Anchor, norm: Norm = "none", act: Activation | None = None
    ) -> None:
        super().__init__(rgb, thermal, anchor, norm, act)
        width = min(64, max(16, self.channels // 4 // 8 * 8))
        self.query = nn.Conv2d(self.channels, width, 1, bias=False)
        self.key = nn.Conv2d(self.others, width, 1, bias=False)
        self.value = nn.Conv2d(self.others, width, 1, bias=False)
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.out = zero_projection(width, self.channels)

    def blend(self, anchor: Tensor, other: Tensor) -> Tensor:
        """As Joint.blend."""
        values = self.value(other)
        query = self._heads(self.query(anchor)).softmax(2)
        key = self._heads(self.key(other)).softmax(3)
        summary = self._heads(values) @ key.transpose(2, 3)  # [B,heads,value channels,key channels]
        found = (summary @ query).reshape(values.shape)
        added: Tensor = self.out(found + self.near(values))
        return anchor + added

    def _heads(self, features: Tensor) -> Tensor:
        """[B,width,h,w] → [B,heads,width/heads,h·w]."""
        batch, width, height, across = features.shape
        return features.reshape(batch, self.heads, width // self.heads, height * across)


class Concat(Joint):
    """Both sensors' features stacked, then a 1×1 convolution that starts as the identity on the anchor's."""

    def __init__(
        self, rgb: int, thermal: int, anchor: Anchor, norm: Norm = "none", act: Activation | None = None
    ) -> None:
        super().__init__(rgb, thermal, anchor, norm, act)
        self.mix = nn.Conv2d(rgb + thermal, self.channels, 1, bias=False)
        first = 0 if anchor == "rgb" else rgb
        with torch.no_grad():
            self.mix.weight[:, first : first + self.channels, 0, 0] += torch.eye(self.channels)

    def blend(self, anchor: Tensor, other: Tensor) -> Tensor:
        """As Joint.blend."""
        pair = (anchor, other) if self.anchor == "rgb" else (other, anchor)
        mixed: Tensor = self.mix(torch.cat(pair, 1))
        return mixed


def zero_projection(inputs: int, outputs: int) -> nn.Conv2d:
    """1×1 convolution that starts at zero, with no bias."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv


BLENDS: dict[str, type[Joint]] = {
    "zero_residual": ZeroResidual,
    "gated": Gated,
    "cross_attention": CrossAttention,
    "concat": Concat,
}
