"""What a run tells while it runs: the status line, log lines, and notes to systemd."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from pipelines.live.log import Log
from pipelines.live.notify import Notifier
from pipelines.live.source_status import SourceStatus
from pipelines.live.state import LiveState
from pipelines.live.status import StatusLine

_LOOK_EVERY_S = 0.5
_SUMMARY_EVERY_S = 60.0
_TROUBLE = ("stalled", "down")


class Operation:
    """Looks at the states of the rigs twice a second, and tells what has changed.

    Args:
        line: For people.
        log: For programs.
        notifier: For systemd.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        line: StatusLine | None = None,
        log: Log | None = None,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.log = log or Log(None)
        self._line = line or StatusLine(None)
        self._notifier = notifier or Notifier({})
        self._clock = clock
        self._looked_at = self._summed_at = -1e9
        self._seen: dict[tuple[str, str], str] = {}

    def begin(self, states: Sequence[LiveState]) -> None:
        """Say that the loop runs."""
        self.log.say("started", rigs=[state.name for state in states])
        self._notifier.ready(f"{len(states)} rigs" if len(states) > 1 else "running")
        self._summed_at = self._clock()

    def turn(self, states: Sequence[LiveState]) -> None:
        """To be called whenever the loop has turned, at least every few hundred milliseconds."""
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        said = [state.snapshot() for state in states]
        for one in said:
            self._tell_changes(one)
        self._line.show_text(lambda: " | ".join(summary(one, with_name=len(said) > 1) for one in said))
        self._notifier.alive(lambda: " | ".join(summary(one, with_name=len(said) > 1) for one in said))
        if now - self._summed_at >= _SUMMARY_EVERY_S:
            self._summed_at = now
            for one in said:
                self._sum_up(one)

    def stopping(self) -> None:
        """Say that the loop has ended, and things are being closed."""
        self._notifier.stopping()
        self._line.close()

    def end(self, why: str, states: Sequence[LiveState]) -> None:
        """Say how it ended."""
        for state in states:
            self._sum_up(state.snapshot())
        self.log.say("stopped", "error" if why == "failure" else "info", by=why)
        self._notifier.close()

    def _tell_changes(self, said: dict[str, Any]) -> None:
        for sensor, status in said["sources"].items():
            assert isinstance(status, SourceStatus)
            if self._seen.get((said["name"], sensor)) == status.state:
                continue
            self._seen[said["name"], sensor] = status.state
            if status.state in _TROUBLE and status.last_error:
                self._line.say(f"rgbt: {said['name']} {sensor} {status.state}: {status.last_error}")
            self.log.say(
                "source", "warning" if status.state in _TROUBLE else "info",
                rig=said["name"], sensor=sensor, source=status.name, state=status.state,
                reconnects=status.reconnects, error=status.last_error,
            )  # fmt: skip

    def _sum_up(self, said: dict[str, Any]) -> None:
        self.log.say(
            "summary",
            rig=said["name"],
            answers=said["answers"],
            rate=said["rate"],
            latency_ms=said["latency_ms"]["p50"],
            latency_p99_ms=said["latency_ms"]["p99"],
            counts=said["counts"],
            sinks={
                name: {key: of[key] for key in ("queued", "dropped", "errors")} for name, of in said["sinks"].items()
            },
        )


def summary(said: dict[str, Any], with_name: bool = False) -> str:
    """One line of a state's snapshot, for people."""
    counts, latency = said["counts"], said["latency_ms"]
    dropped = sum(counts.get(f"{sensor}_{how}", 0) for sensor in ("rgb", "thermal") for how in ("dropped", "late"))
    words = [f"{said['name']}: " if with_name else "", f"{said['answers']} answers, {said['rate']:.1f}/s"]
    if latency["p50"] is not None:
        words.append(f", latency {latency['p50']:.0f} ms (99 %: {latency['p99']:.0f})")
    words.append(
        f": {counts.get('pairs', 0)} pairs, {counts.get('rgb_alone', 0)} RGB alone, "
        f"{counts.get('thermal_alone', 0)} thermal alone, {dropped} frames dropped"
    )
    words += [f", {sensor} {of.state}" for sensor, of in said["sources"].items() if of.state != "up"]
    words += [f", {name} failing" for name, of in said["sinks"].items() if of.get("failing")]
    return "".join(words)
