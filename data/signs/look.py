"""Look at a sample of pairs and say what was seen: one line each, with the change of the card that it proposes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.encoded import decode
from data.errors import DataError
from data.frame import Image
from data.images import PICTURE, one_channel, read_rgb, read_thermal
from data.radiometric import is_radiometric
from data.rig import Rig
from data.signs.burnt import find_border, find_false_colour, find_overlay, find_telemetry, without_empty
from data.signs.mount import find_mount
from data.signs.polarity import find_polarity
from data.signs.sign import Sign
from data.signs.span import find_range
from data.text_file import read_bytes
from data.thermal import ThermalSpec

SAMPLED = 24
"""Pairs that are looked at: spread over all, at most so many."""
_RGB_WIDTH = 640
"""RGB is looked at no wider than this: mounts and skies are compared at a quarter of it."""
_MOST_BYTES = 1 << 28
"""Of thermal frames that are held at once."""


def look(
    frames: Sequence[Image],
    rgbs: Sequence[Image | None],
    spec: ThermalSpec | None = None,
    rig: Rig | None = None,
) -> list[Sign]:
    """Say what a sample of pairs shows of thermal; nothing is guessed silently and nothing is changed.

    Args:
        frames: Thermal as stored, H×W or H×W×C of any dtype; converted to the unit where the spec converts.
        rgbs: The RGB pictures of the same pairs, H×W×3 uint8; None where there is none.
        spec: What the card says of thermal; None: nothing yet, and a whole spec is proposed.
        rig: What the card says of the mount; its turn is applied before mounts are compared.

    Returns:
        Warnings, then the note on the range; empty without frames.
    """
    if not frames:
        return []
    rig = rig or Rig()
    false_colour, border = find_false_colour(frames), find_border(frames, spec)
    scenes = _without_empty(frames, spec, border)
    mount = find_mount(scenes, rgbs, rig)
    marks = [*border, *find_overlay(scenes, spec), *find_telemetry(scenes, spec)]
    if false_colour:  # numbers of a palette tell neither warmth nor range
        return [*false_colour, *mount, *marks]
    upright = Rig.model_validate(mount[0].change["rig"]) if mount else rig  # the sky is at the top
    return [*mount, *find_polarity(scenes, rgbs, spec, upright), *marks, *find_range(frames, spec)]


def _without_empty(frames: Sequence[Image], spec: ThermalSpec | None, border: list[Sign]) -> Sequence[Image]:
    """The frames with nothing extreme where they show nothing, by the spec or by the border that was found."""
    if border:
        value = float(border[0].change["thermal_spec"]["invalid"])
    elif spec is not None and (spec.marks or spec.unit == "celsius"):
        value = spec.invalid
    else:
        return frames
    return [without_empty(frame, value) for frame in frames]


def look_at_files(
    thermal: Sequence[Path],
    rgb: Sequence[Path | None],
    spec: ThermalSpec | None = None,
    rig: Rig | None = None,
) -> list[Sign]:
    """Look at pairs of files, a sample of them; files that cannot be read are left out (check reports those)."""
    assert len(thermal) == len(rgb)
    chosen = sorted({int(k) for k in np.linspace(0, len(thermal) - 1, min(SAMPLED, len(thermal)))})
    frames: list[Image] = []
    rgbs: list[Image | None] = []
    radiometric = held = 0
    for index in chosen:
        path, partner = thermal[index], rgb[index]
        try:
            frame, inside = _as_stored(path, spec)
            seen = None if partner is None else _small(read_rgb(partner))
        except DataError:
            continue
        held += frame.nbytes
        if frames and held > _MOST_BYTES:
            break
        frames.append(frame)
        rgbs.append(seen)
        radiometric += inside
    signs = look(frames, rgbs, spec, rig)
    if radiometric and (spec is None or spec.stored != "radiometric"):
        text = f"{radiometric} of {len(frames)} thermal files are radiometric JPEGs: raw counts lie inside, unused"
        change = {"thermal_spec": {"unit": "celsius", "stored": "radiometric"}}
        signs.insert(0, Sign("radiometric", text, change))
    return signs


def _small(rgb: Image) -> Image:
    height, width = rgb.shape[:2]
    if width <= _RGB_WIDTH:
        return rgb
    size = _RGB_WIDTH, max(1, round(height * _RGB_WIDTH / width))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _as_stored(path: Path, spec: ThermalSpec | None) -> tuple[Image, bool]:
    """A frame as the file holds it, or converted where the spec converts; and whether raw counts lie inside."""
    if spec is not None and spec.stored != "unit":
        return read_thermal(path, spec), False
    raw = read_bytes(path, PICTURE)
    image = decode(raw, str(path))
    if spec is not None and spec.channel is not None:
        image = one_channel(image, spec.channel, path)
    return image, is_radiometric(raw)
