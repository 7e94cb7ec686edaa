"""What a stage minimises: the contract of every objective, and what each pretraining objective looks at."""

import copy

import pytest
import torch
from torch.nn import functional as F

from fusion.errors import FusionError
from fusion.model import Blend, ModelConfig, RgbEncoder, ThermalEncoder, build_model
from fusion.objectives import OBJECTIVES, TaskObjective
from fusion.pretrain import AutoencodeObjective, DistillObjective, MaskedObjective, ssim, valid_pixels
from fusion.seeds import patch_mask

CANVAS = (96, 128)
NEEDS = {
    "task": {"rgb", "thermal", "present", "boxes", "labels"},
    "autoencode": {"thermal", "present"},
    "masked": {"thermal", "present", "seed"},
    "distill": {"rgb", "thermal", "present"},
}
"""The keys of a batch that an objective may read; no other is there."""
PARTS = [slice(0, 2), slice(2, 3), slice(3, 5)]
INVALID = 0.0
every_objective = pytest.mark.parametrize("name", sorted(OBJECTIVES))
SCALARS = {
    "task": {"loss", "centre", "sides"},
    "autoencode": {"loss", "l1", "ssim"},
    "masked": {"loss"},
    "distill": {"loss", "smooth_l1", "cosine"},
}


def build(sensors=("rgb", "thermal"), **changes):
    """A float64 model in eval mode whose canvas has a padded border on the right."""
    thermal = {"unit": "counts16", "polarity": "white-hot", "range": None, "min_span": 100.0, "invalid": INVALID}
    config = ModelConfig(
        size=CANVAS,
        sensors=sensors,
        rgb=RgbEncoder(arch="test_resnet", weights=None),
        thermal=ThermalEncoder(arch="test_resnet"),
        classes=("a", "b"),
        inputs={"rgb_size": (48, 48), "thermal_size": (40, 40), "letterbox": False, "thermal": thermal},
        **changes,
    )
    model = build_model(config, 0)[0].double().eval()
    with torch.no_grad():
        # Blends and timm's last norm of a residual block start at zero: what lies before would get no gradient.
        for parameter in (p for p in model.parameters() if not p.any()):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return model


def objective(name):
    model = build()
    torch.manual_seed(1)
    return OBJECTIVES[name](model).double().eval()


def batch(name):
    """Five pairs; the third has no boxes, the second has invalid thermal pixels."""
    draw = torch.Generator().manual_seed(2)
    coarse = torch.randint(21_000, 23_000, (5, 1, 5, 5), generator=draw).double()
    thermal = F.interpolate(coarse, (40, 40), mode="bilinear")[:, 0].round()
    thermal[1, :20, :30] = INVALID
    corner = [torch.rand(n, 2, generator=draw) * 24 for n in (2, 1, 0, 3, 1)]
    whole = {
        "rgb": torch.randint(0, 256, (5, 48, 48, 3), dtype=torch.uint8, generator=draw),
        "thermal": thermal,
        "present": torch.ones(5, 2),
        "boxes": [torch.cat([c, c + 4 + 18 * torch.rand(len(c), 2, generator=draw)], 1) for c in corner],
        "labels": [torch.arange(len(c)) % 2 for c in corner],
        "seed": torch.tensor([11, 12, 13, 14, 15]),
        "ids": list("abcde"),
        "index": torch.arange(5),
    }
    return {key: value for key, value in whole.items() if key in NEEDS[name]}


def cut(value, part):
    return {k: cut(v, part) for k, v in value.items()} if isinstance(value, dict) else value[part]


def learn(module, prepared, counts):
    """What forward says, and the gradients."""
    module.zero_grad()
    said = module(prepared, ("rgb", "thermal"), None, counts)
    said["loss"].backward()
    return said, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


@every_objective
def test_the_contributions_of_parts_sum_to_the_whole_batch(name):
    module = objective(name)
    prepared, counts = module.prepare(batch(name))
    whole, gradients = learn(module, prepared, counts)
    parts = [learn(module, cut(prepared, part), counts) for part in PARTS]
    assert whole["loss"].dtype == torch.float64 and {k for k, v in whole.items() if v.dim() == 0} == SCALARS[name]
    for key in SCALARS[name]:
        assert sum(said[key] for said, _ in parts).item() == pytest.approx(whole[key].item(), abs=1e-9, rel=1e-9)
    for key, gradient in gradients.items():
        assert torch.allclose(sum(g[key] for _, g in parts), gradient, rtol=1e-9, atol=1e-9), key


@every_objective
def test_counts_of_devices_sum_to_those_of_the_whole_batch(name):
    module, whole = objective(name), batch(name)
    _, counts = module.prepare(whole)
    shares = [module.prepare(cut(whole, part))[1] for part in PARTS]
    assert counts.dim() == 1 and counts.is_floating_point() and (counts > 0).all()
    assert torch.allclose(sum(shares), counts)


@every_objective
def test_prepare_leaves_the_batch_as_it_was_and_two_calls_give_the_same_bits(name):
    module, whole = objective(name), batch(name)
    before = copy.deepcopy(whole)
    (first, gradients), (second, again) = (learn(module, *module.prepare(whole)) for _ in range(2))
    assert whole.keys() == before.keys() and torch.equal(whole["thermal"], before["thermal"])
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(gradients[key], again[key]) for key in gradients)


@every_objective
def test_gradients_reach_what_the_stage_trains_and_nothing_else(name):
    module = objective(name)
    prepared, counts = module.prepare(batch(name))
    module(prepared, ("rgb", "thermal"), None, counts)["loss"].backward()
    reached = {n.removeprefix("model.").split(".")[0] for n, p in module.named_parameters() if p.grad is not None}
    assert reached == ({"rgb", "thermal", "blend", "head"} if name == "task" else {"own", "thermal"})
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and parameter.dim() > 1:
            assert parameter.grad.abs().sum() > 0, key


@every_objective
def test_every_objective_says_what_it_is(name):
    kind = OBJECTIVES[name]
    assert kind.learns_from in ("labelled", "thermal", "pairs") and kind.title.endswith(".")
    assert (kind.learns_from == "pairs") == (name == "distill")


@pytest.mark.parametrize("name", ["autoencode", "masked", "distill"])
def test_a_batch_without_anything_to_learn_from_has_a_loss_of_zero_and_gradients(name):
    module, empty = objective(name), batch(name)
    empty["thermal"] = torch.full_like(empty["thermal"], INVALID)
    prepared, counts = module.prepare(empty)
    said, gradients = learn(module, prepared, counts)
    assert said["loss"] == 0 and not counts.any()
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("name", ["autoencode", "masked", "distill"])
def test_an_absent_thermal_picture_counts_for_nothing_even_where_it_holds_nan(name):
    module, whole = objective(name), batch(name)
    absent = copy.deepcopy(whole)
    absent["thermal"][4], absent["present"][4, 1] = torch.nan, 0.0
    said, gradients = learn(module, *module.prepare(absent))
    shorter, expected = learn(module, *module.prepare(cut(whole, slice(0, 4))))
    assert said["loss"].item() == pytest.approx(shorter["loss"].item(), abs=1e-9)
    assert all(torch.allclose(gradients[key], expected[key], atol=1e-9) for key in expected)


@pytest.mark.parametrize("name", ["autoencode", "masked"])
def test_nothing_is_learnt_from_invalid_pixels_and_padding(name):
    module, whole = objective(name), batch(name)
    prepared, counts = module.prepare(whole)
    said = module(prepared, ("thermal",), None, counts)
    (pull,) = torch.autograd.grad(said["loss"], said["reconstruction"])
    learnt, valid = pull != 0, valid_pixels(module.model, whole)
    assert not valid[1, 0, :46, :70].any() and not valid[:, :, :, 96:].any() and valid[0, 0, :, :96].all()
    assert not (learnt & ~valid).any() and learnt[1].any()
    if name == "masked":
        assert torch.equal(learnt, valid & said["mask"])
    else:
        assert torch.equal(learnt, valid)


def test_a_hidden_patch_is_not_seen():
    module, whole = objective("masked"), batch("masked")
    prepared, counts = module.prepare(whole)
    inputs = []
    module.model.thermal.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    said = module(prepared, ("thermal",), None, counts)
    assert not inputs[0][said["mask"]].any()
    assert torch.equal(inputs[0][~said["mask"]], said["picture"][~said["mask"]])


def test_a_mask_is_of_whole_patches_the_same_share_of_each_sample_and_its_seeds_alone():
    grid = (3, 4)
    mask = patch_mask(torch.tensor([5, 6, 7, 5]), grid, 0.6)
    assert mask.shape == (4, *grid) and (mask.flatten(1).sum(1) == 7).all()
    assert torch.equal(mask[0], mask[3]) and not torch.equal(mask[0], mask[1])
    assert torch.equal(patch_mask(torch.tensor([6]), grid, 0.6)[0], mask[1])
    prepared, _ = objective("masked").prepare(batch("masked"))
    drawn = prepared["targets"]["mask"]
    cells = F.avg_pool2d(drawn.double(), 32)
    assert drawn.shape == (5, 1, *CANVAS) and ((cells == 0) | (cells == 1)).all()


def test_a_sample_is_worked_through_as_if_it_were_alone():
    """Neither its mask nor, with norms in eval, its picture depends on the samples beside it."""
    module, whole = objective("masked"), batch("masked")
    together = module(module.prepare(whole)[0], ("thermal",), None, torch.ones(1))
    alone = module(module.prepare(cut(whole, slice(3, 4)))[0], ("thermal",), None, torch.ones(1))
    assert torch.equal(alone["mask"][0], together["mask"][3])
    assert torch.allclose(alone["reconstruction"][0], together["reconstruction"][3], atol=1e-9)


def test_distilling_compares_every_scale_on_cells_that_both_sensors_see():
    module, whole = objective("distill"), batch("distill")
    whole["present"][0, 0] = 0.0
    prepared, counts = module.prepare(whole)
    assert counts.tolist() == [prepared["targets"][key].sum() for key in ("4", "8", "16", "32")]
    assert not prepared["targets"]["8"][0].any()
    assert not prepared["targets"]["8"][1, :5, :8].any() and not prepared["targets"]["8"][:, :, 12:].any()
    said, gradients = learn(module, prepared, counts)
    assert said["match"].shape == (5, 1, 12, 16) and said["match"].abs().max() <= 1 + 1e-9
    assert said["rgb_picture"].shape == (5, 3, *CANVAS) and said["picture"].shape == (5, 1, *CANVAS)
    assert all(gradients[f"own.{scale}.weight"].any() for scale in range(4))


def test_distilling_ends_where_the_features_match():
    """A student that says what the teacher says, up to its channels' mean and deviation, has no loss left."""
    module = objective("distill")
    goals = {}
    module.model.rgb.register_forward_hook(lambda _, __, out: goals.update(rgb=out))
    module.model.thermal.register_forward_hook(lambda _, __, ___: [_whiten(f) for f in goals["rgb"]])
    for own in module.own:
        torch.nn.init.dirac_(own.weight)
        torch.nn.init.zeros_(own.bias)
    prepared, counts = module.prepare(batch("distill"))
    said = module(prepared, ("rgb", "thermal"), None, counts)
    assert said["loss"] < 1e-9 and said["cosine"] == pytest.approx(1.0)


def _whiten(features):
    return (features - features.mean(1, keepdim=True)) / (features.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def test_each_pretraining_objective_learns():
    torch.manual_seed(0)
    for name in ("autoencode", "masked", "distill"):
        module, losses = objective(name), []
        optimizer = torch.optim.Adam([*module.own.parameters(), *module.model.thermal.parameters()], 3e-3)
        prepared, counts = module.prepare(batch(name))
        for _ in range(12):
            losses.append(learn(module, prepared, counts)[0]["loss"].item())
            optimizer.step()
        assert losses[-1] < 0.9 * losses[0], name


def test_a_model_without_the_branch_is_told_in_one_line():
    for kind, changes, lacking in (
        (MaskedObjective, {"sensors": ("rgb",)}, "thermal"),
        (DistillObjective, {"sensors": ("thermal",)}, "rgb"),
        (AutoencodeObjective, {"blend": Blend(kind="early")}, "thermal"),
    ):
        with pytest.raises(FusionError, match=f"needs a {lacking} branch"):
            kind(build(**changes))


def test_early_fusion_learns_the_task():
    module = TaskObjective(build(blend=Blend(kind="early")))
    prepared, counts = module.prepare(batch("task"))
    whole, _ = learn(module, prepared, counts)
    parts = [learn(module, cut(prepared, part), counts)[0]["loss"] for part in PARTS]
    assert sum(parts).item() == pytest.approx(whole["loss"].item(), abs=1e-9)


def test_ssim_is_the_mean_of_its_definition_over_all_windows():
    torch.manual_seed(0)
    a = torch.randn(2, 1, 20, 24, dtype=torch.float64).cumsum(3) / 5
    b = a + 0.3 * torch.randn_like(a)
    x, y = (t.unfold(2, 7, 1).unfold(3, 7, 1).flatten(4) for t in (a, b))
    mx, my = x.mean(-1), y.mean(-1)
    covariance = ((x - mx.unsqueeze(-1)) * (y - my.unsqueeze(-1))).mean(-1)
    luminance = (2 * mx * my + 0.08**2) / (mx**2 + my**2 + 0.08**2)
    structure = (2 * covariance + 0.24**2) / (x.var(-1, correction=0) + y.var(-1, correction=0) + 0.24**2)
    assert torch.allclose(ssim(a, b, 8.0), luminance * structure, atol=1e-9)


def test_ssim_of_a_picture_with_itself_is_one_and_falls_with_noise():
    torch.manual_seed(0)
    a = torch.randn(2, 1, 32, 32)
    similar = [ssim(a, a + s * torch.randn_like(a), 8.0).mean().item() for s in (0.0, 0.2, 1.0)]
    assert similar[0] == pytest.approx(1.0, abs=1e-6)
    assert similar[0] > similar[1] > similar[2]


def test_what_each_sensor_answers_alone_is_trained_beside_the_answer_of_both():
    module = objective("task")
    prepared, counts = module.prepare(batch("task"))
    both = module(prepared, ("rgb", "thermal"), None, counts)
    alone = []
    for sensor in range(2):
        keep = torch.zeros(5, 2)
        keep[:, sensor] = 1.0
        alone.append(module(prepared, ("rgb", "thermal"), keep, counts)["loss"].item())
    module.alone = 0.5
    said = module(prepared, ("rgb", "thermal"), None, counts)
    assert [said["alone_rgb"].item(), said["alone_thermal"].item()] == pytest.approx(alone, rel=1e-9)
    assert said["loss"].item() == pytest.approx((both["loss"].item() + 0.5 * sum(alone)) / 2, rel=1e-9)
    assert torch.allclose(said["heat"], both["heat"], rtol=0, atol=1e-12)


def test_a_sensors_own_answer_teaches_its_branch_what_the_other_hides():
    """Through a blend that starts at zero the added sensor hears nothing of the loss of both; of its own it does."""
    module = objective("task")
    module.alone = 1.0
    with torch.no_grad():
        for parameter in module.model.blend.parameters():
            parameter.zero_()
    prepared, counts = module.prepare(batch("task"))
    _, gradients = learn(module, prepared, counts)
    added = {name: gradient for name, gradient in gradients.items() if ".blend." in name}
    assert added and all(gradient.any() for gradient in added.values())
