"""FLIR radiometric JPEGs that the test writes itself, and broken ones."""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.card import DatasetCard
from data.check.run import check_card
from data.errors import DataError
from data.images import encode_image, read_thermal, read_thermal_header
from data.layout import recognise
from data.radiometric import is_radiometric, parse_radiometric, radiometric_size
from data.thermal import Planck, ThermalSpec

CONSTANTS = {
    0x20: 0.95, 0x24: 1.0, 0x28: 295.15, 0x2C: 293.15, 0x30: 303.0, 0x34: 1.0, 0x3C: 0.5,
    0x58: 17368.826, 0x5C: 1442.4, 0x60: 1.0, 0x70: 0.006569, 0x74: 0.01262, 0x78: -0.002276, 0x7C: -0.00667, 0x80: 1.9,
    0x30C: 0.01881582,
}  # fmt: skip
PLANCK = Planck(
    r1=17368.826, r2=0.01881582, b=1442.4, f=1, o=-1550, emissivity=0.95, reflected_celsius=22, distance_m=1,
    atmospheric_celsius=20, humidity=0.5,
)  # fmt: skip
CELSIUS = ThermalSpec(unit="celsius", stored="radiometric")
SHARED = Path(__file__).parents[2] / "shared/data/radiometric"


def scene(height=24, width=32):
    y, x = np.mgrid[:height, :width]
    return (5000 + 40 * x + 90 * y + 7 * ((x * y) % 5)).astype(np.uint16)


def container(counts, *, head=">", body="<", coding="raw", constants=(), o=-1550, size=None):
    """An FFF file: header, directory, the two records; ``head`` and ``body`` are byte orders."""
    floats = CONSTANTS | dict(constants)
    camera = bytearray(0x400)
    struct.pack_into(body + "H", camera, 0, 2)
    for at, value in floats.items():
        struct.pack_into(body + "f", camera, at, value)
    struct.pack_into(body + "i", camera, 0x308, o)
    camera[0xD4:0xDE] = b"Test Cam 1"
    height, width = size or counts.shape
    if coding == "raw":
        pixels = counts.astype(body + "u2").tobytes()
    else:
        pixels = encode_image(".png", counts if coding == "png" else counts.byteswap())
    picture = struct.pack(body + "HHH", 2, width, height) + bytes(26) + pixels
    start = 64 + 3 * 32
    entries = b"".join(
        struct.pack(head + "HHIIII12x", kind, 1, 100, 1, at, length)
        for kind, at, length in ((32, start, len(camera)), (1, start + len(camera), len(picture)), (0, 0, 0))
    )
    header = b"FFF\x00" + b"CAMCTRL\x00".ljust(16, b"\x00") + struct.pack(head + "III", 101, 64, 3)
    return header.ljust(64, b"\x00") + entries + bytes(camera) + picture


def radiometric(fff, seen=None, chunk=700, order=None):
    """A JPEG with ``fff`` cut into FLIR segments."""
    jpeg = encode_image(".jpg", np.full((60, 80, 3), 90, np.uint8) if seen is None else seen)
    pieces = [fff[at : at + chunk] for at in range(0, len(fff), chunk)]
    last = len(pieces) - 1
    segments = []
    for index in order or range(len(pieces)):
        payload = b"FLIR\x00\x01" + bytes([index, last]) + pieces[index]
        segments.append(b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload)
    return jpeg[:2] + b"\xff\xe1\x00\x08Exif\x00\x00" + b"".join(segments) + jpeg[2:]


def independent(counts):
    """The same temperatures by bisection of the forward model, with none of the code under test."""

    def emitted(kelvin):
        return 17368.826 / (0.01881582 * (np.exp(1442.4 / kelvin) - 1)) + 1550

    water = np.sqrt(0.5 * np.exp(1.5587 + 0.06939 * 20 - 0.00027816 * 400 + 0.00000068455 * 8000))
    tau = 1.9 * np.exp(-np.sqrt(0.5) * (0.006569 - 0.002276 * water))
    tau -= 0.9 * np.exp(-np.sqrt(0.5) * (0.01262 - 0.00667 * water))
    low, high = np.full(counts.shape, 150.0), np.full(counts.shape, 500.0)
    for _ in range(60):
        middle = (low + high) / 2
        leaving = 0.95 * emitted(middle) + 0.05 * emitted(295.15)
        at_lens = tau * (tau * leaving + (1 - tau) * emitted(293.15)) + (1 - tau) * emitted(293.15)
        low, high = np.where(at_lens < counts, middle, low), np.where(at_lens < counts, high, middle)
    return low - 273.15


@pytest.mark.parametrize("head", "<>")
@pytest.mark.parametrize("body", "<>")
@pytest.mark.parametrize("coding", ["raw", "png", "flir-png"])
def test_counts_and_constants_in_every_order(head, body, coding):
    found = parse_radiometric(radiometric(container(scene(), head=head, body=body, coding=coding)), "a.jpg")
    assert found.counts.dtype == np.uint16 and np.array_equal(found.counts, scene())
    assert found.camera == "Test Cam 1"
    assert (found.planck.r1, found.planck.o) == (pytest.approx(17368.826), -1550)
    assert found.planck.reflected_celsius == pytest.approx(22, abs=1e-4)


def test_temperatures_agree_with_a_computation_of_its_own(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(radiometric(container(scene())))
    celsius = read_thermal(path, CELSIUS)
    assert celsius.dtype == np.float32 and celsius.shape == (24, 32)
    np.testing.assert_allclose(celsius, independent(scene()), atol=2e-3)
    assert np.array_equal(read_thermal(path, ThermalSpec(unit="counts16", stored="radiometric")), scene())
    header = read_thermal_header(path, CELSIUS)
    assert (header.size, header.dtype) == ((24, 32), "float32")


def test_the_same_frame_as_png_and_the_same_constants_in_the_card(tmp_path):
    (tmp_path / "a.jpg").write_bytes(radiometric(container(scene(), coding="flir-png")))
    (tmp_path / "a.png").write_bytes(encode_image(".png", scene()))
    by_png = read_thermal(tmp_path / "a.png", ThermalSpec(unit="celsius", planck=PLANCK))
    np.testing.assert_allclose(by_png, read_thermal(tmp_path / "a.jpg", CELSIUS), atol=1e-3)


def pairs_of_jpegs(tmp_path, count=3):
    """Colour pictures and radiometric JPEGs whose raw picture is smaller than the one that shows."""
    for name in ("rgb", "ir"):
        (tmp_path / name).mkdir()
    noise = np.random.default_rng(0)
    for number in range(count):
        (tmp_path / f"rgb/{number}.png").write_bytes(
            encode_image(".png", noise.integers(0, 255, (48, 64, 3), np.uint8))
        )
        false_colour = noise.integers(0, 255, (60, 80, 3), np.uint8)
        (tmp_path / f"ir/{number}.jpg").write_bytes(radiometric(container(scene() + number), false_colour))
    return [tmp_path / "rgb", tmp_path / "ir", None, tmp_path / "card.yaml"]


def test_init_recognises_radiometric_jpegs(tmp_path):
    places = pairs_of_jpegs(tmp_path)
    for unit, stored, expected in (
        (None, None, "celsius"),
        ("counts16", None, "counts16"),
        (None, "radiometric", "celsius"),
    ):
        layout = recognise(*places, unit=unit, stored=stored)
        spec = layout.card.thermal_spec
        assert (spec.unit, spec.stored, layout.card.thermal_size) == (expected, "radiometric", (24, 32))
        assert any("thermal files are radiometric JPEGs" in line for line in layout.assumed) is (stored is None)
    layout = recognise(*places)
    layout.write(places[-1])
    card = DatasetCard.load(places[-1])
    frame = read_thermal(card.samples("unlabelled")[0].thermal, card.thermal_spec)
    assert np.abs(frame - independent(scene())).max() < 0.01
    report = check_card(card, workers=1)
    assert not [line for line in report.errors if "thermal" in line] and report.sizes["thermal"] == {"32×24": 3}


def test_init_does_not_mix_radiometric_jpegs_with_others(tmp_path):
    places = pairs_of_jpegs(tmp_path)
    grey = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    (tmp_path / "ir/1.jpg").write_bytes(encode_image(".jpg", grey))
    with pytest.raises(
        DataError, match=r"2 of 3 thermal files are radiometric JPEGs, others are not \(such as .*1\.jpg\)"
    ):
        recognise(*places)
    with pytest.raises(DataError, match="--stored radiometric becomes celsius or counts16, not 'intensity8'"):
        recognise(*places, unit="intensity8", stored="radiometric")
    for number in (0, 2):
        (tmp_path / f"ir/{number}.jpg").write_bytes(radiometric(container(scene()), np.repeat(grey[..., None], 3, 2)))
    spec = recognise(*places, unit="intensity8").card.thermal_spec
    assert (spec.unit, spec.stored) == ("intensity8", "unit"), "the picture that shows, because the user says so"


def test_constants_of_the_card_go_before_those_of_the_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(radiometric(container(scene())))
    grey = CELSIUS.model_copy(update={"planck": PLANCK.model_copy(update={"emissivity": 0.8})})
    assert np.nanmax(np.abs(read_thermal(tmp_path / "a.jpg", grey) - read_thermal(tmp_path / "a.jpg", CELSIUS))) > 1


def test_each_file_of_a_card_has_its_own_constants(tmp_path):
    places = pairs_of_jpegs(tmp_path, 2)
    warmer = {0x20: 0.9, 0x58: 16000.0, 0x5C: 1430.0}
    (tmp_path / "ir/1.jpg").write_bytes(radiometric(container(scene(), constants=warmer, o=-1400)))
    recognise(*places).write(places[-1])
    card = DatasetCard.load(places[-1])
    assert card.thermal_spec.planck is None, "init copies no file's constants into the card"
    first, second = (read_thermal(sample.thermal, card.thermal_spec) for sample in card.samples("unlabelled"))
    np.testing.assert_allclose(first, independent(scene()), atol=2e-3)
    other = PLANCK.model_copy(update={"r1": 16000.0, "b": 1430.0, "o": -1400, "emissivity": 0.9})
    (tmp_path / "a.png").write_bytes(encode_image(".png", scene()))
    np.testing.assert_allclose(
        second, read_thermal(tmp_path / "a.png", ThermalSpec(unit="celsius", planck=other)), atol=1e-2
    )
    assert np.abs(first - second).min() > 1


def test_segments_may_come_in_any_order_and_humidity_in_per_cent():
    fff = container(scene(), constants={0x3C: 50.0})
    count = -(-len(fff) // 700)
    found = parse_radiometric(radiometric(fff, order=list(reversed(range(count)))), "a.jpg")
    assert np.array_equal(found.counts, scene()) and found.planck.humidity == pytest.approx(0.5)


BROKEN = {
    "no segments": (lambda: encode_image(".jpg", np.zeros((8, 8, 3), np.uint8)), "no radiometric JPEG"),
    "a segment lost": (lambda: radiometric(container(scene()), order=[0, 2, 3]), "segment 2 of 4 .* is missing"),
    "no container": (lambda: radiometric(b"FFX" + bytes(90)), "does not begin as FFF"),
    "empty container": (lambda: radiometric(b"FFF\x00"), "does not begin as FFF"),
    "version": (lambda: radiometric(b"FFF\x00" + bytes(80)), "unknown version"),
    "directory": (
        lambda: radiometric(b"FFF\x00" + bytes(16) + struct.pack(">III", 100, 2**31, 900) + bytes(60)), "do not fit",
    ),
    "many records": (
        lambda: radiometric(b"FFF\x00" + bytes(16) + struct.pack(">III", 100, 64, 2**32 - 1) + bytes(60)), "do not fit",
    ),
    "cut off": (lambda: radiometric(container(scene())[:2000]), "is missing or cut off"),
    "absurd size": (lambda: radiometric(container(scene(), size=(65535, 65535))), "a raw picture of 65535×65535"),
    "no pixels": (lambda: radiometric(container(scene(), size=(0, 10))), "a raw picture of 10×0"),
    "too few": (lambda: radiometric(container(scene(), size=(60, 60))), "too few for 60×60, or is coded"),
    "other png": (lambda: radiometric(container(scene(), coding="png", size=(8, 8))), "not 16 bits of 8×8"),
    "8-bit png": (lambda: radiometric(container((scene() >> 8).astype(np.uint8), coding="png")), "is uint8"),
    "no emissivity": (lambda: radiometric(container(scene(), constants={0x20: 0.0})), "impossible: emissivity"),
    "not a number": (lambda: radiometric(container(scene(), constants={0x58: float("nan")})), "impossible: r1"),
    "too hot": (lambda: radiometric(container(scene(), constants={0x28: 1e30})), "are not possible"),
    "fog": (lambda: radiometric(container(scene(), constants={0x24: 1e6})), "lets .* of the radiation through"),
    "no curve": (lambda: radiometric(container(scene(), constants={0x5C: 1e-30})), "impossible: .*curve gives counts"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(tmp_path, name):
    make, says = BROKEN[name]
    (tmp_path / "a.jpg").write_bytes(make())
    with pytest.raises(DataError, match=rf"a\.jpg: .*{says}") as caught:
        read_thermal(tmp_path / "a.jpg", CELSIUS)
    assert "\n" not in str(caught.value)


def refused_or_read(raw):
    for parse in (parse_radiometric, radiometric_size):
        try:
            parse(raw, "a.jpg")
        except DataError as error:
            assert str(error).startswith("a.jpg: ") and "\n" not in str(error)


GOOD = container(scene(), coding="flir-png")
BYTES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@BYTES
@given(st.binary(max_size=400))
def test_random_bytes(raw):
    refused_or_read(raw)
    refused_or_read(b"\xff\xd8" + raw)
    refused_or_read(radiometric(b"FFF\x00" + bytes(16) + raw))
    assert is_radiometric(raw) in (True, False)


@BYTES
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(GOOD)))
def test_changed_and_cut_bytes(changes, length):
    fff = bytearray(GOOD)
    for at, value in changes:
        fff[at] = value
    refused_or_read(radiometric(bytes(fff)))
    refused_or_read(radiometric(bytes(fff[:length])))
    refused_or_read(radiometric(bytes(fff))[:length])


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real pairs")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*_radiometric.jpg")), ids=lambda path: path.stem[:10])
def test_real_files_give_the_temperatures_of_their_png(path):
    stem = path.name.removesuffix("_radiometric.jpg")
    given_by = json.loads((SHARED / "calibration.json").read_text(encoding="utf-8"))[stem]["cal"]
    planck = Planck(
        r1=given_by["PlanckR1"], r2=given_by["PlanckR2"], b=given_by["PlanckB"], f=given_by["PlanckF"],
        o=given_by["PlanckO"], emissivity=given_by["Emissivity"], reflected_celsius=given_by["Trefl"] - 273.15,
        distance_m=given_by["ObjDist"], atmospheric_celsius=given_by["Tatm"] - 273.15,
    )  # fmt: skip
    png = path.with_name(f"{stem}_thermal16.png")
    counts = parse_radiometric(path.read_bytes(), str(path)).counts
    assert np.array_equal(counts, cv2.imread(str(png), cv2.IMREAD_UNCHANGED))
    by_png = read_thermal(png, ThermalSpec(unit="celsius", planck=planck))
    np.testing.assert_allclose(read_thermal(path, CELSIUS), by_png, atol=5e-3)
