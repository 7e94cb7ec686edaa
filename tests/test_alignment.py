"""Estimated shifts against known ones: pictures of one scene whose sensors disagree about what is bright."""

import cv2
import numpy as np
import pytest

from data.alignment import REACH, SURE, WIDTH, Shift, correlation, estimate
from data.check.alignment import side, summarise

SIZE = (240, 320)


def scene(seed, size=SIZE):
    """Overlapping polygons; RGB and thermal give each a level of their own, so that polarity is random."""
    rng = np.random.default_rng(seed)
    height, width = size
    rgb, thermal = np.full((2, height + 100, width + 100), 90, np.uint8)
    for _ in range(60):
        points = (rng.uniform(0, (width + 100, height + 100), 2) + rng.normal(0, 28, (4, 2))).astype(np.int32)
        for view in (rgb, thermal):
            cv2.fillConvexPoly(view, cv2.convexHull(points), int(rng.integers(0, 255)))
    noise = rng.normal(0, 6, (2, height + 100, width + 100))
    return [np.clip(view + grain, 0, 255).astype(np.uint8) for view, grain in zip((rgb, thermal), noise, strict=True)]


def cut(view, dx=0, dy=0, size=SIZE):
    """The middle of a view, whose content lies dx to the right and dy below."""
    return view[50 - dy : 50 - dy + size[0], 50 - dx : 50 - dx + size[1]]


@pytest.mark.parametrize("seed", range(8))
def test_a_known_shift_is_found_within_a_pixel(seed):
    rgb, thermal = scene(seed)
    dx, dy = np.random.default_rng(seed).integers(-25, 26, 2).tolist()
    shift = estimate(cut(rgb), cut(thermal, dx, dy))
    scale = WIDTH / SIZE[1]
    assert shift.sure and shift.confidence <= 1
    assert np.hypot(shift.dx - dx * scale, shift.dy - dy * scale) < 1


def test_unrelated_pictures_are_not_sure():
    confidences = [estimate(cut(scene(seed)[0]), cut(scene(seed + 100)[1])).confidence for seed in range(24)]
    assert sum(one >= SURE for one in confidences) <= 1
    assert np.median(confidences) < 0.1


def test_units_sizes_and_colour_do_not_matter():
    rgb, thermal = scene(3)
    colour = np.repeat(cut(rgb)[:, :, None], 3, axis=2)
    counts = cut(thermal, 6, -4).astype(np.uint16) * 40 + 20000
    celsius = cv2.resize(cut(thermal, 6, -4), (160, 120), interpolation=cv2.INTER_AREA).astype(np.float32) / 4
    celsius[:4] = np.nan
    for pair in ((colour, counts), (cut(rgb), celsius)):
        shift = estimate(*pair)
        assert shift.sure and abs(shift.dx - 12) < 1.5 and abs(shift.dy + 8) < 1.5


def test_invalid_pixels_and_warp_borders_are_no_edges():
    rgb, thermal = scene(5)
    lying = cut(thermal).copy()
    hidden = np.zeros(SIZE, bool)
    hidden[:, :70] = True
    lying[hidden] = 0
    for invalid in (hidden, None):
        shift = estimate(cut(rgb), lying, invalid)
        assert shift.sure and shift.size < 1


def test_two_depths_are_told():
    rgb, thermal = scene(7)
    near_rgb, near = scene(8)
    left, right = cut(rgb).copy(), cut(thermal).copy()
    left[:, 160:], right[:, 160:] = cut(near_rgb)[:, 160:], cut(near, 15)[:, 160:]
    shift = estimate(left, right)
    found = sorted([(shift.dx, shift.dy), shift.other])
    assert np.allclose(found, [(0, 0), (30, 0)], atol=2)


@pytest.mark.parametrize("flat", [np.full(SIZE, 9, np.uint8), np.full(SIZE, np.nan, np.float32)])
def test_a_picture_without_edges_has_no_shift(flat):
    assert estimate(cut(scene(0)[0]), flat) is None
    assert summarise({"a": None}).verdict == "not pixel-aligned"


def test_absurd_shapes_have_no_shift():
    assert estimate(np.zeros((4000, 2), np.uint8), np.zeros((4000, 2), np.uint8)) is None
    assert correlation(np.eye(5, dtype=np.uint8), np.eye(5, dtype=np.uint8)) is not None


def shifts(*places, confidence=0.9):
    return {str(k): Shift(x, y, confidence) for k, (x, y) in enumerate(places)}


def test_the_verdict_on_a_set():
    good = summarise(shifts(*[(0.5, -1)] * 9, (20, 0)))
    assert good.verdict == "aligned" and good.within == 0.9 and good.systematic == (0.5, -1)
    assert [one for one, _ in good.worst()] == ["9"]
    moved = summarise(shifts(*[(4, -26)] * 7, (17, -3)))
    assert moved.verdict == "shifted" and moved.within == 0 and moved.together == 7 / 8
    assert "26 px too far up and 4 px too far right" in moved.text()
    scattered = summarise(shifts((30, 2), (-9, 20), (14, -31), (0, 40), (-25, -25)))
    assert scattered.verdict == "not pixel-aligned" and "do not agree" in scattered.text()
    unsure = summarise(shifts(*[(1, 1)] * 8, confidence=0.2))
    assert unsure.verdict == "not pixel-aligned" and "in none of 8" in unsure.text() and unsure.within is None
    assert len(unsure.worst()) == 8
    few = summarise({**shifts(*[(1, 1)] * 8, confidence=0.2), **{f"s{k}": Shift(1, 0, 1.0) for k in range(4)}})
    assert few.verdict == "aligned" and few.sure == 4 and few.pairs == 12
    assert summarise({}) is None
    assert side(0, 0) == "where it should be"


# Real pairs, where they lie beside the checkout


def pairs(root, rgb, thermal, count):
    names = sorted(path.relative_to(root / rgb) for path in (root / rgb).rglob("*") if path.is_file())
    for name in [names[k] for k in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)]:
        yield cv2.imread(str(root / rgb / name)), cv2.imread(str(root / thermal / name), cv2.IMREAD_GRAYSCALE)


def test_real_pairs(shared_data):
    road = [estimate(*pair) for pair in pairs(shared_data / "roadscene", "visible", "infrared", 20)]
    assert all(shift.sure for shift in road) and sum(shift.size <= 3 for shift in road) >= 18
    weather = [estimate(*pair) for pair in pairs(shared_data / "roadweather", "rgb", "ir", 8)]
    assert not any(shift.sure for shift in weather)
    assert all(abs(shift.dx) <= REACH + 1 and abs(shift.dy) <= REACH + 1 for shift in weather)
