"""What pretraining minimises."""

import pytest
import torch

from fusion.objectives import ssim


def test_ssim_is_the_mean_of_its_definition_over_all_windows():
    torch.manual_seed(0)
    a = torch.randn(2, 1, 20, 24, dtype=torch.float64).cumsum(3) / 5
    b = a + 0.3 * torch.randn_like(a)
    x, y = (t.unfold(2, 7, 1).unfold(3, 7, 1).flatten(4) for t in (a, b))
    mx, my = x.mean(-1), y.mean(-1)
    covariance = ((x - mx.unsqueeze(-1)) * (y - my.unsqueeze(-1))).mean(-1)
    luminance = (2 * mx * my + 0.08**2) / (mx**2 + my**2 + 0.08**2)
    structure = (2 * covariance + 0.24**2) / (x.var(-1, correction=0) + y.var(-1, correction=0) + 0.24**2)
    assert ssim(a, b, 8.0).item() == pytest.approx((luminance * structure).mean().item(), abs=1e-9)


def test_ssim_of_a_picture_with_itself_is_one_and_falls_with_noise():
    torch.manual_seed(0)
    a = torch.randn(2, 1, 32, 32)
    similar = [ssim(a, a + s * torch.randn_like(a), 8.0).item() for s in (0.0, 0.2, 1.0)]
    assert similar[0] == pytest.approx(1.0, abs=1e-6)
    assert similar[0] > similar[1] > similar[2]
