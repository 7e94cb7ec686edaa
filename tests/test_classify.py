"""The classify head: what it pools, its loss, and what its metric counts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusion.classify import ClassifyHead, ClassifyMetric
from fusion.normalise import Letterbox

CHANNELS, STRIDES = [8, 8, 16, 16], (4, 8, 16, 32)
FRAME = Letterbox((64, 96), (64, 96))


def head(classes=3, **changes):
    torch.manual_seed(0)
    return ClassifyHead(CHANNELS, STRIDES, classes, width=16, **changes)


def features(count=4):
    return [torch.randn(count, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def loss_of(module, scores, label):
    targets = module.targets({"label": label}, FRAME)
    return module.loss({"scores": scores}, targets, module.counts(targets))["loss"]


def test_probabilities_sum_to_one():
    answer = head().decode(head()(features()), FRAME)["probabilities"]
    assert answer.shape == (4, 3) and torch.allclose(answer.sum(1), torch.ones(4)) and (answer > 0).all()


def test_where_something_is_does_not_matter_and_every_scale_does():
    module, found = head().eval(), features()
    rolled = [f.roll((1, 2), (2, 3)) for f in found]
    whole = module(found)["scores"]
    assert torch.allclose(module(rolled)["scores"], whole, atol=1e-5)
    for scale in range(4):
        changed = [f + 1.0 if at == scale else f for at, f in enumerate(found)]
        assert not torch.allclose(module(changed)["scores"], whole, atol=1e-3)


def test_the_loss_is_cross_entropy_over_labelled_pictures():
    scores, label = torch.randn(4, 3), torch.tensor([0, 2, -1, 1])
    expected = F.cross_entropy(scores[label >= 0], label[label >= 0])
    assert loss_of(head(), scores, label).item() == pytest.approx(expected.item(), rel=1e-6)


def update(metric, probabilities, label):
    metric.update({"probabilities": probabilities}, {"label": label})


def test_figures_by_hand():
    metric = ClassifyMetric(["a", "b", "c", "never"])
    answers = [(0, 0), (0, 0), (1, 0), (1, 1), (2, 1), (2, -1)]
    for answer, label in answers:
        update(metric, np.eye(4, dtype=np.float32)[answer], np.int64(label))
    found = metric.compute()
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["confusion"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert set(found["per_class"]) == {"a", "b", "c"}
    assert found["per_class"]["a"] == pytest.approx({"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "count": 3})
    assert found["per_class"]["b"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "count": 2})
    assert found["per_class"]["c"] == pytest.approx({"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 0})
    assert found["macro_f1"] == pytest.approx((0.8 + 0.5 + 0) / 3)  # 'never' is neither true nor answered


def test_a_record_is_plain_and_its_own():
    metric, probabilities = ClassifyMetric(["a", "b"]), torch.tensor([0.3, 0.7])
    update(metric, probabilities, torch.tensor(1))
    probabilities.zero_()
    (record,) = metric.records
    assert isinstance(record.probabilities, np.ndarray) and record.probabilities[1] == np.float32(0.7)
    assert type(record.label) is int and record.label == 1
    assert metric.compute()["accuracy"] == 1
