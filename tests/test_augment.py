import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.augment.augmenter import Augmenter
from data.augment.spec import AugmentSpec
from data.prepare import RGB_PADDING
from data.thermal import ThermalSpec

STILL = AugmentSpec(
    flip=0, rotate_deg=0, scale=(1, 1), crop=0, rgb_brightness=0, rgb_contrast=0, thermal_gain=0, thermal_offset=0
)
GEOMETRY = AugmentSpec(rgb_brightness=0, rgb_contrast=0, thermal_gain=0, thermal_offset=0)
COUNTS = ThermalSpec(unit="counts16")
NO_BOXES, NO_LABELS = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def change(spec, thermal_spec, rgb, thermal, boxes, labels, seed):
    changed = Augmenter(spec, thermal_spec)(rgb, thermal, seed, boxes=boxes, labels=labels)
    return changed.rgb, changed.thermal, changed.boxes, changed.labels


def blocks(size=(96, 128)):
    """Three bright blocks at the same place in both pictures, and their boxes."""
    boxes = np.array([[20, 30, 44, 54], [70, 20, 90, 64], [60, 70, 100, 86]], np.float32)
    rgb = np.full((*size, 3), 40, np.uint8)
    thermal = np.full(size, 21000, np.uint16)
    for x1, y1, x2, y2 in boxes.astype(int):
        rgb[y1:y2, x1:x2] = 250
        thermal[y1:y2, x1:x2] = 23000
    return rgb, thermal, boxes, np.array([0, 2, 1])


def test_nothing_asked_for_changes_nothing():
    rgb, thermal, boxes, labels = blocks()
    thermal[0, :5] = 0
    changed = change(STILL, COUNTS, rgb, thermal, boxes, labels, seed=3)
    for before, after in zip((rgb, thermal, boxes, labels), changed, strict=True):
        assert before.dtype == after.dtype and np.array_equal(before, after)


def test_the_seed_alone_decides():
    augmenter, pair = Augmenter(AugmentSpec(), COUNTS), blocks()
    other, first = (augmenter(*pair[:2], seed, (True, True), *pair[2:]) for seed in (8, 7))
    other, first = ((one.rgb, one.thermal, one.boxes, one.labels) for one in (other, first))
    again = change(AugmentSpec(), COUNTS, *pair, seed=7)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])
    augmenter(*pair[:2], seed=2**31 - 1)


def test_one_geometry_moves_both_pictures_and_the_boxes():
    for seed in range(20):
        rgb, thermal, boxes, labels = change(GEOMETRY, COUNTS, *blocks(), seed=seed)
        bright, warm = rgb[..., 0] > 180, thermal > 22300
        assert (bright ^ warm).sum() < 0.02 * bright.sum() + 8
        for x1, y1, x2, y2 in boxes:
            inside = np.zeros_like(bright)
            inside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
            assert (inside & bright).sum() > 0.7 * inside.sum(), seed
        assert len(boxes) == len(labels) and boxes.dtype == np.float32 and labels.dtype == np.int64


def test_boxes_fit_tightly_after_a_turn():
    rgb, thermal = np.zeros((96, 128, 3), np.uint8), np.full((96, 128), 21000, np.uint16)
    cv2.ellipse(rgb, (64, 48), (10, 30), 0, 0, 360, (255, 255, 255), -1)
    box = np.array([[54, 18, 75, 79]], np.float32)
    spec = GEOMETRY.model_copy(update={"rotate_deg": 20.0})
    for seed in range(10):
        turned, _, boxes, _ = change(spec, COUNTS, rgb, thermal, box, np.array([0]), seed)
        rows, columns = np.nonzero(turned[..., 0] > 128)
        np.testing.assert_allclose(boxes[0], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=2.5)


def test_labels_stay_with_their_boxes_when_some_leave():
    spec = AugmentSpec(**{**STILL.model_dump(), "crop": 1.0})
    boxes = np.array([[0, 0, 30, 30], [98, 66, 128, 96]], np.float32)
    rgb, thermal, _, _ = blocks()
    left = []
    for seed in range(30):
        _, _, kept, labels = change(spec, COUNTS, rgb, thermal, boxes, np.array([4, 9]), seed)
        assert (kept[:, :2] >= 0).all() and (kept[:, 2] <= 128).all() and (kept[:, 3] <= 96).all()
        areas = (kept[:, 2:] - kept[:, :2]).prod(axis=1)
        assert (areas >= 0.3 * 900 - 1).all()
        left.append(labels.tolist())
    assert {(4,), (9,)} <= {tuple(one) for one in left}, "some lose the one, some the other"


def test_thermal_comes_at_the_size_of_rgb():
    rgb, thermal, boxes, labels = blocks()
    small = cv2.resize(thermal, (64, 48), interpolation=cv2.INTER_AREA)
    changed = change(STILL, COUNTS, rgb, small, boxes, labels, seed=0)[1]
    assert changed.shape == thermal.shape and changed.dtype == np.uint16
    assert np.abs(changed.astype(int) - thermal).mean() < 60


@pytest.mark.parametrize(
    "spec",
    [COUNTS, ThermalSpec(unit="counts16", invalid=65535), ThermalSpec(unit="intensity8"), ThermalSpec(unit="celsius")],
)
def test_invalid_pixels_stay_apart_from_valid_ones(spec):
    level = 30 if spec.unit == "celsius" else 200
    rgb = np.full((96, 128, 3), 90, np.uint8)
    thermal = np.full((48, 64), level, spec.dtype)
    thermal[10:20, 10:20] = spec.invalid
    for seed in range(10):
        moved, changed, _, _ = change(GEOMETRY, spec, rgb, thermal, NO_BOXES, NO_LABELS, seed)
        assert set(np.unique(changed)) == {spec.invalid, level}
        padding = (np.abs(moved[..., 0].astype(int) - RGB_PADDING) < 2).mean()
        assert padding <= (changed == spec.invalid).mean()
    # A quarter of the hole's edge may be eaten, no more: the hole does not grow with every turn.
    assert (changed == spec.invalid).mean() < padding + 0.12


def test_thermal_changes_in_its_own_unit():
    rgb, thermal, boxes, labels = blocks()
    spec = AugmentSpec(**{**STILL.model_dump(), "thermal_gain": 0.2, "thermal_offset": 0.1})
    spans, means = [], []
    for seed in range(40):
        changed = change(spec, COUNTS, rgb, thermal, boxes, labels, seed)[1].astype(float)
        spans.append((changed.max() - changed.min()) / 2000)
        means.append((changed.mean() - thermal.mean()) / 2000)
    assert 0.79 < min(spans) < 0.85 and 1.15 < max(spans) < 1.21
    assert -0.11 < min(means) < -0.05 and 0.05 < max(means) < 0.11


def test_values_at_the_ends_of_the_dtype_neither_wrap_nor_become_invalid():
    rgb = np.zeros((32, 32, 3), np.uint8)
    spec = AugmentSpec(**{**STILL.model_dump(), "thermal_gain": 1.0, "thermal_offset": 1.0})
    ramp = np.linspace(1, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    for seed in range(20):
        changed = change(spec, COUNTS, rgb, ramp, NO_BOXES, NO_LABELS, seed)[1]
        assert changed.min() >= 1
        assert (np.diff(changed.ravel().astype(int)) >= 0).all()


def test_draws_are_independent_of_each_other():
    rgb, thermal, boxes, labels = blocks()
    spec = AugmentSpec(**{**STILL.model_dump(), "rgb_brightness": 0.3, "scale": (0.8, 1.25), "rotate_deg": 1e-6})
    drawn = []
    for seed in range(60):
        changed, _, kept, _ = change(spec, COUNTS, rgb, thermal, boxes, labels, seed)
        drawn.append((changed[48, 64].mean(), kept[0, 2] - kept[0, 0]))
    assert abs(np.corrcoef(np.array(drawn).T)[0, 1]) < 0.35


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"scale is \[1.2, 0.8\]"):
        AugmentSpec(scale=(1.2, 0.8))
    with pytest.raises(ValueError, match="flip"):
        AugmentSpec(flip=1.5)


def test_albumentations_is_imported_only_where_one_of_its_transforms_is_named():
    code = (
        "import sys; from data.augment.augmenter import Augmenter; from data.augment.spec import AugmentSpec; "
        "from data.thermal import ThermalSpec; Augmenter(AugmentSpec(), ThermalSpec(unit='celsius')); "
        "sys.exit('albumentations' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
