"""Constants of a radiometric camera from a file: one of its own JPEGs, what ExifTool prints of one, or plain YAML."""

from pathlib import Path
from typing import Any

from data.errors import DataError
from data.radiometric import is_radiometric, parse_radiometric
from data.text_file import read_bytes
from data.thermal import Planck
from data.yaml_file import read_yaml, validate

_EXIFTOOL = {
    "PlanckR1": "r1", "PlanckR2": "r2", "PlanckB": "b", "PlanckF": "f", "PlanckO": "o", "Emissivity": "emissivity",
    "ReflectedApparentTemperature": "reflected_celsius", "ObjectDistance": "distance_m",
    "AtmosphericTemperature": "atmospheric_celsius", "RelativeHumidity": "humidity",
    "IRWindowTransmission": "window_transmission", "IRWindowTemperature": "window_celsius",
}  # fmt: skip
"""What ExifTool calls the constants → what we do."""
_AIR = tuple(f"AtmosphericTrans{name}" for name in ("Alpha1", "Alpha2", "Beta1", "Beta2", "X"))
_UNITS = {" C": 1.0, " m": 1.0, " %": 0.01}
"""What ExifTool writes behind a number → what it is multiplied by."""


def read_planck(path: Path) -> Planck:
    """Read the constants of a camera, and of the conditions that were set when it took the picture.

    Args:
        path: A radiometric JPEG of the camera; the output of ``exiftool -j`` on one; or YAML or JSON of the fields of
            data.thermal.Planck.

    Raises:
        DataError: it is none of them, or its constants are impossible.
    """
    raw = read_bytes(path, "the camera's constants")
    if is_radiometric(raw):
        return parse_radiometric(raw, str(path)).planck
    if raw[:2] == b"\xff\xd8":
        raise DataError(f"{path}: this JPEG holds no camera's constants; name one that the camera itself wrote")
    content, lines = read_yaml(path)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]  # exiftool -j prints a list of one
    if not isinstance(content, dict) or not content.keys() & {"PlanckR1", "r1"}:
        raise DataError(
            f"{path}: expected the constants of one camera: a radiometric JPEG, what 'exiftool -j' prints of one, or "
            "YAML such as r1: 17368.8, r2: 0.0188, b: 1442.4, f: 1, o: -1550, emissivity: 0.95"
        )
    return validate(_named(content, path) if "PlanckR1" in content else content, Planck, path, lines)


def _named(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """ExifTool's names and units as ours; what else it prints is no constant of the curve."""
    values: dict[str, Any] = {ours: _number(content[name]) for name, ours in _EXIFTOOL.items() if name in content}
    there = [name for name in _AIR if name in content]
    if there and len(there) < len(_AIR):
        lost = next(name for name in _AIR if name not in content)
        raise DataError(f"{path}: {lost} is missing beside {there[0]}; print all of 'exiftool -j -FLIR:all'")
    return values | ({"air": tuple(_number(content[name]) for name in _AIR)} if there else {})


def _number(value: object) -> object:
    """'22.0 C' → 22; what is no number is left for the check of the fields to name."""
    if not isinstance(value, str):
        return value
    for unit, factor in _UNITS.items():
        if value.endswith(unit):
            try:
                return float(value.removesuffix(unit)) * factor
            except ValueError:
                return value
    return value
