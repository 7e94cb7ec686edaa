"""The contract of every blend: an absent sensor is cut out, forward and backward."""

import pytest
import torch
from torch import nn

from fusion.blends import BLENDS

BAD = [float("nan"), float("inf"), -float("inf"), 1e30]


@pytest.fixture(params=list(BLENDS))
def kind(request):
    return request.param


def build(kind, anchor="rgb"):
    torch.manual_seed(0)
    blend = BLENDS[kind](8, 6, anchor)
    with torch.no_grad():
        for p in blend.parameters():
            p += 0.1 * torch.randn_like(p)
    return blend


def answer_and_gradients(blend, encoder, absent, filler, picture):
    """Run a picture through the encoder of an absent sensor whose features come out as ``filler`` everywhere."""
    nn.init.ones_(encoder.weight)
    encoder.zero_grad()
    blend.zero_grad()
    present = torch.ones(2, 2)
    present[:, absent] = 0
    encoded = encoder(picture)
    features = encoded + (filler - encoded.detach())  # added, so that the encoder's own gradient is that of the cut
    assert torch.allclose(features, torch.full_like(features, filler), rtol=0, atol=0, equal_nan=True)
    other = torch.linspace(0, 1, 2 * (6 if absent == 0 else 8) * 9).view(2, -1, 3, 3)
    rgb, thermal = (features, other) if absent == 0 else (other, features)
    out = blend(rgb, thermal, present)
    out.sum().backward()
    return out.detach(), [p.grad.clone() for p in [*encoder.parameters(), *blend.parameters()]]


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("bad", BAD)
def test_an_absent_sensor_leaves_no_trace_in_answer_or_gradients(kind, anchor, absent, bad):
    blend = build(kind, anchor)
    encoder = nn.Conv2d(3, 8 if absent == 0 else 6, 1, bias=False)
    picture = torch.rand(2, 3, 3, 3)
    wanted, clean = answer_and_gradients(blend, encoder, absent, 0.0, picture)
    out, gradients = answer_and_gradients(blend, encoder, absent, bad, picture)
    assert torch.equal(out, wanted)
    assert len(gradients) == len(clean) >= 2
    for found, expected in zip(gradients, clean, strict=True):
        assert torch.equal(found, expected)
    assert not gradients[0].any(), "the encoder of an absent sensor learns nothing"


def test_presence_is_per_sample(kind):
    blend = build(kind)
    rgb, thermal = torch.randn(3, 8, 3, 3), torch.randn(3, 6, 3, 3)
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    together = blend(rgb, thermal, present)
    for i in range(3):
        assert torch.allclose(
            together[i : i + 1], blend(rgb[i : i + 1], thermal[i : i + 1], present[i : i + 1]), atol=1e-6
        )


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_zero_residual_starts_as_its_anchor_for_any_other_input(anchor):
    blend = BLENDS["zero_residual"](8, 6, anchor)
    rgb, thermal = torch.randn(2, 8, 3, 3), torch.randn(2, 6, 3, 3)
    out = (
        blend(rgb, thermal * 1e6, torch.ones(2, 2)) if anchor == "rgb" else blend(rgb * 1e6, thermal, torch.ones(2, 2))
    )
    assert torch.equal(out, rgb if anchor == "rgb" else thermal)


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_every_blend_keeps_the_anchors_channels(kind, anchor):
    assert BLENDS[kind](8, 6, anchor).channels == (8 if anchor == "rgb" else 6)
