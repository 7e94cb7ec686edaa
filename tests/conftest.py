"""Generated data that several tests share; nothing is checked in."""

import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from data.synthetic.dataset import write_dataset
from data.synthetic.video import write_video

if TYPE_CHECKING:
    from export.variants.source import Source
    from fusion.model import FusionModel
    from pipelines.compare_request import Request
    from tests.rtsp_server.fixture import RtspServer

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipelines.cli does; torch is not loaded yet

NO_PAIRS, NO_GPU, NO_LITERT = "no real pairs", "no CUDA device", "its converter is not here"
NO_CPP = "its headers are not here"
SHARED = Path(__file__).parents[2] / "shared" / "data"
_SMALL = """
about: small
model:
  size: [64, 96]
  sensors: SENSORS
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
  head: {width: 16}
batch: 4
workers: 0
stages:
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under RGBT_REQUIRE_ALL a test that is skipped for want of a tool fails; real pairs and a GPU are no tools.

    LiteRT's converter lives in an environment of its own; RGBT_NO_LITERT says that it is left out,
    and RGBT_NO_CPP that ONNX Runtime's headers, of which the C++ client is built, are to be had nowhere.
    """
    report = yield
    if (
        os.environ.get("RGBT_REQUIRE_ALL")
        and report.skipped
        and not re.search(f"{NO_PAIRS}|{NO_GPU}|{NO_LITERT}|{NO_CPP}", str(report.longrepr))
    ):
        report.outcome, report.longrepr = "failed", f"skipped under RGBT_REQUIRE_ALL: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def synthetic_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """card.yaml of 12 / 6 / 6 pairs (train / val / test) and 6 unlabelled ones, 64×96 RGB, 48×80 counts16.

    For reading only: a test that changes files copies the folder first.
    """
    out = tmp_path_factory.mktemp("synthetic")
    pairs = {"train": 12, "val": 6, "test": 6, "unlabelled": 6}
    return write_dataset(out, pairs, seed=0, rgb_size=(64, 96), thermal_size=(48, 80))


@pytest.fixture(scope="session")
def synthetic_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one second of rgb.mp4 (30/s), thermal.mkv (25/s, 80 ms behind), rig.yaml and truth.json."""
    out = tmp_path_factory.mktemp("video")
    return write_video(out, seconds=1, seed=0, rgb_size=(64, 96), thermal_size=(48, 80))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pairs that lies beside a checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"{NO_PAIRS} at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model() -> "FusionModel":
    """A seeded FusionModel for RGB 48×64 and thermal 30×40 counts16, in eval mode, in which thermal counts."""
    import torch

    from data.prepare import InputSpec
    from data.thermal import ThermalSpec
    from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model

    inputs = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
    config = ModelConfig(
        size=(64, 96),
        rgb=RgbEncoder(arch="test_resnet", weights=None),
        thermal=ThermalEncoder(arch="test_resnet"),
        classes=("person", "car"),
        inputs=inputs.model_dump(mode="json"),
    )
    model, _ = build_model(config, 0)
    with torch.no_grad():
        for parameter in model.blend.parameters():  # zero at the start, so that thermal would not matter
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="session")
def golden_pairs() -> dict[str, np.ndarray]:
    """Three pairs for the tiny model: ``rgb`` uint8 [3,48,64,3] and ``thermal`` uint16 [3,30,40]."""
    noise = np.random.default_rng(0)
    return {
        "rgb": noise.integers(0, 255, (3, 48, 64, 3), np.uint8),
        "thermal": noise.integers(21000, 23000, (3, 30, 40)).astype(np.uint16),
    }


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_model: "FusionModel", golden_pairs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Path of the tiny model's bundle; a test that changes files copies the folder first."""
    from export.write import export_bundle

    path = tmp_path_factory.mktemp("export") / "bundle"
    config = tiny_model.config
    export_bundle(
        tiny_model, config.inputs, config.classes, config.sensors, golden_pairs, {"ap50": 0.5}, "a" * 64, path
    )
    return path


@pytest.fixture(scope="session")
def dense_source() -> "Callable[..., Source]":
    """Makes what NCNN and LiteRT are exported from: the tiny model with a head (task) and a blend (fields)."""
    import torch

    from data.prepare import InputSpec
    from data.thermal import ThermalSpec
    from export.bundle_info import Inputs
    from export.variants.source import Source
    from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model

    def build(task: str, blend: dict[str, Any] | None = None) -> Source:
        inputs = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
        fields = inputs.model_dump(mode="json")
        config = ModelConfig.model_validate(
            {
                "size": (64, 96),
                "rgb": RgbEncoder(arch="test_resnet", weights=None),
                "thermal": ThermalEncoder(arch="test_resnet"),
                "blend": blend or {},
                "head": {"kind": task, "width": 16},
                "classes": ("person", "car", "dog"),
                "inputs": fields,
            }
        )
        model, _ = build_model(config, 0)
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.blend.parameters():  # zero at the start, so that thermal would not matter
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)
            if task == "detect":  # untrained scores are so alike that rounding would decide their order
                model.head.heat[-1].weight *= 20
        return Source(model.eval(), b"", Inputs.model_validate(fields), task, (), lambda run: 0.0, 1.0, print)

    return build


@pytest.fixture(scope="session")
def dense_feeds() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Makes raw pairs for what ``dense_source`` makes, one for each row of ``present`` [B,2]."""

    def make(present: np.ndarray) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0)
        return {
            "rgb": noise.integers(0, 256, (len(present), 48, 64, 3), np.uint8),
            "thermal": noise.integers(21000, 23000, (len(present), 30, 40)).astype(np.uint16),
            "present": present,
        }

    return make


@pytest.fixture
def small_recipe(tmp_path: Path) -> Callable[..., str]:
    """Writes a recipe of a name with stages (lines of YAML), and returns its path as text."""

    def write(name: str, *stages: str, sensors: str = "[rgb, thermal]") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(_SMALL.replace("SENSORS", sensors) + "".join(stages))
        return str(path)

    return write


@pytest.fixture
def compare_request(synthetic_card: Path, tmp_path: Path) -> "Callable[..., Request]":
    """Makes a request to compare recipes on the synthetic card, into ``tmp_path / "out"``."""
    from pipelines.compare_request import Request

    def build(*recipes: str, **fields: Any) -> Request:
        return Request(recipes, synthetic_card, tmp_path / "out", **{"seeds": 1} | fields)

    return build


class StagedPipeline:
    """What the page looks at: a LiveState that is given answers by hand, or 25 a second.

    RGB 480×640 in which a bright bar wanders; thermal from 0 °C at the left to 40 °C at the right, its upper left
    corner invalid; one person.
    """

    def __init__(self) -> None:
        from data.prepare import InputSpec, Preparer
        from data.rig import Rig
        from data.thermal import ThermalSpec
        from pipelines.live.state import LiveState

        self.inputs = InputSpec(rgb_size=(480, 640), thermal_size=(480, 640), thermal=ThermalSpec(unit="celsius"))
        self.classes = ("person", "car")
        self.modes: dict[str, Any] = {"rgb": "up", "thermal": "up"}
        self.state = LiveState("mast")
        self.state.watch(self._sources, lambda: {"mqtt": {"queued": 3, "dropped": 1, "errors": 0, "last_error": None}})
        self.counts = {"pairs": 0, "rgb_alone": 0, "thermal_alone": 0, "rgb_dropped": 0, "thermal_dropped": 0}
        self.given = 0
        self._prepare = Preparer(self.inputs, Rig())
        self._thermal = np.tile(np.linspace(0, 40, 640, dtype=np.float32), (480, 1))
        self._thermal[:60, :60] = self.inputs.thermal.invalid
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def give(self) -> None:
        """Hand in one answer of the sensors that are up."""
        from data.frame import Frame, Pair
        from pipelines.live.answer import BoxAnswer
        from pipelines.live.state import Latest

        rgb = np.full((480, 640, 3), 60, np.uint8)
        rgb[:, self.given * 8 % 600 : self.given * 8 % 600 + 40] = 220
        now = time.monotonic_ns()
        there = [sensor for sensor in ("rgb", "thermal") if self.modes.get(sensor) == "up"]
        pair = Pair(
            Frame(rgb, now, self.given, "rgb") if "rgb" in there else None,
            Frame(self._thermal, now + 6_000_000, self.given, "thermal") if "thermal" in there else None,
        )
        frames = (None if frame is None else frame.image for frame in (pair.rgb, pair.thermal))
        answer = BoxAnswer(self.given, np.array([[200, 150, 280, 400, 0.9, 0]], np.float32), (480, 640))
        latest = Latest(pair, self._prepare(*frames, rgb_size=(480, 640)), answer)
        self.counts["pairs" if len(there) == 2 else f"{there[0]}_alone"] += 1
        self.counts["rgb_dropped"] += 1
        stages = {"wait": 0.033, "pair": 0.004, "prepare": 0.002, "infer": 0.011, "sinks": 0.001}
        self.state.answered(latest, stages, 0.02 + self.given % 7 / 1000, self.counts)
        self.given += 1

    def run(self) -> None:
        """Hand in 25 answers a second until the test ends."""
        self._thread = threading.Thread(target=self._run, name="staged pipeline")
        self._thread.start()

    def stop(self) -> None:
        """No more answers."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.04):
            if "up" in self.modes.values():
                self.give()

    def _sources(self) -> dict[str, Any]:
        return {sensor: self._source(sensor, mode) for sensor, mode in self.modes.items()}

    def _source(self, sensor: str, mode: Any) -> Any:
        from pipelines.live.source_status import SourceStatus

        return SourceStatus(
            name=f"rtsp://***@camera/{sensor}",
            state=mode,
            frames=self.given,
            dropped=self.counts[f"{sensor}_dropped"],
            reconnects=2,
            stalls=1,
            last_error=None if mode == "up" else "connection refused",
            fps=25.0 if mode == "up" else 0.0,
            age_s=0.04,
        )


@pytest.fixture
def staged() -> Iterator[StagedPipeline]:
    """A pipeline for the page to look at."""
    pipeline = StagedPipeline()
    yield pipeline
    pipeline.stop()


@pytest.fixture(scope="session")
def rtsp_units(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a file of pre-encoded H.264 for ``rtsp_server``: a bar that moves in a picture of (height, width)."""
    from tests.rtsp_server.fixture import moving_bar, write_units

    out = tmp_path_factory.mktemp("h264")

    def make(size: tuple[int, int] = (96, 128), pixels: str = "yuv420p", **options: Any) -> Path:
        name = "_".join(map(str, [*size, pixels, *options.values()])).replace(" ", "")
        path = out / f"{name}.units"
        return path if path.exists() else write_units(path, moving_bar(size, **options), pixels=pixels)

    return make


@pytest.fixture
def rtsp_server() -> "Generator[Callable[..., RtspServer]]":
    """Starts a real RTSP server: ``rtsp_server(rgb=(file, fps), taken=file, …)``; killed at the end of the test."""
    from tests.rtsp_server.fixture import RtspServer, is_here

    if not is_here():
        pytest.skip("GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0, python3-gi)")
    servers = []

    def make(*, start: bool = True, **paths: tuple[Path, float] | Path) -> RtspServer:
        servers.append(RtspServer(paths))
        return servers[-1].start() if start else servers[-1]

    yield make
    for server in servers:
        server.kill()
