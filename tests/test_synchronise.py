"""Batch-norms over several devices, what a stage's objective asks of the model, and faults told by all devices."""

import itertools

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from fusion.errors import FusionError
from fusion.faults import NonFinite, samples
from fusion.learner import Learner
from fusion.model import ModelConfig, build_model
from fusion.plan import plan_stages
from fusion.recipe import Recipe
from fusion.synchronise import sketch_objectives, synchronise, trains_batch_norm
from fusion.trainer import Trainer

SIZE = (64, 96)


class TwoGpus(Fabric):
    """Says that this process is one of two, with a GPU each; nothing is sent anywhere."""

    kind = "cuda"

    def __init__(self):
        super().__init__(accelerator="cpu", devices=1)

    @property
    def world_size(self):
        return 2

    @property
    def device(self):
        return torch.device(self.kind)

    def to_device(self, obj):
        return obj


class TwoProcesses(TwoGpus):
    """The same on the CPU."""

    kind = "cpu"


def make_recipe(*stages, norm="group", **model):
    branch = {"arch": "test_efficientnet"}
    section = {"size": SIZE, "rgb": branch | {"weights": None}, "thermal": branch, "head": {"width": 16, "norm": norm}}
    named = [{"name": f"s{number}", "epochs": 1, **stage} for number, stage in enumerate(stages)]
    return Recipe.model_validate({"about": "x", "model": section | model, "batch": 2, "stages": named})


def make_model(recipe):
    inputs = InputSpec(rgb_size=SIZE, thermal_size=SIZE, thermal=ThermalSpec(unit="counts16"))
    section = recipe.model.model_dump()
    return build_model(ModelConfig(**section, classes=("thing",), inputs=inputs.model_dump(mode="json")), 0)[0]


def groups(match, norm=None):
    return [{"match": match, "lr": 1e-3, "norm": norm}]


ALL = {"groups": groups("*", "train")}
STILL = {"groups": groups("blend.*|head", "frozen")}
MASKED = {"groups": groups("thermal.*|objective", "frozen"), "objective": "masked"}
DISTILL = {"groups": groups("thermal.*|objective", "frozen"), "objective": "distill"}


def plans_of(recipe, model):
    return plan_stages(recipe, model.named_blocks())


def test_synchronised_batch_norms_keep_activations_names_and_bits_stage_after_stage():
    recipe = make_recipe(ALL, ALL, norm="batch")
    model = make_model(recipe).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of a new one
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    canvas = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    blocks = {name: len(modules) for name, modules in model.named_blocks().items()}
    features = model.rgb(canvas)
    heat = model.head(features)["heat"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for plan in plans_of(recipe, model):  # a second stage finds norms that are converted already
        learner = Learner(model, recipe, plan, TwoGpus())
    learner.objective.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert all(torch.equal(now, then) for now, then in zip(model.rgb(canvas), features, strict=True))
    assert torch.equal(model.head(features)["heat"], heat)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert {name: len(modules) for name, modules in model.named_blocks().items()} == blocks


def test_a_decoder_is_synchronised_with_the_model():
    recipe = make_recipe(MASKED, STILL)
    model = make_model(recipe)
    learner = Learner(model, recipe, plans_of(recipe, model)[0], TwoGpus())
    norms = [
        module for module in learner.objective.own.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(
    ("stage", "moves"), [(ALL, True), (STILL, False), (MASKED, True), (DISTILL, False)], ids=["all", "still", "m", "d"]
)
def test_what_moves_is_asked_of_the_objectives_own_parts(stage, moves, tmp_path):
    recipe = make_recipe(ALL, stage)
    model = make_model(recipe)
    plan, objective = plans_of(recipe, model)[1], sketch_objectives(model, recipe)[1]
    assert trains_batch_norm(objective, plan) == moves
    synchronise(objective, plan, TwoGpus())
    assert any(isinstance(module, nn.SyncBatchNorm) for module in objective.modules()) == moves


@pytest.mark.parametrize(("stages", "warns"), [((STILL, MASKED), True), ((STILL,), False)], ids=["masked", "still"])
def test_processes_without_gpus_are_warned_where_a_norm_moves(stages, warns, tmp_path):
    said, recipe = [], make_recipe(*stages)
    Trainer(make_model(recipe), recipe, None, tmp_path, TwoProcesses(), said.append)
    assert [line.startswith("warning  batch-norms") for line in said] == [True] * warns


def test_an_objective_that_lacks_its_branch_is_said_by_its_field():
    rgb = {"arch": "test_efficientnet", "weights": "rgb.safetensors"}
    recipe = make_recipe(ALL, DISTILL | {"sensors": ["thermal"]}, sensors=["thermal"], rgb=rgb)
    with pytest.raises(FusionError, match=r"stages\.1\.objective: objective 'distill' needs a rgb branch of its own"):
        sketch_objectives(make_model(recipe), recipe)


def make_batch(count=4):
    noise = torch.Generator().manual_seed(0)
    return {
        "rgb": torch.randint(0, 255, (count, *SIZE, 3), dtype=torch.uint8, generator=noise),
        "thermal": torch.randint(21000, 23000, (count, *SIZE), generator=noise).float(),
        "present": torch.ones(count, 2),
        "boxes": [torch.tensor([[7.0, 9.0, 33.0, 40.0]])] * count,
        "labels": [torch.zeros(1, dtype=torch.int64)] * count,
        "ids": [f"p{number}" for number in range(count)],
        "seed": torch.arange(count),
    }


def test_a_fault_names_the_sample_that_has_it_and_the_groups():
    parts = [{"match": "rgb.*|thermal.*", "lr": 1e-3, "norm": "train"}, {"match": "blend.*|head", "lr": 1e-3}]
    recipe = make_recipe({"groups": parts}, norm="batch")
    model = make_model(recipe)
    learner = Learner(model, recipe, plans_of(recipe, model)[0], Fabric(accelerator="cpu", devices=1))
    learner.open(0)
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    batch = make_batch()
    # No unit may hold such a value; here it makes one sample spoil the statistics that all others are normalised by.
    model.normalise["thermal"].register_forward_hook(
        lambda _, arguments, z: torch.where(arguments[0].amin((1, 2)).view(-1, 1, 1, 1) < 0, torch.nan, z)
    )
    batch["thermal"][2, 5, 5] = -1.0
    with pytest.raises(NonFinite) as fault:
        learner.step(batch, 6, 9, 1.0)
    text = str(fault.value)
    assert text.startswith(
        "stage 's0', step 7: the loss is nan on samples p2; gradients that are no numbers in groups.0"
    )
    assert "groups.1" in text and "rgb.stem" in text and "\n" not in text
    assert learner.objective.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())


def test_the_samples_of_all_devices_are_named_in_the_batchs_order(monkeypatch):
    def gather(other):
        def all_gather_object(shares, own):
            shares[:] = [own, other]

        monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
        return TwoProcesses()

    fabric = gather((["b", "d"], []))
    assert samples(fabric, ["a", "c"], []) == "a, b, c, d"
    assert samples(fabric, ["a", "c"], ["c"]) == "c"
    fabric = gather((["b", "d"], ["b", "d"]))
    assert samples(fabric, ["a", "c"], []) == "b, d"
    fabric = gather(([str(number) for number in range(1, 20, 2)], []))
    even = [str(number) for number in range(0, 20, 2)]
    assert samples(fabric, even, []) == ", ".join(map(str, itertools.islice(itertools.count(), 8))) + " and 12 more"


def test_what_weights_are_pulled_towards_lies_where_they_lie():
    recipe = make_recipe({"groups": [{"match": "*", "lr": 1e-3, "l2_sp": 0.1}]})
    model = make_model(recipe).double()
    learner = Learner(model, recipe, plans_of(recipe, model)[0], Fabric(accelerator="cpu", devices=1))
    start = {name: tensor.float() for name, tensor in learner.objective.state_dict().items()}
    learner.begin(start)
    assert learner._start.keys() == dict(learner.objective.named_parameters()).keys()
    assert all(tensor.dtype == torch.float64 for tensor in learner._start.values())
