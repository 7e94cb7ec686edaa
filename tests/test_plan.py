"""One list decides what trains."""

import pytest
import torch
from pydantic import ValidationError

from fusion.encoders import build_encoder
from fusion.errors import FusionError
from fusion.optimisers import Sgd, build_optimiser
from fusion.plan import plan_stages
from fusion.rates import SCHEDULES, fresh, parameter_groups, rate
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
    assert plan.frozen(0) == {n for n in NAMES if not n.startswith("rgb")}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["thermel.*"], r"groups\.0\.match: .*'thermel\.\*' matches nothing; near: thermal"),
        (["rgb.*", "rgb.blocks.0"], r"groups\.1\.match: .* earlier group already has \(rgb\.blocks\.0\)"),
        (["rgb.*|haed.*"], r"groups\.0\.match: .*'haed\.\*' matches nothing; near: head"),
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
    groups = parameter_groups(plan.training(0), modules, 0.1)
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


@pytest.mark.parametrize("kind", list(SCHEDULES))
def test_the_rate_warms_up_and_stays_within_its_bounds(kind):
    schedule = Schedule(kind=kind, warmup=0.1, floor=0.05)
    rates = [rate(schedule, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] > 0 and rates[9] < max(rates)
    assert min(rates[10:]) >= 0.05 and max(rates) == pytest.approx(1.0, abs=0.03)
    if kind in ("cosine", "onecycle"):
        assert rates[10] == 1.0 and rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.06


@pytest.mark.parametrize("kind", list(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_very_short_stage_has_rates_above_zero(kind, steps):
    assert all(rate(Schedule(kind=kind), step, steps) > 0 for step in range(steps))


def test_one_cycle_rises_from_a_twentyfifth_over_a_third_of_the_stage():
    rates = [rate(Schedule(kind="onecycle"), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.04) and rates.index(1.0) == 30


def test_a_cyclic_stage_has_its_triangles():
    rates = [rate(Schedule(kind="cyclic", cycles=2, floor=0.0), step, 80) for step in range(80)]
    assert [step for step in range(80) if rates[step] == 1.0] == [20, 60]
    assert rates[40] == 0.0 and rates[30] == pytest.approx(0.5)


def test_a_block_that_opens_late_begins_gently():
    assert fresh(0, 100, 0, ()) == fresh(500, 100, 0, range(5)) == 1.0
    rising = [fresh(100 + step, 100, 1, (0,)) for step in range(30)]
    assert rising[0] < 0.1 and rising == sorted(rising) and rising[-1] == 1.0
    assert fresh(200, 100, 1, (0, 1)) == 1.0


def test_a_rollback_to_before_a_block_opened_lets_it_begin_gently_again():
    assert fresh(300, 100, 1, (0,)) == fresh(100, 100, 1, (0,))  # epochs 1 and 2 were thrown away
    assert fresh(300, 100, 0, ()) == 0.05  # all were, and with them the stage's warm-up
    assert fresh(40, 10, 1, (0, 1, 2)) == 1.0 > fresh(40, 10, 1, (0, 1)) == 0.55  # ten steps are left, and this one


@pytest.mark.parametrize("momentum", [0, 0.0])
def test_sgd_looks_ahead_where_it_has_momentum(momentum):
    weights = [{"params": [torch.nn.Parameter(torch.ones(2, 2))], "lr": 0.1, "weight_decay": 0.0}]
    build = lambda **more: build_optimiser(Sgd(kind="sgd", **more), weights)  # noqa: E731
    assert build().defaults["nesterov"] and not build(momentum=momentum).defaults["nesterov"]
    assert not build(nesterov=False).defaults["nesterov"]
    with pytest.raises(ValidationError, match="nesterov needs a momentum above 0") as caught:
        Sgd(kind="sgd", momentum=momentum, nesterov=True)
    assert len(caught.value.errors()) == 1
    assert Sgd.model_validate(Sgd(kind="sgd", momentum=momentum).model_dump()) == Sgd(kind="sgd", momentum=momentum)


def test_a_recipe_times_its_epochs_is_checked_anew():
    long = recipe(stage("*", epochs=500, early_stop={"patience": 5}, unfreeze={"every": 100}))
    twice = long.scaled(1.998).stages[0]
    assert (twice.epochs, twice.early_stop.patience, twice.unfreeze.every) == (999, 10, 200)
    for share in (3.0, 1e300, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(FusionError, match=r"^stages") as caught:
            long.scaled(share)
        assert "\n" not in str(caught.value)
    with pytest.raises(FusionError, match=r"stages\.0\.epochs: 1500 once multiplied by 3: .* 999"):
        long.scaled(3)


def unfreezing(epochs=10, groups=("blend.*|head.*",), **line):
    return plan_stages(recipe(stage(*groups, epochs=epochs, unfreeze=line)), NAMES)[0]


def test_one_line_unfreezes_from_the_last_block_on_with_falling_rates():
    plan = unfreezing(branch="thermal", **{"from": "last"}, every=2, lr_factor=0.5)
    opened = {b.name: (b.opens, b.lr) for b in plan.blocks if b.group == -1}
    assert opened == {
        "thermal.blocks.3": (0, 1e-3),
        "thermal.blocks.2": (2, 5e-4),
        "thermal.blocks.1": (4, 2.5e-4),
        "thermal.blocks.0": (6, 1.25e-4),
        "thermal.stem": (8, 6.25e-5),
    }
    assert "thermal.blocks.2" in plan.frozen(1) and "thermal.blocks.2" not in plan.frozen(2)
    assert {b.name for b in plan.training(0)} == {"thermal.blocks.3", "head", *(f"blend.{i}" for i in range(4))}
    assert plan.frozen(9) == {n for n in NAMES if n.startswith("rgb")}


def test_unfreezing_from_the_first_block_of_both_branches():
    plan = unfreezing(branch="both", **{"from": "first"}, every=1, lr=1e-2)
    assert [b.name for b in plan.blocks if b.group == -1 and b.opens == 0] == ["rgb.stem", "thermal.stem"]
    assert {b.lr for b in plan.training(0) if b.group == -1} == {1e-2}


def test_a_block_that_a_group_matches_keeps_the_groups_rate_and_waits_for_its_turn():
    plan = unfreezing(groups=("rgb.blocks.*", "blend.*|head.*"), branch="rgb", every=3)
    block = next(b for b in plan.blocks if b.name == "rgb.blocks.2")
    assert (block.group, block.lr, block.opens) == (0, 1e-3, 3)


def test_blocks_whose_turn_comes_after_the_stages_end_stay_frozen():
    plan = unfreezing(epochs=4, branch="thermal", every=2)
    assert {b.name for b in plan.blocks if b.group == -1} == {"thermal.blocks.3", "thermal.blocks.2"}


def test_auto_in_one_word():
    assert recipe(stage("*", unfreeze="auto")).stages[0].unfreeze.auto


def test_blocks_that_the_loss_never_reaches_do_not_train():
    plan = plan_stages(recipe(stage("*", sensors=["rgb"])), NAMES)[0]
    assert trains(plan) == {n for n in NAMES if n.startswith("rgb")} | {"head"}


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([stage("thermal.*", sensors=["rgb"])], r"stages\.0\.groups\.0\.match: stage 'one' would train nothing"),
        ([stage("rgb.*", "objective", objective="autoencode")], r"stages\.0\.groups\.0\.match: .* train nothing"),
        ([stage("rgb.*|thermal.*|objective", objective="distill")], r"stages\.0\.groups: .* must stay frozen"),
        ([stage("head", unfreeze={"branch": "thermal"}, sensors=["rgb"])], r"stages\.0\.unfreeze\.branch: "),
    ],
)
def test_a_stage_that_cannot_do_what_it_says_is_an_error(stages, words):
    with pytest.raises(FusionError, match=words) as caught:
        plan_stages(recipe(*stages), NAMES)
    assert "\n" not in str(caught.value)


def test_distilling_from_an_rgb_branch_that_knows_nothing_is_an_error():
    distill = stage("thermal.*|objective", objective="distill", name="two")
    with pytest.raises(FusionError, match=r"stages\.0\.objective: .* random weights"):
        plan_stages(recipe(distill, weights=None), NAMES)
    plan_stages(recipe(stage("rgb.*|head", sensors=["rgb"]), distill, weights=None), NAMES)


def copied(*stages, weights):
    content = recipe(*stages, weights=weights).model_dump()
    content["model"]["thermal"]["start"] = "copied"
    return plan_stages(Recipe.model_validate(content), NAMES)


def test_thermal_is_copied_when_it_is_first_used():
    first, second, third = copied(
        stage("rgb.*|head", sensors=["rgb"], name="a"), stage("blend.*|head", name="b"), stage("*", name="c"),
        weights=None,
    )  # fmt: skip
    assert (first.copies, second.copies, third.copies) == (False, True, False)
    assert {b.norm for b in third.blocks if b.name.startswith("thermal")} == {"frozen"}  # it was pretrained: on RGB
    with pytest.raises(FusionError, match="'copied' has nothing to copy"):
        copied(stage("*"), weights=None)
    assert copied(stage("*"), weights="file.pth")[0].copies
