"""Half precision: what is raw, normalised, compared or decoded stays float32; fp16 that finds no scale is a fault."""

import json

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.amp import GradScaler

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from fusion import learner as learner_module
from fusion.faults import NonFinite
from fusion.learner import Learner
from fusion.model import ModelConfig, build_model
from fusion.objectives import OBJECTIVES
from fusion.plan import plan_stages
from fusion.recipe import Recipe
from fusion.trainer import Trainer
from fusion.validation import validate
from pipelines.launch import RawInputMixed, find_processes, make_fabric

SIZE = (64, 96)
MODEL = {
    "size": SIZE,
    "rgb": {"arch": "test_resnet", "weights": None},
    "thermal": {"arch": "test_resnet"},
    "head": {"width": 16, "norm": "group"},
}
LOW, HIGH = 51241, 52181
"""The span of one real recording: bfloat16 knows five numbers in it."""


@pytest.fixture(autouse=True)
def _no_wrapping(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(Fabric, "setup_dataloaders", lambda self, loader, **_: loader)


def make_recipe(**stage):
    stage = {"name": "all", "epochs": 1, "groups": [{"match": "*", "lr": 1e-3}]} | stage
    return Recipe.model_validate({"about": "x", "model": MODEL, "batch": 2, "stages": [stage]})


def make_model(recipe):
    inputs = InputSpec(rgb_size=SIZE, thermal_size=SIZE, thermal=ThermalSpec(unit="counts16"))
    config = ModelConfig(**recipe.model.model_dump(), classes=("thing",), inputs=inputs.model_dump(mode="json"))
    return build_model(config, 0)[0]


def make_learner(recipe, fabric):
    model = make_model(recipe)
    learner = Learner(model, recipe, plan_stages(recipe, model.named_blocks())[0], fabric)
    learner.open(0)
    return learner


def make_batch():
    noise = np.random.default_rng(0)
    return {
        "rgb": torch.from_numpy(noise.integers(0, 255, (2, *SIZE, 3), np.uint8)),
        "thermal": torch.from_numpy(noise.integers(LOW, HIGH, (2, *SIZE)).astype(np.float32)),
        "present": torch.ones(2, 2),
        "boxes": [torch.tensor([[7.3, 9.1, 33.7, 40.9]]), torch.tensor([[50.2, 20.6, 77.4, 51.8]])],
        "labels": [torch.zeros(1, dtype=torch.int64)] * 2,
        "ids": ["a", "b"],
        "seed": torch.arange(2),
    }


def test_raw_values_targets_and_counts_reach_the_objective_as_they_are():
    fabric = make_fabric(find_processes(), "cpu", "bf16-mixed")
    learner, batch, seen = make_learner(make_recipe(), fabric), make_batch(), []
    learner.objective.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    prepared, counts = learner.objective.prepare(batch)
    learner.step(batch, 0, 1, 1.0)
    ((part, _, _, got),) = seen
    assert torch.equal(part["thermal"], batch["thermal"]) and part["thermal"].dtype == torch.float32
    assert torch.equal(got, counts) and got.dtype == torch.float32
    assert all(torch.equal(part["targets"][name], target) for name, target in prepared["targets"].items())


def test_a_training_step_and_validation_see_the_same_canvas_and_convolve_in_half():
    fabric = make_fabric(find_processes(), "cpu", "bf16-mixed")
    learner, batch, canvases, features = make_learner(make_recipe(), fabric), make_batch(), [], []
    learner.model.thermal.register_forward_pre_hook(lambda _, arguments: canvases.append(arguments[0]))
    learner.model.thermal.register_forward_hook(lambda _, __, maps: features.append(maps[0].dtype))
    learner.step(batch, 0, 1, 1.0)
    validate(fabric, learner.judged, [batch], ("rgb", "thermal"))
    trained, validated = canvases
    assert trained.dtype == torch.float32 and torch.equal(trained, validated)
    assert torch.equal(trained, learner.model.thermal_canvas(batch["thermal"], torch.ones(2)))
    assert len(trained.unique()) > 500, "the narrow span is not crushed"
    assert features == [torch.bfloat16, torch.bfloat16]


def test_float64_stays_float64():
    """What the comparison of two processes with one relies on."""
    fabric, batch, seen = Fabric(accelerator="cpu", devices=1, precision="64-true"), make_batch(), []
    learner = make_learner(make_recipe(), fabric)
    learner.model.thermal.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    found = learner.step(batch, 0, 1, 1.0)
    assert seen[0].dtype == torch.float64 and np.isfinite(found["loss"])


class Said(nn.Module):
    """Stands for an encoder or a decoder: says the same float32 whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *_):
        return self.answer


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalising_and_decoding_are_the_same_bits_under_autocast(dtype):
    model, batch = make_model(make_recipe()), make_batch()
    maps = {"heat": random(2, 1, 16, 24), "box": 20 * random(2, 4, 16, 24).abs()}

    def found():
        return [
            model.thermal_canvas(batch["thermal"], torch.ones(2)),
            model.rgb_canvas(batch["rgb"], torch.ones(2)),
            model.answer(maps)["boxes"],
            *model.targets(batch).values(),
        ]

    plain = found()
    with torch.autocast("cpu", dtype=dtype):
        halved = found()
    assert all(
        torch.equal(one, other) and other.dtype == torch.float32 for one, other in zip(plain, halved, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_losses_are_the_same_bits_under_autocast(name, dtype):
    model, batch = make_model(make_recipe()), make_batch()
    objective = OBJECTIVES[name](model)
    shapes = [(2, c, 64 // s, 96 // s) for c, s in zip(model.rgb.channels, (4, 8, 16, 32), strict=True)]
    model.rgb.net, model.thermal.net = (Said([random(*shape, seed=s) for shape in shapes]) for s in (1, 2))
    if name == "task":
        model.head.forward = lambda _: {"heat": random(2, 1, 16, 24), "box": 20 * random(2, 4, 16, 24).abs()}
    elif name == "distill":
        objective.own = nn.ModuleList([Said(random(*shape, seed=3)) for shape in shapes])
    else:
        objective.own = Said(random(2, 1, *SIZE))
    prepared, counts = objective.prepare(batch)

    def found():
        terms = objective(prepared, ("rgb", "thermal"), None, counts)
        return {key: value for key, value in terms.items() if value.dim() == 0}

    plain = found()
    with torch.autocast("cpu", dtype=dtype):
        halved = found()
    assert plain.keys() == halved.keys() and all(torch.equal(plain[key], halved[key]) for key in plain)


def fp16(scale):
    """Fabric as on a GPU with 16-mixed: the scaler is torch's own."""
    return Fabric(accelerator="cpu", devices=1, plugins=[RawInputMixed("16-mixed", "cpu", GradScaler("cpu", scale))])


def overflow(learner_or_model, times):
    """Let the first gradients of one layer of the head overflow."""
    left = iter([float("inf")] * times)
    weight = getattr(learner_or_model, "model", learner_or_model).head.heat[1].weight
    weight.register_hook(lambda gradient: gradient * next(left, 1.0))


@pytest.mark.parametrize(
    ("scale", "steps", "words"), [(256.0, 4, "inf for 4 steps in a row, the last time"), (4.0, 3, "down to 1,")]
)
def test_gradients_that_overflow_at_every_step_are_a_fault(scale, steps, words, monkeypatch):
    monkeypatch.setattr(learner_module, "MOST_SKIPS", 3)
    learner, batch = make_learner(make_recipe(), fp16(scale)), make_batch()
    before = {name: weight.clone() for name, weight in learner.objective.named_parameters()}
    overflow(learner, 99)
    for number in range(steps - 1):
        found = learner.step(batch, number, 99, 1.0)
        assert found["skipped"] == 1 and not [name for name in found if name.startswith("gradient_norm")]
    with pytest.raises(NonFinite) as fault:
        learner.step(batch, steps - 1, 99, 1.0)
    text = str(fault.value)
    assert text.startswith(f"stage 'all', step {steps}: the gradient of head is inf") and words in text
    assert text.endswith("on samples a, b; gradients that are no numbers in groups.0 (head)")
    assert all(torch.equal(weight, before[name]) for name, weight in learner.objective.named_parameters())


def test_a_good_step_between_ends_the_row(monkeypatch):
    monkeypatch.setattr(learner_module, "MOST_SKIPS", 1)
    learner, batch = make_learner(make_recipe(), fp16(256.0)), make_batch()
    factors = iter([float("inf"), 1.0, float("inf"), 1.0])
    learner.model.head.heat[1].weight.register_hook(lambda gradient: gradient * next(factors))
    assert [learner.step(batch, number, 9, 1.0)["skipped"] for number in range(4)] == [1, 0, 1, 0]
    assert learner.fabric.strategy.precision.scaler.get_scale() == 64


def test_a_skipped_step_moves_neither_weights_nor_average_nor_pull():
    recipe = make_recipe(groups=[{"match": "*", "lr": 1e-3, "l2_sp": 0.5}], ema=0.5)
    learner = make_learner(recipe, fp16(256.0))
    learner.begin({name: torch.zeros_like(weight) for name, weight in learner.objective.named_parameters()})
    overflow(learner, 1)
    before, average = ({n: w.clone() for n, w in m.named_parameters()} for m in (learner.objective, learner.judged))
    learner.step(make_batch(), 0, 9, 1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in learner.objective.named_parameters())
    assert all(torch.equal(weight, average[name]) for name, weight in learner.judged.named_parameters())


class Memory:
    """The same batch, four steps an epoch."""

    def train(self, kind, order, skip=0):
        return [make_batch()] * (4 - skip)

    def validation(self):
        return [make_batch()]


def test_skipped_steps_are_counted_and_stay_out_of_the_means(tmp_path):
    recipe = make_recipe(epochs=2)
    model = make_model(recipe)
    overflow(model, 2)
    history = Trainer(model, recipe, Memory(), tmp_path, fp16(256.0), lambda _: None).fit()
    _, first, second = history
    assert (first["skipped"], second["skipped"]) == (2, 0)
    assert second["gradient_norm"] / 4 < first["gradient_norm"] < second["gradient_norm"] * 4
    for state in tmp_path.rglob("state.json"):
        json.loads(state.read_text(), parse_constant=pytest.fail)
    json.dumps(history, allow_nan=False)
