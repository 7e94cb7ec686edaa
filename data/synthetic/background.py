"""The empty place: sky, skyline, ground and road, in colour and in degrees."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.site import Site, Weather
from data.synthetic.surface import colour_of, warmth_of

Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """The picture that is drawn: RGB's pixels and a margin that only the thermal camera may see."""

    height: int
    """Of the RGB picture, in pixels."""
    width: int
    margin: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height, width with the margin, in pixels."""
        return self.height + 2 * self.margin, self.width + 2 * self.margin

    def axes(self) -> tuple[Field, Field]:
        """Columns [1,W] as a fraction of the width, rows [H,1] as a fraction of the height."""
        height, width = self.shape
        x = (np.arange(width, dtype=np.float32) + 0.5 - self.margin) / self.width
        y = (np.arange(height, dtype=np.float32) + 0.5 - self.margin) / self.height
        return np.asarray(x, np.float32)[None, :], np.asarray(y, np.float32)[:, None]


@dataclass(frozen=True, slots=True)
class Background:
    """One place in one weather, without things."""

    colour: Field
    """H×W×3, 0…1 and above where it dazzles, lit."""
    celsius: Field
    """H×W, apparent temperature."""
    veil: Field | None
    """H×W×3 of stray light that lies over everything; None without glare."""


@dataclass(frozen=True, slots=True)
class _Canvas:
    """A background while it is painted."""

    shape: tuple[int, int]
    x: Field
    """[1,W] as a fraction of the width."""
    y: Field
    """[H,1] as a fraction of the height."""
    colour: Field
    celsius: Field


def make_background(site: Site, weather: Weather, grid: Grid) -> Background:
    """Paint the place; the same site looks the same at any grid size."""
    rng = np.random.default_rng(site.seed)
    x, y = grid.axes()
    canvas = _Canvas(grid.shape, x, y, np.zeros((*grid.shape, 3), np.float32), np.zeros(grid.shape, np.float32))
    _sky(rng, site, weather, canvas)
    _trees(rng, site, weather, canvas)
    if site.skyline == "houses":
        _houses(rng, site, weather, canvas)
    _ground(rng, site, weather, canvas, pixel=1 / grid.width)
    return Background(canvas.colour, canvas.celsius, _veil(weather, grid, x, y))


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Smooth noise around 0, of unit amplitude; ``cells`` down and across."""
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _texture(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """Three octaves of smooth noise."""
    fine = [_noise(rng, shape, (cells[0] * k, cells[1] * k)) / k**0.7 for k in (1, 3, 8)]
    return np.asarray(fine[0] + fine[1] + fine[2], np.float32)


def _sky(rng: np.random.Generator, site: Site, weather: Weather, canvas: _Canvas) -> None:
    cloud = np.clip(_texture(rng, canvas.shape, (3, 4)) * 0.6, -0.5, 1)
    fall = np.clip(canvas.y / site.horizon, 0, 1)
    blue, haze = np.array([0.42, 0.58, 0.82], np.float32), np.array([0.82, 0.85, 0.88], np.float32)
    dim = 0.6 if weather.condition == "night" else 1.0
    canvas.colour[:] = blue + (haze - blue) * np.clip(fall + 0.25 * cloud, 0, 1)[:, :, None]
    canvas.colour[:] *= dim * weather.light
    canvas.celsius[:] = weather.ambient - 18 + 10 * fall + 3 * cloud


def _trees(rng: np.random.Generator, site: Site, weather: Weather, canvas: _Canvas) -> None:
    row = (1, canvas.shape[1])
    crowns = _noise(rng, row, (1, 14)) + 0.5 * _noise(rng, row, (1, 45))
    leaves = _texture(rng, canvas.shape, (12, 16))
    tall = 0.10 if site.skyline == "trees" else 0.04
    trees = np.broadcast_to(canvas.y > site.horizon - tall - 0.035 * crowns, canvas.shape)
    green = np.array([0.16, 0.24, 0.12], np.float32) * weather.light
    canvas.colour[trees] = green * (1 + 0.35 * leaves[trees])[:, None]
    canvas.celsius[trees] = weather.ambient - 0.5 + 0.5 * leaves[trees]


def _houses(rng: np.random.Generator, site: Site, weather: Weather, canvas: _Canvas) -> None:
    left = -0.1
    while left < 1.1:
        wide, high = rng.uniform(0.1, 0.24), rng.uniform(0.08, 0.2)
        _house(rng, (left, site.horizon - high, left + wide, site.horizon + 0.01), weather, canvas)
        left += wide + rng.uniform(0.0, 0.12)


def _house(rng: np.random.Generator, box: tuple[float, float, float, float], weather: Weather, canvas: _Canvas) -> None:
    left, top, right, bottom = box
    wall = rng.uniform(0.35, 0.7) * np.array([1.0, rng.uniform(0.85, 1), rng.uniform(0.7, 0.95)], np.float32)
    front = _cells(canvas, (left, right), (top, bottom))
    canvas.colour[front] = wall * weather.light
    canvas.celsius[front] = weather.ambient + 1 + rng.uniform(0, 1.5)
    night = weather.condition == "night"
    across, down = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    for row in range(down):
        for column in range(across):
            lit, warm = rng.uniform() < 0.3, rng.uniform(0, 4)
            u = [left + (right - left) * (column + edge) / across for edge in (0.28, 0.72)]
            v = [top + (bottom - top) * (row + edge) / (down + 0.4) for edge in (0.25, 0.7)]
            pane = _cells(canvas, (u[0], u[1]), (v[0], v[1]))
            canvas.colour[pane] = (0.7, 0.55, 0.3) if night and lit else np.array([0.2, 0.24, 0.3]) * weather.light
            canvas.celsius[pane] += warm if night else warm - 3


def _cells(canvas: _Canvas, across: tuple[float, float], down: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of pixels between these fractions of height and width."""
    return slice(*np.searchsorted(canvas.y[:, 0], down)), slice(*np.searchsorted(canvas.x[0], across))


def _ground(rng: np.random.Generator, site: Site, weather: Weather, canvas: _Canvas, pixel: float) -> None:
    below = canvas.y[:, 0] > site.horizon
    depth = np.clip((canvas.y - site.horizon) / (1 - site.horizon), 0, None)  # 0 at the horizon, 1 at the edge
    grain = _texture(rng, canvas.shape, (14, 8)) * np.clip(0.35 + depth, 0, 1)
    patchy = _noise(rng, canvas.shape, (5, 4))
    base = np.array(site.ground, np.float32) * (1 + 0.16 * grain + 0.14 * patchy)[:, :, None]
    heat = weather.ambient + 0.25 * weather.sun_heat + 0.5 * patchy + 0.25 * grain
    half = 0.02 + site.road * depth
    aside = np.abs(canvas.x - site.vanish - site.lean * depth) / half  # 1 at the road's edge
    road = np.clip((1 - aside) * half / (1.5 * pixel) + 0.5, 0, 1)
    tar = site.asphalt * (1 + 0.07 * grain + 0.05 * patchy)[:, :, None] * np.array([1, 1, 1.03], np.float32)
    line = np.clip(1.5 - np.abs(aside - 0.93) / 0.025, 0, 1)
    dash = np.clip(1.5 - np.abs(aside) / 0.025, 0, 1) * (np.sin(9 / (depth + 0.12)) > 0)
    paint = 0.75 * np.maximum(line, dash)
    marked, warm = tar + (0.8 - tar) * paint[:, :, None], 0.75 * weather.sun_heat - 0.5 * paint
    if weather.surface is not None:
        marked = colour_of(weather.surface, marked, depth, weather.condition == "night", weather.light)
        warm = warmth_of(weather.surface, warm)
    surface = base + (marked - base) * road[:, :, None]
    canvas.colour[below] = (surface * weather.light)[below]
    canvas.celsius[below] = (heat + warm * road)[below]


def _veil(weather: Weather, grid: Grid, x: Field, y: Field) -> Field | None:
    if weather.condition != "glare":
        return None
    across, down = (x - weather.sun[0]) * grid.width / grid.height, y - weather.sun[1]
    r2 = across**2 + down**2
    streak = 0.35 * np.exp(-((across / 0.09) ** 2)) * np.clip(down * 6, 0, 1)
    light = 1.5 / (1 + r2 / 0.16**2) + 0.12 + streak
    return np.asarray(light[:, :, None] * np.array([1.0, 0.95, 0.84], np.float32), np.float32)
