"""FLIR radiometric JPEG: the raw counts and the camera's constants that lie in its APP1 segments.

The layout follows ExifTool's description of the FLIR file format (FFF): a header, a directory of records, and the
records, each in a byte order of its own.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from data.encoded import MAX_PIXELS, decode, jpeg_segments
from data.errors import DataError
from data.thermal import KELVIN, Planck

_MARK = b"FLIR\x00"
_MAX_RECORDS = 1024
_RAW, _CAMERA = 1, 32
"""Types of record: the raw picture, and what the camera knew."""
_RAW_HEADER, _CAMERA_BYTES = 32, 0x310
_PNG = b"\x89PNG"
_FLOATS = {
    "emissivity": 0x20, "distance_m": 0x24, "reflected": 0x28, "atmospheric": 0x2C, "window": 0x30,
    "window_transmission": 0x34, "humidity": 0x3C, "r1": 0x58, "b": 0x5C, "f": 0x60, "alpha1": 0x70, "alpha2": 0x74,
    "beta1": 0x78, "beta2": 0x7C, "x": 0x80, "r2": 0x30C,
}  # fmt: skip
"""Where the floats lie in the camera's record; temperatures in Kelvin."""
_OFFSET_O, _MODEL = 0x308, slice(0xD4, 0xF4)


@dataclass(frozen=True, slots=True)
class Radiometric:
    """What a radiometric JPEG holds beside the picture that one sees."""

    counts: NDArray[np.uint16]
    """H×W raw counts of the sensor."""
    planck: Planck
    """The camera's constants and the conditions that were set."""
    camera: str


def is_radiometric(raw: bytes) -> bool:
    """Say whether a file is a JPEG with FLIR segments."""
    return raw.startswith(b"\xff\xd8") and any(
        marker == 0xE1 and raw.startswith(_MARK, start) for marker, start, _ in jpeg_segments(raw)
    )


def parse_radiometric(raw: bytes, where: str) -> Radiometric:
    """Read counts and constants out of the bytes of a radiometric JPEG.

    Raises:
        DataError: it is none, it is damaged, or its raw picture is coded in another way; ``where`` names it.
    """
    container = _join(raw, where)
    records = _records(container, where)
    return Radiometric(_counts(_record(records, _RAW, where), where), *_camera(_record(records, _CAMERA, where), where))


def radiometric_size(raw: bytes, where: str) -> tuple[int, int]:
    """Height, width of the raw picture in a radiometric JPEG, without decoding it; DataError as above."""
    record = _record(_records(_join(raw, where), where), _RAW, where)
    height, width, _ = _shape(record, where)
    return height, width


def _join(raw: bytes, where: str) -> bytes:
    """Put the FLIR segments of a JPEG together in their order."""
    parts: dict[int, bytes] = {}
    last = -1
    for marker, start, end in jpeg_segments(raw):
        if marker == 0xE1 and raw.startswith(_MARK, start) and start + 8 <= end <= len(raw):
            parts[raw[start + 6]] = raw[start + 8 : end]
            last = max(last, raw[start + 7])
    if not parts:
        raise DataError(
            f"{where}: no radiometric JPEG of FLIR (it has no raw picture inside); deliver the camera's original file, "
            "not one that another program saved, or correct thermal_spec.stored in the card"
        )
    lost = [index for index in range(last + 1) if index not in parts]
    if lost:
        raise DataError(f"{where}: segment {lost[0] + 1} of {last + 1} of the raw picture is missing; copy it again")
    return b"".join(parts[index] for index in sorted(parts))


def _records(container: bytes, where: str) -> dict[int, bytes]:
    """Type → bytes of the first record of that type."""
    if container[:4] not in (b"FFF\x00", b"AFF\x00") or len(container) < 64:
        raise _damaged(where, "it does not begin as FFF")
    # The version tells the byte order: it is between 100 and 199.
    orders = [order for order in "><" if 100 <= struct.unpack(order + "I", container[20:24])[0] < 200]
    if not orders:
        raise _damaged(where, "unknown version")
    at, count = struct.unpack(orders[0] + "II", container[24:32])
    if count > _MAX_RECORDS or at + 32 * count > len(container):
        raise _damaged(where, f"{count} records at byte {at} do not fit into {len(container)} bytes")
    records: dict[int, bytes] = {}
    for entry in range(at, at + 32 * count, 32):
        kind = struct.unpack(orders[0] + "H", container[entry : entry + 2])[0]
        start, length = struct.unpack(orders[0] + "II", container[entry + 12 : entry + 20])
        if kind and kind not in records and start + length <= len(container):
            records[kind] = container[start : start + length]
    return records


def _record(records: dict[int, bytes], kind: int, where: str) -> bytes:
    name, least = {_RAW: ("raw picture", _RAW_HEADER), _CAMERA: ("camera's constants", _CAMERA_BYTES)}[kind]
    if len(records.get(kind, b"")) < least:
        raise _damaged(where, f"the record of the {name} is missing or cut off")
    return records[kind]


def _order(record: bytes, where: str) -> str:
    """Byte order of a record: it begins with the number 2."""
    order = {b"\x02\x00": "<", b"\x00\x02": ">"}.get(record[:2])
    if order is None:
        raise _damaged(where, f"unknown byte order {record[:2].hex()}")
    return order


def _shape(record: bytes, where: str) -> tuple[int, int, str]:
    order = _order(record, where)
    width, height = struct.unpack(order + "HH", record[2:6])
    if not 0 < width * height <= MAX_PIXELS:
        raise _damaged(where, f"a raw picture of {width}×{height}")
    return height, width, order


def _counts(record: bytes, where: str) -> NDArray[np.uint16]:
    height, width, order = _shape(record, where)
    body = record[_RAW_HEADER:]
    if body.startswith(_PNG):
        image = decode(body, f"{where}: raw picture")
        if image.shape != (height, width) or image.dtype != np.uint16:
            raise _damaged(where, f"the raw picture is {image.dtype} {image.shape}, not 16 bits of {width}×{height}")
        return _smoother(image)
    if len(body) < 2 * height * width:
        raise _damaged(where, f"the raw picture has {len(body)} bytes, too few for {width}×{height}, or is coded")
    plain = np.frombuffer(body, order + "u2", height * width).reshape(height, width)
    return plain.astype(np.uint16)


def _smoother(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the raw picture of a PNG in the right byte order.

    Most FLIR cameras write the low byte first although PNG wants the high one; in the wrong order, neighbours
    differ by multiples of 256. Where both orders are equally smooth, it is FLIR's.
    """
    swapped = image.byteswap()
    as_is, turned = (
        sum(float(np.abs(np.diff(one.astype(np.int32), axis=axis)).sum()) for axis in (0, 1))
        for one in (image, swapped)
    )
    return image if as_is < turned else swapped


def _camera(record: bytes, where: str) -> tuple[Planck, str]:
    order = _order(record, where)
    value = {name: struct.unpack(order + "f", record[at : at + 4])[0] for name, at in _FLOATS.items()}
    value["o"] = struct.unpack(order + "i", record[_OFFSET_O : _OFFSET_O + 4])[0]
    air = tuple(value.pop(name) for name in ("alpha1", "alpha2", "beta1", "beta2", "x"))
    for name in ("reflected", "atmospheric", "window"):
        value[f"{name}_celsius"] = value.pop(name) - KELVIN
    if value["humidity"] > 1:  # some cameras write per cent
        value["humidity"] /= 100
    try:
        planck = Planck.model_validate({**value, "air": air})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "together"
        reason = first["msg"].removeprefix("Value error, ")
        raise _damaged(where, f"the camera's constants are impossible: {field}: {reason}") from None
    return planck, record[_MODEL].split(b"\x00")[0].decode("latin1").strip()


def _damaged(where: str, what: str) -> DataError:
    return DataError(f"{where}: the raw picture in this JPEG cannot be read ({what}); copy the camera's file again")
