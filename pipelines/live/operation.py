"""What a run tells while it runs: the status line, log lines, and notes to systemd."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from pipelines.live.log import Log
from pipelines.live.notify import Notifier
from pipelines.live.source_status import SourceStatus
from pipelines.live.state import LiveState
from pipelines.live.status import StatusLine, counted

_LOOK_EVERY_S = 0.5
_SUMMARY_EVERY_S = 60.0
_WELL_AGAIN_S = 5.0
"""A sink that failed or lost nothing for so long works again; one that comes and goes is told of once."""
_TROUBLE = ("stalled", "down")


@dataclass
class _Sink:
    """What was seen of a sink."""

    errors: int = 0
    dropped: int = 0
    failed_at: float = 0.0
    lost_before: int = 0
    is_told: bool = False


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
        self._has_names = False
        self._seen: dict[tuple[str, str], tuple[str, str | None]] = {}
        self._sinks: dict[tuple[str, str], _Sink] = {}

    def begin(self, states: Sequence[LiveState]) -> None:
        """Say that the loop runs."""
        self._has_names = len(states) > 1
        self.log.say("started", rigs=[state.name for state in states])
        self._notifier.ready(f"{len(states)} rigs" if self._has_names else "running")
        self._summed_at = self._clock()
        for state in states:
            state.beat()

    def turn(self, states: Sequence[LiveState]) -> None:
        """To be called whenever the loop has turned, at least every few hundred milliseconds: the loop's heartbeat."""
        now = self._clock()
        for state in states:
            state.beat()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        said = [state.snapshot() for state in states]
        for one in said:
            self._tell_sources(one)
            self._tell_sinks(one, now)
        self._line.show(lambda: " | ".join(summary(one, with_name=self._has_names) for one in said))
        self._notifier.alive(lambda: " | ".join(summary(one, with_name=self._has_names) for one in said))
        if now - self._summed_at >= _SUMMARY_EVERY_S:
            self._summed_at = now
            for one in said:
                self._sum_up(one)

    def give_up(self, rig: str, sensor: str, why: str, left: str | None) -> None:
        """Say that a camera is not waited for any longer, and which one is left; None: none, and the rig has ended."""
        self.log.say("given up", "error", rig=rig, sensor=sensor, error=why, left=left)
        if left is not None or self._has_names:  # else the run ends, and its report says why
            self._tell(rig, f"{sensor}: {why}; " + (f"the run goes on with {left}" if left else "the rig has ended"))

    def fail(self, rig: str, why: str) -> None:
        """Say that a rig has ended by an error, and that the others go on."""
        self.log.say("failed", "error", rig=rig, error=why)
        self._tell(rig, f"failed: {why}; the other rigs go on")

    def refuse(self, rig: str, sensor: str, why: str) -> None:
        """Say why a camera's frames are not taken."""
        self.log.say("refused", "error", rig=rig, sensor=sensor, error=why)
        self._tell(rig, f"{sensor} refused: {why}")

    def stopping(self, states: Sequence[LiveState]) -> None:
        """Say that the loop has ended, and things are being closed."""
        for state in states:
            state.end()
        self._notifier.stopping()
        self._line.close()

    def end(self, why: str, states: Sequence[LiveState]) -> None:
        """Say how it ended."""
        for state in states:
            self._sum_up(state.snapshot())
        self.log.say("stopped", "error" if why in ("failure", "gave-up") else "info", by=why)
        self._notifier.close()

    def _tell_sources(self, said: dict[str, Any]) -> None:
        for sensor, status in said["sources"].items():
            assert isinstance(status, SourceStatus)
            seen = (status.state, status.last_error)
            if self._seen.get((said["name"], sensor)) == seen:
                continue
            self._seen[said["name"], sensor] = seen
            if status.state in _TROUBLE and status.last_error:
                self._tell(said["name"], f"{sensor} {status.state}: {status.last_error}")
            self.log.say(
                "source", "warning" if status.state in _TROUBLE else "info",
                rig=said["name"], sensor=sensor, source=status.name, state=status.state,
                reconnects=status.reconnects, error=status.last_error,
            )  # fmt: skip

    def _tell_sinks(self, said: dict[str, Any], now: float) -> None:
        """One line when a sink gets into trouble, with its reason, and one when it is over; the rest is counted."""
        for name, status in said["sinks"].items():
            seen = self._sinks.setdefault((said["name"], name), _Sink())
            has_failed, has_lost = status["errors"] > seen.errors, status["dropped"] > seen.dropped
            if has_failed or has_lost:
                seen.failed_at = now
                if not seen.is_told:
                    seen.is_told, seen.lost_before = True, seen.dropped
                    why = status["last_error"] if has_failed else "it does not keep up, answers are lost"
                    self.log.say("sink", "error", rig=said["name"], sink=name, what="failing", why=why)
                    self._tell(said["name"], f"{name} failing: {why}")
            elif seen.is_told and not status["failing"] and now - seen.failed_at >= _WELL_AGAIN_S:
                seen.is_told, lost = False, status["dropped"] - seen.lost_before
                self.log.say("sink", rig=said["name"], sink=name, what="works again", lost=lost)
                self._tell(said["name"], f"{name} works again; {lost} answers were lost")
            seen.errors, seen.dropped = status["errors"], status["dropped"]

    def _tell(self, rig: str, text: str) -> None:
        """Tell people, with the rig's name where there are several."""
        self._line.say(f"rgbt: {rig} {text}" if self._has_names else f"rgbt: {text}")

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
                name: {key: of[key] for key in ("queued", "dropped", "errors", "last_error")}
                for name, of in said["sinks"].items()
            },
        )


def summary(said: dict[str, Any], with_name: bool = False) -> str:
    """One line of a state's snapshot, for people."""
    latency = said["latency_ms"]
    words = [f"{said['name']}: " if with_name else "", f"{said['answers']} answers, {said['rate']:.1f}/s"]
    if latency["p50"] is not None:
        words.append(f", latency {latency['p50']:.0f} ms (99 %: {latency['p99']:.0f})")
    words.append(f": {counted(said['counts'])}")
    words += [f", {sensor} {of.state}" for sensor, of in said["sources"].items() if of.state != "up"]
    words += [f", {name} failing" for name, of in said["sinks"].items() if of["failing"]]
    return "".join(words)
