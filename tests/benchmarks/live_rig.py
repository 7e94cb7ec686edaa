"""A small rig for benchmarks: two RTSP cameras of their own servers, a small bundle, and the loop of ``rgbt live``."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.frame import Pair
from data.prepare import InputSpec, Prepared
from data.rig import Rig
from data.thermal import ThermalSpec
from export.bundle import read_bundle
from export.session import Session
from pipelines.live.answer import Answer
from pipelines.live.cameras import CameraRig, run_cameras
from pipelines.live.outbox import Outbox
from pipelines.live.pairing import Sensor
from pipelines.live.report import LiveSettings
from pipelines.live.sinks import SINKS
from pipelines.live.sources import open_sources, wanted_sizes
from pipelines.live.state import LiveState
from tests.rtsp_server.fixture import RtspServer, moving_bar, write_units

SIZE = (96, 128)
BUDGET_S = 0.1
_PATIENCE_S = 60.0
_SETTLED = 15


def make_bundle(out: Path) -> Path:
    """Export an untrained pair, in a process of its own, so that this one stays without PyTorch, as live is."""
    subprocess.run([sys.executable, __file__, str(out)], check=True)
    return out


def _export(out: Path) -> None:
    from export.write import export_bundle
    from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model

    inputs = InputSpec(rgb_size=SIZE, thermal_size=SIZE, thermal=ThermalSpec(unit="intensity8"))
    config = ModelConfig(
        size=SIZE, rgb=RgbEncoder(arch="test_resnet", weights=None), thermal=ThermalEncoder(arch="test_resnet"),
        classes=("person", "car"), inputs=inputs.model_dump(mode="json"),
    )  # fmt: skip
    model, _ = build_model(config, seed=0)
    random = np.random.default_rng(0)
    golden = {
        "rgb": random.integers(0, 255, (1, *SIZE, 3), np.uint8),
        "thermal": random.integers(0, 255, (1, *SIZE), np.uint8),
    }
    export_bundle(model.eval(), config.inputs, config.classes, config.sensors, golden, {}, "0" * 64, out)


class Recorder:
    """Keeps when each answer came since the last mark, and of which sensors it was."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, tuple[bool, bool]]] = []
        self._changed = threading.Condition()

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Note the moment."""
        with self._changed:
            self._seen.append((time.monotonic(), (pair.rgb is not None, pair.thermal is not None)))
            self._changed.notify_all()

    def close(self, *, failed: bool = False) -> None:
        """Nothing is held."""

    def mark(self) -> float:
        """Forget what was seen; return the moment."""
        with self._changed:
            self._seen.clear()
            return time.monotonic()

    def first(self, rgb: bool, thermal: bool, in_a_row: int = 1) -> float:
        """When the first of so many answers in a row came that have just these sensors, since the last mark."""

        def row() -> list[float]:
            found: list[float] = []
            for at, sensors in self._seen:
                found = [*found, at] if sensors == (rgb, thermal) else []
                if len(found) == in_a_row:
                    return found
            return []

        with self._changed:
            assert self._changed.wait_for(row, _PATIENCE_S), f"no answer with rgb {rgb}, thermal {thermal}"
            return row()[0]


class Running:
    """The loop at work."""

    def __init__(self, rgb: RtspServer, thermal: RtspServer, bundle: Path, folder: Path) -> None:
        read = read_bundle(bundle)
        self.inputs = InputSpec.model_validate(read.info.inputs.model_dump())
        self.session = Session(read, threads=1)
        self.rgb, self.thermal = rgb, thermal
        self.recorder, self.state, self._stop = Recorder(), LiveState("live"), threading.Event()
        given: dict[Sensor, str] = {"rgb": rgb.url("rgb"), "thermal": thermal.url("thermal")}
        sources = open_sources(given, self.inputs.thermal, None, None, wanted_sizes(self.inputs, Rig()))
        lines = Outbox("jsonl", SINKS["jsonl"](folder / "out.jsonl", read.info.classes), 256, pictures=False)
        settings = LiveSettings(budget_ns=round(BUDGET_S * 1e9))
        rig = CameraRig("live", sources, Rig(), [self.recorder, lines], settings, self.state)
        self._thread = threading.Thread(
            target=run_cameras, args=(self.session, self.inputs, [rig]), kwargs={"stop": self._stop}, name="loop"
        )
        self._thread.start()

    def inference_s(self, runs: int = 30) -> float:
        """Median of the bare model, to be asked while the loop does not run."""
        feeds = np.zeros((1, *SIZE, 3), np.uint8), np.zeros((1, *SIZE), np.uint8), np.ones((1, 2), np.float32)
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self.session.run(*feeds)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def end(self) -> None:
        """Stop the loop."""
        self._stop.set()
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def running(folder: Path, bundle: Path | None) -> Iterator[Running]:
    """Two servers and the loop on them; ``bundle`` None: a small one is made."""
    bundle = bundle or make_bundle(folder / "bundle")
    servers = [
        RtspServer({sensor: (write_units(folder / f"{sensor}.units", moving_bar(SIZE, colour=colour), gop=5), 30)})
        for sensor, colour in (("rgb", (200, 60, 40)), ("thermal", (180, 180, 180)))
    ]
    try:
        live = Running(*(server.start() for server in servers), bundle=bundle, folder=folder)
        try:
            live.recorder.first(True, True, _SETTLED)  # every file is open by then
            yield live
        finally:
            live.end()
    finally:
        for server in servers:
            server.kill()


def reconnects(live: Running, sensor: str) -> int:
    """How often a camera has come back."""
    return int(live.state.snapshot()["sources"][sensor].reconnects)


if __name__ == "__main__":
    _export(Path(sys.argv[1]))
