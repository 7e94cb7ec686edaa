"""How the features of the two sensors become one, at one scale; an absent sensor is cut out by selection."""

from typing import Literal

import torch
from torch import Tensor, nn

Anchor = Literal["rgb", "thermal"]


def cut(features: Tensor, present: Tensor) -> Tensor:
    """[B,C,h,w] with the samples whose ``present`` (float32 [B]) is 0 set to zero, even where they hold NaN.

    Selection, not multiplication: 0 × NaN is NaN, and its gradient would poison the encoder.
    """
    return torch.where(present.view(-1, 1, 1, 1) > 0.5, features, 0.0)


class ZeroResidual(nn.Module):
    """The anchor's features plus a zero-initialised 1×1 convolution of the other sensor's.

    At the start the fused model *is* the anchor's: nothing the other sensor says can harm it. There is no bias, so an
    absent sensor adds exactly nothing, also after training.

    Source: zero convolutions of ControlNet (Zhang et al., ICCV 2023).
    """

    def __init__(self, rgb: int, thermal: int, anchor: Anchor) -> None:
        super().__init__()
        self.anchor = anchor
        self.channels = rgb if anchor == "rgb" else thermal
        self.other = nn.Conv2d(thermal if anchor == "rgb" else rgb, self.channels, 1, bias=False)
        nn.init.zeros_(self.other.weight)

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> Tensor:
        """[B,C,h,w] of each sensor and ``present`` [B,2] → [B,anchor's C,h,w]."""
        rgb, thermal = cut(rgb, present[:, 0]), cut(thermal, present[:, 1])
        anchor, other = (rgb, thermal) if self.anchor == "rgb" else (thermal, rgb)
        added: Tensor = self.other(other)
        return anchor + added


class Concat(nn.Module):
    """Both sensors' features stacked, then a 1×1 convolution that starts as the identity on the anchor's."""

    def __init__(self, rgb: int, thermal: int, anchor: Anchor) -> None:
        super().__init__()
        self.channels = rgb if anchor == "rgb" else thermal
        self.mix = nn.Conv2d(rgb + thermal, self.channels, 1, bias=False)
        first = 0 if anchor == "rgb" else rgb
        with torch.no_grad():
            self.mix.weight[:, first : first + self.channels, 0, 0] += torch.eye(self.channels)

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> Tensor:
        """As ZeroResidual.forward."""
        mixed: Tensor = self.mix(torch.cat([cut(rgb, present[:, 0]), cut(thermal, present[:, 1])], 1))
        return mixed


BLENDS: dict[str, type[ZeroResidual] | type[Concat]] = {"zero_residual": ZeroResidual, "concat": Concat}
