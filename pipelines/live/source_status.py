"""What a source tells of itself while it runs."""

from dataclasses import dataclass
from typing import Literal

SourceState = Literal["connecting", "up", "stalled", "down", "ended"]
"""connecting: opened, no frame yet. stalled: open, but no new picture comes. down: lost, waiting to be opened again."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source at one moment; plain numbers, without credentials."""

    name: str
    """Name of the source, redacted."""
    state: SourceState
    frames: int
    """Frames that were taken in since the start."""
    dropped: int
    """Frames that made room for newer ones because nobody had asked for them."""
    reconnects: int
    """Times that the source was opened anew and gave a frame."""
    stalls: int
    """Times that frames stopped coming, or came with the same picture, while the source was open."""
    last_error: str | None
    """What was wrong last, one line, redacted; None when nothing ever was."""
    fps: float | None
    """Frames per second of late; None before the second frame."""
    age_s: float | None
    """Seconds since the last frame was received; None before the first."""
