"""The contract of every blend: an absent sensor is cut out, forward and backward, and each can learn from its start."""

import pytest
import torch
from torch import nn

from fusion.blends import BLENDS, CrossAttention
from fusion.layers import norm_layer

BAD = [float("nan"), float("inf"), -float("inf"), 1e30]
BEFORE = [("none", None), ("none", "relu"), ("batch", "elu"), ("group", "gelu")]
WIDTHS = (8, 12)
"""Channels of RGB and thermal: the branches differ."""


@pytest.fixture(params=list(BLENDS))
def kind(request):
    return request.param


@pytest.fixture(params=BEFORE, ids=lambda before: "-".join(map(str, before)))
def before(request):
    return request.param


def build(kind, before=BEFORE[0], anchor="rgb", learnt=True):
    torch.manual_seed(0)
    blend = BLENDS[kind](*WIDTHS, anchor, *before)
    with torch.no_grad():
        for p in blend.parameters():
            p += 0.1 * torch.randn_like(p) * learnt
    return blend


def features(count=2, size=5, seed=1):
    torch.manual_seed(seed)
    return [torch.randn(count, width, size, size) for width in WIDTHS]


def answer_and_gradients(blend, encoder, absent, samples, filler, picture):
    """Run a picture through the encoder of a sensor whose features come out as ``filler`` where it is absent."""
    encoder.zero_grad()
    blend.zero_grad()
    present = torch.ones(2, 2)
    present[samples, absent] = 0
    encoded = encoder(picture)
    gone = (present[:, absent] == 0).view(-1, 1, 1, 1).expand_as(encoded)
    # Added, so that the encoder's own gradient is that of the cut.
    found = encoded + torch.where(gone, filler - encoded.detach(), 0.0)
    pair = features(size=3)
    pair[absent] = found
    out = blend(*pair, present)
    out.sum().backward()
    return out.detach(), [p.grad.clone() for p in [*encoder.parameters(), *blend.parameters()]]


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("samples", [[0], [0, 1]])
def test_an_absent_sensor_leaves_no_trace_in_answer_or_gradients(kind, before, anchor, absent, samples):
    blend = build(kind, before, anchor)
    encoder = nn.Conv2d(3, WIDTHS[absent], 1, bias=False)
    picture = torch.rand(2, 3, 3, 3)
    clean, clean_gradients = answer_and_gradients(blend, encoder, absent, samples, 0.0, picture)
    for bad in BAD:
        out, gradients = answer_and_gradients(blend, encoder, absent, samples, bad, picture)
        assert torch.equal(out, clean)
        assert len(gradients) == len(clean_gradients) >= 2
        for found, expected in zip(gradients, clean_gradients, strict=True):
            assert torch.equal(found, expected) and found.isfinite().all()
        assert gradients[0].any() == (len(samples) == 1), "only where it is present does its encoder learn"


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_an_absent_partner_adds_exactly_nothing_even_where_there_are_biases(kind, before, anchor):
    """The anchor alone is its own features; concat mixes those, but nothing from a bias is added."""
    blend = build(kind, before, anchor)
    pair, present = features(), torch.ones(2, 2)
    own = 0 if anchor == "rgb" else 1
    present[:, 1 - own] = 0
    out = blend.eval()(*pair, present)
    if kind == "concat":
        pair[1 - own] = torch.zeros_like(pair[1 - own])
        assert torch.equal(out, blend.mix(torch.cat(pair, 1)))
    else:
        assert torch.equal(out, pair[own])


def test_presence_is_per_sample(kind, before):
    blend = build(kind, before).eval()
    rgb, thermal = features(4)
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    together = blend(rgb, thermal, present)
    for i in range(4):
        alone = blend(rgb[i : i + 1], thermal[i : i + 1], present[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)
    assert not together[3].any()


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
@pytest.mark.parametrize("residual", ["zero_residual", "gated", "cross_attention"])
def test_residuals_start_as_their_anchor_for_any_other_input(residual, before, anchor):
    blend = build(residual, before, anchor, learnt=False)
    pair = features()
    own = 0 if anchor == "rgb" else 1
    pair[1 - own] = pair[1 - own] * 1e6
    assert torch.equal(blend(*pair, torch.ones(2, 2)), pair[own])


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_every_parameter_learns_after_one_step_from_the_start(kind, before, anchor):
    blend = build(kind, before, anchor, learnt=False)
    pair = features()
    goal = torch.randn(2, blend.channels, 5, 5)
    optimizer = torch.optim.SGD(blend.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        ((blend(*pair, torch.ones(2, 2)) - goal) ** 2).mean().backward()
        optimizer.step()
    dead = [name for name, p in blend.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_every_blend_keeps_the_anchors_channels(kind, before, anchor):
    blend = build(kind, before, anchor)
    assert blend.channels == WIDTHS[0 if anchor == "rgb" else 1]
    assert blend(*features(), torch.ones(2, 2)).shape == (2, blend.channels, 5, 5)


def test_weights_go_round(kind, before):
    learnt, fresh = build(kind, before).eval(), BLENDS[kind](*WIDTHS, "rgb", *before).eval()
    assert not torch.equal(learnt(*features(), torch.ones(2, 2)), fresh(*features(), torch.ones(2, 2)))
    fresh.load_state_dict(learnt.state_dict())
    assert torch.equal(learnt(*features(), torch.ones(2, 2)), fresh(*features(), torch.ones(2, 2)))


def test_cross_attention_costs_as_many_times_more_as_there_are_more_places():
    from torch.utils.flop_counter import FlopCounterMode

    blend, costs = CrossAttention(32, 32, "rgb"), []
    for size in (8, 32):
        with FlopCounterMode(display=False) as counter:
            blend(torch.randn(1, 32, size, size), torch.randn(1, 32, size, size), torch.ones(1, 2))
        costs.append(counter.get_total_flops())
    assert costs[1] == 16 * costs[0] > 0


def test_cross_attention_reads_far_places_and_a_gated_residual_its_own():
    """A change in one corner of thermal reaches the far corner of the answer, or does not."""
    pair, changed = features(1), features(1)
    changed[1][..., 0, 0] += 3
    for kind, reaches in (("cross_attention", True), ("zero_residual", False), ("gated", False)):
        blend = build(kind)
        moved = blend(*changed, torch.ones(1, 2)) - blend(*pair, torch.ones(1, 2))
        assert moved[..., 0, 0].abs().max() > 1e-3
        assert (moved[..., -1, -1].abs().max() > 0) == reaches


def test_closed_gates_let_nothing_through():
    gated, pair = build("gated"), features()
    assert not torch.allclose(gated(*pair, torch.ones(2, 2)), pair[0])
    with torch.no_grad():
        gated.gate[2].bias -= 100
    assert torch.allclose(gated(*pair, torch.ones(2, 2)), pair[0])


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (12, 1), (28, 2), (64, 8), (40, 5), (7, 1)])
def test_group_norm_takes_any_width(channels, groups):
    layer = norm_layer("group", channels)
    assert layer.num_groups == groups
    assert layer(torch.randn(1, channels, 2, 2)).shape == (1, channels, 2, 2)
