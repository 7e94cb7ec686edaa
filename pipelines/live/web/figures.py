"""The figures of the page: what the pipeline says of itself as plain JSON, and a few minutes of it for the charts."""

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from pipelines.live.answer import Answer, BoxAnswer, LabelAnswer
from pipelines.live.web.viewed import Viewed

HISTORY_S = 120
"""Seconds that the charts show."""
_COLUMNS = (
    "t",
    "rate",
    "latency_p50",
    "latency_p99",
    "skew_p50",
    "pair_p50",
    "infer_p50",
    "dropped",
    "rgb_fps",
    "thermal_fps",
)
_MOST_TOLD = 12


class Figures:
    """Takes snapshots, and keeps one of each second.

    Args:
        state: What is asked.
        classes: Names of the model's classes.
    """

    def __init__(self, state: Viewed, classes: Sequence[str]) -> None:
        self._state = state
        self._classes = classes
        self._history: deque[list[float | None]] = deque(maxlen=HISTORY_S)

    def now(self) -> dict[str, Any]:
        """Take a snapshot, with what the last answer shows in words, and a row for the charts."""
        told = _plain(self._state.snapshot())
        latest = self._state.latest
        told["seen"] = None if latest is None else seen(latest.answer, self._classes)
        told["row"] = row = _row(told)
        if not self._history or int(row[0] or 0) > int(self._history[-1][0] or 0):
            self._history.append(row)
        return dict(told)

    def hello(self, unit: str) -> dict[str, Any]:
        """What a page needs to know once."""
        return {
            "unit": unit,
            "columns": _COLUMNS,
            "history": list(self._history),
            "history_s": HISTORY_S,
        }


def event(name: str, payload: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(payload, allow_nan=False, ensure_ascii=False)}\n\n".encode()


def seen(answer: Answer, classes: Sequence[str]) -> list[str]:
    """What an answer shows, in a few words for each class: ``2 × person``, ``road 31 %``, ``fire 0.92``."""
    if isinstance(answer, BoxAnswer):
        labels = [int(label) for label in answer.boxes[:, 5].tolist()]
        return [f"{labels.count(label)} × {classes[label]}" for label in sorted(set(labels))][:_MOST_TOLD]
    if isinstance(answer, LabelAnswer):
        best = int(answer.probabilities.argmax())
        return [f"{classes[best]} {answer.probabilities[best]:.2f}"]
    told = answer.as_json(classes)["classes"]
    shares = sorted(((figures["share"], name) for name, figures in told.items()), reverse=True)
    return [f"{name} {share:.0%}" for share, name in shares][:_MOST_TOLD]


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything that a snapshot may hold
    """The same in what JSON knows; numbers that are none become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def _row(told: Mapping[str, Any]) -> list[float | None]:
    """One row for the charts, as in ``_COLUMNS``."""
    sources: Mapping[str, Any] = told.get("sources", {})
    counts: Mapping[str, int] = told.get("counts", {})
    latency, stages = told.get("latency_ms") or {}, told.get("stage_ms") or {}
    rgb, thermal = (sources.get(sensor) or {} for sensor in ("rgb", "thermal"))
    return [
        round(time.monotonic(), 2),
        told.get("rate"),
        latency.get("p50"),
        latency.get("p99"),
        (told.get("skew_ms") or {}).get("p50"),
        *((stages.get(stage) or {}).get("p50") for stage in ("pair", "infer")),
        float(sum(count for name, count in counts.items() if name.endswith("_dropped"))),
        rgb.get("fps"),
        thermal.get("fps"),
    ]
