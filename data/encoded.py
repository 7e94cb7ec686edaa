"""Pictures as bytes: what they say of themselves, whether they are whole, and their pixels; nothing is trusted."""

import ast
import struct
import zlib
from dataclasses import dataclass
from math import prod

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.frame import Image

MAX_PIXELS = 1 << 27
"""Largest picture that is decoded."""
MAX_DECODED = 1 << 29
"""Bytes that a decoded picture may take."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".npy")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_NPY = b"\x93NUMPY"
_TIFF = {b"II*\x00": "<", b"MM\x00*": ">"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0…SOF15 without DHT, JPG, DAC
_TIFF_KINDS = {1: "uint", 2: "int", 3: "float"}
_TIFF_SIZES = {1: "B", 3: "H", 4: "I"}
_MAX_STRIPS = 1 << 17
_DAMAGED = "the file is truncated or damaged; copy it again"


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture file says of itself before it is decoded."""

    height: int
    width: int
    channels: int
    dtype: str

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in pixels as stored."""
        return self.height, self.width


def parse_header(raw: bytes) -> Header | None:
    """Return the size, channels and dtype that a picture's first bytes tell; None: they do not tell."""
    if raw.startswith(_PNG) and len(raw) >= 29:
        width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
        return Header(height, width, _PNG_CHANNELS.get(colour, 0), "uint16" if depth == 16 else "uint8")
    if raw.startswith(_JPEG):
        for marker, start, _ in jpeg_segments(raw):
            if marker in _JPEG_FRAMES and len(raw) >= start + 6:
                _, height, width, channels = struct.unpack(">BHHB", raw[start : start + 6])
                return Header(height, width, channels, "uint8")
    if raw[:4] in _TIFF:
        tags = _tiff_tags(raw)
        return None if tags is None else _tiff_header(tags)
    if raw.startswith(b"BM") and len(raw) >= 30:
        width, height = struct.unpack("<ii", raw[18:26])
        return Header(abs(height), width, max(1, struct.unpack("<H", raw[28:30])[0] // 8), "uint8")
    if raw.startswith(_NPY):
        array = _npy_header(raw)
        if array is not None and len(array[1]) in (2, 3):
            height, width, *channels = array[1]
            return Header(height, width, channels[0] if channels else 1, array[0].name)
    return None


def decode(raw: bytes, where: str) -> Image:
    """Decode a PNG, JPEG, TIFF, BMP or NPY file: H×W, or H×W×C in the file's order (R, G, B, fourth).

    Raises:
        DataError: not such a file, truncated, or larger than the limits; ``where`` names it.
    """
    header = check_limits(parse_header(raw), raw, where)
    if raw.startswith(_NPY):
        return _decode_npy(raw, where)
    # OpenCV hands out half a picture, without an error, where the end of the file is missing.
    if not _is_whole(raw, header):
        raise DataError(f"{where}: {_DAMAGED}")
    ordered = raw.startswith(_JPEG) and header.channels == 3  # its decoder gives R, G, B as fast as B, G, R
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if ordered else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{where}: cannot be decoded ({error.err})") from None
    if image is None:
        raise DataError(f"{where}: not a picture that can be read ({', '.join(SUFFIXES)})")
    if image.ndim == 2 or ordered:
        return np.asarray(image)
    if image.shape[2] == 4 and header.channels == 2:  # OpenCV spreads grey and its partner over four channels
        return np.ascontiguousarray(image[:, :, [0, 3]])
    order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}.get(image.shape[2])
    return np.asarray(image if order is None else cv2.cvtColor(image, order))


def jpeg_segments(raw: bytes) -> list[tuple[int, int, int]]:
    """(marker, start of its payload, end of it) of each JPEG segment up to and with the first scan."""
    segments, at = [], 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        end = at + 2 + struct.unpack(">H", raw[at + 2 : at + 4])[0]
        segments.append((marker, at + 4, end))
        if marker == 0xDA:
            break
        at = end
    return segments


def check_limits(header: Header | None, raw: bytes, where: str) -> Header:
    """Return the header of a file; DataError when it has none (the bytes say why), or asks for too much."""
    if header is None:
        known = raw.startswith((_PNG, _JPEG, _NPY, *_TIFF))
        text = _DAMAGED if known else f"not a picture that can be read ({', '.join(SUFFIXES)})"
        raise DataError(f"{where}: {text if raw else 'is empty'}")
    if header.height * header.width > MAX_PIXELS:
        raise DataError(f"{where}: {header.width}×{header.height} is more than {MAX_PIXELS >> 20} megapixels")
    taken = header.height * header.width * max(1, header.channels) * np.dtype(header.dtype).itemsize
    if taken > MAX_DECODED:
        raise DataError(f"{where}: takes {taken >> 20} MiB decoded, more than {MAX_DECODED >> 20}")
    if min(header.height, header.width, header.channels) < 1:
        raise DataError(f"{where}: {_DAMAGED}")
    return header


def _is_whole(raw: bytes, header: Header) -> bool:
    if raw.startswith(_PNG):
        return _png_is_whole(raw)
    if raw.startswith(_JPEG):
        segments = jpeg_segments(raw)
        # In a scan, 0xFF is followed by 0 or a restart mark, so the end mark cannot occur by chance. Sought from the
        # end, where it is: from the start that takes 4 % of the decoding.
        return bool(segments) and segments[-1][0] == 0xDA and raw.rfind(b"\xff\xd9", segments[-1][1]) > 0
    if raw[:4] in _TIFF:
        return _tiff_is_whole(raw)
    compression = struct.unpack("<I", raw[30:34])[0] if len(raw) >= 34 else 1
    row = (header.width * struct.unpack("<H", raw[28:30])[0] + 31) // 32 * 4
    return compression != 0 or len(raw) >= struct.unpack("<I", raw[10:14])[0] + row * header.height


def _png_is_whole(raw: bytes) -> bool:
    at = len(_PNG)
    while at + 12 <= len(raw):
        end = at + 8 + struct.unpack(">I", raw[at : at + 4])[0]
        if raw[end : end + 4] != struct.pack(">I", zlib.crc32(memoryview(raw)[at + 4 : end])):
            return False
        if raw[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _tiff_tags(raw: bytes) -> dict[int, tuple[int, ...]] | None:
    """Values of the first picture's tags that are whole numbers; None when they lie beyond these bytes."""
    order = _TIFF[raw[:4]]
    if len(raw) < 8:
        return None
    at = struct.unpack(order + "I", raw[4:8])[0]
    if at + 2 > len(raw):
        return None
    count = struct.unpack(order + "H", raw[at : at + 2])[0]
    if at + 2 + 12 * count > len(raw):
        return None
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack(order + "HHI", raw[entry : entry + 8])
        letter = _TIFF_SIZES.get(kind)
        if letter is None or not 0 < number <= _MAX_STRIPS:
            continue
        size = struct.calcsize(letter) * number
        start = entry + 8 if size <= 4 else struct.unpack(order + "I", raw[entry + 8 : entry + 12])[0]
        if start + size > len(raw):
            return None
        tags[tag] = struct.unpack(f"{order}{number}{letter}", raw[start : start + size])
    return tags


def _tiff_header(tags: dict[int, tuple[int, ...]]) -> Header | None:
    width, height, bits, channels, kind = (
        tags.get(tag, default)[0] for tag, default in ((256, (0,)), (257, (0,)), (258, (1,)), (277, (1,)), (339, (1,)))
    )
    if not width or not height or kind not in _TIFF_KINDS:
        return None
    depth = f"{_TIFF_KINDS[kind]}{max(8, bits)}"
    if depth not in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"):
        return None
    return Header(height, width, channels, depth)


def _tiff_is_whole(raw: bytes) -> bool:
    tags = _tiff_tags(raw) or {}
    offsets, counts = tags.get(273) or tags.get(324), tags.get(279) or tags.get(325)
    if offsets is None or counts is None or len(offsets) != len(counts):
        return False
    return all(offset + count <= len(raw) for offset, count in zip(offsets, counts, strict=True))


def _npy_header(raw: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], bool, int] | None:
    """Dtype, shape, column order and start of the values of an NPY file; None when it is not a plain array."""
    wide = len(raw) > 6 and raw[6] >= 2
    start = 12 if wide else 10
    if len(raw) < start:
        return None
    end = start + struct.unpack("<I" if wide else "<H", raw[8:start])[0]
    if end > len(raw) or end - start > 10_000:
        return None
    try:
        fields = ast.literal_eval(raw[start:end].decode("latin1").strip())
        dtype, shape, columns = np.dtype(fields["descr"]), fields["shape"], fields["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        return None
    sizes = isinstance(shape, tuple) and all(isinstance(side, int) and 0 <= side < 1 << 31 for side in shape)
    return (dtype, shape, bool(columns), end) if sizes and dtype.kind in "uif" else None


def _decode_npy(raw: bytes, where: str) -> Image:
    found = _npy_header(raw)
    assert found is not None
    dtype, shape, columns, start = found
    if len(raw) - start < prod(shape) * dtype.itemsize:
        raise DataError(f"{where}: {_DAMAGED}")
    values: NDArray[np.generic] = np.frombuffer(raw, dtype, prod(shape), start).reshape(
        shape, order="F" if columns else "C"
    )
    native = np.ascontiguousarray(values, dtype.newbyteorder("="))
    return native[:, :, 0] if native.ndim == 3 and native.shape[2] == 1 else native
