"""AP50 of drawn pictures: equal to COCO's, and intervals that mean what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.bootstrap import compare, paired_difference
from fusion.box_precision import BoxPrecision
from fusion.detect import DetectMetric
from fusion.errors import FusionError
from fusion.records import BoxRecord, load, save


def coco(records: list[BoxRecord], classes: int) -> float:
    metric = DetectMetric([str(k) for k in range(classes)])
    for record in records:
        metric.update({"boxes": record.boxes}, {"boxes": record.target_boxes, "labels": record.target_labels})
    value = metric.compute()["ap50"]
    assert isinstance(value, float)
    return value


def draw_record(
    rng: np.random.Generator, classes: int, truths: int, found: int, levels: int = 0, hit: float = 0.7, crowd: float = 0
) -> BoxRecord:
    """True boxes, a share of them to be ignored; found boxes near some of them and elsewhere; scores of few levels."""
    corner = rng.uniform(0, 60, (truths, 2))
    true = np.concatenate([corner, corner + rng.uniform(4, 30, (truths, 2))], 1)
    labels = rng.integers(classes, size=truths)
    corner = rng.uniform(0, 60, (found, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (found, 2))], 1)
    kinds = rng.integers(classes, size=found)
    if truths:
        near = rng.random(found) < hit
        which = rng.integers(truths, size=found)
        boxes[near] = (true[which] + rng.normal(0, 2, (found, 4)))[near]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        kinds[near] = labels[which][near]
    scores = rng.integers(1, levels + 1, found) / levels if levels else rng.uniform(0.01, 1, found)
    rows = np.concatenate([boxes, scores[:, None], kinds[:, None]], 1)
    labels = np.where(rng.random(truths) < crowd, ~labels, labels)
    return BoxRecord(rows.astype(np.float32), true.astype(np.float32), labels.astype(np.int64))


def draw_records(
    seed: int, pictures: int, classes: int = 1, levels: int = 0, hit: float = 0.7, crowd: float = 0
) -> list[BoxRecord]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 7, pictures), rng.integers(0, 12, pictures)
    return [draw_record(rng, classes, t, f, levels, hit, crowd) for t, f in zip(*sizes, strict=True)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pictures=st.integers(1, 6),
    classes=st.integers(1, 3),
    levels=st.sampled_from([0, 1, 3]),  # 1: all scores are equal
    crowd=st.sampled_from([0, 0.4]),
)
def test_equals_coco(seed: int, pictures: int, classes: int, levels: int, crowd: float) -> None:
    records = draw_records(seed, pictures, classes, levels, crowd=crowd)
    value = BoxPrecision(records, classes + 1).value()  # the last class never occurs
    assert value == pytest.approx(coco(records, classes + 1), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(1, 3), data=st.data())
def test_weights_equal_repeated_pictures(seed: int, classes: int, data: st.DataObject) -> None:
    records = draw_records(seed, 5, classes)
    weights = data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5))
    repeated = [record for record, n in zip(records, weights, strict=True) for _ in range(n)]
    value = BoxPrecision(records, classes).value(weights)
    assert value == pytest.approx(BoxPrecision(repeated, classes).value(), abs=1e-12)
    if repeated:
        assert value == pytest.approx(coco(repeated, classes), abs=1e-9)


def test_more_than_a_hundred_boxes_on_a_picture() -> None:
    rng = np.random.default_rng(0)
    records = [draw_record(rng, 2, 40, 500, levels=7), draw_record(rng, 2, 3, 20)]
    value = BoxPrecision(records, 2).value()
    assert value == pytest.approx(coco(records, 2), abs=1e-9)
    first = records[0].boxes[np.argsort(-records[0].boxes[:, 4], kind="stable")]
    kept = np.concatenate([first[first[:, 5] == k][:100] for k in range(2)])
    trimmed = [BoxRecord(kept, records[0].target_boxes, records[0].target_labels), records[1]]
    assert value == BoxPrecision(trimmed, 2).value()


def test_overlap_at_the_threshold_and_equal_overlaps() -> None:
    true = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    boxes = np.array(
        [[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [0, 0, 10, 10, 0.7, 0], [20, 0, 30, 5, 0.6, 0]], np.float32
    )  # two doubles that both count, a third that does not, an IoU of exactly 0.5
    records = [BoxRecord(boxes, true, np.zeros(3, np.int64))]
    expected = (67 * 1 + 34 * 3 / 4) / 101
    assert BoxPrecision(records, 1).value() == pytest.approx(expected, abs=1e-12)
    assert coco(records, 1) == pytest.approx(expected, abs=1e-9)


def test_nothing_there() -> None:
    empty = BoxRecord(np.empty((0, 6), np.float32), np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert BoxPrecision([empty, empty], 2).value() == 0
    assert BoxPrecision([], 1).value() == 0
    found = draw_record(np.random.default_rng(0), 1, 0, 3)
    assert BoxPrecision([empty, found], 1).value() == 0
    with pytest.raises(FusionError, match="no pictures"):
        paired_difference(BoxPrecision([], 1), BoxPrecision([], 1))


def test_a_better_run_is_surely_better() -> None:
    good = draw_records(3, 60, hit=0.9)
    rng = np.random.default_rng(0)
    worse = [BoxRecord(r.boxes[rng.random(len(r.boxes)) < 0.4], r.target_boxes, r.target_labels) for r in good]
    a, b = BoxPrecision(good, 1), BoxPrecision(worse, 1)
    difference = paired_difference(a, b, draws=300, seed=1)
    assert difference.mean == a.value() - b.value()
    assert 0 < difference.low < difference.mean < difference.high
    assert difference == paired_difference(a, b, draws=300, seed=1)
    assert difference != paired_difference(a, b, draws=300, seed=2)
    back = paired_difference(b, a, draws=300, seed=1)
    assert back.low == pytest.approx(-difference.high)
    assert paired_difference(a, BoxPrecision(good, 1), draws=20).se == 0  # paired: the same answers differ nowhere


def test_standard_error_is_that_of_new_pictures() -> None:
    """The bootstrap's spread against the spread over many sets of pictures drawn anew."""
    fresh = [BoxPrecision(draw_records(seed, 40), 1).value() for seed in range(100, 160)]
    low, high = [], []
    for seed in range(5):
        run = BoxPrecision(draw_records(seed, 40), 1)
        estimate = compare({"only": [run]}, draws=200)["only"]
        low.append(estimate.low), high.append(estimate.high)
    width = np.subtract(high, low).mean()
    assert 0.7 < width / (2 * 1.96 * np.std(fresh, ddof=1)) < 1.3


def test_compare_draws_seeds_and_pictures() -> None:
    records = draw_records(0, 20, hit=0.9)
    exact = [BoxRecord(np.c_[r.target_boxes, np.ones(len(r.target_boxes)), r.target_labels].astype(np.float32),
                    r.target_boxes, r.target_labels) for r in records]  # fmt: skip
    none = [BoxRecord(r.boxes[:0], r.target_boxes, r.target_labels) for r in records]
    perfect, blind = BoxPrecision(exact, 1), BoxPrecision(none, 1)
    estimates = compare({"mixed": [perfect, blind, blind], "perfect": [perfect] * 3}, draws=1000)
    mixed = estimates["mixed"]
    assert mixed.per_seed == (1, 0, 0) and mixed.mean == pytest.approx(1 / 3) and mixed.difference is None
    assert (mixed.low, mixed.high) == (0, 1)  # only the seeds differ
    difference = estimates["perfect"].difference
    assert difference is not None
    assert difference.mean == pytest.approx(2 / 3) and (difference.low, difference.high) == (0, 1)
    # The standard error of the mean of three values with variance 1/3, unbiased.
    assert difference.se == pytest.approx(1 / 3, rel=0.1)
    assert estimates["perfect"].low == estimates["perfect"].high == 1


def test_compare_pairs_seed_with_seed() -> None:
    runs = [BoxPrecision(draw_records(0, 20, hit=0.9), 1)]
    truths = draw_records(0, 20, hit=0.9)
    rng = np.random.default_rng(0)
    for share in (0.3, 0.6):
        kept = [BoxRecord(r.boxes[rng.random(len(r.boxes)) < share], r.target_boxes, r.target_labels) for r in truths]
        runs.append(BoxPrecision(kept, 1))
    both = compare({"a": runs, "b": list(runs)}, draws=50)
    assert both["b"].difference is not None and both["b"].difference.se == 0
    assert both["a"].high > both["a"].low


def test_runs_that_cannot_be_paired() -> None:
    a, b = BoxPrecision(draw_records(0, 5), 1), BoxPrecision(draw_records(1, 5), 1)
    with pytest.raises(FusionError, match=r"different pictures \(5 with"):
        paired_difference(a, b)
    with pytest.raises(FusionError, match=r"\{'x': 2, 'y': 1\}"):
        compare({"x": [a, a], "y": [a]})


def test_records_are_written_and_read(tmp_path: Path) -> None:
    for records in (draw_records(0, 7, classes=2), []):
        save(tmp_path / "records.npz", records)
        back = load(tmp_path / "records.npz")
        assert len(back) == len(records)
        for was, now in zip(records, back, strict=True):
            for name in ("boxes", "target_boxes", "target_labels"):
                before, after = getattr(was, name), getattr(now, name)
                assert before.dtype == after.dtype and np.array_equal(before, after) and before.shape == after.shape
    assert [path.name for path in tmp_path.iterdir()] == ["records.npz"]
    for text in (b"", b"no archive"):
        (tmp_path / "records.npz").write_bytes(text)
        with pytest.raises(FusionError, match=r"records\.npz: no records"):
            load(tmp_path / "records.npz")
    np.savez(tmp_path / "records.npz", something=np.zeros(3))
    with pytest.raises(FusionError, match=r"records\.npz: no records of a validation: it holds something else"):
        load(tmp_path / "records.npz")
    np.savez(tmp_path / "records.npz", boxes=np.zeros((3, 6)))
    with pytest.raises(FusionError, match=r"no records of a validation: 'box_counts'; run the evaluation again"):
        load(tmp_path / "records.npz")
    with pytest.raises(FusionError, match=r"gone\.npz"):
        load(tmp_path / "gone.npz")


def test_needs_no_torch() -> None:
    code = "import sys, fusion.bootstrap; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
