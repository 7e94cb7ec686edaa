"""Things on a background, as light for the RGB camera, as degrees for the thermal one, and as labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.background import Background, Field, Grid
from data.synthetic.site import Weather
from data.synthetic.things import AMBIENT, CAMOUFLAGED, CLASSES, DRAW, FLAT, Patch, Thing

VISIBLE = 0.35
"""Share of a thing that must be seen for it to be labelled."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is really there, in pixels of the RGB picture."""

    boxes: NDArray[np.float32]
    """[N,4] x1, y1, x2, y2 around the parts that are not hidden."""
    labels: NDArray[np.int64]
    """[N], index into CLASSES."""
    mask: NDArray[np.uint8]
    """H×W: 0 background, 1 + index into CLASSES."""

    @property
    def nearest(self) -> str | None:
        """Kind of the labelled thing that stands nearest to the camera; None where none is to be seen."""
        return CLASSES[self.labels[self.boxes[:, 3].argmax()]] if len(self.labels) else None


def _patches(
    things: Sequence[Thing], weather: Weather, grid: Grid, coloured: bool = False
) -> list[tuple[Thing, Patch]]:
    drawn = []
    for thing in sorted(things, key=lambda t: t.foot):  # the nearer hides the farther
        patch = Patch(thing, grid.shape, grid.height, grid.margin, coloured)
        if patch.alpha.size:
            DRAW[thing.kind](patch, thing, weather.ambient)
            drawn.append((thing, patch))
    return drawn


def render_rgb(things: Sequence[Thing], place: Background, weather: Weather, grid: Grid) -> Field:
    """Return light, grid's shape × 3, 0…1 and above where it saturates."""
    night = weather.condition == "night"
    light = place.colour.copy()
    glow = np.zeros_like(light) if night else None
    for thing, patch in _patches(things, weather, grid, coloured=True):
        area = (patch.rows, patch.columns)
        if not night and thing.kind not in FLAT:
            _shade(light, patch, thing)
        rest = (1 - patch.alpha)[:, :, None]
        if thing.kind in CAMOUFLAGED:
            # The fur has the pattern of what is behind it, a trace darker.
            light[area] = light[area] * rest + place.colour[area] * (0.95 * patch.alpha[:, :, None])
        else:
            roundness = 1.08 - 0.3 * np.clip(patch.x / (thing.aspect / 2), -1, 1) - 0.12 * patch.y
            light[area] = light[area] * rest + patch.colour * (roundness * weather.light)[:, :, None]
        if glow is not None:
            glow[area] = glow[area] * rest + patch.glow
    if glow is not None:
        light += glow + _halo(glow)
    if place.veil is not None:
        light = 0.72 * light + place.veil
    return light


def render_celsius(things: Sequence[Thing], place: Background, weather: Weather, grid: Grid) -> Field:
    """Return apparent temperature in °C, grid's shape."""
    celsius = place.celsius.copy()
    for thing, patch in _patches(things, weather, grid):
        area = (patch.rows, patch.columns)
        warm = place.celsius[area] * patch.alpha if thing.kind in AMBIENT else patch.warm
        celsius[area] = celsius[area] * (1 - patch.alpha) + warm
    return celsius


def find_truth(things: Sequence[Thing], weather: Weather, grid: Grid) -> Truth:
    """Return boxes, labels and mask of the things that can be seen in the RGB picture's frame."""
    owner = np.zeros(grid.shape, np.uint8)
    drawn = _patches(things, weather, grid)
    whole = np.zeros(len(drawn) + 1)
    for number, (_, patch) in enumerate(drawn, 1):
        inside = patch.alpha > 0.5
        owner[patch.rows, patch.columns][inside] = number
        whole[number] = inside.sum()
    edge = slice(grid.margin, -grid.margin or None)
    owner = owner[edge, edge]
    kinds = np.zeros(len(drawn) + 1, np.uint8)
    boxes, labels = [], []
    for number, (thing, _) in enumerate(drawn, 1):
        if thing.kind not in CLASSES:
            continue
        kinds[number] = 1 + CLASSES.index(thing.kind)
        left, top, width, height = cv2.boundingRect((owner == number).view(np.uint8))
        seen = np.count_nonzero(owner[top : top + height, left : left + width] == number)
        if seen < 12 or seen < VISIBLE * whole[number]:
            continue
        boxes.append((left, top, left + width, top + height))
        labels.append(CLASSES.index(thing.kind))
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), kinds[owner])


def _shade(light: Field, patch: Patch, thing: Thing) -> None:
    """A soft shadow on the ground around the thing's foot."""
    aside = np.clip(1 - (2 * patch.x / thing.aspect) ** 2, 0, 1)
    depth = 0.5 * np.exp(-(((patch.y - 1) / 0.05) ** 2)) * aside
    light[patch.rows, patch.columns] *= (1 - depth)[:, :, None]


def _halo(glow: Field) -> Field:
    """Light that the lens spreads around lamps."""
    height, width = glow.shape[:2]
    small = cv2.resize(glow, (max(8, width // 6), max(8, height // 6)), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), small.shape[0] * 0.05)
    return np.asarray(1.6 * cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
