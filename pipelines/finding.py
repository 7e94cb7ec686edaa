"""What ``rgbt doctor`` says about one thing."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    """ok; note: something optional is missing; problem: the edge runtime does not work."""
    found: str
    advice: str = ""
    """What to type."""
