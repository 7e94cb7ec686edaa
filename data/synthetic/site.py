"""Where synthetic pictures are taken: each split has places, temperatures and times of day of its own."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
Range = tuple[float, float]

CONDITIONS = ("day", "night", "glare")


@dataclass(frozen=True, slots=True)
class Regime:
    """What the scenes of one split have in common, and other splits have not."""

    sites: int
    mix: tuple[float, float, float]
    """Share of day, night and glare."""
    horizon: Range
    """Height of the horizon, as a fraction of the picture from the top."""
    ambient: Range
    """Air temperature in °C."""
    offset: Range
    """Raw counts of the thermal camera at 10 °C."""
    grounds: tuple[Colour, ...]
    """Colours beside the road, 0…1."""
    skyline: str
    """What stands at the horizon: trees, houses, or both."""


REGIMES: dict[str, Regime] = {
    "train": Regime(
        8, (0.4, 0.4, 0.2), (0.22, 0.36), (2, 17), (21000, 26500),
        ((0.34, 0.42, 0.20), (0.47, 0.44, 0.30), (0.40, 0.40, 0.38), (0.30, 0.36, 0.22)), "both",
    ),
    "val": Regime(
        4, (0.35, 0.4, 0.25), (0.20, 0.30), (0, 14), (24000, 28500),
        ((0.38, 0.38, 0.25), (0.50, 0.46, 0.36)), "houses",
    ),
    "test": Regime(
        4, (0.35, 0.4, 0.25), (0.26, 0.40), (5, 19), (25500, 30000),
        ((0.44, 0.39, 0.28), (0.31, 0.40, 0.27), (0.45, 0.45, 0.43)), "trees",
    ),
    "unlabelled": Regime(
        6, (0.35, 0.4, 0.25), (0.20, 0.38), (0, 19), (20000, 29000),
        ((0.36, 0.40, 0.22), (0.48, 0.43, 0.32), (0.42, 0.42, 0.40)), "both",
    ),
}  # fmt: skip
"""Split → its regime."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place with a fixed camera; lengths are fractions of the picture's height."""

    seed: int
    horizon: float
    vanish: float
    """Where the road meets the horizon, as a fraction of the width."""
    road: float
    """Half the road's width at the lower edge."""
    lean: float
    """How far the road's middle has moved sideways at the lower edge."""
    ground: Colour
    asphalt: float
    skyline: str
    offset: float
    """Raw counts at 10 °C when the first picture is taken."""


@dataclass(frozen=True, slots=True)
class Surface:
    """State of a road, and what shows of it beyond its half: RGB sees water, thermal sees cold."""

    wet: bool
    cold: bool
    rime: bool
    """Of a cold road: white patches, so that RGB sees the cold."""
    pools: bool
    """Of a wet road: cool patches, so that thermal sees the water."""
    seed: int
    """Of the patches."""


@dataclass(frozen=True, slots=True)
class Weather:
    """State of one site at one moment."""

    condition: str
    ambient: float
    """Air temperature in °C."""
    light: float
    """Brightness of the surroundings, 1 at noon."""
    sun: tuple[float, float]
    """Where glare comes from: fractions of width and height."""
    sun_heat: float
    """How much warmer asphalt is than air, in °C."""
    surface: Surface | None = None
    """Of the road; None: dry and mild."""


def make_site(rng: np.random.Generator, regime: Regime) -> Site:
    """Draw a place of this regime."""
    return Site(
        seed=int(rng.integers(2**31)),
        horizon=rng.uniform(*regime.horizon),
        vanish=rng.uniform(0.3, 0.7),
        road=rng.uniform(0.35, 0.6),
        lean=rng.uniform(-0.25, 0.25),
        ground=regime.grounds[rng.integers(len(regime.grounds))],
        asphalt=rng.uniform(0.26, 0.38),
        skyline=regime.skyline if regime.skyline != "both" else ("trees", "houses")[rng.integers(2)],
        offset=rng.uniform(*regime.offset),
    )


def make_weather(rng: np.random.Generator, regime: Regime, condition: str) -> Weather:
    """Draw the light and the temperatures of one moment."""
    night = condition == "night"
    return Weather(
        condition=condition,
        ambient=rng.uniform(*regime.ambient) - (3.0 if night else 0.0),
        light=rng.uniform(0.06, 0.11) if night else rng.uniform(0.8, 1.05),
        sun=(rng.uniform(0.15, 0.85), rng.uniform(0.08, 0.32)),
        sun_heat=rng.uniform(0.5, 2.0) if night else rng.uniform(1.5, 4.5),
    )
