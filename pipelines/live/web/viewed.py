"""What the page needs of a running pipeline."""

from typing import Any, Protocol

from pipelines.live.state import Latest


class Viewed(Protocol):
    """A pipelines.live.state.LiveState, or a double of it; asked from any thread."""

    @property
    def latest(self) -> Latest | None:
        """The newest answer with its pair; None before the first."""

    @property
    def silent_s(self) -> float | None:
        """Seconds since the loop last turned; None while there is none."""

    def wait(self, index: int, timeout_s: float) -> Latest | None:
        """Wait for an answer of a higher index; None when none came in time."""

    def snapshot(self) -> dict[str, Any]:
        """Figures, as LiveState describes them."""
