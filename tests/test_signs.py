"""Signs are looked for in rendered pairs whose truth is known; pairs as they should be show none."""

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.encoded import decode
from data.images import read_rgb, write_image
from data.rig import Rig
from data.signs.look import look, look_at_files
from data.signs.mount import MOUNTS, compose, turn
from data.synthetic.dataset import write_dataset
from data.thermal import ThermalSpec

COUNTS, GREY = ThermalSpec(unit="counts16"), ThermalSpec(unit="intensity8")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return DatasetCard.load(write_dataset(tmp_path_factory.mktemp("signs"), {"train": 16}, seed=1)).samples("train")


@pytest.fixture(scope="module")
def pairs(samples):
    """Thermal counts as stored, RGB."""
    return [decode(s.thermal.read_bytes(), "thermal") for s in samples], [read_rgb(s.rgb) for s in samples]


def eight_bits(frames):
    return [np.clip((f - np.percentile(f, 0.5)) / np.ptp(f) * 255, 0, 255).astype(np.uint8) for f in frames]


def warnings(signs):
    return [sign for sign in signs if sign.level == "warning"]


def only(signs):
    (sign,) = warnings(signs)
    assert "\n" not in sign.text and 0 < sign.sure <= 1
    return sign


@pytest.mark.parametrize("rgb", [True, False])
def test_sound_pairs_show_nothing_but_their_range(pairs, rgb):
    frames, rgbs = pairs
    for given in (frames, eight_bits(frames), [np.dstack([f] * 3) for f in eight_bits(frames)]):
        (sign,) = look(given, rgbs if rgb else [None] * len(given))
        assert (sign.kind, sign.level) == ("range", "note")
        assert str(given[0].dtype) in sign.text
    assert look([], []) == []


@pytest.mark.parametrize("mount", MOUNTS[1:])
def test_a_mount_is_found_and_the_rig_that_mends_it_proposed(pairs, mount):
    frames, rgbs = pairs
    back = next(one for one in MOUNTS if compose(Rig(rotate=one[0], flip=one[1]), *mount) == (0, "none"))
    stored = [turn(frame, *back) for frame in frames]
    sign = only(look(stored, rgbs))
    assert sign.kind == ("rotated" if mount[1] == "none" else "mirrored")
    assert sign.change == {"rig": {"rotate": mount[0], "flip": mount[1]}}
    rig = Rig.model_validate(sign.change["rig"])
    assert warnings(look(stored, rgbs, COUNTS, rig)) == []
    assert only(look(frames, rgbs, COUNTS, rig)).change["rig"] == {"rotate": 0, "flip": "none"}


def test_other_scenes_say_nothing_of_the_mount(pairs):
    frames, rgbs = pairs
    assert not {sign.kind for sign in look(frames, rgbs[5:] + rgbs[:5])} & {"mirrored", "rotated"}


def test_inverted_frames_are_seen_and_the_polarity_proposed(pairs):
    frames, rgbs = pairs
    dark = [65535 - frame for frame in frames]
    sign = only(look(dark, rgbs))
    assert (sign.kind, sign.change) == ("inverted", {"thermal_spec": {"polarity": "black-hot"}})
    assert sign.sure >= 0.7
    black = ThermalSpec(unit="counts16", polarity="black-hot")
    assert warnings(look(dark, rgbs, black)) == []
    assert only(look(frames, rgbs, black)).change == {"thermal_spec": {"polarity": "white-hot"}}


def test_warm_bodies_at_night_tell_the_polarity_without_a_sky():
    rng = np.random.default_rng(0)
    frames, rgbs = [], []
    for _ in range(8):
        frame = np.full((120, 160), 60, np.uint8)
        for _ in range(5):
            x, y = rng.integers(10, 150), rng.integers(10, 110)
            cv2.ellipse(frame, (int(x), int(y)), (3, 7), 0, 0, 360, 230, -1)
        frames.append(cv2.add(cv2.GaussianBlur(frame, (0, 0), 1), rng.integers(0, 12, frame.shape, np.uint8)))
        rgbs.append(rng.integers(0, 40, (120, 160, 3), np.uint8))
    assert warnings(look(frames, rgbs)) == []
    sign = only(look([255 - frame for frame in frames], rgbs))
    assert sign.kind == "inverted" and "by night" in sign.text


@pytest.mark.parametrize("quality", [None, 90])
def test_burnt_in_text_is_found_and_blanked(pairs, quality):
    frames, rgbs = eight_bits(pairs[0]), pairs[1]
    ink = np.zeros(frames[0].shape, np.uint8)
    cv2.putText(ink, "23.4C", (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    marked = [np.where(ink > 128, np.uint8(255), frame) for frame in frames]
    if quality:
        marked = [
            cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_UNCHANGED)
            for frame in marked
        ]
    sign = only(look(marked, rgbs))
    assert sign.kind == "overlay"
    spec = ThermalSpec(unit="intensity8", **sign.change["thermal_spec"])
    covered = spec.convert(np.full_like(frames[0], 9), "frame") == 0
    assert (covered & (ink > 128)).sum() > 0.9 * (ink > 128).sum() and covered.mean() < 0.12
    assert warnings(look([spec.convert(frame, "frame") for frame in marked], rgbs, spec)) == []


def test_a_border_that_shows_nothing_is_proposed_as_invalid(pairs):
    frames, rgbs = [frame.copy() for frame in pairs[0]], pairs[1]
    for frame in frames:
        frame[:, :5] = 0
    sign = only(look(frames, rgbs))
    assert sign.kind == "overlay" and sign.change == {"thermal_spec": {"marked": True, "invalid": 0.0}}
    spec = ThermalSpec(unit="counts16", **sign.change["thermal_spec"])
    assert warnings(look(frames, rgbs, spec)) == []


@pytest.mark.parametrize(
    ("rows", "name", "box"), [(slice(0, 1), "first 1 row", 0), (slice(-2, None), "last 2 rows", 126)]
)
def test_telemetry_rows_are_found(pairs, rows, name, box):
    rng = np.random.default_rng(0)
    frames, rgbs = [frame.copy() for frame in pairs[0]], pairs[1]
    for frame in frames:
        frame[rows] = rng.integers(0, 65536, frame[rows].shape, np.uint16) * (rng.random(frame[rows].shape) < 0.5)
    found = [sign for sign in look(frames, rgbs) if sign.kind == "telemetry"]
    assert len(found) == 1 and name in found[0].text
    assert found[0].change == {"thermal_spec": {"blank": [[0, box, 160, box + len(range(128)[rows])]]}}
    spec = ThermalSpec(unit="counts16", **found[0].change["thermal_spec"])
    assert not [sign for sign in look(frames, rgbs, spec) if sign.kind == "telemetry"]


def test_false_colour_is_found_and_nothing_else_said_of_its_numbers(pairs):
    frames = [cv2.applyColorMap(frame, cv2.COLORMAP_JET)[..., ::-1] for frame in eight_bits(pairs[0])]
    sign = only(look(frames, pairs[1]))
    assert sign.kind == "false_colour" and sign.change == {} and "16 of 16" in sign.text
    assert [one.kind for one in look(frames, pairs[1])] == ["false_colour"]


def celsius(frames):
    return [((frame.astype(np.float32) - 22000) / 100 + 10) for frame in frames]


@pytest.mark.parametrize(
    ("stored", "spec"),
    [
        (lambda c: c, {"unit": "celsius"}),
        (lambda c: c + np.float32(273.15), {"unit": "celsius", "stored": "linear", "scale": 1.0, "offset": -273.15}),
        (lambda c: np.rint((c + 273.15) * 10).astype(np.uint16), {"unit": "celsius", "stored": "decikelvin"}),
        (lambda c: np.rint((c + 273.15) * 100).astype(np.uint16), {"unit": "celsius", "stored": "centikelvin"}),
        (lambda c: np.rint(c * 20 + 9000).astype(np.uint16), {"unit": "counts16"}),
        (lambda c: np.clip(c * 2 + 90, 0, 255).astype(np.uint8), {"unit": "intensity8"}),
    ],
)
def test_the_range_proposes_the_spec(pairs, stored, spec):
    frames = [stored(frame) for frame in celsius(pairs[0])]
    sign = look(frames, [None] * len(frames))[-1]
    proposed = dict(sign.change["thermal_spec"])
    bounds = proposed.pop("range", None)
    assert sign.kind == "range" and proposed == spec
    made = ThermalSpec(**sign.change["thermal_spec"])
    in_unit = [made.convert(frame, "frame") for frame in frames]
    if bounds is not None:
        inside = np.mean([(frame >= bounds[0]) & (frame <= bounds[1]) for frame in in_unit])
        assert inside > 0.98
    assert warnings(look(in_unit, [None] * len(frames), made)) == []


@pytest.mark.parametrize(
    ("make", "spec", "says", "change"),
    [
        (lambda c: c + 60, {"unit": "celsius"}, "lie outside thermal_spec.range", "range"),
        (lambda c: (c * 2).astype(np.uint16) + 9000, {"unit": "counts16"}, "less than min_span 100", "min_span"),
        (
            lambda c: (c + 90).astype(np.uint8).astype(np.uint16),
            {"unit": "counts16"},
            "8-bit pictures in 16 bits",
            None,
        ),
        (lambda c: (c + 90).astype(np.uint8).astype(np.uint16) * 257, {"unit": "counts16"}, "spread out", None),
        (lambda c: (c * 20 + 9000).astype(np.uint16).byteswap(), {"unit": "counts16"}, "bytes swapped", None),
    ],
)
def test_a_range_that_does_not_fit_the_card(pairs, make, spec, says, change):
    frames = [make(frame) for frame in celsius(pairs[0])]
    found = [s for s in look(frames, [None] * len(frames), ThermalSpec(**spec)) if s.level == "warning"]
    (sign,) = [s for s in found if says in s.text]
    assert list(sign.change.get("thermal_spec", {})) == ([] if change is None else [change])


def test_files_are_sampled_and_unreadable_ones_left_out(samples, tmp_path):
    thermal, rgb = [s.thermal for s in samples], [s.rgb for s in samples]
    (tmp_path / "cut.png").write_bytes(thermal[0].read_bytes()[:200])
    signs = look_at_files([tmp_path / "cut.png", *thermal], [rgb[0], *rgb], COUNTS)
    assert [sign.kind for sign in signs] == ["range"] and "in 16 frames" in signs[0].text


def test_raw_counts_inside_jpegs_are_pointed_out(samples, tmp_path):
    paths = []
    for number, sample in enumerate(samples[:4]):
        path = tmp_path / f"{number}.jpg"
        write_image(path, eight_bits([decode(sample.thermal.read_bytes(), "t")])[0])
        raw = path.read_bytes()
        path.write_bytes(raw[:2] + b"\xff\xe1\x00\x0eFLIR\x00\x01\x00\x00FFF\x00" + raw[2:])
        paths.append(path)
    first, *_ = look_at_files(paths, [None] * 4)
    assert first.kind == "radiometric" and "4 of 4" in first.text
    assert first.change == {"thermal_spec": {"unit": "celsius", "stored": "radiometric"}}


def test_one_channel_of_the_file_is_looked_at(samples, tmp_path):
    paths = []
    for number, sample in enumerate(samples):
        thermal = eight_bits([decode(sample.thermal.read_bytes(), "t")])[0]
        rgb = cv2.resize(read_rgb(sample.rgb), thermal.shape[::-1])
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.dstack([rgb[..., ::-1], thermal]))
    spec = ThermalSpec(unit="intensity8", channel=3)
    assert [sign.kind for sign in look_at_files(paths, paths, spec)] == ["range"]


REAL = {
    "llvip-small": ("visible", "infrared"), "roadscene": ("visible", "infrared"), "msrs-sample": ("vi", "ir"),
    "roadweather": ("rgb", "ir"),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_sets_raise_no_false_alarm(shared_data, name):
    rgb, thermal = (shared_data / name / side for side in REAL[name])
    files = sorted(path for path in thermal.rglob("*") if path.is_file())
    partners = [
        next((rgb / path.parent.relative_to(thermal)).glob(f"{path.stem}.*")) for path in files[:: len(files) // 8]
    ]
    assert [sign.kind for sign in look_at_files(files[:: len(files) // 8], partners, GREY)] == ["range"]
