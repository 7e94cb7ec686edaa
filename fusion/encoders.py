"""Feature pyramids: any timm backbone, or the user's own network, cut into named blocks."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import timm
from torch import Tensor, nn

from fusion.errors import FusionError

STRIDES = (4, 8, 16, 32)
"""The scales at which the branches are blended."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(nn.Module):
    """A network that returns feature maps, with the block (``stem``, ``blocks.0`` …) of each of its modules.

    Block i holds every module after feature i−1 up to feature i; the stem is the first convolution with what
    follows it before the next one. So each parameter has exactly one block, whatever the architecture.
    """

    def __init__(
        self,
        net: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        ends: Sequence[str],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.net = net
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.mean, self.std = tuple(mean), tuple(std)
        self._block_of = _blocks(net, ends)

    @property
    def depth(self) -> int:
        """Number of blocks, the stem not counted."""
        return len(self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,C,H,W] → one [B,channels[i],H/strides[i],W/strides[i]] for each scale."""
        return list(self.net(x))

    def blocks(self) -> dict[str, list[nn.Module]]:
        """Block name → its modules; every module of the network stands in exactly one."""
        found: dict[str, list[nn.Module]] = {"stem": [], **{f"blocks.{i}": [] for i in range(self.depth)}}
        for name, module in self.net.named_modules():
            found[self._block_of[name]].append(module)
        return found


def _blocks(net: nn.Module, ends: Sequence[str]) -> dict[str, str]:
    """Module name → block. ``ends`` names the module that gives each feature, in order.

    timm names them in the unwrapped network's way (``stages.0``) and some wrappers flatten that (``stages_0``);
    so names are compared with dots and underscores alike, in order of registration.
    """
    names = [name for name, _ in net.named_modules()]
    flat = [name.replace(".", "_").removeprefix("model_") + "_" for name in names]
    last = [
        max((i for i, name in enumerate(flat) if name.startswith(end.replace(".", "_") + "_")), default=-1)
        for end in ends
    ]
    if -1 in last:
        raise FusionError(f"the network has no module '{ends[last.index(-1)]}', which is said to end a feature")
    stem = _stem(net)
    return {
        name: "stem"
        if name in stem
        else f"blocks.{next((i for i, end in enumerate(last) if at <= end), len(ends) - 1)}"
        for at, name in enumerate(names)
    }


def _stem(net: nn.Module) -> set[str]:
    """Names of the modules from the first convolution up to the next unit that holds a weight matrix."""
    prefix, root = "", net
    while len(children := list(root.named_children())) == 1:
        prefix, root = f"{prefix}{children[0][0]}.", children[0][1]
    stem: set[str] = set()
    for child, unit in children:
        if stem and any(p.dim() > 1 for p in unit.parameters()):
            break
        stem |= {f"{prefix}{child}" + (f".{name}" if name else "") for name, _ in unit.named_modules()}
    return stem


def build_encoder(arch: str, in_chans: int) -> Encoder:
    """Build an encoder with random weights: a timm name, or ``module:package.module:factory``.

    Raises:
        FusionError: no such architecture, or it has no features at strides 4, 8, 16 and 32.
    """
    if arch.startswith("module:"):
        return _own_encoder(arch, in_chans)
    if not timm.is_model(arch):
        close = timm.list_models(f"*{arch.split('_')[0]}*")[:5]
        raise FusionError(f"unknown encoder '{arch}': timm has no such model; near: {', '.join(close) or 'none'}")
    try:
        reduction = timm.create_model(arch, features_only=True, pretrained=False).feature_info.reduction()
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise FusionError(f"encoder '{arch}' gives no feature pyramid in timm ({error})") from None
    missing = set(STRIDES) - set(reduction)
    if missing:
        raise FusionError(
            f"encoder '{arch}' has features at strides {reduction}, but {sorted(STRIDES)} are needed; "
            "choose a convolutional or hierarchical network (timm: resnet18, mobilenetv4_conv_small, convnext_atto)"
        )
    indices = tuple(reduction.index(stride) for stride in STRIDES)
    net = timm.create_model(arch, features_only=True, pretrained=False, in_chans=in_chans, out_indices=indices)
    config = timm.get_pretrained_cfg(arch)
    return Encoder(
        net,
        net.feature_info.channels(),
        net.feature_info.reduction(),
        net.feature_info.module_name(),
        config.mean if config else IMAGENET_MEAN,
        config.std if config else IMAGENET_STD,
    )


def _own_encoder(arch: str, in_chans: int) -> Encoder:
    """Call the user's factory(in_chans=…); the network states ``channels``, ``strides`` and its feature modules."""
    try:
        _, module, factory = arch.split(":")
        make = cast(Callable[..., nn.Module], getattr(importlib.import_module(module), factory))
    except (ValueError, ImportError, AttributeError) as error:
        raise FusionError(f"encoder '{arch}': expected module:package.module:factory ({error})") from None
    net = make(in_chans=in_chans)
    lacking = [name for name in ("channels", "strides", "feature_modules") if not hasattr(net, name)]
    if lacking:
        raise FusionError(
            f"encoder '{arch}': its network lacks {', '.join(lacking)}; give it channels and strides (one number for "
            "each feature map it returns) and feature_modules (the names of the modules that end each feature)"
        )
    if tuple(cast(Sequence[int], net.strides)) != STRIDES:
        raise FusionError(f"encoder '{arch}': strides are {net.strides}, but {STRIDES} are needed")
    return Encoder(
        net,
        cast(Sequence[int], net.channels),
        cast(Sequence[int], net.strides),
        cast(Sequence[str], net.feature_modules),
        cast(Sequence[float], getattr(net, "mean", IMAGENET_MEAN)),
        cast(Sequence[float], getattr(net, "std", IMAGENET_STD)),
    )


def norm_layers(modules: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers among ``modules`` that keep running statistics."""
    for module in modules:
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            yield module
