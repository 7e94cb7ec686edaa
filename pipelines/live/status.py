"""One line on the terminal that says how a run is going."""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TextIO

from pipelines.live.lossy import LossyWriter

_TERMINAL_EVERY_S, _LOG_EVERY_S = 0.5, 10.0


class StatusLine:
    """Rewrites one line on a terminal; elsewhere (a log) writes a line every ten seconds.

    Whether or not anybody reads it, it ends and delays nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._out = LossyWriter(stream)
        self._every_s = _TERMINAL_EVERY_S if self._out.is_terminal else _LOG_EVERY_S
        self._shown_at = monotonic()
        self._width = 0

    def show(self, make: Callable[[], str]) -> None:
        """Show a text, unless the line is fresh."""
        now = monotonic()
        if not self._out.is_open or now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        text = make()
        if self._out.is_terminal:
            self._out.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._out.write(text + "\n")

    def say(self, text: str) -> None:
        """Write a line of its own, which stays; the status line goes on below it."""
        blank = f"\r{' ' * self._width}\r" if self._width else ""
        self._out.write(f"{blank}{text}\n")
        self._width = 0

    def close(self) -> None:
        """Leave the line standing."""
        if self._width:
            self._out.write("\n")


def counted(counts: Mapping[str, int]) -> str:
    """Pairs, lone and dropped frames in words."""
    dropped = sum(counts.get(f"{sensor}_{how}", 0) for sensor in ("rgb", "thermal") for how in ("dropped", "late"))
    return (
        f"{counts.get('pairs', 0)} pairs, {counts.get('rgb_alone', 0)} RGB alone, "
        f"{counts.get('thermal_alone', 0)} thermal alone, {dropped} frames dropped"
    )
