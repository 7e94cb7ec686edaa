"""One list decides what trains."""

import pytest
import torch

from fusion.encoders import build_encoder
from fusion.errors import FusionError
from fusion.plan import parameter_groups, plan_stages, rate
from fusion.recipe import Recipe, Schedule

BRANCH = [f"{s}.{b}" for s in ("rgb", "thermal") for b in ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3")]
NAMES = [*BRANCH, "blend.0", "blend.1", "blend.2", "blend.3", "head"]


def recipe(*stages, weights="some.pth"):
    model = {"size": [64, 96], "rgb": {"arch": "resnet18", "weights": weights}, "thermal": {"arch": "resnet18"}}
    return Recipe.model_validate({"about": "x", "model": model, "stages": stages})


def stage(*groups, name="one", **more):
    return {
        "name": name,
        "epochs": 1,
        "groups": [g if isinstance(g, dict) else {"match": g, "lr": 1e-3} for g in groups],
        **more,
    }


def trains(plan):
    return {b.name for b in plan.blocks if b.group is not None}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("rgb.*", {n for n in NAMES if n.startswith("rgb")}),
        ("thermal.blocks.-1", {"thermal.blocks.3"}),
        ("thermal.blocks.-1 | thermal.blocks.-2", {"thermal.blocks.3", "thermal.blocks.2"}),
        ("*.stem", {"rgb.stem", "thermal.stem"}),
        ("head.*", {"head"}),
        ("head", {"head"}),
        ("blend.*|head.*", {"blend.0", "blend.1", "blend.2", "blend.3", "head"}),
        ("*", set(NAMES)),
    ],
)
def test_patterns_match_our_names(pattern, names):
    assert trains(plan_stages(recipe(stage(pattern)), NAMES)[0]) == names


def test_the_first_match_wins_and_what_none_matches_is_frozen():
    plan = plan_stages(recipe(stage("rgb.blocks.-1", "rgb.*")), NAMES)[0]
    groups = {b.name: b.group for b in plan.blocks}
    assert groups["rgb.blocks.3"] == 0 and groups["rgb.blocks.0"] == 1
    assert plan.frozen == {n for n in NAMES if not n.startswith("rgb")}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["thermel.*"], r"groups\.0\.match: 'thermel\.\*' matches nothing; near: thermal"),
        (["rgb.*", "rgb.blocks.0"], r"groups\.1\.match: .* earlier group already has \(rgb\.blocks\.0\)"),
        (["rgb.*|haed.*"], r"groups\.0\.match: 'haed\.\*' matches nothing; near: head"),
        (["rgb.blocks.9"], "matches nothing; near: rgb.blocks"),
    ],
)
def test_a_group_that_ends_empty_is_an_error_with_near_misses(groups, words):
    with pytest.raises(FusionError, match=words) as caught:
        plan_stages(recipe(stage(*groups)), NAMES)
    assert "stage 'one'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_decoder_left_unmatched_is_an_error():
    with pytest.raises(FusionError, match="no group matches 'objective'"):
        plan_stages(recipe(stage("thermal.*", objective="autoencode")), NAMES)


def test_layer_decay_counts_blocks_from_the_deepest_of_each_branch():
    plan = plan_stages(recipe(stage({"match": "*", "lr": 1.0, "layer_decay": 0.5})), NAMES)[0]
    rates = {b.name: b.lr for b in plan.blocks}
    for branch in ("rgb", "thermal"):
        falling = [rates[f"{branch}.{b}"] for b in ("blocks.3", "blocks.2", "blocks.1", "blocks.0", "stem")]
        assert falling == [1, 0.5, 0.25, 0.125, 0.0625]
    assert rates["head"] == rates["blend.0"] == rates["blend.3"] == 1.0


def test_layer_decay_reaches_the_optimiser_of_a_real_timm_pyramid():
    """timm's own param_groups_layer_decay gives every parameter of such a model the scale 1."""
    encoder = build_encoder("resnet18", 3)
    modules = {f"rgb.{name}": found for name, found in encoder.blocks().items()}
    plan = plan_stages(recipe(stage({"match": "rgb.*", "lr": 1.0, "layer_decay": 0.5})), list(modules))[0]
    groups = parameter_groups(plan, modules, 0.1)
    assert {g["lr"] for g in groups} == {1, 0.5, 0.25, 0.125, 0.0625}
    parameters = [p for g in groups for p in g["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(encoder.parameters()))
    for group in groups:
        assert all((p.dim() > 1) == (group["weight_decay"] > 0) for p in group["params"])
    torch.optim.AdamW(groups).step()


def test_norm_statistics_are_frozen_in_what_was_pretrained_and_train_in_what_never_was():
    stages = [
        stage("rgb.*|head.*", name="a"),
        stage("thermal.*|objective.*", name="b", objective="autoencode"),
        stage("*", name="c"),
    ]
    first, second, third = plan_stages(recipe(*stages), NAMES)
    norm = lambda plan: {b.name: b.norm for b in plan.blocks}  # noqa: E731
    assert norm(first)["rgb.stem"] == "frozen"  # weights were given
    assert norm(second)["thermal.stem"] == "train"  # never pretrained
    assert norm(third)["thermal.stem"] == "frozen"  # pretrained by stage b
    assert norm(third)["head"] == norm(first)["head"] == "train"
    from_nothing = plan_stages(recipe(*stages, weights=None), NAMES)
    assert norm(from_nothing[0])["rgb.stem"] == "train"
    assert norm(from_nothing[2])["rgb.stem"] == "frozen"


def test_a_group_may_say_its_norm_policy():
    plan = plan_stages(recipe(stage({"match": "rgb.*", "lr": 1.0, "norm": "train"})), NAMES)[0]
    assert "rgb.stem" not in plan.fixed_norms and "thermal.stem" in plan.fixed_norms


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_the_rate_warms_up_and_stays_within_its_bounds(kind):
    schedule = Schedule(kind=kind, warmup=0.1, floor=0.05)
    rates = [rate(schedule, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] > 0 and rates[10] == 1.0
    assert min(rates[10:]) >= 0.05 and max(rates) == 1.0
    if kind == "cosine":
        assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.06


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_very_short_stage_has_rates_above_zero(steps):
    assert all(rate(Schedule(), step, steps) > 0 for step in range(steps))
