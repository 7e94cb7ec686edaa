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
