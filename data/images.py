"""Reading single pictures as delivered: whole files only, no silent change of depth or channels."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.frame import Image
from data.thermal import ThermalSpec

MAX_BYTES = 1 << 28
"""Largest file that is read."""
MAX_PIXELS = 1 << 27
"""Largest picture that is decoded."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0…SOF15 without DHT, JPG, DAC


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


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a colour picture: H×W×3 uint8 in the order R, G, B, as stored (EXIF orientation is ignored).

    Raises:
        DataError: the file is missing, truncated, too large, or not an 8-bit picture.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        raise DataError(f"{path}: RGB is {image.dtype}, expected 8 bits per channel; convert the file")
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] < 3:
        raise DataError(f"{path}: RGB has {image.shape[2]} channels, expected 3")
    return np.asarray(cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB), np.uint8)


def read_thermal(path: Path, spec: ThermalSpec) -> Image:
    """Read a thermal picture: H×W of the spec's dtype; 8 bits stored as three equal channels become one.

    Raises:
        DataError: the file is missing, truncated, too large, or of another dtype or channel count.
    """
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3 and image.dtype == np.uint8 and image.shape[2] == 3:
        image = _one_channel(image, path)
    spec.require(image, str(path))
    return image


def read_header(path: Path) -> Header:
    """Read size, channels and dtype of a picture file, without decoding PNG and JPEG.

    Raises:
        DataError: the file is missing or not a picture.
    """
    with _opened(path).open("rb") as file:
        raw = file.read(1 << 16)
        header = _header(raw, path)
        if header is None:  # long metadata before the frame header
            header = _header(raw + file.read(), path)
    if header is not None:
        return header
    image = _decode(path, cv2.IMREAD_UNCHANGED)
    return Header(image.shape[0], image.shape[1], 1 if image.ndim == 2 else image.shape[2], str(image.dtype))


def encode_image(suffix: str, image: Image, quality: int = 95) -> bytes:
    """Encode H×W or H×W×3 (R, G, B) in the format of ``suffix`` (".png", ".jpg", …); ``quality`` is that of JPEG."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else jpeg
    done, encoded = cv2.imencode(suffix, image, options)
    assert done, suffix
    return bytes(encoded)


def write_image(path: Path, image: Image, quality: int = 95) -> None:
    """Write H×W or H×W×3 (R, G, B) as the suffix says.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    path.write_bytes(encode_image(path.suffix, image, quality))  # imwrite would return False on a full disk


def _one_channel(image: Image, path: Path) -> Image:
    channels = cv2.split(image)
    if not all(np.array_equal(channels[0], other) for other in channels[1:]):
        # JPEG's colour transform may move equal channels apart by a step or two.
        spread = int((image.max(axis=2).astype(np.int16) - image.min(axis=2)).max())
        if spread > 3:
            raise DataError(
                f"{path}: thermal has three different channels (by up to {spread}): a false-colour picture "
                "holds no measurement; deliver the grey or raw frames"
            )
    return np.ascontiguousarray(channels[1])


def _opened(path: Path) -> Path:
    try:
        size = path.stat().st_size
    except OSError:
        raise DataError(f"{path}: no such file") from None
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size >> 20} MiB, more than the {MAX_BYTES >> 20} MiB that are read")
    if size == 0 or not path.is_file():
        raise DataError(f"{path}: is empty or not a file")
    return path


def _decode(path: Path, flags: int) -> Image:
    raw = _opened(path).read_bytes()
    header = _header(raw, path)
    if header is not None and header.height * header.width > MAX_PIXELS:
        raise DataError(f"{path}: {header.width}×{header.height} is more than {MAX_PIXELS >> 20} megapixels")
    # OpenCV hands out half a picture, without an error, where the end of the file is missing.
    if not _is_whole(raw):
        raise DataError(f"{path}: the file is truncated or damaged; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path}: cannot be decoded ({error.err})") from None
    if image is None:
        raise DataError(f"{path}: not a picture that can be read ({', '.join(SUFFIXES)})")
    return np.asarray(image)


def _header(raw: bytes, path: Path) -> Header | None:
    """Parse PNG and JPEG; None for another format, or a JPEG whose frame header lies further on."""
    if raw.startswith(_PNG):
        if len(raw) < 29:
            raise DataError(f"{path}: the file is truncated or damaged; copy it again")
        width, height, depth, colour = struct.unpack(">IIBB", raw[16:26])
        return Header(height, width, _PNG_CHANNELS.get(colour, 0), "uint16" if depth == 16 else "uint8")
    if raw.startswith(_JPEG):
        for marker, start in _jpeg_segments(raw):
            if marker in _JPEG_FRAMES and len(raw) >= start + 6:
                _, height, width, channels = struct.unpack(">BHHB", raw[start : start + 6])
                return Header(height, width, channels, "uint8")
    return None


def _jpeg_segments(raw: bytes) -> list[tuple[int, int]]:
    """(marker, start of its payload) of each segment up to and with the first scan."""
    segments, at = [], 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        segments.append((marker, at + 4))
        if marker == 0xDA:
            break
        at += 2 + struct.unpack(">H", raw[at + 2 : at + 4])[0]
    return segments


def _is_whole(raw: bytes) -> bool:
    if raw.startswith(_PNG):
        return _png_is_whole(raw)
    if raw.startswith(_JPEG):
        segments = _jpeg_segments(raw)
        # In a scan, 0xFF is followed by 0 or a restart mark, so the end mark cannot occur by chance.
        return bool(segments) and segments[-1][0] == 0xDA and raw.find(b"\xff\xd9", segments[-1][1]) > 0
    return True


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
