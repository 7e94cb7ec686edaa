"""The detect head: targets, loss, decoding and average precision."""

import pickle

import numpy as np
import pytest
import torch

from fusion.detect import SLOTS, DetectHead, DetectMetric, draw_targets
from fusion.normalise import Letterbox

STRIDES = (4, 8, 16, 32)
FRAME = Letterbox((64, 96), (64, 96))


def truth(boxes, labels):
    return {"boxes": boxes, "labels": labels}


def update(metric, boxes, *true):
    metric.update({"boxes": boxes}, truth(*true))


def head(**changes):
    torch.manual_seed(0)
    return DetectHead([8, 8, 16, 16], STRIDES, 2, width=16, **changes)


def features(size=(64, 96)):
    return [torch.randn(2, c, size[0] // s, size[1] // s) for c, s in zip([8, 8, 16, 16], STRIDES, strict=True)]


def maps_of(boxes, labels, size=(16, 24)):
    """Head maps that say exactly what is true."""
    heat, _, goal = draw_targets(boxes, labels, 2, size, 4)
    ys, xs = torch.meshgrid(torch.arange(size[0]) * 4.0, torch.arange(size[1]) * 4.0, indexing="ij")
    distances = torch.stack([xs - goal[0], ys - goal[1], goal[2] - xs, goal[3] - ys])
    return {"heat": torch.logit(heat.clamp(1e-4, 1 - 1e-4))[None], "box": distances[None]}


def loss_of(module, maps, boxes, labels, size=(64, 96)):
    targets = module.targets(truth(boxes, labels), Letterbox(size, size))
    return module.loss(maps, targets, module.counts(targets))


BOXES = torch.tensor([[10.0, 8.0, 30.0, 40.0], [50.0, 20.0, 90.0, 44.0], [12.0, 10.0, 22.0, 20.0]])
LABELS = torch.tensor([0, 1, 0])


def test_decoding_undoes_drawing():
    answer = head().decode(maps_of(BOXES, LABELS), FRAME)["boxes"][0]
    assert answer.shape == (SLOTS, 6)
    found = answer[answer[:, 4] > 0.5]
    assert len(found) == 3
    for box, label in zip(BOXES, LABELS, strict=True):
        nearest = (found[:, :4] - box).abs().sum(1).argmin()
        assert torch.allclose(found[nearest, :4], box, atol=1e-3)
        assert found[nearest, 5] == label


def test_slots_fall_by_score_and_empty_ones_are_all_zero():
    maps = maps_of(BOXES[:1], LABELS[:1])
    slope = torch.linspace(0, 1e-3, maps["heat"].numel()).view_as(maps["heat"])  # no plateau: few peaks
    answer = head().decode({"heat": maps["heat"] + slope, "box": maps["box"]}, FRAME)["boxes"][0]
    assert (answer[:-1, 4] >= answer[1:, 4]).all()
    empty = answer[:, 4] == 0
    assert empty.any() and (answer[empty] == 0).all()


def test_the_smaller_of_two_overlapping_objects_owns_the_cell():
    _, weight, goal = draw_targets(BOXES, LABELS, 2, (16, 24), 4)
    assert weight[4, 4] > 0 and torch.equal(goal[:, 4, 4], BOXES[2])


def test_a_picture_without_objects_has_a_finite_loss_and_gradients():
    module = head()
    terms = loss_of(module, module(features()), [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"]) and terms["sides"] == 0
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_targets_hold_all_that_the_counts_need_for_each_sample():
    targets = head().targets(truth([BOXES, BOXES[:0], BOXES[:1]], [LABELS, LABELS[:0], LABELS[:1]]), FRAME)
    assert {key: tuple(t.shape) for key, t in targets.items()} == {
        "heat": (3, 2, 16, 24),
        "weight": (3, 16, 24),
        "goal": (3, 4, 16, 24),
        "objects": (3,),
    }
    counts = head().counts(targets)
    alone = [head().counts({key: t[i : i + 1] for key, t in targets.items()}) for i in range(3)]
    assert counts[0] == 4 and torch.allclose(sum(alone), counts)


def test_a_region_that_is_ignored_is_neither_an_object_nor_a_mistake():
    module = head()
    region, other = torch.tensor([[40.0, 16.0, 92.0, 60.0]]), torch.tensor([[12.0, 8.0, 16.0, 16.0]])
    boxes = torch.cat([BOXES[:1], region])
    maps = {"heat": torch.full((1, 2, 16, 24), -4.0), "box": torch.full((1, 4, 16, 24), 8.0)}
    loud = {**maps, "heat": maps["heat"].clone()}
    loud["heat"][0, 1, 4:16, 10:24] = 3.0  # answers of class 1 all over the region
    losses = {}
    for name, labels in (("no region", [0]), ("class 1", [0, ~1]), ("class 0", [0, ~0])):
        truth_of = ([boxes[: len(labels)]], [torch.tensor(labels)])
        targets = module.targets(truth(*truth_of), FRAME)
        assert module.counts(targets)[0] == 1
        losses[name] = [float(module.loss(m, targets, module.counts(targets))["centre"]) for m in (maps, loud)]
    assert losses["class 1"][1] == pytest.approx(losses["class 1"][0], abs=1e-3)
    assert losses["class 0"][1] > losses["class 0"][0] + 10 and losses["no region"][1] > losses["no region"][0] + 10
    only = module.targets(truth([other], [torch.tensor([~0])]), FRAME)
    assert only["objects"].tolist() == [0] and only["weight"].sum() == 0 and 0 < only["heat"].max() < 1


def test_a_loss_is_divided_by_the_counts_it_is_given():
    module = head()
    maps, targets = module(features()), module.targets(truth([BOXES, BOXES[:1]], [LABELS, LABELS[:1]]), FRAME)
    once = module.loss(maps, targets, torch.tensor([2.0, 3.0]))
    halved = module.loss(maps, targets, torch.tensor([4.0, 6.0]))
    assert all(torch.allclose(once[key], 2 * halved[key]) for key in once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_loss_is_of_full_precision_and_never_narrowed(dtype):
    module = head()
    maps, targets = module(features()), module.targets(truth([BOXES] * 2, [LABELS] * 2), FRAME)
    terms = module.loss({k: m.to(dtype) for k, m in maps.items()}, targets, module.counts(targets))
    assert terms["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_truth_has_a_smaller_loss_than_a_shifted_one():
    module = head()
    good = loss_of(module, maps_of(BOXES, LABELS), [BOXES], [LABELS])["loss"]
    bad = loss_of(module, maps_of(BOXES + 6, LABELS), [BOXES], [LABELS])["loss"]
    assert good < 0.5 * bad


@pytest.mark.parametrize(("norm", "act"), [("batch", "relu"), ("batch", "silu"), ("group", "gelu"), ("none", "elu")])
def test_a_head_learns_with_every_norm_and_activation(norm, act):
    module = head(norm=norm, act=act)
    inputs, boxes, labels = features(), [BOXES, BOXES[:1]], [LABELS, LABELS[:1]]
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(module, module(inputs), boxes, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.92 * losses[0]


def test_average_precision_of_a_perfect_and_of_a_half_right_answer():
    true = np.array([[10, 10, 30, 30], [40, 10, 60, 30]], np.float32)
    perfect = np.array([[10, 10, 30, 30, 0.9, 0], [40, 10, 60, 30, 0.8, 1], [0, 0, 0, 0, 0, 0]], np.float32)
    metric = DetectMetric(["a", "b", "never"])
    update(metric, perfect, true, np.array([0, 1]))
    result = metric.compute()
    assert result["ap50"] == pytest.approx(1.0) and result["map"] == pytest.approx(1.0)
    assert set(result["per_class"]) == {"a", "b"}
    assert result["per_class"]["a"]["count"] == 1 and len(result["per_class"]["a"]["precision"]) == 101

    wrong_class = perfect.copy()
    wrong_class[1, 5] = 2
    metric = DetectMetric(["a", "b", "never"])
    update(metric, wrong_class, true, np.array([0, 1]))
    result = metric.compute()
    assert result["ap50"] == pytest.approx(0.5)
    assert result["per_class"]["b"]["ap50"] == 0.0


def test_what_lies_in_an_ignored_region_counts_neither_way():
    """By half of its own area, as often as it likes, and of the region's class alone."""
    boxes = torch.tensor([[50.0, 50, 60, 60, 0.9, 0], [55.0, 55, 65, 70, 0.8, 0], [0.0, 0, 10, 10, 0.7, 0]])
    true = torch.tensor([[0.0, 0, 10, 10], [40.0, 40, 90, 90]])
    for label, expected in ((~0, 1.0), (~1, 1 / 3)):
        metric = DetectMetric(["a", "b"])
        update(metric, boxes, true, torch.tensor([0, label]))
        result = metric.compute()
        assert result["ap50"] == pytest.approx(expected) and result["per_class"].keys() == {"a"}
        assert result["per_class"]["a"]["count"] == 1


def test_average_precision_without_any_answer_is_zero():
    metric = DetectMetric(["a"])
    update(metric, np.zeros((5, 6), np.float32), np.array([[1, 1, 9, 9]], np.float32), np.array([0]))
    assert metric.compute()["ap50"] == 0.0


def noisy_pictures(count=6):
    draw = np.random.default_rng(0)
    pictures = []
    for index in range(count):
        truth = draw.uniform(0, 50, (index % 3, 4)).astype(np.float32)
        truth[:, 2:] = truth[:, :2] + 10
        labels = draw.integers(0, 2, len(truth))
        found = np.zeros((5, 6), np.float32)
        found[: len(truth), :4] = truth + draw.normal(0, 1.5, truth.shape)
        found[: len(truth) + 1, 4] = draw.uniform(0.1, 1, len(truth) + 1)
        found[: len(truth), 5] = labels
        pictures.append((found, truth, labels))
    return pictures


def test_records_of_other_devices_give_the_figures_of_one():
    whole, *shares = (DetectMetric(["a", "b"]) for _ in range(3))
    for number, picture in enumerate(noisy_pictures()):
        update(whole, *picture)
        update(shares[number % 2], *picture)
    merged = DetectMetric(["a", "b"])
    merged.extend(pickle.loads(pickle.dumps(shares[0].records)))
    merged.extend(shares[1].records)
    assert 0 < whole.compute()["ap50"] < 1 and merged.compute() == whole.compute()


def test_a_record_keeps_the_order_of_calls_and_no_empty_slot():
    metric = DetectMetric(["a", "b"])
    pictures = noisy_pictures()
    for picture in pictures:
        update(metric, *picture)
    assert len(metric.records) == len(pictures)
    for record, (found, truth, labels) in zip(metric.records, pictures, strict=True):
        assert np.array_equal(record.boxes, found[found[:, 4] > 0]) and record.boxes.dtype == np.float32
        assert np.array_equal(record.target_boxes, truth) and record.target_boxes.dtype == np.float32
        assert np.array_equal(record.target_labels, labels) and record.target_labels.dtype == np.int64
    pictures[1][1][:] = -1
    assert (metric.records[1].target_boxes >= 0).all()


def test_a_record_of_tensors_is_plain_arrays():
    metric = DetectMetric(["a", "b"])
    update(metric, torch.zeros(5, 6), BOXES, LABELS)
    assert isinstance(metric.records[0].boxes, np.ndarray) and metric.records[0].boxes.shape == (0, 6)


def test_figures_without_a_picture_and_without_truth_are_zero():
    metric = DetectMetric(["a"])
    assert metric.compute() == {"ap50": 0, "map": 0, "per_class": {}, "per_size": {}}
    update(metric, np.array([[1, 1, 9, 9, 0.5, 0]], np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert metric.compute() == {"ap50": 0, "map": 0, "per_class": {}, "per_size": {}}


def test_the_head_names_what_its_metric_computes():
    found = DetectMetric(["a"]).compute()
    assert all(name in found for name in DetectHead.metrics) and DetectHead.criterion[0] in DetectHead.metrics


def test_average_precision_of_each_size_is_of_its_boxes_alone():
    true = np.array([[10, 10, 30, 30], [100, 10, 160, 70], [200, 10, 320, 130]], np.float32)  # 20², 60², 120²
    answer = np.c_[true, [0.9, 0.8, 0.7], [0, 0, 0]].astype(np.float32)
    answer[1, :2] += 14  # an IoU of 0.59: found at two of ten overlaps
    metric = DetectMetric(["a", "b"])
    update(metric, answer, true, np.zeros(3, np.int64))
    sizes = metric.compute()["per_size"]
    assert sizes == pytest.approx({"small": 1.0, "medium": 0.2, "large": 1.0}, abs=1e-6)
    metric = DetectMetric(["a", "b"])
    update(metric, answer[:1], true[:1], np.zeros(1, np.int64))
    assert metric.compute()["per_size"] == pytest.approx({"small": 1.0})  # no other size was there
