"""Feature pyramids and their blocks, over several timm families."""

import sys
import types

import pytest
import torch
from torch import nn

from fusion.encoders import STRIDES, build_encoder
from fusion.errors import FusionError

FAMILIES = ["mobilenetv4_conv_small", "resnet18", "resnet10t", "convnext_atto", "efficientnet_b0", "regnety_002",
            "ghostnet_100", "fastvit_t8", "repvit_m0_9", "edgenext_xx_small"]  # fmt: skip


@pytest.mark.parametrize("arch", FAMILIES)
def test_each_parameter_has_exactly_one_block_and_blocks_follow_the_features(arch):
    encoder = build_encoder(arch, 1)
    assert encoder.strides == STRIDES
    blocks = encoder.blocks()
    assert list(blocks) == ["stem", *(f"blocks.{i}" for i in range(4))]
    owned = [p for modules in blocks.values() for m in modules for p in m.parameters(recurse=False)]
    assert sorted(map(id, owned)) == sorted(map(id, encoder.parameters()))
    assert all(
        any(p.requires_grad for m in modules for p in m.parameters(recurse=False)) for modules in blocks.values()
    )
    assert first_conv(encoder) in blocks["stem"]


def first_conv(encoder):
    return next(m for m in encoder.net.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("arch", ["mobilenetv4_conv_small", "resnet18", "convnext_atto"])
def test_a_block_acts_on_its_feature_and_deeper_ones_only(arch):
    """The real order of execution agrees with the names: changing block i leaves features before i as they were."""
    torch.manual_seed(0)
    encoder = build_encoder(arch, 3).eval()
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(picture)
        for i in range(4):
            for module in encoder.blocks()[f"blocks.{i}"]:
                for p in module.parameters(recurse=False):
                    p.add_(0.1)
            after = encoder(picture)
            assert all(torch.equal(a, b) for a, b in zip(before[:i], after[:i], strict=True))
            assert not torch.allclose(before[i], after[i])
            before = after


@pytest.mark.parametrize("arch", FAMILIES[:4])
def test_channels_and_strides_are_what_comes_out(arch):
    encoder = build_encoder(arch, 1)
    for feature, channels, stride in zip(encoder(torch.zeros(1, 1, 64, 96)), encoder.channels, STRIDES, strict=True):
        assert feature.shape == (1, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet_nonsense", "timm has no such model"),
        ("vit_tiny_patch16_224", "strides"),
        ("module:nowhere:make", "expected module:package.module:factory"),
    ],
)
def test_an_encoder_that_cannot_be_is_one_clear_line(arch, words):
    with pytest.raises(FusionError, match=words) as caught:
        build_encoder(arch, 3)
    assert "\n" not in str(caught.value)


class OwnNet(nn.Module):
    channels, strides, feature_modules = (8, 12, 16, 20), (4, 8, 16, 32), ("one", "two", "three", "four")

    def __init__(self, in_chans):
        super().__init__()
        self.first = nn.Conv2d(in_chans, 8, 3, 2, 1)
        self.one = nn.Conv2d(8, 8, 3, 2, 1)
        self.two = nn.Conv2d(8, 12, 3, 2, 1)
        self.three = nn.Conv2d(12, 16, 3, 2, 1)
        self.four = nn.Conv2d(16, 20, 3, 2, 1)

    def forward(self, x):
        one = self.one(self.first(x))
        two = self.two(one)
        three = self.three(two)
        return [one, two, three, self.four(three)]


def test_the_users_own_network(monkeypatch):
    module = types.ModuleType("own_networks")
    module.make = lambda in_chans: OwnNet(in_chans)
    monkeypatch.setitem(sys.modules, "own_networks", module)
    encoder = build_encoder("module:own_networks:make", 1)
    assert [tuple(f.shape[1:]) for f in encoder(torch.zeros(1, 1, 64, 64))] == [
        (8, 16, 16),
        (12, 8, 8),
        (16, 4, 4),
        (20, 2, 2),
    ]
    convolutions = {name: sum(isinstance(m, nn.Conv2d) for m in modules) for name, modules in encoder.blocks().items()}
    assert convolutions == {"stem": 1, "blocks.0": 1, "blocks.1": 1, "blocks.2": 1, "blocks.3": 1}


def test_an_own_network_that_does_not_say_its_channels(monkeypatch):
    module = types.ModuleType("own_networks")
    module.make = lambda in_chans: nn.Conv2d(in_chans, 8, 3)
    monkeypatch.setitem(sys.modules, "own_networks", module)
    with pytest.raises(FusionError, match="lacks channels, strides, feature_modules"):
        build_encoder("module:own_networks:make", 3)
