"""One line on stderr that says how far a long reading is; it needs no package beyond Python's own."""

import sys
import time
from types import TracebackType
from typing import Self

_REDRAW = 0.2
_LINE = 30.0
"""Seconds between two lines where stderr is a file."""


class Progress:
    """Called with what is done and how much there is; prints both, the rate and the time left."""

    def __init__(self, what: str) -> None:
        """Prepare; ``what`` is counted."""
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._drawn = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the line, whatever happened."""
        if self._drawn:
            print(file=sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is, a few times a second on a terminal, else twice a minute."""
        now = time.monotonic()
        if now - self._last < (_REDRAW if self._terminal else _LINE) and not (done == total and self._drawn):
            return
        self._last = now
        text = line(self._what, done, total, now - self._start)
        if self._terminal:
            print(f"\r{text:<{self._drawn}}", end="", file=sys.stderr, flush=True)
            self._drawn = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def line(what: str, done: int, total: int, seconds: float) -> str:
    """``120/1391 pairs, 84/s, 0:15 left``."""
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{done}/{total} {what}"
    if rate <= 0:
        return text
    left = round((total - done) / rate)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}" if left >= 3600 else f"{left // 60}:{left % 60:02}"
    return f"{text}, {rate:.{0 if rate >= 10 else 1}f}/s, {clock} left"
