"""Stages at work on pictures in memory: what the guard undoes, what unfreezing carries over, what is handed on."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from fusion import stage_run, unfreezing, validation
from fusion.bootstrap import Difference
from fusion.checkpoint import Checkpoints, load_model
from fusion.errors import FusionError, Stopped
from fusion.faults import NonFinite
from fusion.learner import Learner
from fusion.model import ModelConfig, build_model
from fusion.plan import plan_stages
from fusion.recipe import Recipe
from fusion.seeds import derive, permutation
from fusion.trainer import Trainer

SIZE = (64, 96)
PICTURES, BATCH = 8, 4
MODEL = {
    "size": SIZE,
    "rgb": {"arch": "test_resnet", "weights": None},
    "thermal": {"arch": "test_resnet"},
    "head": {"width": 16, "norm": "group"},
}


class Memory:
    """Loaders over a few pictures with a bright square each; the warm half of them shows it in thermal only."""

    def __init__(self):
        noise = np.random.default_rng(0)
        self.rgb = noise.integers(0, 60, (PICTURES, *SIZE, 3)).astype(np.uint8)
        self.thermal = noise.integers(21000, 21200, (PICTURES, *SIZE)).astype(np.float32)
        self.boxes = []
        for i in range(PICTURES):
            x, y = int(noise.integers(4, 60)), int(noise.integers(4, 36))
            self.thermal[i, y : y + 20, x : x + 20] += 900
            if i % 2:
                self.rgb[i, y : y + 20, x : x + 20] += 150
            self.boxes.append(torch.tensor([[x, y, x + 20.0, y + 20.0]]))
        self.asked = []

    def batch(self, indices, order):
        return {
            "rgb": torch.from_numpy(self.rgb[indices]),
            "thermal": torch.from_numpy(self.thermal[indices]),
            "present": torch.ones(len(indices), 2),
            "boxes": [self.boxes[i] for i in indices],
            "labels": [torch.zeros(1, dtype=torch.int64) for _ in indices],
            "ids": [f"p{i}" for i in indices],
            "seed": torch.tensor([derive(*order, i) for i in indices]),
        }

    def train(self, kind, order, skip=0):
        self.asked.append((kind, order))
        indices = permutation(PICTURES, *order)
        batches = [self.batch(indices[i : i + BATCH], order) for i in range(0, PICTURES, BATCH)]
        return Sized(batches[skip:], len(batches))

    def validation(self):
        return [self.batch(list(range(i, i + BATCH)), (0,)) for i in range(0, PICTURES, BATCH)]


class Sized(list):
    """A list that knows how long the whole epoch is."""

    def __init__(self, batches, whole):
        super().__init__(batches)
        self.whole = whole

    def __len__(self):
        return self.whole


@pytest.fixture(autouse=True)
def _no_wrapping(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(Fabric, "setup_dataloaders", lambda self, loader, **_: loader)  # the batches are on the CPU


def recipe_of(*stages, **more):
    return Recipe.model_validate(
        {"about": "x", "model": MODEL | more.pop("model", {}), "batch": BATCH, "stages": stages} | more
    )


def stage(name="all", epochs=2, groups=({"match": "*", "lr": 2e-3},), **more):
    return {"name": name, "epochs": epochs, "groups": groups, **more}


def trainer_of(recipe, run, seed=0, **more):
    inputs = InputSpec(rgb_size=SIZE, thermal_size=SIZE, thermal=ThermalSpec(unit="counts16"))
    section = recipe.model.model_dump()
    model, _ = build_model(ModelConfig(**section, classes=("thing",), inputs=inputs.model_dump(mode="json")), seed)
    fabric = Fabric(accelerator="cpu", devices=1)
    said = []
    return Trainer(model, recipe, more.pop("loaders", None) or Memory(), run, fabric, said.append, **more), said


def fit(recipe, run, resume=False, **more):
    trainer, _ = trainer_of(recipe, run, **more)
    return trainer.fit(resume), load_file(run / "model" / "weights.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def scripted(monkeypatch, name, *values):
    """Let each validation in turn find a value, and then from the start again, whatever the model does."""
    validate, values = stage_run.validate, itertools.cycle(values)

    def found(*arguments):
        seen = validate(*arguments)
        return replace(seen, row=seen.row | {name: next(values)})

    monkeypatch.setattr(stage_run, "validate", found)


def broken(monkeypatch, numbers):
    """Let the steps with these numbers find something that is no number."""
    step = Learner.step

    def spoilt(self, batch, number, *arguments):
        if number in numbers:
            raise NonFinite(f"step {number + 1}: the loss is nan")
        return step(self, batch, number, *arguments)

    monkeypatch.setattr(Learner, "step", spoilt)


def saved(run, epoch):
    return load_file(run / "checkpoints" / f"s00-e{epoch:03}" / "model.safetensors")


def handed_on(run):
    return {f"model.{name}": tensor for name, tensor in load_model(run).state_dict().items()}


class Spoilt(Memory):
    """Validation pictures some of which, from one pass on, hold a number that makes the model's features none."""

    def __init__(self, *pictures, after=0):
        super().__init__()
        self.pictures, self.passes = pictures, -after

    def validation(self):
        batches = super().validation()
        for picture in self.pictures if self.passes >= 0 else ():
            batches[picture // BATCH]["thermal"][picture % BATCH, 5, 5] = -1.0
        self.passes += 1
        return batches


def fragile(trainer):
    """No unit may hold such a value; here it is what makes a sample's features no numbers."""
    trainer.model.normalise["thermal"].register_forward_hook(
        lambda _, arguments, z: torch.where(arguments[0].amin((1, 2)).view(-1, 1, 1, 1) < 0, torch.nan, z)
    )
    return trainer


@pytest.mark.parametrize("objective", ["task", "autoencode"])
@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        ((5,), "in 1 of 2 batches, on samples p5"),
        ((2, 7), "in 2 of 2 batches, on samples p2, p7"),
    ],
)
def test_a_validation_loss_that_is_no_number_names_the_samples(tmp_path, objective, pictures, said):
    groups = {"task": "*", "autoencode": "thermal.*|objective.*"}[objective]
    one = stage("one", 2, [{"match": groups, "lr": 2e-3}], objective=objective)
    recipe = recipe_of(one) if objective == "task" else recipe_of(one, stage("two", 1))
    trainer, _ = trainer_of(recipe, tmp_path / "run", loaders=Spoilt(*pictures))
    with pytest.raises(NonFinite) as fault:
        fragile(trainer).fit(False)
    assert str(fault.value) == f"stage 'one': the validation loss is nan {said}"


def test_an_epoch_whose_validation_is_no_number_is_undone_and_its_row_names_the_samples(tmp_path):
    trainer, _ = trainer_of(recipe_of(stage("one", 1)), tmp_path / "run", loaders=Spoilt(3, after=1))
    with pytest.raises(NonFinite, match="the validation loss is nan in 1 of 2 batches, on samples p3; going back"):
        fragile(trainer).fit(False)
    patient = stage("one", 2, guard={"on_jump": "rollback", "at_most": 1})
    trainer, _ = trainer_of(recipe_of(patient), tmp_path / "second", loaders=Spoilt(3, after=2))
    history = fragile(trainer).fit(False)
    assert "is nan in 1 of 2 batches, on samples p3; back to epoch 1" in history[-1]["rolled_back"]


def test_where_all_samples_are_to_blame_a_few_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "_NAMED", 2)
    trainer, _ = trainer_of(recipe_of(stage("one", 1)), tmp_path / "run", loaders=Spoilt(*range(PICTURES)))
    with pytest.raises(NonFinite) as fault:
        fragile(trainer).fit(False)
    assert str(fault.value).endswith("is nan in 2 of 2 batches, on samples p0, p1 and others")


RGB_TASK = stage("rgb-task", 3, [{"match": "rgb.*|head", "lr": 2e-3}], sensors=["rgb"])


def test_a_rate_that_blows_up_is_rolled_back_until_it_learns(tmp_path):
    wild = stage("wild", 6, [{"match": "*", "lr": 3.0, "norm": "frozen"}], clip=1e9, guard={"tolerance": "5%"},
                 schedule={"kind": "constant"}, optimiser={"kind": "sgd"})  # fmt: skip
    history, weights = fit(recipe_of(RGB_TASK, wild), tmp_path / "run")
    rows = [row for row in history if row["stage"] == "wild"]
    undone = [row for row in rows if "rolled_back" in row]
    assert undone and all(not row["best"] for row in undone)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    handed_on = [row for row in rows if row["best"]][-1]
    assert handed_on["val_loss"] <= rows[0]["val_loss"]
    rates = [row["lr"]["head"] for row in rows[1:] if "lr" in row]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 3.0


def test_a_run_that_keeps_blowing_up_says_where_and_saves_nothing_of_it(tmp_path):
    wild = stage("wild", 9, [{"match": "*", "lr": 1e30}], clip=1e30, optimiser={"kind": "sgd", "momentum": 0.0,
                 "nesterov": False})  # fmt: skip
    with pytest.raises(FusionError, match=r"stage 'wild', step \d+: the .* on samples p\d.* did not help") as caught:
        fit(recipe_of(RGB_TASK, wild), tmp_path / "run")
    assert "\n" not in str(caught.value)
    for path in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path
    assert not (tmp_path / "run" / "model").exists()


def test_the_gradient_that_is_no_number_is_told_by_branch(tmp_path):
    recipe = recipe_of(stage())
    trainer, _ = trainer_of(recipe, tmp_path / "run")
    learner = Learner(trainer.model, recipe, trainer.plans[0], trainer.context.fabric)
    learner.open(0)
    before = {k: v.clone() for k, v in learner.objective.state_dict().items() if v.is_floating_point()}
    trainer.model.thermal.net.layer4[0].conv1.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FusionError, match="gradient of thermal is nan on samples p"):
        learner.step(Memory().batch([0, 1], (0,)), 0, 2, 1.0)
    norms = ("running_mean", "running_var")  # statistics move in the forward pass; they go with the epoch
    now = learner.objective.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in before if not name.endswith(norms))


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_the_guard_warns_or_ends_the_stage(action, tmp_path):
    guard = {"metric": "val_loss", "tolerance": 0, "on_jump": action}
    wild = stage("wild", 4, [{"match": "*", "lr": 0.5}], clip=1e9, guard=guard, schedule={"kind": "constant"})
    history, _ = fit(recipe_of(RGB_TASK, wild, select="last"), tmp_path / "run")
    rows = [row for row in history if row["stage"] == "wild"]
    if action == "warn":
        assert len(rows) == 5 and any("val_loss rose" in row.get("warning", "") for row in rows)
    else:
        assert len(rows) < 5 and "the stage ends" in rows[-1]["stopped"]
        trusted = load_file(tmp_path / "run" / "checkpoints" / f"s01-e{len(rows) - 1:03}" / "model.safetensors")
        handed_on = load_model(tmp_path / "run").state_dict()
        assert all(torch.equal(trusted[f"model.{name}"], tensor) for name, tensor in handed_on.items())


def test_the_guard_can_watch_forgetting(tmp_path):
    guard = {"metric": "forgetting_rgb", "tolerance": 0.0, "on_jump": "warn"}
    history, _ = fit(recipe_of(RGB_TASK, stage(guard=guard)), tmp_path / "run")
    rows = [row for row in history if row["stage"] == "all"]
    assert {"ap50_rgb", "ap50_thermal"} <= rows[0].keys()
    for row in rows[1:]:
        assert row["forgetting_rgb"] == pytest.approx(rows[0]["ap50_rgb"] - row["ap50_rgb"])


def test_what_forgets_too_much_is_rolled_back_to_the_newest_epoch_that_did_not(tmp_path, monkeypatch):
    scripted(monkeypatch, "ap50_rgb", 0.5, 0.48, 0.2, 0.1)
    guard = {"metric": "forgetting_rgb", "tolerance": 0.05, "lr_factor": 0.5}
    history, _ = fit(recipe_of(stage(epochs=3, guard=guard)), tmp_path / "run")
    assert [row.get("back_to") for row in history] == [None, None, 1, 1]
    assert [row.get("forgetting_rgb") for row in history] == [None, *map(pytest.approx, (0.02, 0.3, 0.4))]
    assert "forgetting_rgb is 30.0 points" in history[2]["rolled_back"]
    assert equal(saved(tmp_path / "run", 1), saved(tmp_path / "run", 2))
    assert equal(saved(tmp_path / "run", 1), saved(tmp_path / "run", 3))
    assert [row["lr"]["head"] for row in history[1:]] == [2e-3, 2e-3, 1e-3]


def rates_of(monkeypatch):
    """What each step's rates are, by block; grows while training."""
    seen, step = [], Learner.step

    def watched(self, *arguments):
        found = step(self, *arguments)
        seen.append({group["block"]: group["lr"] for group in self.optimizer.param_groups})
        return found

    monkeypatch.setattr(Learner, "step", watched)
    return seen


def test_rates_rise_anew_after_a_rollback_that_emptied_the_moments(tmp_path, monkeypatch):
    steady = stage(
        epochs=4, groups=[{"match": "blend.*|head", "lr": 1.0}], unfreeze=LINE | {"lr": 1.0, "lr_factor": 1.0},
        schedule={"kind": "constant", "warmup": 0}, guard={"lr_factor": 1.0}, optimiser={"kind": "sgd"},
    )  # fmt: skip
    seen = rates_of(monkeypatch)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)  # only the rates matter
    scripted(monkeypatch, "val_loss", 1.0, 1.0, 9.0, 1.0, 1.0)
    history, _ = fit(recipe_of(steady), tmp_path / "run")
    assert [row.get("back_to") for row in history] == [None, None, 0, None, None]
    assert [rates["head"] for rates in seen] == pytest.approx([1, 1, 1, 1, 0.05, 0.1, 0.15, 0.2])
    assert [rates["thermal.blocks.2"] for rates in seen[2:]] == pytest.approx([0.05, 0.1, 0.05, 0.1, 0.15, 0.2])
    assert [rates["thermal.blocks.0"] for rates in seen[6:]] == pytest.approx([0.05, 0.1])
    polls, whole = iter([False] * 4 + [True]), seen.copy()
    seen.clear()
    with pytest.raises(Stopped):
        fit(recipe_of(steady), tmp_path / "again", stop=lambda: next(polls))
    fit(recipe_of(steady), tmp_path / "again", resume=True)
    assert seen == whole


def test_numbers_that_are_none_end_a_stage_that_had_a_good_epoch(tmp_path, monkeypatch):
    broken(monkeypatch, {3, 4})  # the second step of epoch 2, the first of epoch 3
    scripted(monkeypatch, "ap50", 0.1, 0.2)
    history, _ = fit(recipe_of(stage(epochs=9, guard={"metric": "ap50", "at_most": 1})), tmp_path / "run")
    assert [row.get("back_to") for row in history] == [None, None, 1, 1]
    assert "stopped" not in history[2] and "the stage ends after 1 rollback" in history[3]["stopped"]
    assert [row["steps"] for row in history] == [0, 2, 1, 0]
    assert all(row["seconds"] >= row["validation_seconds"] for row in history) and history[2]["seconds"] > 0
    assert equal(handed_on(tmp_path / "run"), saved(tmp_path / "run", 1))


def test_the_seconds_of_an_epoch_are_all_of_it(tmp_path):
    history, _ = fit(recipe_of(stage(epochs=1)), tmp_path / "run")
    entry, row = history
    assert entry["seconds"] == entry["validation_seconds"] > 0
    training = row["seconds"] - row["validation_seconds"]
    assert row["validation_seconds"] > 0 and training == pytest.approx(PICTURES / row["pairs_per_s"])


def test_a_stage_that_no_longer_improves_ends_early(tmp_path):
    patient = stage("patient", 9, early_stop={"metric": "val_loss", "patience": 2, "min_delta": 100.0})
    history, _ = fit(recipe_of(patient), tmp_path / "run")
    assert len(history) == 3 and "has not improved" in history[-1]["stopped"]


def test_l2_sp_pulls_towards_the_weights_that_the_stage_began_with(tmp_path):
    def moved(pull):
        group = {"match": "*", "lr": 1e-2, "l2_sp": pull}
        steady = stage(epochs=1, groups=[group], schedule={"kind": "constant", "warmup": 0})
        _, weights = fit(recipe_of(steady, select="last"), tmp_path / f"run{pull}")
        start = load_file(tmp_path / f"run{pull}" / "checkpoints" / "s00-e000" / "model.safetensors") if pull else None
        return weights, start

    free, _ = moved(0)
    held, start = moved(100.0)  # rate × pull = 1: all the way back
    name = "head.heat.0.0.0.weight"
    assert torch.allclose(held[name], start[f"model.{name}"], atol=1e-7)
    assert (free[name] - start[f"model.{name}"]).abs().max() > 1e-3


def test_what_is_handed_on_is_the_moving_average(tmp_path):
    recipe = recipe_of(stage(epochs=1, ema=0.5, groups=[{"match": "head", "lr": 1e-2}]), select="last")
    seen = []
    step = Learner.step

    def watched(self, *arguments):
        found = step(self, *arguments)
        seen.append(self.model.head.heat[1].weight.detach().clone())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", watched)
        _, weights = fit(recipe, tmp_path / "run")
    # timm's warm-up: the first update takes the weights as they are, the second decays by 1 − 2^(−2/3).
    decay = 1 - 2 ** (-2 / 3)
    assert torch.allclose(weights["head.heat.1.weight"], decay * seen[0] + (1 - decay) * seen[1], atol=1e-7)


@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_is_the_same_step(parts, tmp_path):
    groups = [{"match": "*", "lr": 1e-2, "norm": "frozen"}]
    recipe = recipe_of(stage(epochs=1, groups=groups, accumulate=1, modality_dropout=0.5), batch=12 // parts * parts)
    trained = []
    for accumulate in (1, parts):
        changed = recipe.model_copy(
            update={"stages": (recipe.stages[0].model_copy(update={"accumulate": accumulate}),)}
        )
        trainer, _ = trainer_of(changed, tmp_path / str(accumulate))
        learner = Learner(trainer.model.double(), changed, trainer.plans[0], trainer.context.fabric)
        trainer.model.normalise["thermal"].register_forward_hook(lambda _, __, out: out.double())
        learner.stage = changed.stages[0]
        learner.open(0)
        batch = Memory().batch([0, 1, 2, 3, 4, 5], (0,))
        batch["boxes"] = [b.double() for b in batch["boxes"]]
        found = learner.step(batch, 0, 1, 1.0)
        trained.append((found, {k: v.clone() for k, v in trainer.model.state_dict().items()}))
    (one, once), (many, again) = trained
    assert one.keys() == many.keys() and one == pytest.approx(many, rel=1e-5)
    for name, tensor in once.items():
        assert torch.allclose(tensor.double(), again[name].double(), rtol=0, atol=1e-7), name


LINE = {"branch": "thermal", "from": "last", "every": 1, "lr_factor": 0.5}


def test_unfreezing_opens_blocks_and_carries_moments_over(tmp_path):
    recipe = recipe_of(stage(epochs=3, groups=[{"match": "blend.*|head", "lr": 1e-3}], unfreeze=LINE))
    trainer, _ = trainer_of(recipe, tmp_path / "run")
    learner = Learner(trainer.model, recipe, trainer.plans[0], trainer.context.fabric)
    learner.open(0)
    learner.step(Memory().batch([0, 1, 2, 3], (0,)), 0, 2, 1.0)
    before = {name: state["exp_avg"].clone() for name, state in learner.snapshot().optimizer["moments"].items()}
    learner.open(1)
    after = learner.snapshot().optimizer["moments"]
    assert before and before.keys() == after.keys()
    assert all(torch.equal(after[name]["exp_avg"], before[name]) for name in before)
    grown = {name for name, p in learner.objective.named_parameters() if p.requires_grad} - before.keys()
    assert grown and all(name.startswith("model.thermal") for name in grown)
    trained = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in trained for name, p in learner.objective.named_parameters() if name in grown)


def test_the_history_tells_what_was_frozen_in_each_epoch(tmp_path):
    recipe = recipe_of(stage(epochs=3, groups=[{"match": "blend.*|head", "lr": 1e-3}], unfreeze=LINE))
    history, _ = fit(recipe, tmp_path / "run")
    shut = [sum(name.startswith("thermal") for name in row["frozen"]) for row in history]
    assert shut == [4, 4, 3, 2]
    assert history[2]["lr"]["thermal.blocks.2"] == pytest.approx(5e-4)


def test_auto_ends_where_the_metric_gains_less_than_its_error(tmp_path):
    line = LINE | {"auto": True, "lr": 1e-9}
    recipe = recipe_of(stage(epochs=4, groups=[{"match": "blend.*|head", "lr": 1e-9}], unfreeze=line))
    history, _ = fit(recipe, tmp_path / "run")
    assert len(history) == 2
    assert history[-1]["decision"] == {"blocks": 1, "gain": 0.0, "se": 0.0, "deeper": False}
    assert "unfreezing stops at 1 block: " in history[-1]["stopped"]


def test_auto_goes_deeper_while_it_gains(tmp_path):
    line = LINE | {"auto": True, "every": 30, "lr": 3e-3}
    groups = [{"match": "blend.*|head", "lr": 3e-3}]
    recipe = recipe_of(stage(epochs=31, groups=groups, unfreeze=line, schedule={"kind": "constant"}))
    history, _ = fit(recipe, tmp_path / "run")
    decision = history[30]["decision"]
    assert decision["deeper"] and decision["gain"] > decision["se"] >= 0
    assert len(history) == 32 and "thermal.blocks.2" not in history[31]["frozen"]


@pytest.mark.parametrize("how", ["guard", "no number"])
def test_auto_ends_at_an_epoch_that_was_to_decide_and_was_thrown_away(how, tmp_path, monkeypatch):
    if how == "guard":
        scripted(monkeypatch, "val_loss", 1.0, 1.0, 9.0, 1.0)
    else:
        broken(monkeypatch, {3})
    line = LINE | {"auto": True, "every": 2}
    groups = [{"match": "blend.*|head|thermal.blocks.-1", "lr": 1e-3}]
    recipe = recipe_of(stage(epochs=6, groups=groups, unfreeze=line, guard={}))
    history, _ = fit(recipe, tmp_path / "run")
    assert len(history) == 3 and "rolled_back" in history[2]
    assert history[2]["decision"] == {"blocks": 1, "gain": None, "se": None, "deeper": False}
    assert "epoch 2, which was to decide, was thrown away" in history[2]["stopped"]


def test_auto_hands_on_as_the_last_epoch_what_was_before_the_opening_that_did_not_help(tmp_path, monkeypatch):
    gains = iter([0.5, 0.01])
    monkeypatch.setattr(unfreezing, "paired_difference", lambda *_: Difference(next(gains), 0.02, 0.0, 0.0))
    groups = [{"match": "blend.*|head", "lr": 1e-3}]
    long = stage(epochs=9, groups=groups, unfreeze=LINE | {"auto": True, "every": 2})
    history, _ = fit(recipe_of(long, select="last"), tmp_path / "run")
    assert [row["decision"]["deeper"] for row in history if "decision" in row] == [True, False]
    assert len(history) == 5 and history[4]["back_to"] == 2 and history[4]["decision"]["blocks"] == 2
    assert equal(handed_on(tmp_path / "run"), saved(tmp_path / "run", 2))
    assert not equal(saved(tmp_path / "run", 2), saved(tmp_path / "run", 3))


def test_with_all_blocks_open_auto_has_nothing_to_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(unfreezing, "paired_difference", lambda *_: Difference(0.5, 0.02, 0.0, 0.0))
    groups = [{"match": "blend.*|head", "lr": 1e-9}]
    history, _ = fit(recipe_of(stage(epochs=7, groups=groups, unfreeze=LINE | {"auto": True})), tmp_path / "run")
    assert [row["epoch"] for row in history if "decision" in row] == [1, 2, 3, 4]
    assert len(history) == 8 and not any("stopped" in row for row in history)


@pytest.fixture
def three_stages():
    return recipe_of(
        RGB_TASK,
        stage("pretrain", 1, [{"match": "thermal.*|objective", "lr": 2e-3}], objective="autoencode"),
        stage("all", 2, modality_dropout=0.3, ema=0.9, accumulate=2, schedule={"kind": "onecycle"}),
    )


class Shelf:
    def __init__(self, folder):
        self.folder = folder

    def fetch(self, index):
        path = self.folder / str(index)
        return path if path.exists() else None

    def keep(self, index, write):
        (self.folder / str(index)).mkdir(parents=True)
        write(self.folder / str(index))


def test_a_shared_prefix_is_taken_from_the_store_and_ends_in_the_same_bits(three_stages, tmp_path):
    whole, weights = fit(three_stages, tmp_path / "a", store=Shelf(tmp_path / "shelf"))
    shutil.rmtree(tmp_path / "shelf" / "2")
    loaders = Memory()
    again, same = fit(three_stages, tmp_path / "b", store=Shelf(tmp_path / "shelf"), loaders=loaders)
    assert equal(weights, same)
    assert {order[1] for _, order in loaders.asked if len(order) > 1} == {2}, "only the last stage was trained"
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / run / "pictures").iterdir()} for run in "ab")
    assert first == second and first.keys() == {"pretrain-first.npz", "pretrain-last.npz"}
    assert [(row["stage"], row["val_loss"]) for row in again] == [(row["stage"], row["val_loss"]) for row in whole]


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 12])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(steps, three_stages, tmp_path):
    whole, weights = fit(three_stages, tmp_path / "whole")
    polls = iter([False] * (steps - 1) + [True])
    with pytest.raises(Stopped, match="epoch"):
        fit(three_stages, tmp_path / "run", stop=lambda: next(polls))
    saved = Checkpoints(tmp_path / "run").latest()
    assert saved.step > 0
    again, same = fit(three_stages, tmp_path / "run", resume=True)
    assert equal(weights, same)
    timed = ("seconds", "validation_seconds", "pairs_per_s", "wait_share")
    strip = lambda rows: [{k: v for k, v in row.items() if k not in timed} for row in rows]  # noqa: E731
    assert strip(again) == strip(whole)


def test_thermal_is_copied_from_rgb_as_it_is_when_thermal_is_first_used(tmp_path):
    recipe = recipe_of(
        RGB_TASK, stage("fuse", 1, [{"match": "blend.*|head", "lr": 1e-3}]),
        model={"thermal": {"arch": "test_resnet", "start": "copied"}},
    )  # fmt: skip
    _, weights = fit(recipe, tmp_path / "run")
    assert torch.equal(weights["thermal.net.layer4.0.conv1.weight"], weights["rgb.net.layer4.0.conv1.weight"])
    assert torch.allclose(weights["thermal.net.conv1.0.weight"], weights["rgb.net.conv1.0.weight"].sum(1, keepdim=True))


def test_every_plan_of_the_trainer_says_the_place_of_its_fault(tmp_path):
    with pytest.raises(FusionError, match=r"stages\.0\.groups\.0\.match"):
        trainer_of(recipe_of(stage(groups=[{"match": "nose", "lr": 1.0}])), tmp_path)
    assert plan_stages(recipe_of(stage()), ["rgb.stem", "thermal.stem", "blend.0", "head"])
