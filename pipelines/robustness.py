"""What is done to the pairs before a model sees them: a sensor taken away, thermal moved, a picture made worse."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from data.augment.degrade import DEGRADATIONS
from data.errors import DataError
from data.frame import Image
from data.prepare import InputSpec, Prepared
from data.sample import SENSORS
from fusion.seeds import derive
from pipelines.evaluation import Kind

ALL = "all"
Change = Callable[[Prepared, str, InputSpec], Prepared]
"""Pair, id, what the pair is → the pair as the model is to see it."""
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class Condition:
    """One row of the table: what is done to every pair."""

    kind: Kind
    words: str
    """For the row's name; empty: nothing is done."""
    sensors: tuple[str, ...]
    """That the model is given."""
    changes: tuple[Change, ...]
    """Done one instead of the other; the row is the mean over them."""


def choose(
    name: str,
    sensors: Sequence[str],
    without: Sequence[str] | None = None,
    shift: Iterable[float] = (),
    degrade: Iterable[str] = (),
) -> list[Condition]:
    """The rows that were asked for.

    Args:
        name: Of the model.
        sensors: That it looks at.
        without: Sensors to leave out, a row for each; None: a row with all of them and, of two, one without each.
        shift: Pixels of the delivered RGB picture by which thermal is moved, a row for each.
        degrade: Names of data.augment.degrade.DEGRADATIONS, or ``all`` that change what the model looks at.

    Raises:
        DataError: no such degradation; or of a model of one sensor, that it is to do without it, or that the other is
            to be moved or made worse.
    """
    sensors, shift, degrade = tuple(sensors), list(dict.fromkeys(shift)), _named(degrade, name, sensors)
    alone = len(sensors) == 1
    if alone and without:
        raise DataError(f"{name} looks at {sensors[0]} alone: no sensor can be left out")
    if alone and shift:
        raise DataError(f"{name} looks at {sensors[0]} alone: there is nothing for thermal to be moved against")
    absent = [s for s in SENSORS if s in sensors and not alone] if without is None else list(dict.fromkeys(without))
    found = [] if without and not shift and not degrade else [Condition("whole", "", sensors, (_unchanged,))]
    for gone in absent:
        left = tuple(s for s in sensors if s != gone)
        found.append(Condition("absent", f"{gone} absent", left, (_without(gone),)))
    for pixels in shift:
        moves = tuple(_moved(pixels * x, pixels * y) for x, y in _DIRECTIONS)
        found.append(Condition("shift", f"thermal moved {pixels:g} px", sensors, moves))
    for one in degrade:
        found.append(Condition("degraded", one.replace("_", " "), sensors, (_degraded(one),)))
    return found


def _named(degrade: Iterable[str], name: str, sensors: Sequence[str]) -> list[str]:
    """Names in their order, each once; for ``all`` those that change what the model looks at."""
    named: list[str] = []
    for one in degrade:
        if one != ALL and one not in DEGRADATIONS:
            raise DataError(f"no degradation '{one}': expected {ALL}, or any of {', '.join(DEGRADATIONS)}")
        if one != ALL and DEGRADATIONS[one].sensor not in sensors:
            raise DataError(f"'{one}' changes {DEGRADATIONS[one].sensor}, but {name} looks at {sensors[0]} alone")
        named += fitting([one], sensors)
    return list(dict.fromkeys(named))


def fitting(degrade: Iterable[str], sensors: Sequence[str]) -> list[str]:
    """Those degradations, or all of them for ``all``, that change one of the sensors."""
    named = [name for one in degrade for name in (DEGRADATIONS if one == ALL else [one])]
    return [name for name in named if DEGRADATIONS[name].sensor in sensors]


def mean(figures: Sequence[Any]) -> Any:  # noqa: ANN401 - what a metric computes: numbers in dicts and lists
    """The mean of what several metrics computed, number by number; of a class that only some have, over those."""
    first = figures[0]
    if isinstance(first, Mapping):
        keys = dict.fromkeys(key for one in figures for key in one)
        return {key: mean([one[key] for one in figures if key in one]) for key in keys}
    if isinstance(first, (list, tuple)):
        return [mean(values) for values in zip(*figures, strict=True)]
    if first is None or isinstance(first, str) or all(one == first for one in figures):
        return first
    return sum(figures) / len(figures)


def _unchanged(pair: Prepared, identity: str, inputs: InputSpec) -> Prepared:
    return pair


def _without(sensor: str) -> Change:
    """Zeros, and absent in ``present``, as where nobody delivers a picture."""

    def change(pair: Prepared, identity: str, inputs: InputSpec) -> Prepared:
        present = pair.present.copy()
        present[SENSORS.index(sensor)] = 0
        pictures = {sensor: np.zeros_like(getattr(pair, sensor))}
        return replace(pair, present=present, **pictures)

    return change


def _moved(dx: float, dy: float) -> Change:
    """Thermal moved by so many pixels of the delivered RGB picture; where nothing came from, pixels are invalid."""

    def change(pair: Prepared, identity: str, inputs: InputSpec) -> Prepared:
        height, width = _thermal_content(pair, inputs)
        sx, sy = (pair.scale * inputs.thermal_size[axis] / inputs.rgb_size[axis] for axis in (1, 0))
        thermal = pair.thermal.copy()
        thermal[:height, :width] = _move(thermal[:height, :width], dx * sx, dy * sy, inputs.thermal.invalid)
        return replace(pair, thermal=thermal)

    return change


def _thermal_content(pair: Prepared, inputs: InputSpec) -> tuple[int, int]:
    """Height, width of what is not padding of thermal: a canvas is one for both, and without one there is none."""
    return pair.content if inputs.letterbox else inputs.thermal_size


def _move(image: Image, dx: float, dy: float, invalid: float) -> Image:
    """Bilinear; a pixel that an invalid one would be mixed into is invalid."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    size = (image.shape[1], image.shape[0])
    moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    valid = cv2.warpAffine((image != invalid).astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    moved[valid < 1 - 1e-3] = invalid
    return np.asarray(moved)


def _degraded(name: str) -> Change:
    """Made worse within what is not padding; the same for the same pair on every machine."""
    spoil = DEGRADATIONS[name]

    def change(pair: Prepared, identity: str, inputs: InputSpec) -> Prepared:
        if not pair.present[SENSORS.index(spoil.sensor)]:
            return pair
        rng = np.random.default_rng(derive("degrade", name, identity))
        (height, width), (th, tw) = pair.content, _thermal_content(pair, inputs)
        rgb, thermal = pair.rgb.copy(), pair.thermal.copy()
        rgb[:height, :width], thermal[:th, :tw] = spoil(rgb[:height, :width], thermal[:th, :tw], rng, inputs.thermal)
        return replace(pair, rgb=rgb, thermal=thermal)

    return change
