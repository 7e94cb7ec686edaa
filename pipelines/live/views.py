"""What a viewer may look at: RGB, false-coloured thermal, the one laid over the other, or all three at once."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.prepare import InputSpec
from data.thermal import ThermalSpec, counts_to_celsius
from pipelines.live.draw import blank_panel, draw_answer, false_colour, fill_panel, panel_size, seen_by_thermal
from pipelines.live.state import Latest

ViewName = Literal["all", "fused", "rgb", "thermal"]

_PERCENTILES = (0.5, 99.5)
"""Of the pixels, ends of the colours: one hot pixel does not darken the rest."""
_SAMPLE = 8192
"""Pixels that are looked at for the ends, about."""
_SHARE = 0.15
"""How much of the way to a new frame's ends the colours go, so that they do not flicker."""


@dataclass(frozen=True, slots=True)
class View:
    """One choice of what to show; viewers of the same one share its pictures."""

    name: ViewName = "all"
    opacity: int = 50
    """Percent of thermal's colour over RGB, where both are laid over each other."""
    answers: bool = True
    """Whether boxes, class maps and labels are drawn."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What thermal says at one place, or of one picture."""

    value: float | None
    """None where thermal shows nothing."""
    unit: str


class ThermalScale:
    """The ends of the colours, in the unit of the thermal frames: those of the scene, followed slowly."""

    def __init__(self, spec: ThermalSpec) -> None:
        self._spec = spec
        self._ends: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """Low and high; None before the first valid frame."""
        return self._ends

    def follow(self, thermal: Image) -> tuple[float, float]:
        """Look at one frame (H×W) and return the ends of its colours; they jump where the scene is another one."""
        step = max(1, round((thermal.size / _SAMPLE) ** 0.5))
        sample = thermal[::step, ::step]
        sample = sample[(sample != self._spec.invalid) & np.isfinite(sample)]
        if not sample.size:
            return self._ends or (0.0, 1.0)
        low, high = (float(end) for end in np.percentile(sample, _PERCENTILES))
        wanting = max(0.0, self._spec.min_span - (high - low)) / 2
        low, high = low - wanting, high + wanting
        if self._ends is None or low > self._ends[1] or high < self._ends[0]:
            self._ends = low, high
        else:
            self._ends = tuple(old + _SHARE * (new - old) for old, new in zip(self._ends, (low, high), strict=True))  # type: ignore[assignment]
        assert self._ends is not None
        return self._ends


class Thermometer:
    """Says what thermal pixels mean: °C where that is known, else the numbers as they are."""

    def __init__(self, inputs: InputSpec) -> None:
        self._inputs = inputs
        self._planck = inputs.thermal.planck if inputs.thermal.unit == "counts16" else None
        is_celsius = inputs.thermal.unit == "celsius" or self._planck is not None
        self.unit = "°C" if is_celsius else {"counts16": "counts", "intensity8": "levels"}[inputs.thermal.unit]

    def at(self, latest: Latest, x: float, y: float) -> Reading:
        """Read one place of RGB's field of view.

        Args:
            latest: The answer whose thermal frame is read.
            x: From the left edge, 0 to 1.
            y: From the upper edge, 0 to 1.
        """
        if latest.pair.thermal is None:
            return Reading(None, self.unit)
        thermal = seen_by_thermal(self._inputs, latest.prepared, latest.answer)
        height, width = thermal.shape
        raw = thermal[min(height - 1, int(y * height)), min(width - 1, int(x * width))]
        is_nothing = raw == self._inputs.thermal.invalid or not np.isfinite(raw)
        return Reading(None if is_nothing else self.told(float(raw)), self.unit)

    def told(self, value: float) -> float | None:
        """A number of the thermal frame in the unit that is told; None where it means no temperature."""
        if self._planck is None:
            return value
        celsius = float(counts_to_celsius(np.array([round(value)], np.uint16), self._planck)[0])
        return celsius if np.isfinite(celsius) else None


class Scene:
    """The panels of one answer, each made when it is first asked for."""

    def __init__(self, latest: Latest, inputs: InputSpec, classes: tuple[str, ...], scale: ThermalScale) -> None:
        self._latest = latest
        self._classes = classes
        self._size = panel_size(latest.answer.size)
        pair = latest.pair
        self._rgb = None if pair.rgb is None else fill_panel(pair.rgb.image, self._size)
        self._thermal: NDArray[np.uint8] | None = None
        self._seen: NDArray[np.bool_] | None = None
        if pair.thermal is not None:
            thermal = seen_by_thermal(inputs, latest.prepared, latest.answer)
            invalid = thermal == inputs.thermal.invalid
            self._thermal = fill_panel(false_colour(thermal, inputs.thermal.invalid, scale.follow(thermal)), self._size)
            if invalid.any():
                dead = cv2.resize(invalid.astype(np.uint8), self._size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
                self._seen = np.asarray(dead) == 0

    def picture(self, view: View) -> NDArray[np.uint8]:
        """H×W×3 uint8 (R, G, B), both even; ``all`` is half as wide again: RGB over thermal at the right, halved."""
        if view.name == "all":
            right = [self._panel(View(name, view.opacity, view.answers), 2) for name in ("rgb", "thermal")]
            return np.hstack((self._panel(View("fused", view.opacity, view.answers)), np.vstack(right)))
        return self._panel(view)

    def _panel(self, view: View, part: int = 1) -> NDArray[np.uint8]:
        """One panel, at a whole part of its size."""
        height, width = self._size[0] // 4 * 4, self._size[1] // 4 * 4
        panel = self._layer(view)
        if (height // part, width // part) != panel.shape[:2]:
            how = cv2.INTER_AREA if part > 1 else cv2.INTER_LINEAR
            panel = np.asarray(cv2.resize(panel, (width // part, height // part), interpolation=how), np.uint8)
        else:
            panel = panel.copy()
        if view.answers:
            draw_answer(panel, self._latest.answer, self._classes, tags=part == 1)
        return panel

    def _layer(self, view: View) -> NDArray[np.uint8]:
        rgb, thermal = self._rgb, self._thermal
        if view.name == "rgb":
            return blank_panel(self._size, "no RGB") if rgb is None else rgb
        if view.name == "thermal":
            return blank_panel(self._size, "no thermal") if thermal is None else thermal
        if rgb is None or thermal is None:
            alone = thermal if rgb is None else rgb
            assert alone is not None, "a pair has at least one frame"
            return alone
        share = view.opacity / 100
        mixed = np.asarray(cv2.addWeighted(rgb, 1 - share, thermal, share, 0), np.uint8)
        return mixed if self._seen is None else np.where(self._seen[..., None], mixed, rgb)
