"""Answers are compared slot by slot after matching; what is really another box is found."""

import numpy as np
import pytest

from export.errors import ExportError
from export.verify import BOX_LIMIT_PX, LIMITS, SCORE_LIMIT, compare


def compare_boxes(expected, found):
    return compare({"boxes": expected}, {"boxes": found})


@pytest.fixture
def answer():
    """Six boxes and two empty slots."""
    boxes = np.zeros((1, 8, 6), np.float32)
    boxes[0, :6, :4] = np.arange(6)[:, None] * 20 + (0, 0, 10, 15)
    boxes[0, :6, 4] = (0.9, 0.8, 0.5, 0.5, 0.3, 0.1)
    boxes[0, :6, 5] = (0, 1, 0, 0, 1, 0)
    return boxes


def test_equal(answer):
    parity = compare_boxes(answer, answer.copy())
    assert (
        parity.as_dict() == {"pairs": 1, "scores_max_abs": 0.0, "boxes_max_abs_px": 0.0, "agreement": 1.0}
        and parity.holds
    )


def test_ties_may_change_places(answer):
    swapped = answer.copy()
    swapped[0, [2, 3]] = swapped[0, [3, 2]]
    assert compare_boxes(answer, swapped).figures["boxes_max_abs_px"] == 0


def test_small_differences_are_measured(answer):
    other = answer.copy()
    other[0, 1, 4] += 5e-5
    other[0, 4, 2] -= 0.05
    parity = compare_boxes(answer, other)
    assert parity.figures["scores_max_abs"] == pytest.approx(5e-5, rel=0.01)
    assert parity.figures["boxes_max_abs_px"] == pytest.approx(0.05, rel=0.01)
    assert parity.holds


@pytest.mark.parametrize("slot", range(6))
def test_each_box_counts(answer, slot):
    moved, weaker, gone = answer.copy(), answer.copy(), answer.copy()
    moved[0, slot, 0] += 2 * BOX_LIMIT_PX
    weaker[0, slot, 4] -= 2 * SCORE_LIMIT
    gone[0, slot] = 0
    for other in (moved, weaker, gone):
        assert not compare_boxes(answer, other).holds
        assert not compare_boxes(other, answer).holds


def test_class_counts(answer):
    other = answer.copy()
    other[0, 0, 5] = 1
    assert compare_boxes(answer, other).figures["scores_max_abs"] == pytest.approx(0.9)


def test_box_found_twice(answer):
    other = answer.copy()
    other[0, 3, :4] = other[0, 2, :4]
    assert not compare_boxes(answer, other).holds


def test_two_boxes_in_one_place(answer):
    """Neighbouring peaks can give the same box with different scores."""
    answer[0, 1] = (*answer[0, 0, :4], 0.6, 0)
    assert compare_boxes(answer, answer.copy()).figures["scores_max_abs"] == 0


def test_slots_level_with_the_last_one_kept_are_interchangeable(answer):
    answer[0, 6:, 4] = 0.05
    other = answer.copy()
    other[0, 7, :4] += 100
    assert compare_boxes(answer, other).holds
    other[0, 5, :4] += 100  # this one is clear of the last
    assert not compare_boxes(answer, other).holds


@pytest.mark.parametrize(("flips", "score", "holds"), [(2, 0.2, True), (3, 0.2, False), (1, 0.35, False)])
@pytest.mark.parametrize("engine_has_them", [True, False])
def test_a_few_unsure_peaks_may_flip_by_rounding(flips, score, holds, engine_has_them):
    boxes = np.zeros((1, 100, 6), np.float32)
    boxes[0, :60, :2] = 20 * np.arange(60)[:, None]
    boxes[0, :60, 2:4] = boxes[0, :60, :2] + 10
    boxes[0, :60, 4] = np.linspace(0.9, 0.4, 60)
    more = boxes.copy()
    more[0, 60 : 60 + flips] = [[5000 + 300 * i, 5, 5010 + 300 * i, 15, score - 0.01 * i, 0] for i in range(flips)]
    sides = (boxes, more) if engine_has_them else (more, boxes)
    parity = compare({"boxes": sides[0]}, {"boxes": sides[1]})
    assert parity.holds is holds
    assert parity.figures["boxes_max_abs_px"] == 0 or not holds


@pytest.mark.parametrize(
    ("slot", "moved", "pixels"),
    [(0, 3, 3), (4, 2, 2), (0, 130, 0), (5, 130, 0), (6, 130, 0)],
    ids=["sure", "at the threshold", "no longer the same", "unsure", "empty"],
)
def test_below_fp32_pixels_are_those_of_sure_boxes_that_agree(answer, slot, moved, pixels):
    other = answer.copy()
    other[0, slot, 0] -= moved
    parity = compare({"boxes": answer}, {"boxes": other}, "int8")
    assert parity.figures["boxes_max_abs_px"] == pixels
    assert parity.figures["agreement"] == pytest.approx(0.8 if moved == 130 and slot == 0 else 1)
    assert compare_boxes(answer, other).holds is (slot == 6)


def test_below_fp32_nothing_that_agrees_is_no_distance(answer):
    parity = compare({"boxes": answer}, {"boxes": np.zeros_like(answer)}, "fp16")
    assert (parity.figures["boxes_max_abs_px"], parity.figures["agreement"]) == (0, 0)
    assert parity.figures["scores_max_abs"] == pytest.approx(0.9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(answer, value):
    other = answer.copy()
    other[0, 2, 1] = value
    with pytest.raises(ExportError, match="NaN or infinite"):
        compare_boxes(answer, other)


def test_other_shape(answer):
    with pytest.raises(ExportError, match="PyTorch answered"):
        compare_boxes(answer, answer[:, :5])


def maps(differing=0, shift=0.0):
    """Two pairs of 40×50; ``differing`` pixels of the second are of another class."""
    class_map, confidence = np.zeros((2, 40, 50), np.uint8), np.full((2, 40, 50), 0.5, np.float32)
    class_map[1].reshape(-1)[:differing] = 2
    return {"class_map": class_map, "confidence": confidence + np.float32(shift)}


@pytest.mark.parametrize(
    ("differing", "shift", "holds"), [(0, 0, True), (2, 5e-5, True), (3, 0, False), (0, 2e-4, False)]
)
def test_class_maps_agree_in_all_but_a_thousandth_of_the_pixels_of_each_pair(differing, shift, holds):
    parity = compare(maps(), maps(differing, shift))
    assert parity.figures["class_map_differs"] == pytest.approx(differing / 2000)
    assert parity.figures["confidence_max_abs"] == pytest.approx(shift, rel=0.01)
    assert parity.holds is holds
    assert parity.limits == {name: LIMITS[name] for name in ("class_map_differs", "confidence_max_abs")}


@pytest.mark.parametrize(("shift", "holds"), [(0, True), (9e-5, True), (2e-4, False)])
def test_probabilities_agree_within_a_ten_thousandth(shift, holds):
    expected = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    found = expected + np.array([[0, 0, 0], [shift, 0, -shift]], np.float32)
    parity = compare({"probabilities": expected}, {"probabilities": found})
    assert parity.holds is holds
    assert ("probabilities differ by at most" in str(parity)) and parity.pairs == 2


def test_an_output_without_a_rule_is_never_taken_for_the_same():
    with pytest.raises(ExportError, match="no rule says when two answers 'depth' are the same"):
        compare({"depth": np.zeros((1, 2))}, {"depth": np.zeros((1, 2))})
