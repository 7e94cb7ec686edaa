"""What thermal files hold: the unit, how it is stored, and what a sample of frames shows of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.folders import Side, header_or_error
from data.images import PICTURE, Header, read_header, read_thermal
from data.radiometric import is_radiometric, radiometric_size
from data.signs.look import look_at_files
from data.text_file import read_bytes
from data.thermal import DTYPES, ThermalSpec

_UNIT_OF = {dtype: unit for unit, dtype in DTYPES.items()}
_MEANING = {
    "intensity8": "8 bits after the camera's gain control, no temperature",
    "counts16": "raw counts of the camera (not tenths of Kelvin, no known temperature)",
    "celsius": "degrees Celsius",
}
_HOLD = {
    "decikelvin": "tenths of Kelvin",
    "centikelvin": "hundredths of Kelvin",
    "planck": "raw counts and the constants of --planck",
    "radiometric": "raw counts and the camera's constants",
}
"""How files store a temperature → what they hold, in words."""
_BECOMES: dict[str, tuple[str, ...]] = {"unit": tuple(DTYPES), "radiometric": ("celsius", "counts16")}
"""How files store thermal → units that it becomes; others become degrees."""
_JPEG = (".jpg", ".jpeg")
_SAMPLED = 16


def find_stored(
    paths: Sequence[Path], unit: str | None, stored: str | None, assumed: list[str], constants: bool = False
) -> tuple[str, Callable[[Path], Header]]:
    """How files store thermal, one of data.thermal.Stored, and what reads their size and dtype.

    Args:
        paths: The thermal files.
        unit: What the user says of it; with intensity8, of a radiometric JPEG the picture that shows is taken.
        stored: What the user says, or what is known of the set; None: radiometric JPEGs are recognised.
        assumed: What was recognised is added here.
        constants: Whether the user has given constants that make degrees of raw counts.

    Raises:
        DataError: some files are radiometric and some are not, or what is stored does not become the unit.
    """
    if constants:
        _takes_constants(unit, stored)
    units = _BECOMES.get(stored or "unit", ("celsius",))
    if unit is not None and unit not in units:
        raise DataError(
            f"--stored {stored} becomes {' or '.join(units)}, not '{unit}': leave --unit out, or correct it"
        )
    if stored is None and unit != "intensity8" and paths[0].suffix.lower() in _JPEG:
        sampled = [path for path in _spread(paths) if isinstance(header_or_error(path), Header)]
        inside = [is_radiometric(read_bytes(path, PICTURE)) for path in sampled]
        if any(inside) and not all(inside):
            odd = sampled[inside.index(False)]
            raise DataError(
                f"{inside.count(True)} of {len(sampled)} thermal files are radiometric JPEGs, others are not (such as "
                f"{odd}); make two data sets of them, or say --unit intensity8 for the pictures that show"
            )
        if inside and all(inside):
            whose = "those that you gave (thermal_spec.planck)" if constants else "the constants of each file"
            assumed.append(
                f"thermal files are radiometric JPEGs: the raw counts inside are read with {whose}, "
                "not the picture that shows (thermal_spec.stored: radiometric)"
            )
            stored = "radiometric"
    stored = "planck" if constants and stored is None else stored
    return (stored, _inner_header) if stored == "radiometric" else (stored or "unit", read_header)


def _takes_constants(unit: str | None, stored: str | None) -> None:
    if unit not in (None, "celsius") or stored not in (None, "radiometric"):
        other = f"--unit {unit}" if unit not in (None, "celsius") else f"--stored {stored}"
        raise DataError(f"--planck makes degrees Celsius of raw counts, which does not go with {other}: leave one out")


def _inner_header(path: Path) -> Header:
    """Size of the raw picture in a radiometric JPEG."""
    return Header(*radiometric_size(read_bytes(path, PICTURE), str(path)), 1, "uint16")


def find_unit(
    dtype: str,
    unit: str | None,
    paths: Sequence[Path],
    assumed: list[str],
    known: Mapping[str, Any] | None = None,
    stored: str = "unit",
) -> ThermalSpec:
    """What the thermal numbers mean, by their dtype or by what the user says.

    Args:
        dtype: Of the files.
        unit: One of data.thermal.DTYPES; None: by what is stored, else by the dtype.
        paths: The thermal files, of which a sample is read.
        assumed: What was assumed is added here.
        known: Further fields of the spec, as plain YAML content.
        stored: What ``find_stored`` said.

    Raises:
        DataError: the unit does not go with what is stored, or half of the sampled frames cannot be read.
    """
    chosen = _unit_of(dtype, unit, stored, paths[0])
    spec = ThermalSpec.model_validate(
        {"unit": chosen, **(known or {}), **({} if stored == "unit" else {"stored": stored})}
    )
    low, high, empty, read = _measured(_spread(paths), spec, assumed)
    why = f"since the files are {dtype}"
    if stored in _HOLD:
        why = f"made of {_HOLD[stored]} (thermal_spec.stored: {stored})"
    elif unit is not None:
        why = "as you said"
    assumed.append(f"thermal unit is '{chosen}', {why}: {_MEANING[chosen]}; {read} frames hold {low:g} … {high:g}")
    assumed.append("warmer is brighter (thermal_spec.polarity: white-hot)")
    if empty > 0.01 and not spec.marked:
        assumed.append(
            f"! {empty:.0%} of thermal pixels are exactly {spec.invalid:g} and taken as picture; if these are black "
            "borders or dead pixels, set thermal_spec.marked: true"
        )
    return spec


def _unit_of(dtype: str, unit: str | None, stored: str, first: Path) -> str:
    """The unit of files of that dtype; DataError where it does not go with what they store."""
    here = f"the thermal pictures are {dtype} (first: {first})"
    if stored != "unit":
        if dtype == "uint8":
            word = "--planck" if stored == "planck" else f"--stored {stored}"
            raise DataError(f"{word} needs numbers of more than 8 bits, but {here}")
        return unit or "celsius"
    if unit is None and dtype not in _UNIT_OF:
        raise DataError(f"thermal pictures are {dtype}, expected one of {', '.join(_UNIT_OF)} (first: {first})")
    chosen = unit or _UNIT_OF[dtype]
    if DTYPES[chosen] != dtype:
        kelvin = chosen == "celsius" and dtype != "uint8"
        hint = "; if they hold parts of Kelvin, add --stored decikelvin or --stored centikelvin" if kelvin else ""
        raise DataError(f"unit '{chosen}' means {DTYPES[chosen]}, but {here}{hint}")
    return chosen


def _measured(paths: Sequence[Path], spec: ThermalSpec, assumed: list[str]) -> tuple[float, float, float, int]:
    """Of frames that can be read: lowest and highest valid number (or NaN), share of ``invalid``, and their number.

    A few that are wrong must not hold up the card, with which ``rgbt data check`` names them all.
    """
    low = high = np.nan
    empty, wrong = 0.0, list[DataError]()
    for path in paths:  # one frame in memory at a time
        try:
            frame = read_thermal(path, spec)
        except DataError as error:
            wrong.append(error)
            continue
        empty += float(np.mean(frame == spec.invalid))
        dead = spec.dead(frame)
        shown = frame if dead is None else frame[~dead]
        if shown.size:
            low, high = float(np.fmin(low, shown.min())), float(np.fmax(high, shown.max()))
    if 2 * len(wrong) >= len(paths):
        raise wrong[0]
    if wrong:
        assumed.append(f"! {len(wrong)} of {len(paths)} thermal frames are wrong (first: {wrong[0]})")
    read = len(paths) - len(wrong)
    return low, high, empty / read, read


def find_signs(rgb: Side, thermal: Side, spec: ThermalSpec, assumed: list[str]) -> None:
    """Say what a sample of pairs shows of how thermal was stored, exposed and mounted; nothing is changed by itself."""
    ids = list(thermal.files)
    for sign in look_at_files([thermal.files[one] for one in ids], [rgb.files.get(one) for one in ids], spec):
        change = f"; proposed: {json.dumps(sign.change)}" if sign.change else ""
        assumed.append(f"{'! ' if sign.level == 'warning' else ''}{sign.text}{change}")


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most so many, from the first to the last: a set is often sorted by place or time."""
    return [paths[k] for k in np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).round().astype(int)]
