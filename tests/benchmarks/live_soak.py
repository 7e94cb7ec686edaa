"""What ``rgbt live`` holds after half an hour: python tests/benchmarks/live_soak.py [--minutes 30] [--json].

The command runs in a process of its own on the two RTSP streams of live_latency.py, with answers as JSON lines and the
page served, whose /metrics are asked for every 15 s as Prometheus does. Its resident memory, threads and descriptors
are read every second. The slope of memory is that of the means of each minute after the warm-up; its standard error
allows for minutes that follow one another being alike, as they are where other work comes and goes. Every frame that
no answer used must have been counted: the numbers of the frames in the answers are compared with the report.

Exits 1 when memory grows by more than two standard errors of the slope, threads or descriptors became more, or a frame
is missing that no count tells of.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from export.bench import machine
from tests.benchmarks.live_latency import FPS, make_bundle, serve

WARM_UP_MINUTES = 3.0
_SCRAPE_S = 15
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_ROOT = Path(__file__).parents[2]


def held(process: int) -> tuple[int, int, int]:
    """Resident KiB, threads and descriptors of a process."""
    home = Path("/proc") / str(process)
    resident = int((home / "statm").read_text(encoding="utf-8").split()[1]) * _PAGE_KIB
    return resident, len(list((home / "task").iterdir())), len(list((home / "fd").iterdir()))


def start(bundle: Path, addresses: dict[str, str], jsonl: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command; return it and where its page is."""
    both = [word for sensor, url in addresses.items() for word in (f"--{sensor}", url)]
    command = [sys.executable, "-m", "pipelines.cli", "live", str(bundle), *both, "--jsonl", str(jsonl)]
    paths = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*command, "--serve", "127.0.0.1:0", "--log", "json", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
            threading.Thread(target=process.stderr.read, daemon=True).start()  # it must not wait for a reader
            return process, event["url"]
    raise SystemExit(f"rgbt live ended with {process.wait()}")


def watch(process: subprocess.Popen[str], url: str, jsonl: Path, seconds: float) -> list[tuple[int, int, int]]:
    """Read what the process holds every second, from its first answer on."""
    tick, samples = threading.Event(), []
    while not (jsonl.exists() and jsonl.stat().st_size):
        tick.wait(0.1)
        assert process.poll() is None
    begun = monotonic()
    for number in range(round(seconds)):
        tick.wait(max(0.0, begun + number - monotonic()))
        samples.append(held(process.pid))
        if number % _SCRAPE_S == 0:
            with suppress(TimeoutError), urllib.request.urlopen(f"{url}metrics", timeout=5) as answer:
                answer.read()
    return samples


def slope(minutes: NDArray[np.float64]) -> tuple[float, float]:
    """Of the means of each minute: rise per minute, and its standard error with residuals that follow one another."""
    if len(minutes) < 4:
        return 0.0, float("inf")
    at = np.arange(len(minutes)) - (len(minutes) - 1) / 2
    found = float(at @ minutes / (at @ at))
    rest = minutes - minutes.mean() - found * at
    error = float(np.sqrt(rest @ rest / (len(minutes) - 2) / (at @ at)))
    alike = float(np.clip(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-9), 0, 0.95))
    return found, error * float(np.sqrt((1 + alike) / (1 - alike)))


def unused(jsonl: Path) -> dict[str, Any]:
    """Frames that no answer used, by the gaps in their numbers, and the longest pause between two answers."""
    told: dict[str, Any] = {}
    lines = [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()]
    for sensor, place in (("rgb", 0), ("thermal", 1)):
        numbers = [line["frames"][place] for line in lines if line["frames"][place] is not None]
        assert numbers == sorted(set(numbers)), f"a frame of {sensor} was answered twice or out of order"
        told[sensor] = numbers[-1] - numbers[0] + 1 - len(numbers)
    times = np.array([line["time_ns"] for line in lines])
    return {**told, "longest_gap_ms": round(float(np.diff(times).max()) / 1e6, 1), "answers": len(lines)}


def account(report: dict[str, Any], gaps: dict[str, Any]) -> dict[str, Any]:
    """Compare the frames that no answer used with what the report counted."""
    counts = report["counts"]
    counted = {s: sum(counts[f"{s}_{why}"] for why in ("dropped", "late", "refused")) for s in ("rgb", "thermal")}
    return {
        "unused": {sensor: gaps[sensor] for sensor in counted}, "counted": counted,
        "missing": {sensor: gaps[sensor] - counted[sensor] for sensor in counted},
        "share_of_frames": round(counts["pairs"] / (report["seconds"] * FPS), 5),
    }  # fmt: skip


def figures(samples: Sequence[tuple[int, int, int]], report: dict[str, Any], gaps: dict[str, Any]) -> dict[str, Any]:
    """All of it."""
    warm = min(round(WARM_UP_MINUTES * 60), len(samples) // 3)
    resident, threads, descriptors = (list(column) for column in zip(*samples[warm:], strict=True))
    minutes = np.array([np.mean(resident[at : at + 60]) for at in range(0, len(resident) - 59, 60)])
    grown, error = slope(minutes)
    return {
        "minutes": round(len(samples) / 60, 2), "warm_up_minutes": round(warm / 60, 2),
        "kib_per_minute": round(grown, 3), "standard_error": round(error, 3) if np.isfinite(error) else None,
        "resident_mib": {"first": round(resident[0] / 1024, 1), "last": round(resident[-1] / 1024, 1),
                         "least": round(min(resident) / 1024, 1), "most": round(max(resident) / 1024, 1)},
        "mib_by_minute": (minutes / 1024).round(2).tolist(),
        "threads": [threads[0], threads[-1]], "descriptors": [descriptors[0], descriptors[-1]],
        "answers": gaps["answers"], "rate": report["pairs_per_s"], "longest_gap_ms": gaps["longest_gap_ms"],
        "counts": report["counts"], "frames": account(report, gaps), "latency_ms": report["latency_ms"],
        "skew_ms": report["skew_ms"], "load": os.getloadavg(),
    }  # fmt: skip


def missed(told: dict[str, Any]) -> list[str]:
    """The bars that do not hold."""
    found = []
    grown, error = told["kib_per_minute"], told["standard_error"]
    if error is not None and grown > 2 * error:
        found.append(f"memory grows by {grown} ± {error} KiB a minute")
    found += [f"{name}: {told[name]}" for name in ("threads", "descriptors") if told[name][1] > told[name][0]]
    if any(missing > 0 for missing in told["frames"]["missing"].values()):
        found.append(f"frames that no count tells of: {told['frames']['missing']}")
    return found


def main() -> int:
    """Measure; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, server, jsonl = make_bundle(Path(folder) / "edge"), serve(Path(folder)), Path(folder) / "out.jsonl"
        try:
            addresses = {sensor: server.url(sensor) for sensor in ("rgb", "thermal")}
            process, url = start(bundle, addresses, jsonl)
            try:
                samples = watch(process, url, jsonl, args.minutes * 60)
                process.send_signal(signal.SIGTERM)
                assert process.stdout is not None
                report = json.loads(process.stdout.read())
            finally:
                process.kill()
                process.wait()
        finally:
            server.kill()
        told = figures(samples, report, unused(jsonl))
    told |= {"command": " ".join(sys.argv), "machine": machine(), "missed": missed(told)}
    print(json.dumps(told) if args.json else json.dumps(told, indent=2))
    return int(bool(told["missed"]))


if __name__ == "__main__":
    sys.exit(main())
