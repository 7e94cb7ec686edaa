"""The two-branch model: absent sensors, its anchor, and what frozen means."""

import copy

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from fusion.blends import BLENDS
from fusion.checkpoint import load_model, save_model
from fusion.encoders import build_encoder, norm_layers
from fusion.errors import FusionError
from fusion.model import Blend, ModelConfig, RgbEncoder, ThermalEncoder, build_model

SIZE = (64, 96)
KINDS = [*BLENDS, "early"]


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


@pytest.mark.parametrize("kind", KINDS)
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
    assert any(g is not None and g.any() for g in clean_gradients)
    for a, b in zip(clean_gradients, dirty_gradients, strict=True):
        assert (a is None and b is None) or (torch.equal(a, b) and a.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_answers_as_its_pairs_one_by_one(kind):
    model = scrambled(build_model(config(blend=Blend(kind=kind)), 0)[0]).eval()
    rgb, thermal, present = batch(count=3)
    present[1, 0] = present[2, 1] = 0
    with torch.no_grad():
        together = model.maps(rgb, thermal, present)
        for i in range(3):
            alone = model.maps(rgb[i : i + 1], thermal[i : i + 1], present[i : i + 1])
            for name, found in alone.items():
                assert torch.allclose(found, together[name][i : i + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_after_the_first_steps(kind):
    """Blend and head after one step; the encoder behind a zero blend after two, as its own blocks start at zero too."""
    blend = Blend(kind=kind, norm="group", act="silu") if kind in BLENDS else Blend(kind=kind)
    model, _ = build_model(config(blend=blend), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(5)
    goals = {name: torch.randn_like(value) for name, value in model.maps(*batch()).items()}
    for steps in range(3):
        optimizer.zero_grad()
        sum(((value - goals[name]) ** 2).mean() for name, value in model.maps(*batch()).items()).backward()
        optimizer.step()
        dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert steps < 1 or not [name for name in dead if not name.startswith("thermal.")]
    assert not dead


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_rebuilt_from_its_json(kind, tmp_path):
    blend = Blend(kind=kind, anchor="thermal", norm="batch", act="elu") if kind in BLENDS else Blend(kind=kind)
    model = scrambled(build_model(config(blend=blend), 0)[0]).eval()
    save_model(tmp_path, model)
    rebuilt = load_model(tmp_path)
    assert rebuilt.config.model_dump_json() == model.config.model_dump_json()
    with torch.no_grad():
        assert torch.equal(rebuilt(*batch())["boxes"], model(*batch())["boxes"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_encoding_is_joined_for_several_presences(kind):
    model = scrambled(build_model(config(blend=Blend(kind=kind)), 0)[0]).eval()
    rgb, thermal, both = batch()
    with torch.no_grad():
        features = model.features(rgb, thermal, both)
        for keep in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0]):
            there = torch.tensor([keep, keep])
            found = model.head(model.join(features, there))
            expected = model.maps(rgb, thermal, both, keep=there)
            assert torch.equal(found["heat"], expected["heat"])


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


@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
@pytest.mark.parametrize("kind", list(BLENDS))
def test_branches_of_different_architectures_join(kind, anchor):
    other = ThermalEncoder(arch="resnet10t")
    model, _ = build_model(config(thermal=other, blend=Blend(kind=kind, anchor=anchor)), 0)
    assert [blend.channels for blend in model.blend] == list(model.encoders[anchor].channels)
    assert model(*batch())["boxes"].shape == (2, 100, 6)


def test_early_fusion_is_one_encoder_over_four_channels():
    model, _ = build_model(config(blend=Blend(kind="early"), thermal=ThermalEncoder(arch="no_such")), 0)
    assert model.thermal is None and list(model.encoders) == ["rgb"] and not len(model.blend)
    assert next(model.rgb.parameters()).shape[1] == 4
    assert {name.split(".")[0] for name in model.named_blocks()} == {"rgb", "head"}


def test_a_sensor_dropped_from_an_early_fusion_is_cut_out_of_the_canvas():
    model = build_model(config(blend=Blend(kind="early")), 0)[0].eval()
    rgb, thermal, both = batch()
    stacked = []
    model.rgb.net.register_forward_pre_hook(lambda _net, inputs: stacked.append(inputs[0]))
    with torch.no_grad():
        whole = model.maps(rgb, thermal, both)
        rgb_alone = model.maps(rgb, thermal, both, keep=torch.tensor([[1.0, 0.0]] * 2))
        thermal_alone = model.maps(rgb, thermal, both, sensors=("thermal",))
        absent = model.maps(rgb, thermal, torch.tensor([[0.0, 1.0]] * 2))
    assert [[bool(x[:, :3].any()), bool(x[:, 3:].any())] for x in stacked] == [
        [True, True],
        [True, False],
        [False, True],
        [False, True],
    ]
    assert torch.equal(stacked[0][:, :3], stacked[1][:, :3]) and torch.equal(stacked[0][:, 3:], stacked[2][:, 3:])
    assert torch.equal(thermal_alone["heat"], absent["heat"])
    assert not torch.equal(whole["heat"], rgb_alone["heat"])


def test_early_fusion_in_a_model_of_one_sensor_is_that_sensors_baseline():
    model, _ = build_model(config(blend=Blend(kind="early"), sensors=("thermal",)), 0)
    assert list(model.encoders) == ["thermal"]
    assert model(*batch())["boxes"].shape == (2, 100, 6)


def copied(**changes):
    return build_model(config(thermal=ThermalEncoder(arch="test_resnet", start="copied"), **changes), 0)[0]


def test_a_copied_start_takes_what_the_rgb_branch_knows_at_that_moment():
    model = copied()
    first, source = model.thermal.net.conv1[0].weight, model.rgb.net.conv1[0].weight
    assert not torch.allclose(first, source.sum(1, keepdim=True))
    with torch.no_grad():
        for p in model.rgb.parameters():
            p += 1.0
    report = model.copy_thermal_start()
    assert len(report.adapted) == 1 and report.loaded == len(model.thermal.state_dict()) - 1
    assert torch.equal(first, source.sum(1, keepdim=True))
    for name, value in model.thermal.state_dict().items():
        assert name == "net.conv1.0.weight" or torch.equal(value, model.rgb.state_dict()[name])


def test_a_copied_start_without_an_rgb_branch_reads_its_weights_when_it_is_built(tmp_path):
    torch.manual_seed(9)
    known = build_encoder("test_resnet", 3)
    save_file(known.net.state_dict(), tmp_path / "w.safetensors")
    rgb = RgbEncoder(arch="test_resnet", weights=str(tmp_path / "w.safetensors"))
    model = copied(sensors=("thermal",), rgb=rgb)
    (tmp_path / "w.safetensors").unlink()
    report = model.copy_thermal_start()
    assert (report.source, len(report.adapted)) == (rgb.weights, 1)
    for name, value in known.net.state_dict().items():
        start = model.thermal.net.state_dict()[name]
        assert torch.equal(start, value.sum(1, keepdim=True) if name == "conv1.0.weight" else value)


WRONG = {
    "no such file": (
        {"rgb": RgbEncoder(arch="test_resnet", weights="none.pth")},
        "model.rgb.weights: none.pth: no such",
    ),
    "no file for a copy": (
        {
            "sensors": ("thermal",),
            "rgb": RgbEncoder(arch="test_resnet", weights="none.pth"),
            "thermal": ThermalEncoder(arch="test_resnet", start="copied"),
        },
        "model.rgb.weights: none.pth: no such",
    ),
    "nothing to copy": (
        {"sensors": ("thermal",), "thermal": ThermalEncoder(arch="test_resnet", start="copied")},
        "model.thermal.start: 'copied' has nothing to copy: there is no RGB branch, and model.rgb.weights is null",
    ),
    "no thermal file": (
        {"thermal": ThermalEncoder(arch="test_resnet", weights="none.pth")},
        "model.thermal.weights: none.pth: no such",
    ),
    "no RGB encoder": ({"rgb": RgbEncoder(arch="resnot", weights=None)}, "model.rgb.arch: unknown encoder 'resnot'"),
    "no thermal encoder": ({"thermal": ThermalEncoder(arch="resnot")}, "model.thermal.arch: unknown encoder 'resnot'"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_does_not_fit_is_told_with_its_field_when_it_is_built(case):
    changes, words = WRONG[case]
    with pytest.raises(FusionError) as caught:
        build_model(config(**changes), 0)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_copied_start_needs_one_architecture():
    with pytest.raises(FusionError, match=r"the branches differ \(test_resnet, resnet10t\)"):
        build_model(config(thermal=ThermalEncoder(arch="resnet10t", start="copied")), 0)


@pytest.mark.parametrize(("init", "spread"), [("kaiming", (2 / 288) ** 0.5), ("xavier", (2 / (288 + 288)) ** 0.5)])
def test_a_random_start_is_drawn_as_told(init, spread):
    plain = build_model(config(), 0)[0].state_dict()
    drawn = build_model(config(thermal=ThermalEncoder(arch="test_resnet", init=init)), 0)[0]
    weight = drawn.thermal.net.layer1[0].conv1.weight
    assert weight.shape == (32, 32, 3, 3)
    assert weight.std().item() == pytest.approx(spread, rel=0.03)
    for name, value in drawn.state_dict().items():
        redrawn = name.startswith("thermal.") and value.dim() > 1
        assert torch.equal(value, plain[name]) != redrawn, name


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_a_convolution_of_each_channel_is_drawn_by_what_it_sees(init):
    from fusion.weights import draw_weights

    encoder = build_encoder("mobilenetv4_conv_small", 1)
    draw_weights(encoder, init)
    depthwise = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 100)
    inputs = depthwise.weight[0].numel()
    wanted = (2 / inputs) ** 0.5 if init == "kaiming" else (2 / (inputs + inputs)) ** 0.5
    assert depthwise.weight.std().item() == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Blend(kind="early", act="relu"), "an early fusion has no blend"),
        (lambda: Blend(kind="gated", norm="group"), "give act, say relu"),
        (
            lambda: Blend(kind="gatd"),
            "unknown blend 'gatd'; one of zero_residual, gated, cross_attention, concat, early",
        ),
        (lambda: ThermalEncoder(arch="x", start="copied", weights="w.pth"), "would overwrite weights"),
        (lambda: ThermalEncoder(arch="x", start="copied", init="xavier"), "with copied or weights leave it out"),
        (
            lambda: config(blend=Blend(kind="early"), thermal=ThermalEncoder(arch="x", weights="w.pth")),
            "thermal.weights would go nowhere",
        ),
    ],
)
def test_contradictions_are_refused(make, words):
    with pytest.raises(ValidationError, match=words):
        make()


def test_targets_are_drawn_on_the_canvas_and_the_loss_is_the_heads():
    model, _ = build_model(config(), 0)
    boxes = [torch.tensor([[6.0, 9.0, 30.0, 33.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    targets = model.targets({"boxes": boxes, "labels": labels})
    cell = targets["heat"][0, 1].flatten().argmax().item()
    width = SIZE[1] // 4
    assert targets["heat"].shape == (2, 2, SIZE[0] // 4, width) and not targets["heat"][1].any()
    assert (cell % width * 4, cell // width * 4) == (24, 28)  # (18, 21) × 4/3, to the nearest cell
    maps = model.maps(*batch())
    counts = model.head.counts(targets)
    assert torch.equal(model.loss(maps, targets, counts)["loss"], model.head.loss(maps, targets, counts)["loss"])


def test_a_model_in_float64_takes_what_the_loader_gives():
    model, _ = build_model(config(), 0)
    assert model.double().maps(*batch())["heat"].dtype == torch.float64


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
