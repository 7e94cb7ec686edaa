import cv2
import numpy as np
import pytest

from data.errors import DataError
from data.images import encode_image, read_header, read_rgb, read_thermal, write_image
from data.thermal import ThermalSpec

COUNTS, GREY, CELSIUS = (ThermalSpec(unit=unit) for unit in ("counts16", "intensity8", "celsius"))


def colourful(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 3, y * 4, (x + y) * 2]).astype(np.uint8)


def test_rgb_keeps_the_order_of_colours(tmp_path):
    write_image(tmp_path / "a.png", colourful())
    assert np.array_equal(read_rgb(tmp_path / "a.png"), colourful())
    write_image(tmp_path / "a.jpg", colourful())
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - colourful()).mean() < 4


def test_grey_and_transparent_rgb_become_three_channels(tmp_path):
    grey = colourful()[..., 0]
    write_image(tmp_path / "grey.png", grey)
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.dstack([grey] * 3))
    cv2.imwrite(str(tmp_path / "four.png"), np.dstack([colourful(), grey]))
    assert np.array_equal(read_rgb(tmp_path / "four.png"), colourful()[..., ::-1])


@pytest.mark.parametrize(
    ("spec", "name", "image"),
    [
        (COUNTS, "a.png", np.arange(20000, 20000 + 600, dtype=np.uint16).reshape(20, 30)),
        (COUNTS, "a.tiff", np.arange(20000, 20000 + 600, dtype=np.uint16).reshape(20, 30)),
        (CELSIUS, "a.tiff", np.linspace(-20, 60, 600, dtype=np.float32).reshape(20, 30)),
        (GREY, "a.png", np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)),
    ],
)
def test_thermal_round_trip_is_exact(tmp_path, spec, name, image):
    write_image(tmp_path / name, image)
    read = read_thermal(tmp_path / name, spec)
    assert read.dtype == spec.dtype and np.array_equal(read, image)
    header = read_header(tmp_path / name)
    assert (header.size, header.channels, header.dtype) == (image.shape, 1, str(image.dtype))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_three_equal_channels_become_one(tmp_path, name):
    grey = colourful()[..., 0]
    write_image(tmp_path / name, np.dstack([grey] * 3))
    read = read_thermal(tmp_path / name, GREY)
    assert read.shape == grey.shape and np.abs(read.astype(int) - grey).max() <= (0 if name == "a.png" else 12)


def test_false_colour_is_refused(tmp_path):
    write_image(tmp_path / "a.png", colourful())
    with pytest.raises(DataError, match=r"a\.png: thermal has three different channels .* false-colour"):
        read_thermal(tmp_path / "a.png", GREY)


def test_another_depth_is_refused(tmp_path):
    write_image(tmp_path / "eight.png", np.zeros((20, 30), np.uint8))
    write_image(tmp_path / "sixteen.png", np.zeros((20, 30), np.uint16))
    with pytest.raises(DataError, match=r"eight\.png: thermal is uint8, but unit 'counts16' means .* uint16"):
        read_thermal(tmp_path / "eight.png", COUNTS)
    with pytest.raises(DataError, match=r"sixteen\.png: RGB is uint16, expected 8 bits"):
        read_rgb(tmp_path / "sixteen.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9, -2])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    raw = encode_image(suffix, noise)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(raw[: int(len(raw) * share) if share > 0 else share])
    with pytest.raises(DataError, match=r"a\.(png|jpg): the file is truncated or damaged"):
        read_rgb(path)


def test_a_thumbnail_does_not_hide_a_truncation(tmp_path):
    small, whole = encode_image(".jpg", colourful(8, 8)), encode_image(".jpg", colourful())
    block = b"Exif\x00\x00" + small
    with_thumbnail = whole[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + whole[2:]
    (tmp_path / "whole.jpg").write_bytes(with_thumbnail + b"\x00\x00")
    (tmp_path / "cut.jpg").write_bytes(with_thumbnail[:-40])
    assert read_rgb(tmp_path / "whole.jpg").shape == (48, 64, 3)
    assert read_header(tmp_path / "whole.jpg").size == (48, 64)
    with pytest.raises(DataError, match="truncated"):
        read_rgb(tmp_path / "cut.jpg")


def test_a_changed_byte_in_a_png_is_noticed(tmp_path):
    raw = bytearray(encode_image(".png", colourful()))
    raw[len(raw) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(raw)
    with pytest.raises(DataError, match="damaged"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no such file"), (b"", "is empty"), (b"plain text, no picture", "not a picture that can be read")],
)
def test_other_files_are_one_line(tmp_path, content, text, capfd):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png: {text}"):
        read_rgb(path)
    assert capfd.readouterr().err == ""


def test_limits_hold_before_anything_is_decoded(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", colourful())
    monkeypatch.setattr("data.images.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(DataError, match="64×48 is more than"):
        read_rgb(tmp_path / "a.png")
    monkeypatch.setattr("data.images.MAX_BYTES", 100)
    with pytest.raises(DataError, match="MiB that are read"):
        read_rgb(tmp_path / "a.png")
