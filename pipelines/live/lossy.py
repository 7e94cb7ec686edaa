"""Text for people or programs that may not read it: whoever is away, or takes nothing, ends and delays nothing."""

import os
import select
from typing import TextIO

_AT_ONCE = 4096
"""Bytes that a pipe with room takes without waiting."""


class LossyWriter:
    """Writes to a terminal, a file or a pipe; what its reader does not take at once is lost.

    Where nothing can be written (a full disk, a pipe that was closed), nothing more is tried.

    Args:
        stream: None: nothing is written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = None if stream is None or getattr(stream, "closed", False) else stream
        self._is_cut = False
        self.is_terminal = self._stream is not None and self._stream.isatty()

    @property
    def is_open(self) -> bool:
        """Whether it is worth writing."""
        return self._stream is not None

    def write(self, text: str) -> None:
        """Write a text; never raises, and never waits for a reader."""
        stream = self._stream
        if stream is None:
            return
        try:
            descriptor = _descriptor(stream)
            if descriptor is None:
                stream.write(text)
                stream.flush()
            else:  # past the stream's buffer, which would keep what could not be written
                self._send(descriptor, text.encode(errors="backslashreplace"))
        except BlockingIOError:
            self._is_cut = True
        except (OSError, ValueError):  # full, or closed at either end
            self._stream = None

    def _send(self, descriptor: int, text: bytes) -> None:
        rest = whole = (b"\n" if self._is_cut else b"") + text
        while rest:
            if not _has_room(descriptor):
                self._is_cut = self._is_cut or len(rest) < len(whole)
                return
            rest = rest[os.write(descriptor, rest[:_AT_ONCE]) :]
        self._is_cut = False


def _descriptor(stream: TextIO) -> int | None:
    """None for what is no file of the system; ValueError when it was closed."""
    if getattr(stream, "closed", False):
        raise ValueError("closed")
    try:
        return stream.fileno()
    except (AttributeError, OSError):
        return None


def _has_room(descriptor: int) -> bool:
    """Whether a write would not wait; a pipe without a reader would not."""
    if not hasattr(select, "poll"):  # Windows
        return True
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    return bool(waiting.poll(0))
