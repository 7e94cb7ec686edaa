"""Answers are compared slot by slot after matching; what is really another box is found."""

import numpy as np
import pytest

from export.errors import ExportError
from export.verify import BOX_LIMIT_PX, SCORE_LIMIT, compare_boxes


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
    assert (parity.pairs, parity.scores, parity.boxes_px, parity.holds) == (1, 0.0, 0.0, True)


def test_ties_may_change_places(answer):
    swapped = answer.copy()
    swapped[0, [2, 3]] = swapped[0, [3, 2]]
    assert compare_boxes(answer, swapped).boxes_px == 0


def test_small_differences_are_measured(answer):
    other = answer.copy()
    other[0, 1, 4] += 5e-5
    other[0, 4, 2] -= 0.05
    parity = compare_boxes(answer, other)
    assert parity.scores == pytest.approx(5e-5, rel=0.01)
    assert parity.boxes_px == pytest.approx(0.05, rel=0.01)
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
    assert compare_boxes(answer, other).scores == pytest.approx(0.9)


def test_box_found_twice(answer):
    other = answer.copy()
    other[0, 3, :4] = other[0, 2, :4]
    assert not compare_boxes(answer, other).holds


def test_two_boxes_in_one_place(answer):
    """Neighbouring peaks can give the same box with different scores."""
    answer[0, 1] = (*answer[0, 0, :4], 0.6, 0)
    assert compare_boxes(answer, answer.copy()).scores == 0


def test_slots_level_with_the_last_one_kept_are_interchangeable(answer):
    answer[0, 6:, 4] = 0.05
    other = answer.copy()
    other[0, 7, :4] += 100
    assert compare_boxes(answer, other).holds
    other[0, 5, :4] += 100  # this one is clear of the last
    assert not compare_boxes(answer, other).holds


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(answer, value):
    other = answer.copy()
    other[0, 2, 1] = value
    with pytest.raises(ExportError, match="NaN or infinite"):
        compare_boxes(answer, other)


def test_other_shape(answer):
    with pytest.raises(ExportError, match="PyTorch answered"):
        compare_boxes(answer, answer[:, :5])
