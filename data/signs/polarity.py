"""Is warm bright? What a clear sky by day, and warm bodies by night, say of it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.rig import Rig
from data.signs.mount import turn
from data.signs.sign import Sign, grey, plane
from data.thermal import ThermalSpec

_SIZE = (160, 120)
_TOP = 48
"""Rows of those that may be sky."""
_NIGHT = 0.35
"""Mean of RGB (0 … 1) below which a picture is dark."""
_SKY_PIXELS, _SKY = 0.04, 0.15
_BLOB, _SKEW = 0.08, 0.3
_LEAST, _SHARE = 4, 0.8
"""Pictures that a cue needs, and the part of them that must agree."""

Floats = NDArray[np.float32]


def find_polarity(
    frames: Sequence[Image], rgbs: Sequence[Image | None], spec: ThermalSpec | None, rig: Rig
) -> list[Sign]:
    """Say when warm is dark although the spec says white-hot, or bright although it says black-hot.

    Two cues, both measured on real sets: by day, smooth bright RGB at the top is sky, and sky is colder than what is
    below; by night, small warm bodies stand out and the histogram leans to them. One that speaks clearly, and no
    other against it, is enough; none for temperatures, whose sign is known.
    """
    black_hot = spec is not None and spec.polarity == "black-hot"
    if spec is not None and spec.unit == "celsius":
        return []
    days, nights = [], []
    for frame, rgb in zip(frames, rgbs, strict=True):
        if rgb is None:
            continue
        thermal = cv2.resize(turn(grey(frame, _SIZE), rig.rotate, rig.flip), _SIZE, interpolation=cv2.INTER_AREA)
        light = cv2.resize(plane(rgb), _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        if light.mean() < _NIGHT:
            nights.append(_bodies(thermal))
        else:
            sky = _sky(thermal, light)
            days += [] if sky is None else [sky]
    votes = [vote for vote in (_vote_of_sky(days, black_hot), _vote_of_bodies(nights, black_hot)) if vote is not None]
    against = [vote for vote in votes if vote[0] < 0]
    if not against or len(against) < len(votes):
        return []
    declared, other = ("black-hot", "white-hot") if black_hot else ("white-hot", "black-hot")
    said = "the card says" if spec is not None else "usual is"
    sure = round(min(0.95, max(-vote[0] for vote in against)), 2)
    text = f"{' and '.join(vote[1] for vote in against)}: thermal looks {other}, {said} {declared}; look at a few pairs"
    return [Sign("inverted", text, {"thermal_spec": {"polarity": other}}, sure)]


def _sky(thermal: Floats, light: Floats) -> float | None:
    """How much brighter the sky is in thermal than the rest; None where RGB shows no sky."""
    steep = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    sky = (light > max(0.55, float(light.mean()) + 0.12)) & (cv2.GaussianBlur(steep, (0, 0), 2) < 0.12)
    sky[_TOP:] = False
    return float(thermal[sky].mean() - thermal[~sky].mean()) if sky.mean() > _SKY_PIXELS else None


def _bodies(thermal: Floats) -> tuple[float, float]:
    """Small bright bodies over small dark ones (-1 … 1), and the skewness of the picture."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))
    bright, dark = (
        float(np.maximum(cv2.morphologyEx(thermal, kind, kernel) - 0.25, 0).mean())
        for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)
    )
    around = thermal - thermal.mean()
    skew = float((around**3).mean() / max(float(thermal.std()) ** 3, 1e-6))
    return (bright - dark) / (bright + dark + 1e-4), skew


def _vote_of_sky(days: list[float], black_hot: bool) -> tuple[float, str] | None:
    """(-1 against the spec … 1 for it, in words); None when there is too little sky, or no clear answer."""
    values = np.array(days) * (1 if black_hot else -1)
    if len(values) < _LEAST or abs(values.mean()) < _SKY or max((values > 0).mean(), (values < 0).mean()) < _SHARE:
        return None
    side = float(np.sign(values.mean()))
    share = float((values * side > 0).mean())
    bright = "brighter" if (values.mean() < 0) != black_hot else "darker"
    return side * share, f"the sky is {bright} than the rest in {share:.0%} of {len(values)} pictures by day"


def _vote_of_bodies(nights: list[tuple[float, float]], black_hot: bool) -> tuple[float, str] | None:
    values = np.array(nights).reshape(-1, 2) * (-1 if black_hot else 1)
    if len(values) < _LEAST:
        return None
    blob, skew = np.median(values, axis=0)
    side = float(np.sign(blob))
    agree = float(((values[:, 0] * side > 0) & (values[:, 1] * side > 0)).mean())
    if abs(blob) < _BLOB or skew * side < _SKEW or agree < _SHARE:
        return None
    dark = "dark" if (side < 0) != black_hot else "bright"
    return side * agree * 0.9, f"what stands out is {dark} in {agree:.0%} of {len(values)} pictures by night"
