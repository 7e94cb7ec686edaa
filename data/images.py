"""Reading single pictures as delivered: whole files only, no silent change of depth or channels."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.encoded import SUFFIXES as SUFFIXES
from data.encoded import Header as Header
from data.encoded import check_limits, decode, parse_header
from data.errors import DataError
from data.frame import Image
from data.radiometric import is_radiometric, parse_radiometric, radiometric_size
from data.text_file import read_bytes
from data.thermal import ThermalSpec, counts_to_celsius

PICTURE = "the picture"
"""What an error of ``read_bytes`` calls the file."""
_FIRST_BYTES = 1 << 16
_SPREAD = 3
"""Steps by which JPEG's colour transform may move equal channels apart."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a colour picture: H×W×3 uint8 in the order R, G, B, as stored (EXIF orientation is ignored).

    A fourth channel is left out.

    Raises:
        DataError: the file is missing, truncated, too large, or not an 8-bit picture.
    """
    image = decode(read_bytes(path, PICTURE), str(path))
    if image.dtype != np.uint8:
        raise DataError(f"{path}: RGB is {image.dtype}, expected 8 bits per channel; convert the file")
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] < 3:
        raise DataError(f"{path}: RGB has {image.shape[2]} channels, expected 3")
    return np.ascontiguousarray(image[:, :, :3], np.uint8)


def read_thermal(path: Path, spec: ThermalSpec) -> Image:
    """Read a thermal picture and convert it: H×W of the spec's dtype, in its unit.

    Equal channels become one; of others, ``spec.channel`` says which. What ``spec.stored`` says is converted.

    Raises:
        DataError: the file is missing, truncated, too large, or holds something else than the spec says.
    """
    raw = read_bytes(path, PICTURE)
    if spec.stored == "radiometric":
        found = parse_radiometric(raw, str(path))
        planck = spec.planck or found.planck
        image: Image = found.counts if spec.unit == "counts16" else counts_to_celsius(found.counts, planck)
    else:
        image = one_channel(decode(raw, str(path)), spec.channel, path, raw)
    return spec.convert(image, str(path))


def read_header(path: Path) -> Header:
    """Read size, channels and dtype of a picture file, without decoding it.

    Raises:
        DataError: the file is missing or not a picture.
    """
    raw = read_bytes(path, PICTURE, first=_FIRST_BYTES)
    header = parse_header(raw)
    if header is None:  # what tells lies further on
        raw = read_bytes(path, PICTURE)
        header = parse_header(raw)
    return check_limits(header, raw, str(path))


def read_thermal_header(path: Path, spec: ThermalSpec) -> Header:
    """Read size and dtype that ``read_thermal`` would give: of a radiometric JPEG those of its raw picture.

    Raises:
        DataError: the file is missing or not a picture.
    """
    size = (
        radiometric_size(read_bytes(path, PICTURE), str(path))
        if spec.stored == "radiometric"
        else read_header(path).size
    )
    return Header(*size, 1, str(spec.dtype))


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


def one_channel(image: Image, channel: int | None, path: Path, raw: bytes = b"") -> Image:
    """Take the thermal channel out of H×W or H×W×C; ``raw`` (the file) helps to word an error."""
    count = 1 if image.ndim == 2 else image.shape[2]
    if channel is not None:
        if channel >= count:
            raise DataError(f"{path}: thermal_spec.channel is {channel}, but the file has {count} (0 … {count - 1})")
        return np.ascontiguousarray(image[:, :, channel]) if image.ndim == 3 else image
    if image.ndim == 2:
        return image
    colours, rest = image[:, :, :3], image[:, :, 3:]
    if count == 2 or (rest.size and (rest != rest.flat[0]).any()):
        raise DataError(
            f"{path}: thermal has {count} different channels; say which one is thermal, such as "
            f"thermal_spec.channel: {count - 1} for the last"
        )
    if not all(np.array_equal(colours[:, :, 0], colours[:, :, k]) for k in (1, 2)):
        spread = float(np.ptp(colours.astype(np.float64), axis=2).max())
        if spread > (_SPREAD if image.dtype == np.uint8 else 0):
            raise DataError(
                f"{path}: thermal has three different channels (by up to {spread:g}): a false-colour picture "
                + (
                    "around raw counts; say thermal_spec: {unit: celsius, stored: radiometric} to read those"
                    if is_radiometric(raw)
                    else "holds no measurement; deliver the grey or raw frames"
                )
            )
    return np.ascontiguousarray(colours[:, :, 1])
