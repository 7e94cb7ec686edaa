"""Speed of a bare session: latency percentiles and rate on a bundle's own golden pairs."""

import platform
import time
from dataclasses import dataclass
from importlib.metadata import distributions
from itertools import cycle
from pathlib import Path

import numpy as np

from export.bundle_info import Array
from export.cores import cores
from export.session import Session

_WARM_UP_RUNS = 3
_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "ncnn",
    "ai-edge-litert",
    "tensorrt",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "av",
)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one session answers, and the engine without the session around it."""

    target: str
    """Engine and provider."""
    precision: str
    threads: int
    batch: int
    runs: int
    p50_ms: float
    """Wall-clock time of one run of the whole batch."""
    p95_ms: float
    p99_ms: float
    pairs_per_s: float
    bare_p50_ms: float
    """Of the engine's own call on the same pairs, prepared before: every other run in the same minute."""
    bare_pairs_per_s: float


def measure(session: Session, batch: int, seconds: float) -> Speed:
    """Time runs of ``batch`` golden pairs for about ``seconds``, after a warm-up that does not count."""
    feeds = _feeds(session, batch)
    calls = (lambda: session.run(**feeds), session.bare(**feeds))
    for _ in range(_WARM_UP_RUNS):
        for call in calls:
            call()
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    while not times[0] or time.perf_counter() - begin < seconds:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    p50, p95, p99 = np.percentile(times[0], (50, 95, 99)) * 1000
    return Speed(
        target=session.target,
        precision=session.precision,
        threads=session.threads or cores(),
        batch=batch,
        runs=len(times[0]),
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        pairs_per_s=batch * len(times[0]) / sum(times[0]),
        bare_p50_ms=float(np.median(times[1]) * 1000),
        bare_pairs_per_s=batch * len(times[1]) / sum(times[1]),
    )


def _feeds(session: Session, batch: int) -> dict[str, Array]:
    """A batch of golden pairs that have both sensors, repeated as often as it takes."""
    golden = session.bundle.golden()
    whole = np.flatnonzero(golden["present"].all(axis=1))
    rows = [row for row, _ in zip(cycle(whole), range(batch), strict=False)]
    return {name: golden[name][rows] for name in session.bundle.info.inputs.shapes()}


def machine() -> dict[str, str]:
    """What a figure was measured on: CPU, cores, system, versions."""
    installed = {distribution.metadata["Name"]: distribution.version for distribution in distributions()}
    versions = {name: installed[name] for name in _PACKAGES if name in installed}
    return {
        "cpu": _cpu_name(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or "unknown CPU"
