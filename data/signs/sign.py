"""One thing that was seen in a sample of pairs."""

from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image

Kind = Literal["false_colour", "radiometric", "inverted", "overlay", "telemetry", "mirrored", "rotated", "range"]


@dataclass(frozen=True, slots=True)
class Sign:
    """What was seen, in one line, and what could be changed in the card; nothing is changed by itself."""

    kind: Kind
    text: str
    change: dict[str, Any] = field(default_factory=dict)
    """Proposed fields: {"thermal_spec": {…}} or {"rig": {"rotate": …, "flip": …}}; empty: no setting mends it."""
    sure: float = 1.0
    """0 … 1: how sure the sign is."""
    level: Literal["warning", "note"] = "warning"
    """warning: training as things are would learn from wrong pictures. note: worth knowing."""


def grey(image: Image, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """H×W float32 between 0 and 1 of any picture: its range without the outermost per cent; 0 where not finite.

    Args:
        image: H×W or H×W×C.
        size: Width, height to scale to before.
    """
    one = finite(plane(image))
    if size is not None:
        one = cv2.resize(one, size, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(one, (1, 99))
    return np.asarray(np.clip((one - low) / max(float(high - low), 1e-6), 0, 1), np.float32)


def finite(image: Image) -> NDArray[np.float32]:
    """The picture as float32, 0 where it is not finite."""
    if image.dtype.kind == "f":
        image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    return image.astype(np.float32)


def plane(image: Image) -> Image:
    """H×W of H×W or H×W×C: grey of three channels, the second of two or of equal ones."""
    if image.ndim == 2:
        return image
    if image.shape[2] < 3 or image.dtype != np.uint8:
        return np.ascontiguousarray(image[:, :, 1])
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image[:, :, :3]), cv2.COLOR_RGB2GRAY))
