"""The few layers that heads and decoders are made of."""

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]
Activation = Literal["relu", "gelu", "elu", "silu"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "elu": nn.ELU, "silu": nn.SiLU}


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Normalisation over [B,channels,h,w]; ``group`` needs no batch statistics.

    Its groups have 8 channels, or the next number above that divides an encoder's channels.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = next(count for count in range(max(1, channels // 8), 0, -1) if channels % count == 0)
        return nn.GroupNorm(groups, channels)
    return nn.Identity()


def conv_block(inputs: int, outputs: int, kernel: int, norm: Norm, act: Activation, groups: int = 1) -> nn.Sequential:
    """Convolution (same size), normalisation, activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=norm == "none")
    return nn.Sequential(conv, norm_layer(norm, outputs), ACTIVATIONS[act]())


def separable(channels: int, norm: Norm, act: Activation) -> nn.Sequential:
    """3×3 over each channel, then 1×1 over all: a ninth of a full convolution's cost."""
    return nn.Sequential(
        conv_block(channels, channels, 3, norm, act, groups=channels), conv_block(channels, channels, 1, norm, act)
    )


def full_precision(x: Tensor) -> Tensor:
    """Integers and half floats as float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
