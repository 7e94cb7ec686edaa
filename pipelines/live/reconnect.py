"""Sources that can be opened again and again: what they are, by which rules, and how long to wait in between."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from data.errors import DataError
from data.frame import Frame, Image

if TYPE_CHECKING:
    from pipelines.live.sources import Source


class LostError(DataError):
    """A live source is not to be had just now; it may come back."""


@dataclass(frozen=True)
class LiveRules:
    """How live sources are kept open."""

    give_up_after_s: float | None = None
    """A source that gave no frame for so long ends; None: it is tried for ever."""
    every_frame: bool = False
    """True: frames queue up where the pipeline is slower, and nothing is lost here. False: the latest ones win."""
    bridge_s: float = 1.5
    """A pause up to this long is none: thermal cameras close their shutter, network cameras pause at key frames."""
    reopen_after_s: float = 5.0
    """Silence after which a source is opened anew, even if its read hangs."""
    open_within_s: float = 8.0
    """Time to open."""
    frozen_after_s: float | None = 10.0
    """The very same picture for so long is a stall, and its frames are held back; None: it may stand still."""


class LiveSource:
    """A live source; a Capture opens it, watches over it and opens it again.

    ``read`` and ``close`` are for those who want a frame or two: over one connection, which nobody mends.

    Args:
        name: For messages; without credentials.
        connect: Opens it anew; LostError when it is not to be had just now, DataError when it never will be.
        rules: How it is kept open.
        size: Height, width that its frames must have; None: any.
    """

    def __init__(
        self,
        name: str,
        connect: "Callable[[], Source]",
        rules: LiveRules | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.connect = connect
        self.rules = rules or LiveRules()
        self.policy: Literal["ordered", "latest"] = "ordered" if self.rules.every_frame else "latest"
        self.period_ns: int | None = None
        self.size = size
        self._connection: Source | None = None

    def check(self, frame: Frame) -> None:
        """DataError when a frame has another size than the rig and the bundle are made for."""
        if self.size is not None and frame.size != self.size:
            (height, width), (wanted_height, wanted_width) = frame.size, self.size
            raise DataError(
                f"{self.name}: frames are {width}×{height} (width×height), expected {wanted_width}×{wanted_height}; "
                "set the camera to that size"
            )

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end of the connection, DataError when there is none to be had."""
        if self._connection is None:
            self._connection = self.connect()
            self.period_ns = self._connection.period_ns
        return self._connection.read()

    def close(self) -> None:
        """Close the connection of ``read``, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Backoff:
    """Seconds to wait before the next attempt: 0.25 → 1 in the first minute, then up to 30, with jitter.

    Args:
        uniform: Draws a number between two; cameras that were lost together do not come back in step.
    """

    _FIRST_S, _SOON_S, _LATER_S, _MINUTE_S = 0.25, 1.0, 30.0, 60.0
    _JITTER = 0.2

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._next_s = self._FIRST_S

    def reset(self) -> None:
        """Begin anew, when the source has come back and stayed."""
        self._next_s = self._FIRST_S

    def next_s(self, down_s: float) -> float:
        """Seconds to wait when the source has been away for ``down_s``; never beyond the limit of that time."""
        limit = self._SOON_S if down_s < self._MINUTE_S else self._LATER_S
        wait_s = min(limit, self._next_s)
        self._next_s = min(limit, 2 * wait_s)
        return wait_s * self._uniform(1 - self._JITTER, 1.0)


class Stillness:
    """Seconds for which the very same picture has come; it holds one picture."""

    def __init__(self) -> None:
        self._image: Image | None = None
        self._since_s = 0.0

    def __call__(self, image: Image, now_s: float) -> float:
        """Take the next picture; 0 where it differs from the one before."""
        if self._image is None or not _is_same(self._image, image):
            self._image, self._since_s = image, now_s
        return now_s - self._since_s


def _is_same(a: Image, b: Image) -> bool:
    """A sample tells almost every pair of pictures apart at once; only where it does not, every pixel is looked at."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a[::16, ::16], b[::16, ::16]) and np.array_equal(a, b)
