"""Log lines for a program to read: what happens to a run, one event a line, without credentials."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pipelines.live.lossy import LossyWriter
from pipelines.live.redact import redact

Level = Literal["info", "warning", "error"]
FORMS = ("json", "text")


class Log:
    """Writes events as JSON or as ``key=value``; safe to be called from any thread.

    Args:
        stream: Where lines go; None: nowhere.
        form: One of FORMS.
        now: The time of a line.
    """

    def __init__(
        self, stream: TextIO | None, form: str = "json", now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._out = LossyWriter(stream)
        self._form = form
        self._now = now
        self._lock = threading.Lock()

    def say(self, event: str, level: Level = "info", **fields: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Write one line; a log that cannot be written, or that nobody reads, ends and delays nothing."""
        if not self._out.is_open:
            return
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": level, "event": event, **{name: _clean(value) for name, value in fields.items()}}
        text = json.dumps(line, ensure_ascii=False) if self._form == "json" else _as_text(line)
        with self._lock:
            self._out.write(text + "\n")


def _clean(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def _as_text(line: dict[str, Any]) -> str:
    time, level, event, *rest = line.items()
    words = [f"{name}={_quoted(value)}" for name, value in rest]
    return " ".join([time[1], level[1], event[1], *words])


def _quoted(value: Any) -> str:  # noqa: ANN401 - as above
    if isinstance(value, str):
        return value if value and not set(value) & set(' "=\n') else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
