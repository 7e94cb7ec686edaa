"""States of a road that take both sensors to tell: RGB sees whether it is wet, thermal whether it is cold.

Wet asphalt and black ice look the same to RGB, dry asphalt and frost too; dry and wet asphalt are equally warm, frost
and black ice equally cold. In two of five pictures a half shows to the other sensor as well (rime is white, pools are
cool), so that either sensor alone is right in 70 % of the pictures at best, and never has to toss a coin: without such
a sign, dry and wet are likelier than frost and black ice (of what RGB sees), dry and frost than wet and black ice.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from data.synthetic.site import Surface

Field = NDArray[np.float32]

ROAD_STATES = ("dry", "wet", "frost", "black-ice")
"""Names of the states, by (cold, wet): neither, wet, cold, both."""
TELLING = 0.4
"""Share of the pictures in which a half shows to the other sensor as well."""
_HAZE = np.array([0.74, 0.8, 0.88], np.float32)
_LAMPS = np.array([1.0, 0.82, 0.5], np.float32)
_RIME = np.array([0.86, 0.89, 0.93], np.float32)


def make_surface(state: str, telling: bool, seed: int) -> Surface:
    """Return the surface of a named state; ``telling``: its other half shows as well, where it can."""
    number = ROAD_STATES.index(state)
    wet, cold = number in (1, 3), number in (2, 3)
    return Surface(wet, cold, rime=cold and telling, pools=wet and telling, seed=seed)


def state_of(surface: Surface) -> str:
    """Name of a surface's state."""
    return ROAD_STATES[surface.wet + 2 * surface.cold]


def share_out(rng: np.random.Generator, count: int) -> list[Surface]:
    """Surfaces for ``count`` pictures: every state, and the telling among them, in equal shares and random order."""
    order, states, period = rng.permutation(count).tolist(), len(ROAD_STATES), 5
    return [
        make_surface(ROAD_STATES[n % states], n // states % period < round(TELLING * period), int(rng.integers(2**31)))
        for n in order
    ]


def colour_of(surface: Surface, colour: Field, depth: Field, night: bool, light: float) -> Field:
    """Colour of the road [H,W,3], before light, in this state; ``depth`` [H,1]: 0 at the horizon, 1 at the edge."""
    rng = np.random.default_rng(surface.seed)
    film, streaks, patches = (_noise(rng, colour.shape, cells) for cells in ((7, 5), (2, 28), (9, 9)))
    if surface.wet:  # darker, and a mirror of the sky, the more the flatter one looks at it; by night, of lamps
        cover = np.clip(0.8 + 0.35 * film, 0, 1)
        glancing = 0.22 + 0.6 * np.clip(1 - depth, 0, 1) ** 1.5
        mirror = (0.7 if night else 1.0) * _HAZE * (glancing * cover * (1 + 0.7 * streaks))[:, :, None]
        colour = colour * (1 - 0.75 * cover)[:, :, None] + mirror
        if night:
            colour = colour + _LAMPS * (0.3 / light * np.clip(streaks, 0, 1) * cover)[:, :, None]
    if surface.rime:
        white = 0.75 * _blobs(patches)[:, :, None]
        colour = colour * (1 - white) + _RIME * white
    return np.asarray(colour, np.float32)


def warmth_of(surface: Surface, warm: Field) -> Field:
    """How much warmer than the ground beside it the road [H,W] is in this state, in °C."""
    rng = np.random.default_rng([surface.seed, 1])
    uneven, patches = _noise(rng, warm.shape, (6, 5)), _noise(rng, warm.shape, (9, 9))
    if surface.cold:  # it has radiated to a clear sky
        warm = -5.0 + 0.5 * uneven + 0.2 * warm
    if surface.pools:
        warm = warm - 3.5 * _blobs(patches)
    return np.asarray(warm, np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, int]) -> Field:
    """Smooth noise around 0, of unit amplitude; ``cells`` down and across."""
    coarse = rng.uniform(-1, 1, cells).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _blobs(noise: Field) -> Field:
    """Patches 0…1 with soft edges over about a third of the area."""
    return np.asarray(np.clip(4 * (noise - 0.12), 0, 1), np.float32)
