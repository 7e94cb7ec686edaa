"""One line on the terminal that says how a run is going."""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import TextIO

_TERMINAL_EVERY_S, _LOG_EVERY_S = 0.5, 10.0


class StatusLine:
    """Rewrites one line on a terminal; elsewhere (a log) writes a line every ten seconds."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()
        self._every_s = _TERMINAL_EVERY_S if self._is_terminal else _LOG_EVERY_S
        self._shown_at = monotonic()
        self._width = 0

    def show(self, make: Callable[[], str]) -> None:
        """Show a text, unless the line is fresh."""
        now = monotonic()
        if self._stream is None or now - self._shown_at < self._every_s:
            return
        self._shown_at = now
        text = make()
        if self._is_terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Write a line of its own, which stays; the status line goes on below it."""
        if self._stream is None:
            return
        blank = f"\r{' ' * self._width}\r" if self._width else ""
        self._stream.write(f"{blank}{text}\n")
        self._stream.flush()
        self._width = 0

    def close(self) -> None:
        """Leave the line standing."""
        if self._stream is not None and self._width:
            self._stream.write("\n")
            self._stream.flush()


def counted(counts: Mapping[str, int]) -> str:
    """Pairs, lone and dropped frames in words."""
    dropped = sum(counts.get(f"{sensor}_{how}", 0) for sensor in ("rgb", "thermal") for how in ("dropped", "late"))
    return (
        f"{counts.get('pairs', 0)} pairs, {counts.get('rgb_alone', 0)} RGB alone, "
        f"{counts.get('thermal_alone', 0)} thermal alone, {dropped} frames dropped"
    )
