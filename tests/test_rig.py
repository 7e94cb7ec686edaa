import numpy as np
import pytest

from data.errors import DataError
from data.rig import Rig
from data.thermal import ThermalSpec

COUNTS = ThermalSpec(unit="counts16")


def identity(height, width, rgb_height, rgb_width):
    """Homography of a thermal camera that sees exactly RGB's view."""
    sx, sy = rgb_width / width, rgb_height / height
    return ((sx, 0.0, sx / 2 - 0.5), (0.0, sy, sy / 2 - 0.5), (0.0, 0.0, 1.0))


def ramp(height=20, width=30):
    return (1000 + 10 * np.arange(width)[None] + 100 * np.arange(height)[:, None]).astype(np.uint16)


def test_yaml_round_trip(tmp_path):
    rig = Rig(
        rgb_size=(40, 60), thermal_size=(20, 30), rotate=90, flip="both",
        homography=((1.5, 0.1, 2.0), (0.0, 1.25, -3.0), (0.0, 0.001, 1.0)), time_offset_ms=-12.5,
    )  # fmt: skip
    rig.save(tmp_path / "rig.yaml")
    assert Rig.load(tmp_path / "rig.yaml") == rig
    assert rig.time_offset_ns == -12_500_000


def test_the_default_rig_changes_nothing():
    image = ramp()
    aligner = Rig().aligner(COUNTS, (40, 60), image.shape)
    assert np.array_equal(aligner(image), image)
    assert aligner.outside is None


def test_a_homography_of_the_same_view_changes_nothing():
    image = ramp()
    rig = Rig(rgb_size=(40, 90), thermal_size=image.shape, homography=identity(*image.shape, 40, 90))
    aligner = rig.aligner(COUNTS, (40, 90), image.shape)
    assert np.array_equal(aligner(image), image)
    assert aligner.outside is None


def test_a_shift_moves_the_picture_and_marks_what_is_not_seen():
    image = ramp()
    right = np.array(identity(*image.shape, 40, 60))
    right[0, 2] += 4  # RGB pixels, two thermal ones
    rig = Rig(rgb_size=(40, 60), thermal_size=image.shape, homography=right.tolist())
    aligned = rig.aligner(COUNTS, (40, 60), image.shape)(image)
    assert np.array_equal(aligned[:, 2:], image[:, :-2])
    assert (aligned[:, :2] == COUNTS.invalid).all()


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical", "both"])
def test_rotate_then_flip(rotate, flip):
    image = ramp()
    expected = np.rot90(image, -rotate // 90)
    if flip in ("horizontal", "both"):
        expected = expected[:, ::-1]
    if flip in ("vertical", "both"):
        expected = expected[::-1]
    aligner = Rig(rotate=rotate, flip=flip).aligner(COUNTS, (40, 60), image.shape)
    assert aligner.out_size == expected.shape
    assert np.array_equal(aligner(image), expected)


def test_interpolation_never_mixes_dead_pixels_into_living_ones():
    spec = ThermalSpec(unit="celsius")
    image = np.full((20, 30), 20.0, np.float32)
    image[10, 15], image[5, 5] = np.nan, spec.invalid
    half = np.array(identity(20, 30, 40, 60))
    half[:2, 2] += 1  # half a thermal pixel: every output is a mixture
    rig = Rig(rgb_size=(40, 60), thermal_size=(20, 30), homography=half.tolist())
    aligned = rig.aligner(spec, (40, 60), (20, 30))(image)
    invalid = aligned == spec.invalid
    np.testing.assert_allclose(aligned[~invalid], 20.0, atol=1e-4)
    assert invalid[10:12, 15:17].all() and invalid[5:7, 5:7].all()
    assert invalid[1:, 1:].sum() == 8


def test_errors_say_what_was_expected(tmp_path):
    rig = Rig(rgb_size=(40, 60), thermal_size=(20, 30), homography=identity(20, 30, 40, 60))
    with pytest.raises(DataError, match=r"measured with thermal frames of 30×20 .* these are 32×24"):
        rig.aligner(COUNTS, (40, 60), (24, 32))
    with pytest.raises(DataError, match=r"^t\.png: thermal is uint8"):
        Rig().aligner(COUNTS, (40, 60), (20, 30))(np.zeros((20, 30), np.uint8), "t.png")
    with pytest.raises(ValueError, match="needs rgb_size and thermal_size"):
        Rig(homography=identity(20, 30, 40, 60))
    (tmp_path / "rig.yaml").write_text("rotate: 0\nroatte: 90\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rig\.yaml:2: unknown key 'roatte'; did you mean 'rotate'\?"):
        Rig.load(tmp_path / "rig.yaml")
