"""A camera that is not there: a small moving scene, rendered once and played for ever at its own pace."""

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Literal
from urllib.parse import parse_qsl

import numpy as np

from data.errors import DataError
from data.frame import Frame, Image
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor
from pipelines.live.video import VideoFile

_DEFAULT_SIZES: dict[Sensor, tuple[int, int]] = {"rgb": (160, 192), "thermal": (128, 160)}


@dataclass
class Scene:
    """What both synthetic cameras of a rig look at, at the same time; rendered when it is first asked for."""

    sizes: dict[Sensor, tuple[int, int]] = field(default_factory=dict)
    """Height, width of each sensor; even."""
    begun_ns: int = field(default_factory=monotonic_ns)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _played: dict[tuple[int, int, int], dict[Sensor, list[Image]]] = field(default_factory=dict)

    def images(self, sensor: Sensor, fps: int, seconds: int, seed: int) -> list[Image]:
        """RGB H×W×3 uint8, thermal H×W uint16 counts."""
        from data.synthetic.video import write_video  # 25 ms at the start of every run that needs no scene

        with self._lock:
            key = (fps, seconds, seed)
            if key not in self._played:
                rgb, thermal = ({**_DEFAULT_SIZES, **self.sizes}[s] for s in ("rgb", "thermal"))
                with tempfile.TemporaryDirectory() as folder:
                    out = write_video(
                        Path(folder), seconds, seed, rgb, thermal, rgb_fps=fps, thermal_fps=fps, offset_ms=0,
                        misaligned=False,
                    )  # fmt: skip
                    self._played[key] = {"rgb": _read(out / "rgb.mp4", "rgb"), "thermal": _read(
                        out / "thermal.mkv", "thermal"
                    )}  # fmt: skip
            return self._played[key][sensor]


class Synthetic:
    """Plays the scene; frames of both sensors with one number show one moment, and carry one time.

    Args:
        text: ``synthetic:[?fps=30&seconds=2&seed=0]``.
        sensor: Which of its views.
        spec: The unit that thermal comes in: its counts, 8 bits of them, or °C.
        scene: What is seen.

    Raises:
        DataError: an option is none.
    """

    policy: Literal["ordered", "latest"] = "latest"

    def __init__(self, text: str, sensor: Sensor, spec: ThermalSpec, scene: Scene) -> None:
        self.name = text
        options = parse_options(text)
        self._step_ns = round(1e9 / options["fps"])
        self.period_ns: int | None = self._step_ns
        images = scene.images(sensor, **options)
        self._images = images if sensor == "rgb" else _in_unit(images, spec)
        self._begun_ns = scene.begun_ns
        self._number = -(-(monotonic_ns() - self._begun_ns) // self._step_ns)
        self._sequence = 0
        self._closed = threading.Event()

    def read(self) -> Frame | None:
        """Wait until the next frame is due; frames that nobody read in time are lost, as a camera's are."""
        due_ns = self._begun_ns + self._number * self._step_ns
        self._closed.wait(max(0, due_ns - monotonic_ns()) / 1e9)
        if self._closed.is_set():
            return None
        frame = Frame(self._images[self._number % len(self._images)], due_ns, self._sequence, self.name)
        self._sequence += 1
        self._number = max(self._number + 1, (monotonic_ns() - self._begun_ns) // self._step_ns)
        return frame

    def close(self) -> None:
        """End a read that waits."""
        self._closed.set()


def parse_options(text: str) -> dict[str, int]:
    """Options of ``synthetic:?…``, filled up; DataError when one is unknown or no whole number of 1 to 120."""
    options = {"fps": 30, "seconds": 2, "seed": 0}
    for name, value in parse_qsl(text.partition("?")[2], keep_blank_values=True):
        if name not in options or not value.isdecimal() or not (name == "seed" or 1 <= int(value) <= 120):
            raise DataError(f"{text}: write such as synthetic:?fps=30&seconds=2&seed=0")
        options[name] = int(value)
    return options


def _read(path: Path, sensor: Sensor) -> list[Image]:
    video = VideoFile(path, sensor, ThermalSpec(unit="counts16"))
    images = []
    while (frame := video.read()) is not None:
        images.append(frame.image.copy())
    video.close()
    return images


def _in_unit(images: list[Image], spec: ThermalSpec) -> list[Image]:
    if spec.unit == "counts16":
        return images
    least, most = min(int(image.min()) for image in images), max(int(image.max()) for image in images)
    if spec.unit == "celsius":
        from data.synthetic.camera import COUNTS_PER_DEGREE

        return [((image - float(least)) / COUNTS_PER_DEGREE).astype(np.float32) for image in images]
    return [((image - float(least)) * (255.0 / max(1, most - least))).astype(np.uint8) for image in images]
