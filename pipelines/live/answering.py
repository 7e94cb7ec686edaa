"""From pairs to answers: prepare, infer, hand to the sinks, and time each stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns, perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.frame import Pair
from data.prepare import InputSpec, Prepared, Preparer
from data.rig import Rig
from pipelines.live.answer import read_answer
from pipelines.live.sinks import Sink
from pipelines.live.state import Latest, LiveState
from pipelines.live.stats import LiveStats

_BATCHES = (8, 4, 2, 1)
"""Few sizes: a session keeps memory for four."""


class Model(Protocol):
    """What answers a batch: an export.session.Session, or a double of it."""

    def run(self, rgb: NDArray[Any], thermal: NDArray[Any], present: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Answer rgb [B,H,W,3], thermal [B,H,W], present [B,2]."""


@dataclass(frozen=True, slots=True)
class Job:
    """A pair that is ready for the model."""

    pair: Pair
    prepared: Prepared
    size: tuple[int, int]
    """Height, width of the RGB frame that boxes refer to."""
    waited_s: float
    """Since the answer before."""
    paired_s: float | None
    """That the first frame waited for the other, or for its budget; None in recordings."""
    prepared_s: float


class Answerer:
    """Prepares the pairs of one rig, hands their answers to its sinks, and counts.

    Args:
        inputs: What the model takes.
        rig: How thermal lies on RGB.
        sinks: Each is given every answer, in order.
        score: Least score of a box.
        state: What is kept up to date for viewers.
        counts: Asked for the counts that the state shows.
        is_live: The frames' times are those of the monotonic clock, so that there is a latency.
    """

    def __init__(
        self,
        inputs: InputSpec,
        rig: Rig,
        sinks: Sequence[Sink],
        score: float,
        *,
        state: LiveState,
        counts: Callable[[], Mapping[str, int]],
        is_live: bool = False,
    ) -> None:
        self.stats = LiveStats()
        self.preparer = Preparer(inputs, rig)
        self.rgb_size = rig.rgb_size if inputs.letterbox else inputs.rgb_size
        self._offset_ns = rig.time_offset_ns
        self._sinks = sinks
        self._score = score
        self._state = state
        self._counts = counts
        self._is_live = is_live

    def prepare(self, pair: Pair, waited_s: float, paired_s: float | None = None) -> Job:
        """Make a pair ready; DataError when a frame is not what the model takes."""
        start = perf_counter()
        if pair.rgb is not None:
            self.rgb_size = pair.rgb.size
        rgb = None if pair.rgb is None else pair.rgb.image
        thermal = None if pair.thermal is None else pair.thermal.image
        prepared = self.preparer(rgb, thermal, _name(pair), rgb_size=self.rgb_size)
        size = self.rgb_size or self._upright(pair)
        return Job(pair, prepared, size, waited_s, paired_s, perf_counter() - start)

    def hand_on(self, job: Job, outputs: Mapping[str, NDArray[Any]], inferred_s: float) -> None:
        """Read the answer of a batch of one and hand it to every sink; DataError when one cannot keep it."""
        start = perf_counter()
        answer = read_answer(outputs, job.prepared, job.size, self.stats.answers, self._score)
        latency_s = (monotonic_ns() - self._received_ns(job.pair)) / 1e9 if self._is_live else None
        for sink in self._sinks:
            sink.write(job.pair, job.prepared, answer)
        stages = {
            "wait": job.waited_s,
            "prepare": job.prepared_s,
            "infer": inferred_s,
            "sinks": perf_counter() - start,
        }
        if job.paired_s is not None:
            stages["pair"] = job.paired_s
        self.stats.add(job.pair.skew_ns, stages, answer.count, latency_s)
        self._state.answered(Latest(job.pair, job.prepared, answer), stages, latency_s, self._counts())

    def _received_ns(self, pair: Pair) -> int:
        """Stamp of the newer frame as its camera gave it: without the offset that brings thermal onto RGB's clock."""
        stamps = [pair.rgb.time_ns] if pair.rgb is not None else []
        return max([*stamps, *([pair.thermal.time_ns - self._offset_ns] if pair.thermal is not None else [])])

    def _upright(self, pair: Pair) -> tuple[int, int]:
        """Where no RGB frame was ever seen, boxes are in pixels of the upright thermal frame."""
        assert pair.thermal is not None
        height, width = pair.thermal.size
        return (width, height) if self.preparer.rig.rotate in (90, 270) else (height, width)


def answer_one(model: Model, answerer: Answerer, job: Job) -> None:
    """Have one job answered, and hand the answer on."""
    start, prepared = perf_counter(), job.prepared
    outputs = model.run(prepared.rgb[None], prepared.thermal[None], prepared.present[None])
    answerer.hand_on(job, outputs, perf_counter() - start)


def answer_batches(model: Model, jobs: Sequence[tuple[Answerer, Job]], most: int) -> None:
    """Have jobs of several rigs answered in batches of 8, 4, 2 and 1 (``most`` at once), and hand the answers on."""
    left = list(jobs)
    while left:
        size = next(size for size in _BATCHES if size <= min(most, len(left)))
        batch, left = left[:size], left[size:]
        if size == 1:
            answer_one(model, *batch[0])
            continue
        start, prepared = perf_counter(), [job.prepared for _, job in batch]
        outputs = model.run(
            np.stack([p.rgb for p in prepared]),
            np.stack([p.thermal for p in prepared]),
            np.stack([p.present for p in prepared]),
        )
        inferred_s = perf_counter() - start
        for index, (answerer, job) in enumerate(batch):
            answerer.hand_on(job, {name: array[index : index + 1] for name, array in outputs.items()}, inferred_s)


def _name(pair: Pair) -> str:
    return " + ".join(f"{frame.source} frame {frame.sequence}" for frame in (pair.rgb, pair.thermal) if frame)
