"""Which numbers thermal really holds, and the spec that they suggest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.signs.sign import Sign, plane
from data.thermal import KELVIN, ThermalSpec

_SCALES = {"decikelvin": 0.1, "centikelvin": 0.01}
_COLD, _WARM = -60.0, 150.0
"""°C between which a scene lies."""
_OUTSIDE = 0.02
"""Part of the pixels that may lie outside a fixed range."""
_PIXELS = 20_000


def find_range(frames: Sequence[Image], spec: ThermalSpec | None) -> list[Sign]:
    """Describe the numbers in the frames as stored, and propose a spec; always one note, and warnings before it.

    Args:
        frames: H×W or H×W×C, as the files hold them (converted already where the spec converts them).
        spec: What the card says; None: nobody said anything yet.
    """
    values, spans = _sample(frames, spec)
    if not values.size:
        return [Sign("range", "thermal frames hold no valid pixel")]
    dtype = frames[0].dtype
    low, high = float(values.min()), float(values.max())
    middle = np.percentile(values, (1, 99))
    text = (
        f"thermal is {dtype}, {low:g} … {high:g} (98 % in {middle[0]:.5g} … {middle[1]:.5g}), one frame spans "
        f"{np.median(spans):.4g}, in {len(frames)} frames"
    )
    odd = _odd(values, frames, dtype)
    guess, why, sure = _guess(values, dtype)
    if spec is None:
        shown = ", ".join(f"{key}: {value}" for key, value in guess.items())
        return [*odd, Sign("range", f"{text}; {why}: {{{shown}}}", {"thermal_spec": guess}, sure, "note")]
    change, remark = _against(spec, values, spans, guess)
    level: Any = "warning" if change else "note"
    return [*odd, Sign("range", text + remark, {"thermal_spec": change} if change else {}, sure, level)]


def _sample(frames: Sequence[Image], spec: ThermalSpec | None) -> tuple[NDArray[np.float64], list[float]]:
    """Some valid values of every frame, and the span of each frame between its first and last per cent."""
    parts, spans = [], []
    for frame in frames:
        one = plane(frame)
        flat = one[np.isfinite(one)] if one.dtype.kind == "f" else one.ravel()
        if spec is not None and (spec.marks or one.dtype.kind == "f"):
            flat = flat[flat != spec.invalid]
        if flat.size:
            part = flat[:: max(1, flat.size // _PIXELS)].astype(np.float64)
            parts.append(np.concatenate([part, [flat.min(), flat.max()]]))
            spans.append(float(np.ptp(np.percentile(part, (1, 99)))))
    return (np.concatenate(parts) if parts else np.zeros(0)), spans


def _guess(values: NDArray[np.float64], dtype: np.dtype[Any]) -> tuple[dict[str, Any], str, float]:
    """The spec that numbers of that dtype suggest, why, and how sure it is."""
    if dtype == np.uint8:
        return {"unit": "intensity8"}, "8 bits after the camera's gain control, no temperature", 0.95
    low, half, high = np.percentile(values, (1, 50, 99))
    if dtype.kind == "f":
        if low >= 0 and high <= 1.0001:
            why = "floats from 0 to 1 were scaled by somebody; as °C they would be one degree; deliver the original"
            return {"unit": "celsius", "range": [0, 1], "min_span": 0.05}, why, 0.3
        if low > 180:
            shift = {"unit": "celsius", "stored": "linear", "scale": 1.0, "offset": -KELVIN}
            return {**shift, "range": _nice(low - KELVIN, high - KELVIN)}, "floats that fit Kelvin", 0.8
        return {"unit": "celsius", "range": _nice(low, high)}, "floats that fit degrees Celsius", 0.8
    for stored, scale in _SCALES.items():
        cold, usual, warm = (value * scale - KELVIN for value in (low, half, high))
        # Raw counts may fall there too: a camera's manual knows, the numbers alone do not.
        if cold > _COLD and warm < _WARM and -30 < usual < 60:
            why = f"they fit {stored} ({cold:.1f} … {warm:.1f} °C), if the camera's manual says so, else counts16"
            return {"unit": "celsius", "stored": stored, "range": _nice(cold, warm)}, why, 0.6
    return {"unit": "counts16"}, "raw counts, no known temperature", 0.8


def _nice(low: float, high: float) -> list[float]:
    """A range with a margin, in steps of 5 °C."""
    return [float(5 * np.floor((low - 2) / 5)), float(5 * np.ceil((high + 2) / 5))]


def _odd(values: NDArray[np.float64], frames: Sequence[Image], dtype: np.dtype[Any]) -> list[Sign]:
    """16 bits that hold something else: 8-bit pictures, or bytes in the wrong order."""
    if dtype != np.uint16:
        return []
    if values.max() < 256:
        return [Sign("range", f"16-bit files hold no number above {values.max():g}: 8-bit pictures in 16 bits")]
    if not (values % 256).any() or not (values % 257).any():
        return [Sign("range", "16-bit files hold only 256 levels, spread out: 8-bit pictures, no raw counts")]
    as_is, turned = (
        sum(float(np.abs(np.diff(one.astype(np.int32), axis=1)).mean()) for one in some)
        for some in ([plane(f) for f in frames[:4]], [plane(f).byteswap() for f in frames[:4]])
    )
    if turned < 0.1 * as_is:
        return [Sign("range", "16-bit files look smooth only with their bytes swapped; write them again", {}, 0.9)]
    return []


def _against(
    spec: ThermalSpec, values: NDArray[np.float64], spans: list[float], guess: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """What the numbers say against the spec, as a change and in words."""
    if spec.unit == "counts16" and guess["unit"] == "celsius" and "stored" in guess:
        return (
            {},
            f"; they would also fit {guess['stored']}: thermal_spec: {{unit: celsius, stored: {guess['stored']}}}",
        )
    if spec.range is not None:
        outside = float(((values < spec.range[0]) | (values > spec.range[1])).mean())
        if outside > _OUTSIDE:
            low, high = np.percentile(values, (0.5, 99.5))
            change = {"range": _nice(low, high) if spec.unit == "celsius" else [float(low), float(high)]}
            return change, f"; {outside:.0%} of pixels lie outside thermal_spec.range {list(spec.range)}"
    narrow = float(np.median(spans))
    if spec.range is None and narrow < spec.min_span:
        return {"min_span": max(round(narrow / 2, 1), 1.0)}, (
            f"; half the frames span less than min_span {spec.min_span:g}, so that they use a part of the range only"
        )
    return {}, ""
