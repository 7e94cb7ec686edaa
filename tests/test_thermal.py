import numpy as np
import pytest

from data.errors import DataError
from data.thermal import DTYPES, Planck, ThermalSpec, counts_to_celsius


@pytest.mark.parametrize(
    ("unit", "min_span", "invalid", "fixed"),
    [("intensity8", 16, 0, None), ("counts16", 100, 0, None), ("celsius", 4, -1000, (-20.0, 60.0))],
)
def test_defaults_follow_the_unit(unit, min_span, invalid, fixed):
    spec = ThermalSpec(unit=unit)
    assert (spec.min_span, spec.invalid, spec.range) == (min_span, invalid, fixed)
    assert spec.dtype == np.dtype(DTYPES[unit])


@pytest.mark.parametrize("unit", DTYPES)
def test_json_round_trip(unit):
    spec = ThermalSpec(unit=unit, polarity="black-hot", marked=True)
    assert ThermalSpec.model_validate_json(spec.model_dump_json()) == spec


def test_celsius_without_a_fixed_range_stays_without_one():
    spec = ThermalSpec(unit="celsius", range=None)
    assert spec.range is None
    assert ThermalSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_range_narrower_than_min_span_is_refused():
    with pytest.raises(ValueError, match="narrower than min_span"):
        ThermalSpec(unit="counts16", range=(20000, 20050))


@pytest.mark.parametrize(
    ("image", "found"),
    [(np.zeros((4, 4), np.uint8), "uint8"), (np.zeros((4, 4, 3), np.uint16), "uint16 with 3 channels")],
)
def test_require_names_file_found_and_expected(image, found):
    with pytest.raises(DataError, match=rf"^a\.png: thermal is {found}, but unit 'counts16' means one channel"):
        ThermalSpec(unit="counts16").require(image, "a.png")


@pytest.mark.parametrize("invalid", [-1, 256, 0.5, float("nan"), float("inf")])
def test_no_value_of_the_dtype_can_be_invalid_in_vain(invalid):
    with pytest.raises(ValueError, match=r"no value that uint8 pixels can have|finite number"):
        ThermalSpec(unit="intensity8", invalid=invalid)


def test_separate_keeps_valid_pixels_off_the_invalid_value():
    zero, top = ThermalSpec(unit="counts16"), ThermalSpec(unit="counts16", invalid=65535)
    image = np.array([[0, 7, 65535]], np.uint16)
    assert zero.separate(image).tolist() == [[1, 7, 65535]]
    assert top.separate(image).tolist() == [[0, 7, 65534]]
    assert ThermalSpec(unit="counts16", marked=True).separate(image) is image


def test_dead_pixels_are_marked_ones_and_non_finite_ones():
    image = np.array([[0, 7]], np.uint16)
    assert ThermalSpec(unit="counts16").dead(image) is None
    assert ThermalSpec(unit="counts16", marked=True).dead(image).tolist() == [[True, False]]
    celsius = np.array([[np.nan, np.inf, -1000, 20]], np.float32)
    assert ThermalSpec(unit="celsius").dead(celsius).tolist() == [[True, True, True, False]]


def test_planck_inverts_the_radiometric_curve():
    planck = Planck(r1=14906.216, r2=0.010956882, b=1396.5, f=1.0, o=-7261.0, emissivity=0.9, reflected_celsius=20.0)
    kelvin = np.array([273.15, 293.15, 310.15])

    def counts(t):
        return planck.r1 / (planck.r2 * (np.exp(planck.b / t) - planck.f)) - planck.o

    measured = planck.emissivity * counts(kelvin) + (1 - planck.emissivity) * counts(293.15)
    celsius = counts_to_celsius(np.rint(measured).astype(np.uint16)[None], planck)
    assert celsius.dtype == np.float32
    np.testing.assert_allclose(celsius[0], kelvin - 273.15, atol=0.05)


def test_counts_outside_the_curve_are_not_a_number():
    planck = Planck(r1=14906.216, r2=0.010956882, b=1396.5, f=1.0, o=-7261.0)
    assert np.isnan(counts_to_celsius(np.zeros((1, 1), np.uint16), planck)).all()


THERMIMAGE = Planck(r1=21106.77, b=1501, f=1, o=-7340, r2=0.012545258, emissivity=0.95, distance_m=1)
"""Constants of the camera in the examples that the R package Thermimage publishes, version 4.1."""


def test_planck_agrees_with_published_figures():
    """README of Thermimage: templookup of three counts, temp2raw(23) and raw2temp behind a window."""
    seen = counts_to_celsius(np.array([17172, 18273, 24932], np.uint16), THERMIMAGE)
    np.testing.assert_allclose(seen, [18.30964, 24.77935, 57.07821], atol=2e-5)
    assert THERMIMAGE.counts(23) == pytest.approx(17994.06, abs=0.005)
    window = THERMIMAGE.model_copy(update={"window_transmission": 0.96})
    assert counts_to_celsius(np.array(17994.06), window) == pytest.approx(23.31223, abs=1e-5)
    heron = counts_to_celsius(np.array([18090, 18074, 18064, 18061, 18081], np.uint16), THERMIMAGE)
    np.testing.assert_array_equal(np.round(heron, 1), np.float32([23.7, 23.6, 23.6, 23.6, 23.7]))


@pytest.mark.parametrize(
    ("given", "raw", "celsius"),
    [
        ({"stored": "decikelvin"}, np.uint16([2732, 2982, 3532]), [0.05, 25.05, 80.05]),
        ({"stored": "centikelvin"}, np.uint16([27315, 29820]), [0, 25.05]),
        ({"scale": 0.04, "offset": -273.15}, np.uint16([6828, 7500]), [-0.03, 26.85]),
        ({"stored": "linear", "scale": 0.1}, np.int16([-55, 250]), [-5.5, 25]),
        ({"scale": 1.0, "offset": -273.15}, np.float32([300, 0]), [26.85, -1000]),
        ({"stored": "decikelvin"}, np.uint16([0, 3000]), [-1000, 26.85]),
        ({}, np.float64([12.5, -3]), [12.5, -3]),
        ({"planck": THERMIMAGE}, np.uint16([18273]), [24.77935]),
    ],
)
def test_what_is_stored_becomes_celsius(given, raw, celsius):
    spec = ThermalSpec(unit="celsius", **given)
    assert ThermalSpec.model_validate_json(spec.model_dump_json()) == spec
    image = spec.convert(raw[None], "a.png")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], celsius, atol=5e-3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"unit": "counts16", "stored": "decikelvin"}, "stored: decikelvin becomes degrees, so unit must be celsius"),
        ({"unit": "intensity8", "stored": "radiometric"}, "unit must be celsius or counts16"),
        ({"unit": "celsius", "stored": "planck"}, "needs planck"),
        ({"unit": "celsius", "stored": "linear"}, "scale .* go together"),
        ({"unit": "celsius", "offset": 1.0}, "go together"),
        ({"unit": "celsius", "stored": "decikelvin", "scale": 2.0}, "go together"),
        ({"unit": "counts16", "blank": [[5, 5, 5, 9]]}, "is empty"),
        ({"unit": "counts16", "stored": "kelvin"}, "decikelvin"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        ThermalSpec(**given)


def test_other_numbers_than_the_spec_converts_are_refused():
    with pytest.raises(DataError, match=r"^a\.png: thermal is float32 .* stored: planck means one channel"):
        ThermalSpec(unit="celsius", planck=THERMIMAGE).convert(np.zeros((2, 2), np.float32), "a.png")
    with pytest.raises(DataError, match=r"^a\.png: thermal is uint16, but unit 'celsius'"):
        ThermalSpec(unit="celsius").convert(np.zeros((2, 2), np.uint16), "a.png")


def test_blank_parts_become_invalid_and_no_valid_pixel_does():
    spec = ThermalSpec(unit="intensity8", blank=[(0, 0, 2, 1), (1, 2, 9, 3)])
    frame = np.uint8([[5, 6, 7], [0, 1, 2], [3, 4, 5]])
    image = spec.convert(frame, "a.png")
    assert image.tolist() == [[0, 0, 7], [1, 1, 2], [3, 0, 0]] and frame[0, 0] == 5
    assert spec.dead(image).sum() == 4 and spec.separate(image) is image
    with pytest.raises(DataError, match=r"blank \[1, 2, 9, 3\] lies outside the frame of 3×2"):
        spec.convert(frame[:2], "a.png")
