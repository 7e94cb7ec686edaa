import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.encoded import decode
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
    monkeypatch.setattr("data.encoded.MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(DataError, match="64×48 is more than"):
        read_rgb(tmp_path / "a.png")
    with (tmp_path / "a.png").open("r+b") as file:
        file.truncate((1 << 28) + 1)  # takes no room on the disk
    for read in (read_rgb, read_header):
        with pytest.raises(DataError, match=r"a\.png: the picture cannot be read \(more than 262144 KiB\)"):
            read(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"the picture cannot be read \(not a file\)"):
            read(tmp_path)


def test_a_header_behind_much_else_is_found(tmp_path):
    """Cameras put previews and notes before the size of a JPEG."""
    raw = encode_image(".jpg", colourful())
    note = b"\xff\xe1" + (60_000).to_bytes(2, "big") + bytes(59_998)
    (tmp_path / "a.jpg").write_bytes(raw[:2] + 3 * note + raw[2:])
    assert read_header(tmp_path / "a.jpg").size == colourful().shape[:2]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_one_channel_of_four_is_chosen_by_the_spec(tmp_path, suffix):
    """MFNet: red, green, blue and thermal in one PNG."""
    thermal = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.dstack([colourful()[..., ::-1], thermal]))
    path = tmp_path / f"a{suffix}"
    assert np.array_equal(read_rgb(path), colourful())
    for channel, expected in (*enumerate(np.moveaxis(colourful(), 2, 0)), (3, thermal)):
        assert np.array_equal(read_thermal(path, ThermalSpec(unit="intensity8", channel=channel)), expected)
    with pytest.raises(DataError, match=r"thermal has 4 different channels; say which .* thermal_spec\.channel: 3"):
        read_thermal(path, GREY)


def test_a_channel_that_is_not_there(tmp_path):
    write_image(tmp_path / "a.png", colourful())
    with pytest.raises(DataError, match=r"thermal_spec\.channel is 3, but the file has 3 \(0 … 2\)"):
        read_thermal(tmp_path / "a.png", ThermalSpec(unit="intensity8", channel=3))


def test_equal_channels_of_any_depth_and_an_opaque_fourth_are_one(tmp_path):
    counts = np.arange(20000, 20600, dtype=np.uint16).reshape(20, 30)
    write_image(tmp_path / "a.png", np.dstack([counts] * 3))
    assert np.array_equal(read_thermal(tmp_path / "a.png", COUNTS), counts)
    grey = colourful()[..., 0]
    cv2.imwrite(str(tmp_path / "b.png"), np.dstack([grey] * 3 + [np.full_like(grey, 255)]))
    assert np.array_equal(read_thermal(tmp_path / "b.png", GREY), grey)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_celsius_in_an_npy_file(tmp_path, dtype, order):
    celsius = np.linspace(-20, 60, 600).reshape(20, 30).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", celsius)
    read = read_thermal(tmp_path / "a.npy", CELSIUS)
    assert read.dtype == np.float32 and read.flags.c_contiguous
    np.testing.assert_allclose(read, celsius, atol=1e-6)
    header = read_header(tmp_path / "a.npy")
    assert (header.size, header.channels) == ((20, 30), 1)


def test_tenths_of_kelvin_in_png_tiff_and_npy(tmp_path):
    kelvin = np.arange(2700, 3300, dtype=np.uint16).reshape(20, 30)
    write_image(tmp_path / "a.png", kelvin)
    write_image(tmp_path / "a.tiff", kelvin)
    np.save(tmp_path / "a.npy", kelvin)
    for suffix in ("png", "tiff", "npy"):
        read = read_thermal(tmp_path / f"a.{suffix}", ThermalSpec(unit="celsius", stored="decikelvin"))
        np.testing.assert_allclose(read, kelvin / 10 - 273.15, atol=1e-4)


def tiff_of(width, height):
    """A little TIFF header that promises a picture of that size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 16), (273, 4, 8), (277, 3, 1), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + bytes(200)


def png_of(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def npy_of(shape, dtype="<f4"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


ABSURD = {
    "png": (png_of(100_000, 100_000), "100000×100000 is more than 128 megapixels"),
    "tiff": (tiff_of(100_000, 100_000), "100000×100000 is more than"),
    "bmp": (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 100_000, -100_000, 1, 24, 0) + bytes(90), "is more than"),
    "npy": (npy_of((100_000, 100_000)), "is more than"),
    "jpg": (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(30), "65535×65535 is more than"),
    "few bytes": (npy_of((100, 100)), "truncated or damaged"),
    "cut tiff": (tiff_of(100, 100)[:90], "truncated or damaged"),
    "strips outside": (tiff_of(100, 100)[:100], "truncated or damaged"),
    "no height": (png_of(100, 0), "truncated or damaged"),
    "objects": (npy_of((2, 2), "|O"), "truncated or damaged"),
    "negative": (npy_of((-2, 2)), "truncated or damaged"),
    "four dimensions": (npy_of((1, 1, 1, 1)), "truncated or damaged"),
    "ppm": (b"P6 30000 30000 255\n" + bytes(50), "not a picture that can be read"),
    "deep": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "truncated or damaged"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_headers_cost_one_line_and_no_memory(tmp_path, name):
    raw, says = ABSURD[name]
    (tmp_path / "a.png").write_bytes(raw)
    tracemalloc.start()
    for read in (read_rgb, lambda path: read_thermal(path, COUNTS)):
        with pytest.raises(DataError, match=rf"a\.png: .*{says}") as caught:
            read(tmp_path / "a.png")
        assert "\n" not in str(caught.value)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print, 1], [2, 3]], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: the file is truncated or damaged"):
        read_thermal(tmp_path / "a.npy", CELSIUS)


KINDS = {
    suffix: encode_image(suffix, np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    for suffix in (".png", ".jpg", ".tiff", ".bmp")
} | {".npy": npy_of((4, 4), "|u1")}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
    st.binary(max_size=60),
)
def test_broken_bytes_are_read_or_refused(kind, changes, kept, random):
    raw = bytearray(KINDS[kind])
    for place, value in changes:
        raw[int(place * (len(raw) - 1))] = value
    for one in (bytes(raw), bytes(raw[: int(kept * len(raw))]), KINDS[kind][:12] + random, random):
        try:
            image = decode(one, "a.png")
        except DataError as error:
            assert str(error).startswith("a.png: ") and "\n" not in str(error)
        else:
            assert image.ndim in (2, 3)
