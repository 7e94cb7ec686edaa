"""Which things stand or move where in a synthetic scene."""

from dataclasses import dataclass, replace

import numpy as np

from data.synthetic.site import Colour, Range, Site
from data.synthetic.things import Thing


@dataclass(frozen=True, slots=True)
class Build:
    """Sizes of one kind of thing."""

    height: Range
    """At the horizon and at the lower edge, as a fraction of the picture's height."""
    aspects: tuple[float, ...]
    """Width over height, one of these."""
    speed: Range
    """Heights of the thing per second."""


BUILDS: dict[str, Build] = {
    "person": Build((0.18, 0.33), (0.4,), (0.25, 0.7)),
    "car": Build((0.12, 0.19), (1.9, 1.25), (0.8, 1.8)),
    "cone": Build((0.10, 0.16), (0.8,), (0.0, 0.0)),
    "animal": Build((0.12, 0.19), (1.35,), (0.3, 0.9)),
    "lamp": Build((0.35, 0.55), (0.3,), (0.0, 0.0)),
    "cabinet": Build((0.12, 0.2), (0.56,), (0.0, 0.0)),
    "sign": Build((0.13, 0.2), (0.55,), (0.0, 0.0)),
    "hatch": Build((0.025, 0.05), (2.6,), (0.0, 0.0)),
}
DISTRACTORS = {"lamp": 0.9, "cabinet": 0.5, "sign": 0.8, "hatch": 0.6}
"""Kind → the mean number of them in a scene."""
_CLOTHES: tuple[Colour, ...] = (
    (0.75, 0.15, 0.15), (0.15, 0.3, 0.7), (0.85, 0.85, 0.82), (0.12, 0.12, 0.14), (0.8, 0.7, 0.2), (0.2, 0.5, 0.35),
)  # fmt: skip
_PAINTS: tuple[Colour, ...] = (
    (0.7, 0.1, 0.1), (0.12, 0.2, 0.5), (0.82, 0.83, 0.85), (0.1, 0.1, 0.11), (0.45, 0.47, 0.5), (0.65, 0.6, 0.45),
)  # fmt: skip
_BOARDS: tuple[Colour, ...] = ((0.92, 0.4, 0.1), (0.15, 0.35, 0.8), (0.9, 0.8, 0.2), (0.8, 0.12, 0.12))
_PALETTES = {"person": _CLOTHES, "car": _PAINTS, "sign": _BOARDS}


@dataclass(frozen=True, slots=True)
class Mover:
    """A thing and how it moves."""

    thing: Thing
    speed: float
    """Sideways, in heights of the picture per second."""

    def at(self, seconds: float, width: float) -> Thing:
        """Return the thing at a time; what leaves one side of the picture comes back at the other."""
        if not self.speed:
            return self.thing
        margin = self.thing.height * self.thing.aspect
        lap = width + 2 * margin
        x = (self.thing.x + self.speed * seconds + margin) % lap - margin
        step = 2 * np.pi * abs(self.speed) / (0.6 * self.thing.height)
        return replace(self.thing, x=x, phase=self.thing.phase + step * seconds)


def populate(rng: np.random.Generator, site: Site, width: float) -> list[Mover]:
    """Draw two to five labelled things and some distractors; ``width`` is in heights of the picture."""
    kinds = [("person", "car", "cone", "animal")[i] for i in rng.permutation(4)]
    count = int(rng.integers(2, 6))
    wanted = (kinds + kinds)[:count]
    for kind, mean in DISTRACTORS.items():
        wanted += [kind] * int(rng.poisson(mean))
    movers: list[Mover] = []
    for kind in wanted:
        for _ in range(12):
            mover = _draw(rng, kind, site, width)
            if all(_overlap(mover.thing, other.thing) < 0.3 for other in movers):
                movers.append(mover)
                break
    return movers


def _draw(rng: np.random.Generator, kind: str, site: Site, width: float) -> Mover:
    build = BUILDS[kind]
    near = float(rng.uniform(0, 1))
    height = (build.height[0] + (build.height[1] - build.height[0]) * near) * rng.uniform(0.92, 1.08)
    aspect = build.aspects[rng.integers(len(build.aspects))]
    palette = _PALETTES.get(kind, _CLOTHES)
    flip = bool(rng.integers(2))
    side = aspect > 1.4 or kind in ("person", "animal")
    speed = rng.uniform(*build.speed) * height * (-1 if flip else 1) if side else 0.0
    thing = Thing(
        kind=kind,
        x=float(rng.uniform(0.04, width - 0.04)),
        foot=site.horizon + 0.1 + near * (0.97 - site.horizon - 0.1),
        height=float(height),
        aspect=aspect,
        flip=flip,
        colour=_vary(rng, palette[rng.integers(len(palette))]),
        second=_vary(rng, _CLOTHES[rng.integers(len(_CLOTHES))]),
        warmth=float(rng.uniform(0, 1)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )
    return Mover(thing, float(speed))


def _vary(rng: np.random.Generator, colour: Colour) -> Colour:
    red, green, blue = (float(np.clip(c * rng.uniform(0.8, 1.15), 0.02, 0.98)) for c in colour)
    return red, green, blue


def _overlap(a: Thing, b: Thing) -> float:
    """Shared area over the smaller thing's area."""
    wide = min(a.x + a.aspect * a.height / 2, b.x + b.aspect * b.height / 2)
    wide -= max(a.x - a.aspect * a.height / 2, b.x - b.aspect * b.height / 2)
    tall = min(a.foot, b.foot) - max(a.foot - a.height, b.foot - b.height)
    if wide <= 0 or tall <= 0:
        return 0.0
    return wide * tall / min(a.aspect * a.height**2, b.aspect * b.height**2)
