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

    def forward(self, rgb: Tensor | None, thermal: Tensor | None, present: Tensor) -> Tensor:
        """[B,C,h,w] each, or None when no sample of the batch has the sensor; ``present`` [B,2]."""
        anchor, other = (rgb, thermal) if self.anchor == "rgb" else (thermal, rgb)
        anchor_there, other_there = (
            (present[:, 0], present[:, 1]) if self.anchor == "rgb" else (present[:, 1], present[:, 0])
        )
        if other is None:
            assert anchor is not None
            return cut(anchor, anchor_there)
        added: Tensor = self.other(cut(other, other_there))
        return added if anchor is None else cut(anchor, anchor_there) + added


class Concat(nn.Module):
    """Both sensors' features stacked, then a 1×1 convolution that starts as the identity on the anchor's."""

    def __init__(self, rgb: int, thermal: int, anchor: Anchor) -> None:
        super().__init__()
        self.widths = (rgb, thermal)
        self.channels = rgb if anchor == "rgb" else thermal
        self.mix = nn.Conv2d(rgb + thermal, self.channels, 1)
        nn.init.zeros_(self.mix.bias) if self.mix.bias is not None else None
        first = 0 if anchor == "rgb" else rgb
        with torch.no_grad():
            self.mix.weight[:, first : first + self.channels, 0, 0] += torch.eye(self.channels)

    def forward(self, rgb: Tensor | None, thermal: Tensor | None, present: Tensor) -> Tensor:
        """As ZeroResidual.forward."""
        there = rgb if rgb is not None else thermal
        assert there is not None
        empty = [there.new_zeros((there.shape[0], width, *there.shape[2:])) for width in self.widths]
        parts = [
            empty[i] if features is None else cut(features, present[:, i]) for i, features in enumerate((rgb, thermal))
        ]
        mixed: Tensor = self.mix(torch.cat(parts, 1))
        return mixed


BLENDS: dict[str, type[ZeroResidual] | type[Concat]] = {"zero_residual": ZeroResidual, "concat": Concat}
