"""What stands in a synthetic scene: how each class looks to either camera."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.synthetic.site import Colour

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object or distractor; lengths are fractions of the RGB picture's height."""

    kind: str
    x: float
    """Middle, from the left edge."""
    foot: float
    """Where it meets the ground, from the upper edge."""
    height: float
    aspect: float
    """Width over height."""
    flip: bool
    colour: Colour
    second: Colour
    warmth: float
    """0…1, from the least to the most heat of its kind."""
    phase: float
    """Of the gait, in radians."""


class Patch:
    """The piece of picture that one thing covers: premultiplied colour, glow and temperature."""

    def __init__(self, thing: Thing, shape: tuple[int, int], scale: float, origin: float, coloured: bool) -> None:
        """Cut the thing's rectangle out of ``shape`` pixels, ``scale`` pixels a height, margin ``origin``.

        Only a ``coloured`` patch has colour and glow: they are most of the work.
        """
        self._coloured = coloured
        self.pixels = thing.height * scale
        middle, foot = thing.x * scale + origin, thing.foot * scale + origin
        half = thing.aspect * self.pixels / 2 + 2
        left, right = max(0, int(middle - half)), min(shape[1], int(middle + half) + 2)
        top, bottom = max(0, int(foot - self.pixels) - 2), min(shape[0], int(foot) + 3)
        self.rows, self.columns = slice(top, max(top, bottom)), slice(left, max(left, right))
        x = (np.arange(left, max(left, right), dtype=np.float32) + 0.5 - middle) / self.pixels
        self.x = (-x if thing.flip else x)[None, :]
        self.y = ((np.arange(top, max(top, bottom), dtype=np.float32) + 0.5 - foot) / self.pixels + 1)[:, None]
        size = (self.y.shape[0], self.x.shape[1])
        self.alpha = np.zeros(size, np.float32)
        self.colour = np.zeros((*size, 3) if coloured else (0, 0, 3), np.float32)
        self.glow = np.zeros_like(self.colour)
        self.warm = np.zeros(size, np.float32)

    def paint(self, distance: Field, colour: Colour, celsius: float, glow: float = 0.0, soft: float = 1.0) -> None:
        """Lay a part over what is there; ``distance`` is negative inside it, in heights of the thing."""
        cover = np.clip(0.5 - distance * (self.pixels / soft), 0, 1)
        rest = 1 - cover
        self.alpha = self.alpha * rest + cover
        self.warm = self.warm * rest + celsius * cover
        if not self._coloured:
            return
        tint = np.array(colour, np.float32)
        self.colour = self.colour * rest[:, :, None] + tint * cover[:, :, None]
        self.glow = self.glow * rest[:, :, None] + tint * (glow * cover[:, :, None])

    def disc(self, x: float, y: float, rx: float, ry: float) -> Field:
        """Signed distance to an ellipse, roughly."""
        r = np.sqrt(((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2)
        return np.asarray((r - 1) * min(rx, ry), np.float32)

    def box(self, x: float, y: float, rx: float, ry: float, skew: float = 0.0, taper: float = 0.0) -> Field:
        """Signed distance to a box around (x, y); ``skew`` moves its foot, ``taper`` narrows its top."""
        down = (self.y - y) / ry
        width = rx * (1 - taper * (1 - down) / 2)
        return np.asarray(
            np.maximum(np.abs(self.x - x - skew * (down + 1) / 2) - width, np.abs(self.y - y) - ry), np.float32
        )


def person(patch: Patch, thing: Thing, ambient: float) -> None:
    """Clothes and skin by daylight; skin and warm clothes in thermal."""
    skin, cloth = 30.0 + 3 * thing.warmth, ambient + (29 - ambient) * (0.55 + 0.2 * thing.warmth)
    swing = 0.11 * float(np.sin(thing.phase))
    for side in (1, -1):
        patch.paint(patch.box(0.055 * side, 0.76, 0.055, 0.24, skew=side * swing), thing.second, cloth - 2)
    patch.paint(patch.box(-0.15, 0.38, 0.035, 0.18, skew=swing), thing.colour, cloth)
    patch.paint(patch.box(0.15, 0.38, 0.035, 0.18, skew=-swing), thing.colour, cloth)
    patch.paint(patch.box(0, 0.36, 0.125, 0.2, taper=-0.15), thing.colour, cloth + 1)
    tone = 0.4 + 0.5 * thing.warmth
    patch.paint(patch.disc(0, 0.09, 0.07, 0.09), (tone, 0.75 * tone, 0.6 * tone), skin)


def car(patch: Patch, thing: Thing, ambient: float) -> None:
    """Painted metal that mirrors the cold sky, with a warm hood and warm tyres."""
    metal, hood = ambient + 1.0, ambient + 9 + 8 * thing.warmth
    half = thing.aspect / 2
    if thing.aspect > 1.4:  # from the side, hood to the right
        patch.paint(patch.box(-0.06 * half, 0.26, 0.52 * half, 0.24, taper=0.3), thing.colour, metal - 1)
        patch.paint(patch.box(-0.06 * half, 0.28, 0.43 * half, 0.15, taper=0.35), (0.12, 0.15, 0.2), ambient - 2)
        patch.paint(patch.box(0, 0.62, 0.97 * half, 0.2), thing.colour, metal)
        patch.paint(patch.box(0.68 * half, 0.56, 0.28 * half, 0.12), thing.colour, hood, soft=3)
        wheels = (-0.6 * half, 0.6 * half)
        patch.paint(patch.disc(0.93 * half, 0.56, 0.05, 0.05), (0.9, 0.88, 0.7), metal + 2, glow=0.16)
        patch.paint(patch.disc(-0.93 * half, 0.56, 0.05, 0.06), (0.75, 0.08, 0.06), metal, glow=0.13)
    else:  # from the front
        patch.paint(patch.box(0, 0.28, 0.75 * half, 0.25, taper=0.25), thing.colour, metal - 1)
        patch.paint(patch.box(0, 0.29, 0.64 * half, 0.16, taper=0.25), (0.12, 0.15, 0.2), ambient - 2)
        patch.paint(patch.box(0, 0.65, 0.95 * half, 0.22), thing.colour, metal)
        patch.paint(patch.box(0, 0.62, 0.6 * half, 0.15), (0.2, 0.2, 0.2), hood, soft=3)
        wheels = (-0.75 * half, 0.75 * half)
        for side in (1, -1):
            patch.paint(patch.disc(0.74 * half * side, 0.58, 0.07, 0.06), (0.9, 0.88, 0.7), metal, glow=0.16)
    for at in wheels:
        patch.paint(patch.disc(at, 0.84, 0.155, 0.155), (0.06, 0.06, 0.07), ambient + 4 + 3 * thing.warmth)
        patch.paint(patch.disc(at, 0.84, 0.07, 0.07), (0.45, 0.45, 0.47), ambient + 3)


def cone(patch: Patch, thing: Thing, ambient: float) -> None:
    """Bright and retro-reflecting; in thermal as cold as what stands behind it."""
    del ambient  # the renderer takes the temperature of the background
    orange = (0.95, 0.38, 0.06)
    patch.paint(patch.box(0, 0.95, 0.39, 0.05), orange, 0, glow=0.35)
    patch.paint(patch.box(0, 0.47, 0.27, 0.47, taper=0.8), orange, 0, glow=0.4)
    for y, rx in ((0.35, 0.155), (0.65, 0.215)):
        patch.paint(patch.box(0, y, rx, 0.075, taper=0.14), (0.95, 0.95, 0.93), 0, glow=0.75)
    del thing


def animal(patch: Patch, thing: Thing, ambient: float) -> None:
    """Fur of the ground's own colour; warm in thermal."""
    fur = ambient + (34 - ambient) * (0.45 + 0.2 * thing.warmth)
    step = 0.05 * float(np.sin(thing.phase))
    for x, sign in ((-0.36, 1), (-0.26, -1), (0.24, 1), (0.34, -1)):
        patch.paint(patch.box(x, 0.8, 0.04, 0.2, skew=sign * step), thing.colour, fur - 4)
    patch.paint(patch.disc(0, 0.48, 0.47, 0.24), thing.colour, fur)
    patch.paint(patch.box(0.45, 0.32, 0.075, 0.17, skew=-0.1), thing.colour, fur)
    patch.paint(patch.disc(0.56, 0.16, 0.13, 0.1), thing.colour, fur + 3)
    patch.paint(patch.box(0.48, 0.06, 0.025, 0.06), thing.colour, fur)


def lamp(patch: Patch, thing: Thing, ambient: float) -> None:
    """A pole with a hot head: warm in thermal, dazzling at night, no object."""
    patch.paint(patch.box(0, 0.55, 0.018, 0.45), (0.3, 0.31, 0.32), ambient + 0.5)
    patch.paint(patch.box(0.05, 0.07, 0.07, 0.02), (0.3, 0.31, 0.32), ambient + 4)
    patch.paint(patch.disc(0.08, 0.1, 0.035, 0.028), (1.0, 0.95, 0.8), ambient + 22 + 10 * thing.warmth, glow=1.0)


def cabinet(patch: Patch, thing: Thing, ambient: float) -> None:
    """A grey box that is warm inside: about as large and as warm as a person, no object."""
    patch.paint(patch.box(0, 0.52, 0.24, 0.48), (0.5, 0.52, 0.5), ambient + 6 + 6 * thing.warmth)
    patch.paint(patch.box(0, 0.52, 0.008, 0.44), (0.32, 0.33, 0.32), ambient + 4)
    patch.paint(patch.box(0, 0.03, 0.27, 0.03), (0.6, 0.62, 0.6), ambient + 3)


def sign(patch: Patch, thing: Thing, ambient: float) -> None:
    """A coloured board, orange like a cone or bright like clothes, at the temperature of the air, no object."""
    patch.paint(patch.box(0, 0.75, 0.03, 0.25), (0.4, 0.4, 0.4), ambient)
    patch.paint(patch.box(0, 0.28, thing.aspect * 0.46, 0.26), thing.colour, ambient, glow=0.2)
    patch.paint(patch.box(0, 0.28, thing.aspect * 0.3, 0.06), thing.second, ambient, glow=0.2)


def hatch(patch: Patch, thing: Thing, ambient: float) -> None:
    """A warm cover in the ground, dark by day, no object."""
    patch.paint(patch.disc(0, 0.5, thing.aspect * 0.48, 0.45), (0.2, 0.2, 0.2), ambient + 8 + 8 * thing.warmth, soft=2)


DRAW: dict[str, Callable[[Patch, Thing, float], None]] = {
    "person": person,
    "car": car,
    "cone": cone,
    "animal": animal,
    "lamp": lamp,
    "cabinet": cabinet,
    "sign": sign,
    "hatch": hatch,
}
"""Kind → how it is drawn."""
CLASSES = ("person", "car", "cone", "animal")
"""Kinds that are labelled; the others only distract."""
CAMOUFLAGED = ("animal",)
"""Kinds that take the colour of what is behind them."""
AMBIENT = ("cone",)
"""Kinds that take the temperature of what is behind them."""
FLAT = ("animal", "hatch")
"""Kinds that throw no shadow: one would give the camouflaged away."""
