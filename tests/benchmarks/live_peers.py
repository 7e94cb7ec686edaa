"""The bare model's rate that is left on a video file, here and elsewhere: python tests/benchmarks/live_peers.py.

    python tests/benchmarks/live_peers.py [--frames 300] [--only ours] [--json]

All run the same model, the ``edge`` pair at 480×640 with random weights, on the same 1280×720 H.264 file: ``rgbt live``
on RGB and on both sensors, ultralytics' predict loop with this model in place of its own, and roboflow's
InferencePipeline with it as custom logic. The others read one camera, and pair nothing. Each is a process of its own;
its bare rate is that of the same session in the same process, half of it measured before and half after. ``ratio`` is
of rates on the clock; ``cpu_ratio`` is of CPU time for each frame, and other work on the machine moves it less.

A peer that is not installed is told in one line; exits 2 where there is none of them.
"""

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.prepare import InputSpec
from export.bench import machine
from export.bundle import read_bundle
from export.session import Session
from pipelines.live_bench import write_files

_RUNS = 60
_EXPORT = """
import sys
from pathlib import Path
from tests.benchmarks.live_efficiency import write_bundle
write_bundle(Path(sys.argv[1]))
"""
Loop = Callable[[Callable[[], object], Path], int]
"""Runs to the end of a file, calls the model once for each frame, returns how many."""


def ours(model: Callable[[], object], folder: Path, sensors: tuple[str, ...]) -> int:
    """``rgbt live`` with answers as JSON lines; ``model`` stands in place of the session's own call."""
    import cv2

    from data.rig import Rig
    from pipelines.live.run import run_live
    from pipelines.live.sinks import SINKS
    from pipelines.live.sources import open_sources

    cv2.setNumThreads(1)  # as the command does
    bundle = read_bundle(folder / "edge")
    inputs = InputSpec.model_validate(bundle.info.inputs.model_dump())
    files = {"rgb": "rgb.mp4", "thermal": "thermal.mkv"}
    sources = open_sources({s: str(folder / files[s]) for s in sensors}, inputs.thermal, None)

    class Model:
        def run(self, *feeds: Any) -> Any:
            return model()

    sink = SINKS["jsonl"](folder / "out.jsonl", bundle.info.classes)
    return run_live(Model(), inputs, sources, Rig(), [sink]).stats.answers


def ultralytics(model: Callable[[], object], folder: Path) -> int:
    """Its predict loop: reading, letterbox, to tensor, non-maximum suppression, results."""
    import torch
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionPredictor

    class Predictor(DetectionPredictor):
        def inference(self, im: Any, *args: Any, **options: Any) -> Any:
            model()
            return torch.zeros(1, 84, im.shape[2] * im.shape[3] // 64 * 21 // 16)

    torch.set_num_threads(2)
    found = YOLO("yolov8n.yaml").predict(
        str(folder / "rgb.mp4"), stream=True, predictor=Predictor, imgsz=640, verbose=False, save=False, device="cpu"
    )
    return sum(1 for _ in found) + 1  # it warms up with one run more


def inference(model: Callable[[], object], folder: Path) -> int:
    """Its pipeline with custom logic and a sink that counts."""
    from inference import InferencePipeline

    seen = itertools.count()
    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=str(folder / "rgb.mp4"),
        on_video_frame=lambda frames: [model() for _ in frames],
        on_prediction=lambda prediction, frame: next(seen),
    )
    pipeline.start()
    pipeline.join()
    return next(seen)


LOOPS: dict[str, tuple[str | None, Loop]] = {
    "ours, RGB": (None, lambda model, folder: ours(model, folder, ("rgb",))),
    "ours, RGB and thermal": (None, lambda model, folder: ours(model, folder, ("rgb", "thermal"))),
    "ultralytics": ("ultralytics", ultralytics),
    "inference": ("inference", inference),
}
"""Name → package that it needs, and its loop."""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One loop in this process."""
    bundle = read_bundle(folder / "edge")
    session, golden = Session(bundle, threads=2), bundle.golden()
    feeds = [golden[key][:1] for key in ("rgb", "thermal", "present")]
    session.run(*feeds)
    calls: list[tuple[float, float]] = []

    def model() -> object:
        calls.append((perf_counter(), process_time()))
        return session.run(*feeds)

    def bare() -> tuple[float, float]:
        wall, cpu = perf_counter(), process_time()
        for _ in range(_RUNS):
            session.run(*feeds)
        return (perf_counter() - wall) / _RUNS, (process_time() - cpu) / _RUNS

    before = bare()
    LOOPS[name][1](model, folder)
    calls.append((perf_counter(), process_time()))
    after = bare()
    bare_ms = np.mean([before, after], axis=0) * 1e3
    frames = len(calls) - 2  # what comes before the second call is start-up: imports, opening, warming up
    own_ms = (np.array(calls[-1]) - calls[1]) / frames * 1e3
    ratio = (bare_ms / own_ms).round(3).tolist()
    return {"name": name, "frames": frames, "bare_ms": round(float(bare_ms[0]), 2), "ms": round(float(own_ms[0]), 2),
            "ratio": ratio[0], "cpu_ratio": ratio[1]}  # fmt: skip


def main() -> int:
    """Measure those that are here; 2 when no peer is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=list(LOOPS), default=list(LOOPS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measure(args.part[0], Path(args.part[1]))))
        return 0
    missing = [package for package, _ in LOOPS.values() if package and importlib.util.find_spec(package) is None]
    print(f"not installed: {', '.join(missing) or 'none'}", file=sys.stderr)
    if len(missing) == 2:
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", _EXPORT, str(folder / "edge")], cwd=Path(__file__).parents[2], check=True)
        inputs = InputSpec.model_validate(read_bundle(folder / "edge").info.inputs.model_dump())
        write_files(folder, inputs, args.frames)
        for loop in args.only:
            if LOOPS[loop][0] in missing:
                continue
            part = [sys.executable, __file__, "--part", loop, name]
            said = subprocess.run(part, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(said.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    told = {"machine": machine(), "rows": rows}
    print(json.dumps(told, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
