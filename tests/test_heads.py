"""The contract that every head keeps, so that a new one is tested by its line in HEADS: no test names a task."""

import copy
import itertools
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from pydantic import ValidationError

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bundle_info import Inputs
from export.engines.onnx_runtime import OnnxRuntime
from export.graph import export_graph
from export.verify import compare
from fusion import bootstrap, records
from fusion.checkpoint import load_model, save_model
from fusion.heads import HEADS, metric_for
from fusion.model import Blend, FusionModel, ModelConfig, RgbEncoder, ThermalEncoder, build_model
from fusion.objectives import TaskObjective
from fusion.recipe import Recipe
from fusion.validation import validate

SIZE, CANVAS, CLASSES = (48, 64), (64, 96), ("a", "b")
PARTS = [slice(0, 2), slice(2, 3), slice(3, 6)]
every_head = pytest.mark.parametrize("task", list(HEADS))


class SmallNet(torch.nn.Module):
    """An encoder of four convolutions."""

    strides, feature_modules = (4, 8, 16, 32), ("layers.0", "layers.1", "layers.2", "layers.3")
    channels = (8, 16, 16, 24)

    def __init__(self, in_chans):
        super().__init__()
        sides = (in_chans, *self.channels)
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(sides[i], sides[i + 1], 5, 2 if i else 4, 2) for i in range(4)
        )

    def forward(self, x):
        return list(itertools.accumulate(self.layers, lambda y, layer: torch.relu(layer(y)), initial=x))[1:]


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    torch.set_num_threads(1)
    module = types.ModuleType("small_networks")
    module.make = SmallNet
    monkeypatch.setitem(sys.modules, "small_networks", module)


def build(task, **changes):
    """In eval mode, with blends through which both sensors count."""
    inputs = InputSpec(rgb_size=SIZE, thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
    config = ModelConfig(
        size=CANVAS,
        rgb=RgbEncoder(arch="module:small_networks:make", weights=None),
        thermal=ThermalEncoder(arch="module:small_networks:make"),
        classes=CLASSES,
        inputs=inputs.model_dump(mode="json"),
        **({"head": {"kind": task, "width": 16}} | changes),
    )
    return build_model(config, 0)[0].eval()


def scrambled(model):
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.blend.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def batch():
    """Six pairs with the truth of every task: a bright square of class a or b, in the last pair nothing."""
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 60, (6, *SIZE, 3)).astype(np.uint8)
    thermal = noise.integers(21_000, 21_200, (6, 30, 40)).astype(np.float32)
    mask = np.zeros((6, *SIZE), np.uint8)
    boxes, labels = [], []
    for at in range(6):
        x, y, kind, there = int(noise.integers(2, 40)), int(noise.integers(2, 24)), at % 2, at < 5
        boxes.append(torch.tensor([[x, y, x + 20.0, y + 20.0]])[:there])
        labels.append(torch.tensor([kind])[:there])
        if there:
            rgb[at, y : y + 20, x : x + 20, kind] += 180
            thermal[at, y * 30 // 48 : (y + 20) * 30 // 48, x * 40 // 64 : (x + 20) * 40 // 64] += 900
            mask[at, y : y + 20, x : x + 20] = 1 + kind
    mask[:, :, :2] = 255
    return {
        "rgb": torch.from_numpy(rgb),
        "thermal": torch.from_numpy(thermal),
        "present": torch.ones(6, 2),
        "seed": torch.arange(6),
        "ids": list("abcdef"),
        "boxes": boxes,
        "labels": labels,
        "mask": torch.from_numpy(mask),
        "label": torch.tensor([0, 1, 0, 1, 0, -1]),
    }


def frames(whole):
    return whole["rgb"], whole["thermal"], whole["present"]


def cut(value, part):
    return {k: cut(v, part) for k, v in value.items()} if isinstance(value, dict) else value[part]


def unlabelled():
    """What nobody has looked at."""
    whole = batch()
    whole["boxes"], whole["labels"] = [b[:0] for b in whole["boxes"]], [k[:0] for k in whole["labels"]]
    whole["mask"], whole["label"] = torch.full_like(whole["mask"], 255), torch.full_like(whole["label"], -1)
    return whole


def learn(objective, prepared, counts):
    objective.zero_grad()
    said = objective(prepared, ("rgb", "thermal"), None, counts)
    said["loss"].backward()
    return said, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in objective.named_parameters()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def measured(model, whole):
    """A metric that has seen the model's answers to a batch."""
    metric = model.head.metric(CLASSES)
    with torch.no_grad():
        answers = model(*frames(whole))
    for at in range(len(whole["ids"])):
        metric.update(
            {name: rows[at] for name, rows in answers.items()}, {name: whole[name][at] for name in model.head.truth}
        )
    return metric


@every_head
def test_it_says_what_it_is(task):
    head = HEADS[task]
    assert head.metrics == head.measure.metrics and head.criterion == (head.metrics[0], "max")
    assert head.truth and set(head.truth) <= batch().keys()
    assert task in bootstrap.RESAMPLED
    nothing = metric_for(task, CLASSES).compute()
    assert {nothing[name] for name in head.metrics} == {0.0} and nothing["per_class"] == {}


@every_head
def test_a_guard_may_watch_its_figures_with_both_sensors_and_with_each_alone(task):
    model = {"size": [64, 96], "rgb": {"arch": "x", "weights": None}, "thermal": {"arch": "x"}, "head": {"kind": task}}

    def recipe(metric):
        stage = {"name": "one", "epochs": 1, "groups": [{"match": "*", "lr": 1e-3}], "guard": {"metric": metric}}
        return Recipe.model_validate({"about": "x", "model": model, "stages": [stage]})

    main = HEADS[task].criterion[0]
    known = [*HEADS[task].metrics, f"{main}_rgb", f"{main}_thermal", "forgetting_rgb"]
    assert all(recipe(metric).stages[0].guard.metric == metric for metric in known)
    with pytest.raises(ValidationError, match=f"has no figure 'none'; one of val_loss, {main}"):
        recipe("none")


@every_head
def test_a_model_answers_for_each_picture_in_full_precision_whatever_the_maps(task):
    model = scrambled(build(task))
    with torch.no_grad():
        maps = model.maps(*frames(batch()))
        answer, halved = model.answer(maps), model.answer({name: m.bfloat16() for name, m in maps.items()})
    assert answer and all(len(rows) == 6 and rows.isfinite().all() for rows in answer.values())
    assert {rows.dtype for rows in answer.values()} <= {torch.float32, torch.uint8}
    assert {name: rows.dtype for name, rows in halved.items()} == {name: rows.dtype for name, rows in answer.items()}


@every_head
def test_a_batch_answers_as_its_pairs_one_by_one(task):
    model, whole = scrambled(build(task)), batch()
    with torch.no_grad():
        together = model.maps(*frames(whole))
        for at in range(3):
            alone = model.maps(*(part[at : at + 1] for part in frames(whole)))
            for name, found in alone.items():
                assert torch.allclose(found, together[name][at : at + 1], rtol=1e-4, atol=1e-5)


@every_head
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_every_parameter_learns_and_the_loss_falls(task, norm):
    model = scrambled(build(task, head={"kind": task, "width": 16, "norm": norm, "act": "silu"})).train()
    objective, whole = TaskObjective(model), batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    prepared, counts = objective.prepare(whole)
    losses = []
    for _ in range(60):
        said, gradients = learn(objective, prepared, counts)
        losses.append(said["loss"].item())
        assert all(g.isfinite().all() for g in gradients.values())
        optimizer.step()
    assert not [name for name, g in gradients.items() if not g.any()]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


@every_head
def test_a_few_pictures_can_be_learnt_by_heart(task):
    model, whole = scrambled(build(task)), cut(batch(), slice(0, 4))
    before = measured(model, whole).compute()[HEADS[task].criterion[0]]
    objective = TaskObjective(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    prepared, counts = objective.prepare(whole)
    model.train()
    for _ in range(150):
        learn(objective, prepared, counts)
        optimizer.step()
    after = measured(model.eval(), whole).compute()
    assert before < 0.6 and after[HEADS[task].criterion[0]] > 0.8
    assert set(after["per_class"]) >= set(CLASSES)


@every_head
@pytest.mark.parametrize("alone", [0.0, 0.5])
def test_the_contributions_of_parts_sum_to_the_whole_batch(task, alone):
    objective, whole = TaskObjective(scrambled(build(task)).double()), batch()
    objective.alone = alone
    prepared, counts = objective.prepare(whole)
    assert counts.dim() == 1 and counts.dtype == torch.float32 and (counts > 0).all()
    assert torch.allclose(sum(objective.prepare(cut(whole, part))[1] for part in PARTS), counts)
    said, gradients = learn(objective, prepared, counts)
    terms = [name for name, value in said.items() if value.dim() == 0]
    parts = [learn(objective, cut(prepared, part), counts) for part in PARTS]
    assert said["loss"].dtype == torch.float64 and ("alone_rgb" in terms) == bool(alone)
    for name in terms:
        assert sum(part[name] for part, _ in parts).item() == pytest.approx(said[name].item(), abs=1e-9, rel=1e-9)
    for name, gradient in gradients.items():
        assert torch.allclose(sum(g[name] for _, g in parts), gradient, rtol=1e-9, atol=1e-9), name


@every_head
def test_a_loss_is_of_full_precision_and_never_narrowed(task):
    model, whole = build(task), batch()
    targets = model.targets(whole)
    with torch.no_grad():
        maps = model.maps(*frames(whole))
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        terms = model.loss({k: m.to(dtype) for k, m in maps.items()}, targets, model.head.counts(targets))
        assert terms["loss"].dtype == wanted and terms["loss"].isfinite()


@every_head
def test_two_calls_give_the_same_bits_and_leave_the_batch_as_it_was(task):
    objective, whole = TaskObjective(scrambled(build(task))), batch()
    before = copy.deepcopy(whole)
    (first, gradients), (second, again) = (learn(objective, *objective.prepare(whole)) for _ in range(2))
    assert same(first, second) and same(gradients, again) and whole.keys() == before.keys()
    for name in HEADS[task].truth:
        assert all(torch.equal(now, was) for now, was in zip(whole[name], before[name], strict=True))


@every_head
def test_pictures_that_nobody_labelled_have_a_finite_loss_and_gradients(task):
    objective = TaskObjective(build(task))
    said, gradients = learn(objective, *objective.prepare(unlabelled()))
    assert said["loss"].isfinite() and all(g.isfinite().all() for g in gradients.values())
    figures = measured(build(task), unlabelled()).compute()
    assert all(figures[name] == 0 for name in HEADS[task].metrics)


@every_head
@pytest.mark.parametrize("absent", ["rgb", "thermal"])
def test_garbage_of_an_absent_sensor_changes_neither_answer_nor_gradients(task, absent):
    model, clean = scrambled(build(task)), batch()
    clean["present"][:, 0 if absent == "rgb" else 1] = 0
    dirty = copy.deepcopy(clean)
    clean[absent].zero_()
    if absent == "rgb":
        dirty["rgb"].random_(0, 255)
    else:
        dirty["thermal"][:] = 65_535.0
        dirty["thermal"][0, 0], dirty["thermal"][0, 1] = torch.nan, torch.inf
    with torch.no_grad():
        assert same(model(*frames(clean)), model(*frames(dirty)))
    objective = TaskObjective(model.train())
    found = []
    for whole in (clean, dirty):
        objective.load_state_dict(copy.deepcopy(objective.state_dict()))
        found.append(learn(objective, *objective.prepare(whole)))
    assert same(found[0][0], found[1][0]) and same(found[0][1], found[1][1])
    assert any(g.any() for g in found[0][1].values())


@every_head
@pytest.mark.parametrize("anchor", ["rgb", "thermal"])
def test_a_fresh_zero_residual_answers_as_its_anchor_alone(task, anchor):
    """Fused with both = fused with the anchor alone = the single-sensor model of the same weights."""
    fused = build(task, blend=Blend(anchor=anchor))
    single = build(task, sensors=(anchor,))
    single.load_state_dict({k: v for k, v in fused.state_dict().items() if k in single.state_dict()})
    rgb, thermal, both = frames(batch())
    alone = both.clone()
    alone[:, 1 if anchor == "rgb" else 0] = 0
    other = (255 - rgb, thermal) if anchor == "thermal" else (rgb, thermal.flip(1) + 500)
    with torch.no_grad():
        expected = single(rgb, thermal, both)
        for asked in ((rgb, thermal, both), (rgb, thermal, alone), (*other, both)):
            assert same(fused(*asked), expected)
        assert same(fused.answer(fused.maps(rgb, thermal, both, sensors=(anchor,))), expected)


@every_head
def test_a_saved_model_answers_the_same(task, tmp_path):
    model = scrambled(build(task))
    save_model(tmp_path, model)
    rebuilt = load_model(tmp_path)
    assert rebuilt.task == task
    with torch.no_grad():
        assert same(rebuilt(*frames(batch())), model(*frames(batch())))


class Everything(torch.nn.Module):
    """A model's maps, which must be equal to 1e-5, beside the answer, in which near ties may change places."""

    def __init__(self, model: FusionModel):
        super().__init__()
        self.model = model

    def forward(self, rgb, thermal, present):
        maps = self.model.maps(rgb, thermal, present)
        return {f"map_{name}": value for name, value in maps.items()} | self.model.answer(maps)


@every_head
def test_its_graph_answers_as_pytorch_does(task):
    model = scrambled(build(task))
    engine = OnnxRuntime(export_graph(Everything(model), Inputs.model_validate(model.config.inputs)))
    rgb, thermal, present = frames(batch())
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    for part in (slice(0, 3), slice(1, 2)):
        feeds = {"rgb": rgb[part], "thermal": thermal[part].to(torch.uint16), "present": present[part]}
        with torch.no_grad():
            expected = {name: value.numpy() for name, value in Everything(model)(*feeds.values()).items()}
        found = engine.run({name: value.numpy() for name, value in feeds.items()})
        assert list(found) == list(expected)
        for name in [name for name in expected if name.startswith("map_")]:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
        answers = {name: value for name, value in expected.items() if not name.startswith("map_")}
        parity = compare(answers, found)
        assert parity.holds and {found[name].dtype for name in answers} == {a.dtype for a in answers.values()}
        assert all(parity.figures[name] <= 1e-5 for name in parity.limits if "px" not in name), parity


def answered(task):
    return measured(scrambled(build(task)), batch())


@every_head
def test_records_of_other_processes_give_the_figures_of_one(task):
    whole = answered(task)
    merged = metric_for(task, CLASSES)
    merged.extend(pickle.loads(pickle.dumps(whole.records[:2])))
    merged.extend(whole.records[2:])
    assert len(whole.records) == 6 and merged.compute() == whole.compute()


@every_head
def test_records_are_written_and_read(task, tmp_path):
    whole = answered(task)
    path = tmp_path / "records.npz"
    records.save(path, whole.records)
    read = metric_for(task, CLASSES)
    read.extend(records.load(path))
    assert len(read.records) == 6 and read.compute() == whole.compute()
    assert [type(record) for record in read.records] == [type(record) for record in whole.records]
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.npz"]


@every_head
def test_drawn_pictures_give_the_main_metric_of_repeated_ones(task):
    whole, main = answered(task), HEADS[task].criterion[0]
    drawn = bootstrap.resampled(task, whole.records, len(CLASSES))
    assert drawn.pictures == 6 and drawn.truths.shape[1] == 6 and drawn.truths.any()
    assert drawn.value() == pytest.approx(whole.compute()[main], abs=1e-6)
    rng = np.random.default_rng(0)
    for weights in rng.integers(0, 3, (4, 6)):
        repeated = metric_for(task, CLASSES)
        repeated.extend(r for r, n in zip(whole.records, weights, strict=True) for _ in range(n))
        assert drawn.value(weights) == pytest.approx(repeated.compute()[main], abs=1e-6)
    assert drawn.value(np.zeros(6)) == bootstrap.resampled(task, [], len(CLASSES)).value() == 0
    same_pictures = bootstrap.paired_difference(drawn, drawn, draws=20)
    assert (same_pictures.mean, same_pictures.se) == (0, 0)


@every_head
def test_validation_measures_it_with_both_sensors_and_with_each_alone(task, monkeypatch):
    monkeypatch.setattr(Fabric, "setup_dataloaders", lambda self, loader, **_: loader)
    model, whole = scrambled(build(task)), batch()
    batches = [cut(whole, slice(0, 4)), cut(whole, slice(4, 6))]
    found = validate(Fabric(accelerator="cpu", devices=1), TaskObjective(model), batches, ("rgb", "thermal"))
    head = HEADS[task]
    main = head.criterion[0]
    assert set(found.row) >= {"val_loss", *head.metrics, f"{main}_rgb", f"{main}_thermal"}
    assert all(isinstance(value, float) for value in found.row.values())
    figures = measured(model, whole).compute()
    assert {name: found.row[name] for name in head.metrics} == {name: figures[name] for name in head.metrics}
    blind = copy.deepcopy(whole)
    blind["present"][:, 1] = 0
    assert found.row[f"{main}_rgb"] == pytest.approx(measured(model, blind).compute()[main], abs=1e-6)
    assert len(found.records) == 6
