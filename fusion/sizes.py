"""The sizes that are shipped: a name for each pair of encoders, to be chosen by what the device can carry."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fusion.errors import FusionError


class Size(NamedTuple):
    """A pair of encoders, by timm's names."""

    rgb: str
    thermal: str
    use: str
    """The devices it is for."""


SIZES: dict[str, Size] = {
    "edge": Size("mobilenetv4_conv_small", "mobilenetv4_conv_small", "Raspberry Pi, Jetson Nano, two CPU cores"),
    "base": Size("resnet18", "resnet18", "Jetson Orin, an Intel box"),
    "large": Size("resnet50", "resnet50", "a workstation's or a server's GPU"),
}
"""Name → its pair: convolutions and batch normalisation throughout, which every engine takes and quantises well.

Both branches have one architecture, so that either may start as the other's copy, and either may be the anchor.
ResNet-18 and ResNet-50 are the pairs that RGB-T papers compare with.
"""

FIELD = "encoders"
"""The name under which a recipe's model section takes a size."""


def with_size(section: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``encoders: NAME`` in a recipe's model section by the architectures of that size.

    They take the place of any ``arch`` that the section has; all else of a branch (weights, start) stays.

    Raises:
        FusionError: unknown size.
    """
    rest = {key: value for key, value in section.items() if key != FIELD}
    name = section[FIELD]
    if not isinstance(name, str) or name not in SIZES:
        raise FusionError(f"{FIELD}: unknown size '{name}'; one of {', '.join(SIZES)}")
    for branch, arch in (("rgb", SIZES[name].rgb), ("thermal", SIZES[name].thermal)):
        given = rest.get(branch, {})
        if isinstance(given, Mapping):  # else pydantic says what it should be
            rest[branch] = {**given, "arch": arch}
    return rest
