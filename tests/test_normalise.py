"""Thermal scaling and the letterbox inside the model."""

import pytest
import torch

from fusion.normalise import Letterbox, RgbNormalise, ThermalNormalise, ThermalScale

COUNTS = ThermalScale(unit="counts16", polarity="white-hot", range=None, min_span=100.0, invalid=0.0)
THERE = torch.ones(1)


def scale(**changes) -> ThermalNormalise:
    return ThermalNormalise(COUNTS.model_copy(update=changes))


def test_a_flat_frame_is_not_blown_up_into_noise():
    frame = torch.full((1, 64, 64), 51_700.0) + torch.randint(-2, 3, (1, 64, 64))
    z = scale()(frame, THERE)
    assert torch.isfinite(z).all()
    assert z.abs().max() < 0.2  # 2 counts of 100, in units of a quarter span


def test_one_hot_pixel_barely_moves_the_range():
    torch.manual_seed(0)
    frame = 51_000 + 900 * torch.rand(1, 64, 64)
    hot = frame.clone()
    hot[0, 10, 10] = 65_535
    cold, warmed = scale()(frame, THERE), scale()(hot, THERE)
    others = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    others[0, 0, 10, 10] = False
    assert (cold - warmed)[others].abs().max() < 2.0
    assert warmed[0, 0, 10, 10] == pytest.approx(6.0)  # clamped at 2 spans


def test_narrow_spans_at_high_counts_keep_their_digits():
    ramp = torch.linspace(51_241, 52_181, 64).round().repeat(1, 64, 1)
    z = scale()(ramp, THERE)[0, 0, 0]
    assert (z.diff() > 0).all()
    assert z.max() - z.min() > 3.5


@pytest.mark.parametrize("frame", [torch.zeros(1, 40, 50), torch.full((1, 40, 50), 7.0)])
def test_all_invalid_and_all_equal_give_finite_zeros(frame):
    z = scale()(frame, THERE)
    assert torch.isfinite(z).all() and z.abs().max() < 1e-6


def test_invalid_pixels_are_left_out_of_the_range_and_become_the_mean():
    torch.manual_seed(1)
    frame = 30_000 + 1000 * torch.rand(1, 64, 64)
    holed = frame.clone()
    holed[0, :16] = 0
    z = scale()(holed, THERE)
    assert (z[0, 0, :16] == 0).all()
    assert z[0, 0, 16:].std() > 0.5  # a range that counted the zeros would crush the rest


def test_invalid_pixels_within_a_block_do_not_dilute_its_mean():
    frame = torch.full((1, 32, 32), 30_000.0)
    frame[0, 16:] = 31_000.0
    holed = frame.clone()
    holed[0, ::2, ::3] = 0
    z, expected = scale()(holed, THERE), scale()(frame, THERE)
    valid = holed != 0
    assert torch.allclose(z[:, 0][valid], expected[:, 0][valid], atol=1e-3)


def test_an_absent_frame_leaves_nothing_even_of_nan():
    frame = torch.full((2, 32, 32), torch.nan)
    frame[0] = 20.0
    z = scale(unit="celsius", range=(-20.0, 60.0), invalid=-1000.0)(frame, torch.tensor([1.0, 0.0]))
    assert (z[1] == 0).all() and torch.isfinite(z[0]).all() and (z[0] == 0).all()


def test_non_finite_pixels_of_a_present_celsius_frame_are_invalid():
    frame = torch.full((1, 32, 32), 40.0)
    frame[0, 0, 0], frame[0, 0, 1], frame[0, 0, 2] = torch.nan, torch.inf, -1000.0
    z = scale(unit="celsius", range=(-20.0, 60.0), invalid=-1000.0)(frame, THERE)
    assert (z[0, 0, 0, :3] == 0).all() and z[0, 0, 0, 3] == pytest.approx(1.0)


def test_black_hot_is_turned_around():
    torch.manual_seed(2)
    frame = 30_000 + 1000 * torch.rand(1, 32, 32)
    turned = 65_535 - frame
    assert torch.allclose(scale()(frame, THERE), scale(polarity="black-hot")(turned, THERE), atol=1e-2)


def test_rgb_is_scaled_by_the_encoders_mean_and_absent_rgb_is_black():
    rgb = torch.full((2, 4, 4, 3), 255, dtype=torch.uint8)
    out = RgbNormalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(rgb, torch.tensor([1.0, 0.0]))
    assert torch.allclose(out[0], torch.tensor(2.0)) and torch.allclose(out[1], torch.tensor(-2.0))


def test_letterbox_keeps_the_aspect_and_maps_back():
    box = Letterbox((100, 400), (64, 128))
    out = box(torch.ones(1, 1, 50, 200))
    assert out.shape == (1, 1, 64, 128) and box.content == (32, 128)
    assert (out[:, :, :32] == 1).all() and (out[:, :, 32:] == 0).all()
    assert box.to_rgb == (400 / 128, 100 / 32)
