"""Constants of a camera from its JPEG, from what ExifTool prints, from YAML; and the card that is made with them."""

import json
import struct

import numpy as np
import pytest

from data.card import DatasetCard
from data.errors import DataError
from data.images import encode_image, read_thermal, write_image
from data.planck_file import read_planck
from data.thermal import Planck, counts_to_celsius
from pipelines.cli import main

PLANCK = Planck(
    r1=17368.826, r2=0.01881582, b=1442.4, f=1, o=-1550, emissivity=0.9, reflected_celsius=22, distance_m=2,
    atmospheric_celsius=18, humidity=0.4, window_celsius=30,
)  # fmt: skip
EXIFTOOL = {
    "SourceFile": "FLIR0001.jpg", "Emissivity": 0.90, "ObjectDistance": "2.00 m", "RelativeHumidity": "40.0 %",
    "ReflectedApparentTemperature": "22.0 C", "AtmosphericTemperature": "18.0 C", "IRWindowTemperature": "30.0 C",
    "IRWindowTransmission": 1.0, "PlanckR1": 17368.826, "PlanckB": 1442.4, "PlanckF": 1, "PlanckO": -1550,
    "PlanckR2": 0.01881582, "AtmosphericTransAlpha1": 0.006569, "AtmosphericTransAlpha2": 0.012620,
    "AtmosphericTransBeta1": -0.002276, "AtmosphericTransBeta2": -0.006670, "AtmosphericTransX": 1.9,
}  # fmt: skip
FLOATS = {
    0x20: 0.9, 0x24: 2.0, 0x28: 295.15, 0x2C: 291.15, 0x30: 303.15, 0x34: 1.0, 0x3C: 0.4, 0x58: 17368.826, 0x5C: 1442.4,
    0x60: 1.0, 0x70: 0.006569, 0x74: 0.01262, 0x78: -0.002276, 0x7C: -0.00667, 0x80: 1.9, 0x30C: 0.01881582,
}  # fmt: skip


def counts():
    return np.random.default_rng(0).integers(4000, 9000, (24, 32), np.uint16)


def jpeg():
    """A radiometric JPEG of the camera."""
    camera = bytearray(0x310)
    struct.pack_into("<H", camera, 0, 2)
    for at, value in FLOATS.items():
        struct.pack_into("<f", camera, at, value)
    struct.pack_into("<i", camera, 0x308, -1550)
    picture = struct.pack("<HHH", 2, 32, 24) + bytes(26) + counts().tobytes()
    entries, at = b"", 64 + 64
    for kind, record in ((32, camera), (1, picture)):
        entries += struct.pack(">HHIIII12x", kind, 1, 100, 1, at, len(record))
        at += len(record)
    head = (b"FFF\x00" + bytes(16) + struct.pack(">III", 101, 64, 2)).ljust(64, b"\x00")
    segment = b"FLIR\x00\x01\x00\x00" + head + entries + bytes(camera) + picture
    seen = encode_image(".jpg", np.zeros((24, 32), np.uint8))
    return seen[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + seen[2:]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jpg", jpeg()),
        ("a.json", json.dumps([EXIFTOOL], indent=2)),
        ("a.yaml", json.dumps(PLANCK.model_dump(mode="json"))),
    ],
)
def test_every_kind_of_file_gives_the_same_temperatures(tmp_path, name, content):
    planck = read_planck(written(tmp_path / name, content))
    assert planck.humidity == pytest.approx(0.4) and planck.window_celsius == pytest.approx(30, abs=1e-4)
    np.testing.assert_allclose(counts_to_celsius(counts(), planck), counts_to_celsius(counts(), PLANCK), atol=1e-3)


def pairs(root):
    root.mkdir()
    for number in range(3):
        write_image(root / f"{number}_rgb.png", np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8))
        write_image(root / f"{number}_thermal16.png", counts())
    return root


def init(capsys, *args):
    code = main(["data", "init", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_counts_become_the_degrees_of_the_original(tmp_path, capsys):
    original, out = written(tmp_path / "FLIR0001.jpg", jpeg()), tmp_path / "c.yaml"
    code, said, _ = init(capsys, pairs(tmp_path / "shots"), "--planck", original, "--out", out)
    card = DatasetCard.load(out)
    assert code == 0 and (card.thermal_spec.unit, card.thermal_spec.stored) == ("celsius", "planck")
    assert "thermal unit is 'celsius', made of raw counts and the constants of --planck" in said
    frame = read_thermal(card.samples("unlabelled")[0].thermal, card.thermal_spec)
    as_jpeg = read_thermal(original, card.thermal_spec.model_copy(update={"stored": "radiometric", "planck": None}))
    assert np.array_equal(frame, as_jpeg) and frame.dtype == np.float32 and np.ptp(frame) > 10


def test_constants_that_are_given_replace_those_in_the_files(tmp_path, capsys):
    root = pairs(tmp_path / "shots")
    for number in range(3):
        written(root / f"{number}_radiometric.jpg", jpeg())
        (root / f"{number}_thermal16.png").unlink()
    given = written(
        tmp_path / "p.yaml", json.dumps(PLANCK.model_copy(update={"emissivity": 0.5}).model_dump(mode="json"))
    )
    code, said, _ = init(capsys, root, "--planck", given, "--out", tmp_path / "c.yaml")
    spec = DatasetCard.load(tmp_path / "c.yaml").thermal_spec
    assert code == 0 and spec.stored == "radiometric" and spec.planck.emissivity == 0.5
    assert "are read with those that you gave (thermal_spec.planck)" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"FLIR0001": {"cal": EXIFTOOL}}), "expected the constants of one camera: a radiometric JPEG"),
        (json.dumps([EXIFTOOL, EXIFTOOL]), "expected the constants of one camera"),
        ("r1: 1\n", "'r2' is missing (and 3 more)"),
        (json.dumps(EXIFTOOL | {"Emissivity": "high"}), "emissivity"),
        (
            json.dumps({k: v for k, v in EXIFTOOL.items() if not k.endswith("Beta2")}),
            "AtmosphericTransBeta2 is missing",
        ),
        (encode_image(".jpg", np.zeros((8, 8), np.uint8)), "this JPEG holds no camera's constants"),
    ],
)
def test_what_is_no_file_of_constants_is_one_line(tmp_path, content, said):
    path = written(tmp_path / "constants", content)
    with pytest.raises(DataError) as caught:
        read_planck(path)
    assert said.lower() in str(caught.value).lower() and str(caught.value).startswith(str(path))


@pytest.mark.parametrize("words", [("--unit", "counts16"), ("--stored", "decikelvin")])
def test_what_makes_no_degrees_of_counts_is_refused(tmp_path, capsys, words):
    given = written(tmp_path / "p.yaml", json.dumps(PLANCK.model_dump(mode="json")))
    code, _, err = init(capsys, pairs(tmp_path / "s"), "--planck", given, *words, "--out", tmp_path / "c.yaml")
    assert code == 1 and f"does not go with {' '.join(words)}" in err and not (tmp_path / "c.yaml").exists()
