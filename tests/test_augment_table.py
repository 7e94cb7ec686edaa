"""What holds for every transform of the table, whatever it does: each field of the spec, on and alone."""

import numpy as np
import pytest

from data.augment.augmenter import Augmenter
from data.augment.degrade import DEGRADATIONS
from data.augment.spec import AugmentSpec
from data.card_fields import IGNORE
from data.thermal import ThermalSpec

OFF = {"flip": 0, "rotate_deg": 0, "scale": (1, 1), "crop": 0, "rgb_brightness": 0, "rgb_contrast": 0,
       "thermal_gain": 0, "thermal_offset": 0}  # fmt: skip
ALONE = {
    "flip": {"flip": 1},
    "rotate_deg": {"rotate_deg": 20},
    "scale": {"scale": (0.7, 1.4)},
    "crop": {"crop": 0.2},
    "perspective": {"perspective": 0.15},
    "misregistration": {"misregistration": 6},
    "rgb_brightness": {"rgb_brightness": 0.4},
    "rgb_contrast": {"rgb_contrast": 0.4},
    "thermal_gain": {"thermal_gain": 0.4},
    "thermal_offset": {"thermal_offset": 0.4},
    "drop_rgb": {"drop_rgb": 0.5},
    "drop_thermal": {"drop_thermal": 0.5},
    "albumentations": {"albumentations": ({"name": "GaussNoise", "p": 1.0},)},
    **{name: {name: 1} for name in DEGRADATIONS},
}
GEOMETRY = ("flip", "rotate_deg", "scale", "crop", "perspective")
SPECS = [ThermalSpec(unit="intensity8"), ThermalSpec(unit="counts16"), ThermalSpec(unit="celsius"),
         ThermalSpec(unit="counts16", invalid=65535)]  # fmt: skip
SIZE = (96, 128)


def spec_of(name):
    return AugmentSpec(**(OFF | ALONE[name]))


def pair(spec, hole=True):
    """A gradient and three blocks, at the same place in both pictures and in the mask; a hole in thermal."""
    rng = np.random.default_rng(0)
    boxes = np.array([[20, 30, 44, 54], [70, 20, 90, 64], [60, 70, 100, 86]], np.float32)
    rgb = np.repeat(np.linspace(20, 90, SIZE[1])[None, :, None], SIZE[0], 0).repeat(3, 2).astype(np.uint8)
    level = {"intensity8": 60.0, "counts16": 21000.0, "celsius": 15.0}[spec.unit]
    step = {"intensity8": 100.0, "counts16": 900.0, "celsius": 12.0}[spec.unit]
    thermal = level + step / 20 * rng.random(SIZE)
    mask = np.zeros(SIZE, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes.astype(int), 1):
        rgb[y1:y2, x1:x2] = 230
        thermal[y1:y2, x1:x2] = level + step
        mask[y1:y2, x1:x2] = number
    thermal = thermal.astype(spec.dtype)
    if hole:
        thermal[5:15, 100:115] = spec.invalid
    return rgb, thermal, {"boxes": boxes, "labels": np.arange(3), "mask": mask}


def equal(one, other):
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in one.__slots__)


def test_every_field_is_in_the_table():
    assert set(ALONE) | {"strength"} == set(AugmentSpec.model_fields)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.unit}-{spec.invalid:g}")
def test_contract(name, spec):
    rgb, thermal, truth = pair(spec)
    before = rgb.copy(), thermal.copy(), {key: value.copy() for key, value in truth.items()}
    augmenter = Augmenter(spec_of(name), spec)
    answers = [augmenter(rgb, thermal, seed, **truth) for seed in range(6)]
    assert np.array_equal(rgb, before[0]) and np.array_equal(thermal, before[1]), "the input stays"
    assert all(np.array_equal(truth[key], before[2][key]) for key in truth)
    again = Augmenter(spec_of(name), spec)
    for seed in (4, 0, 5):
        assert equal(answers[seed], again(rgb, thermal, seed, **truth)), "the seed alone decides"
    if name != "flip":
        assert not equal(answers[0], answers[1]) or not equal(answers[1], answers[2])
    changed = [not (np.array_equal(a.rgb, rgb) and np.array_equal(a.thermal, thermal)) for a in answers]
    assert any(changed)
    for answer in answers:
        assert answer.rgb.dtype == np.uint8 and answer.rgb.shape == rgb.shape
        assert answer.thermal.dtype == spec.dtype and answer.thermal.shape == thermal.shape
        assert answer.mask.dtype == np.uint8 and set(np.unique(answer.mask)) <= {0, 1, 2, 3, IGNORE}
        assert answer.boxes.dtype == np.float32 and len(answer.boxes) == len(answer.labels)
        assert np.isfinite(answer.thermal).all()
        if name not in (*GEOMETRY, "misregistration", "frozen") and answer.present[1]:
            assert np.array_equal(answer.thermal == spec.invalid, thermal == spec.invalid), (
                "invalid stays, none is added"
            )
        elif answer.present[1]:
            assert (answer.thermal == spec.invalid).any()


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("spec", SPECS[:3], ids=lambda spec: spec.unit)
def test_geometry_is_the_same_for_pictures_boxes_and_mask(name, spec):
    rgb, thermal, truth = pair(spec, hole=False)
    middle = float(thermal.min()) / 2 + float(thermal.max()) / 2
    for seed in range(8):
        answer = Augmenter(spec_of(name), spec)(rgb, thermal, seed, **truth)
        bright, warm = answer.rgb[..., 0] > 145, answer.thermal > middle
        marked = (answer.mask > 0) & (answer.mask != IGNORE)
        valid = answer.thermal != spec.invalid
        assert (bright ^ warm)[valid].sum() < 0.05 * bright.sum() + 8
        assert (bright ^ marked).sum() < 0.05 * bright.sum() + 8
        assert ((answer.mask == IGNORE) & valid).sum() < 0.01 * valid.sum() + 300
        for box, label in zip(answer.boxes, answer.labels, strict=True):
            rows, columns = np.nonzero(answer.mask == label + 1)
            found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(found - box).max() < (8 if name in ("rotate_deg", "perspective") else 1.6), (
                "ellipse, not corners"
            )


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.unit}-{spec.invalid:g}")
def test_degradations(name, spec):
    degradation = DEGRADATIONS[name]
    rgb, thermal, _ = pair(spec)
    small = thermal[::2, ::2].copy()
    same = degradation(rgb, small, np.random.default_rng(1), spec, 0.0)
    assert np.array_equal(same[0], rgb) and np.array_equal(same[1], small), "strength 0 is the identity"
    one, other = (degradation(rgb, small, np.random.default_rng(1), spec) for _ in range(2))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert np.array_equal(one[0], rgb) == (degradation.sensor == "thermal")
    assert np.array_equal(one[1], small) == (degradation.sensor == "rgb")
    assert one[1].dtype == spec.dtype and one[1].shape == small.shape and one[0].dtype == np.uint8
    weak = degradation(rgb, small, np.random.default_rng(1), spec, 0.2)
    changes = [
        sum(np.abs(a.astype(float) - b).mean() for a, b in zip(x, (rgb, small), strict=True)) for x in (weak, one)
    ]
    assert changes[0] <= changes[1], "a weaker one changes less"


def test_degradations_leave_a_frame_without_a_valid_pixel_alone():
    spec = SPECS[1]
    nothing = np.zeros(SIZE, np.uint16)
    for degradation in DEGRADATIONS.values():
        assert not degradation(np.zeros((*SIZE, 3), np.uint8), nothing, np.random.default_rng(0), spec)[1].any()
    answer = Augmenter(AugmentSpec(drop_rgb=0), spec)(np.zeros((*SIZE, 3), np.uint8), nothing, 0)
    assert not answer.thermal.any() and answer.present == (True, True)


def test_what_each_degradation_looks_like():
    spec = ThermalSpec(unit="intensity8")
    rgb, thermal, _ = pair(spec, hole=False)

    def degraded(name, seed=3):
        a, b = DEGRADATIONS[name](rgb, thermal, np.random.default_rng(seed), spec)
        return a.astype(float), b.astype(float)

    assert degraded("night")[0].mean() < 0.35 * rgb.mean()
    assert degraded("glare")[0].max() == 255 and (degraded("glare")[0] >= rgb).all()
    assert degraded("fog")[0].std() < 0.5 * rgb.std() and degraded("fog")[0].mean() > rgb.mean()
    large = rgb.repeat(6, axis=0).repeat(6, axis=1)
    smeared = DEGRADATIONS["motion_blur"](large, thermal, np.random.default_rng(3), spec)[0].astype(int)
    assert np.abs(np.diff(smeared, axis=1)).max() < 100 and abs(smeared.mean() - large.mean()) < 3
    stripes = degraded("column_noise")[1] - thermal
    assert stripes.mean(axis=0).std() > 2 * stripes.mean(axis=1).std()
    dead = degraded("dead_pixels")[1] != thermal
    assert 0 < dead.sum() < 0.01 * dead.size
    jump = degraded("agc_jump")[1]
    assert jump.max() == 255 and np.percentile(jump, 90) - jump.min() < 0.7 * (
        np.percentile(thermal, 90) - thermal.min()
    )
    lag = degraded("frozen")[1]
    assert np.isclose(lag.mean(), thermal.mean(), rtol=0.1) and np.abs(lag - thermal).mean() > 2


def test_in_counts_a_hot_object_leaves_the_rest_as_it_was():
    spec = ThermalSpec(unit="counts16")
    rgb, thermal, _ = pair(spec, hole=False)
    changed = DEGRADATIONS["agc_jump"](rgb, thermal, np.random.default_rng(0), spec)[1]
    assert (changed != thermal).mean() < 0.05 and changed.max() > thermal.max() + 500
    cold = ThermalSpec(unit="counts16", polarity="black-hot")
    assert DEGRADATIONS["agc_jump"](rgb, thermal, np.random.default_rng(0), cold)[1].min() < thermal.min() - 500


def test_misregistration_moves_thermal_alone():
    spec = ThermalSpec(unit="counts16")
    rgb, thermal, truth = pair(spec, hole=False)
    moved = []
    for seed in range(12):
        answer = Augmenter(spec_of("misregistration"), spec)(rgb, thermal, seed, **truth)
        assert np.array_equal(answer.rgb, rgb) and np.array_equal(answer.boxes, truth["boxes"])
        rows, columns = np.nonzero(answer.thermal > 21600)
        moved.append((columns.min() - 20, rows.min() - 20))
    assert np.abs(moved).max() <= 7 and (np.ptp(moved, axis=0) > 4).all()


def test_dropped_sensors_are_zeros_and_never_both():
    spec = ThermalSpec(unit="celsius")
    rgb, thermal, truth = pair(spec)
    augmenter = Augmenter(AugmentSpec(drop_rgb=0.4, drop_thermal=0.6, night=1, thermal_noise=1), spec)
    seen = []
    for seed in range(60):
        answer = augmenter(rgb, thermal, seed, **truth)
        seen.append(answer.present)
        assert answer.rgb.any() == answer.present[0] and answer.thermal.any() == answer.present[1]
        assert augmenter(rgb, thermal, seed, (True, False)).present == (True, False), "the one that is there stays"
    assert set(seen) == {(True, False), (False, True)} and 12 <= sum(one for one, _ in seen) <= 48


def test_a_field_more_leaves_the_other_draws_alone():
    """One seed for each transform: a probability that is switched on moves no other."""
    spec = ThermalSpec(unit="counts16")
    rgb, thermal, truth = pair(spec)
    plain = Augmenter(AugmentSpec(), spec)(rgb, thermal, 3, **truth)
    noisy = Augmenter(AugmentSpec(thermal_noise=1, drop_thermal=0.01, dead_pixels=0.5), spec)(rgb, thermal, 3, **truth)
    assert np.array_equal(plain.rgb, noisy.rgb) and np.array_equal(plain.boxes, noisy.boxes)
    assert not np.array_equal(plain.thermal, noisy.thermal)


def test_albumentations_own_names_and_arguments():
    spec = ThermalSpec(unit="counts16")
    rgb, thermal, _ = pair(spec)
    chain = AugmentSpec(**OFF, albumentations=({"name": "CLAHE", "p": 1.0}, {"name": "ToGray", "p": 1.0}))
    answer = Augmenter(chain, spec)(rgb, thermal, 1)
    assert np.ptp(answer.rgb.astype(int), axis=2).max() == 0 and np.array_equal(answer.thermal, thermal)
    for entry, says in (
        ({"name": "Rotate"}, "no transform 'Rotate' of a picture's pixels alone"),
        ({"name": "os"}, "no transform 'os'"),
        ({"name": "CLAHE", "clip": 3}, r"augment.albumentations.0: CLAHE: .*clip"),
    ):
        with pytest.raises(Exception, match=says) as caught:
            Augmenter(AugmentSpec(albumentations=(entry,)), spec)
        assert type(caught.value).__name__ == "DataError"
    with pytest.raises(ValueError, match="each entry says a name"):
        AugmentSpec(albumentations=({"p": 1.0},))
