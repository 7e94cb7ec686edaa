"""The two-branch model: absent sensors, its anchor, and what frozen means."""

import copy

import pytest
import torch

from fusion.encoders import norm_layers
from fusion.errors import FusionError
from fusion.model import Blend, ModelConfig, RgbEncoder, ThermalEncoder, build_model

SIZE = (64, 96)


def thermal_json(unit="counts16"):
    fixed = {"counts16": (None, 100.0, 0.0), "celsius": ((-20.0, 60.0), 4.0, -1000.0)}[unit]
    return {"unit": unit, "polarity": "white-hot", "range": fixed[0], "min_span": fixed[1], "invalid": fixed[2]}


def config(unit="counts16", **changes):
    inputs = {"rgb_size": (48, 64), "thermal_size": (30, 40), "letterbox": False, "thermal": thermal_json(unit)}
    parts = {"rgb": RgbEncoder(arch="test_resnet", weights=None), "thermal": ThermalEncoder(arch="test_resnet")}
    return ModelConfig(size=SIZE, classes=("a", "b"), inputs=inputs, **(parts | changes))


def batch(unit="counts16", count=2):
    torch.manual_seed(3)
    rgb = torch.randint(0, 256, (count, 48, 64, 3), dtype=torch.uint8)
    thermal = torch.randint(21_000, 23_000, (count, 30, 40)).float()
    return rgb, (thermal if unit == "counts16" else thermal / 1000), torch.ones(count, 2)


def scrambled(model):
    torch.manual_seed(4)
    with torch.no_grad():
        for p in model.blend.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def answer_and_gradients(model, rgb, thermal, present):
    model = copy.deepcopy(model).train()
    maps = model.maps(rgb, thermal, present)
    sum(v.sum() for v in maps.values()).backward()
    return maps, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("kind", ["zero_residual", "concat"])
@pytest.mark.parametrize("absent", ["rgb", "thermal"])
@pytest.mark.parametrize("unit", ["counts16", "celsius"])
def test_garbage_of_an_absent_sensor_changes_neither_answer_nor_gradients(kind, absent, unit):
    model = scrambled(build_model(config(unit, blend=Blend(kind=kind)), 0)[0])
    rgb, thermal, present = batch(unit)
    present[:, 0 if absent == "rgb" else 1] = 0
    zeros = [
        torch.zeros_like(rgb) if absent == "rgb" else rgb,
        torch.zeros_like(thermal) if absent == "thermal" else thermal,
    ]
    garbage = list(zeros)
    if absent == "rgb":
        garbage[0] = torch.randint(0, 256, rgb.shape, dtype=torch.uint8)
    else:
        garbage[1] = torch.full_like(thermal, 65_535.0)
        garbage[1][0, 0], garbage[1][0, 1] = torch.nan, torch.inf
    clean, clean_gradients = answer_and_gradients(model, *zeros, present)
    dirty, dirty_gradients = answer_and_gradients(model, *garbage, present)
    for name in clean:
        assert torch.equal(clean[name], dirty[name])
    for a, b in zip(clean_gradients, dirty_gradients, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_a_fresh_zero_residual_answers_as_its_anchor_alone(anchor):
    """Fused with both = fused with the anchor alone = the single-sensor model of the same weights."""
    fused, _ = build_model(config(blend=Blend(anchor=anchor)), 0)
    fused.eval()
    single, _ = build_model(config(sensors=(anchor,)), 0)
    single.load_state_dict({k: v for k, v in fused.state_dict().items() if k in single.state_dict()})
    single.eval()
    rgb, thermal, both = batch()
    alone = both.clone()
    alone[:, 1 if anchor == "rgb" else 0] = 0
    with torch.no_grad():
        expected = single(rgb, thermal, both)["boxes"]
        assert torch.equal(fused(rgb, thermal, both)["boxes"], expected)
        assert torch.equal(fused(rgb, thermal, alone)["boxes"], expected)
        other = (255 - rgb, thermal) if anchor == "thermal" else (rgb, thermal.flip(1) + 500)
        assert torch.equal(fused(*other, both)["boxes"], expected)
        assert torch.equal(fused.answer(fused.maps(rgb, thermal, both, sensors=(anchor,)))["boxes"], expected)


def test_a_stage_with_one_sensor_reaches_that_encoder_whatever_the_anchor():
    """Through a zero-initialised blend alone, batch-norm and ReLU would see a constant and pass no gradient."""
    for anchor in ("rgb", "thermal"):
        model, _ = build_model(config(blend=Blend(anchor=anchor)), 0)
        for sensor in ("rgb", "thermal"):
            model.zero_grad()
            model.train()
            sum(v.sum() for v in model.maps(*batch(), sensors=(sensor,)).values()).backward()
            first = next(model.encoders[sensor].parameters())
            assert first.grad is not None and first.grad.abs().sum() > 0


def test_a_sensor_alone_needs_the_heads_width():
    model, _ = build_model(config(thermal=ThermalEncoder(arch="resnet10t")), 0)
    with pytest.raises(FusionError, match="a stage with thermal alone"):
        model.require_width(("thermal",), "task")
    model.require_width(("rgb",), "task")
    model.require_width(("thermal",), "autoencode")


def test_modality_dropout_acts_at_the_blend_and_not_before():
    """A sensor dropped for a sample leaves every encoder's batch-norm statistics as if it were there."""
    kept, dropped = (scrambled(build_model(config(), 0)[0]).train() for _ in range(2))
    rgb, thermal, present = batch()
    keep = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    whole = kept.maps(rgb, thermal, present)
    cut = dropped.maps(rgb, thermal, present, keep)
    assert not torch.allclose(whole["heat"], cut["heat"])
    for encoder in ("rgb", "thermal"):
        for a, b in zip(getattr(kept, encoder).buffers(), getattr(dropped, encoder).buffers(), strict=True):
            assert torch.equal(a, b)


def test_frozen_blocks_neither_learn_nor_drift_in_train_mode():
    model, _ = build_model(config(), 0)
    frozen = frozenset(name for name in model.named_blocks() if name.startswith("rgb."))
    model.hold(frozen, frozen)
    model.train()
    before = copy.deepcopy(model.rgb.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(v.sum() for v in model.maps(*batch()).values()).backward()
    optimizer.step()
    model.eval()
    model.train()  # frozen again, also after a validation
    model.maps(*batch())
    assert all(torch.equal(v, before[k]) for k, v in model.rgb.state_dict().items())
    assert all(p.grad is None for p in model.rgb.parameters())
    assert not any(m.training for m in model.rgb.modules() if not list(m.children()))
    assert any(p.grad is not None for p in model.thermal.parameters())


def test_fixed_norms_keep_their_statistics_while_weights_learn():
    model, _ = build_model(config(), 0)
    names = frozenset(name for name in model.named_blocks() if name.startswith("rgb."))
    model.hold(frozenset(), names)
    model.train()
    statistics = {k: v.clone() for k, v in model.rgb.state_dict().items() if "running" in k}
    sum(v.sum() for v in model.maps(*batch()).values()).backward()
    assert statistics and all(torch.equal(v, model.rgb.state_dict()[k]) for k, v in statistics.items())
    assert all(p.grad is not None for p in model.rgb.parameters())
    moving = list(norm_layers(list(model.thermal.modules())))
    assert moving and all(layer.num_batches_tracked == 1 for layer in moving)


def test_unfreezing_thaws_everything_again():
    model, _ = build_model(config(), 0)
    everything = frozenset(model.named_blocks())
    model.hold(everything, everything)
    model.hold(frozenset(), frozenset())
    model.train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_branches_of_different_architectures_join():
    model, _ = build_model(config(thermal=ThermalEncoder(arch="resnet10t")), 0)
    assert model(*batch())["boxes"].shape == (2, 100, 6)


def test_a_copied_start_needs_something_to_copy():
    with pytest.raises(FusionError, match=r"weights is null: there is nothing to copy"):
        build_model(config(thermal=ThermalEncoder(arch="test_resnet", start="copied")), 0)


def test_the_same_seed_builds_the_same_model():
    a, b, other = (build_model(config(), seed)[0].state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], other[k]) for k in a)


def test_thermal_of_any_dtype_of_its_unit_gives_one_answer():
    model = scrambled(build_model(config(), 0)[0]).eval()
    rgb, thermal, present = batch()
    with torch.no_grad():
        as_float = model(rgb, thermal, present)["boxes"]
        as_uint16 = model(rgb, thermal.to(torch.uint16), present)["boxes"]
    assert torch.equal(as_float, as_uint16)
