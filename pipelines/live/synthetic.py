"""A camera that is not there: a small moving scene, drawn as it is looked at and played for ever at its own pace."""

import threading
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from data.frame import Frame, Image
from data.thermal import ThermalSpec, Unit
from pipelines.live.pairing import Sensor
from pipelines.live.usage import UsageError

if TYPE_CHECKING:
    from data.synthetic.video import Staged

_KEEP_BYTES = 64 << 20
"""Of pictures, for each camera: two seconds of VGA."""

_DEFAULT_SIZES: dict[Sensor, tuple[int, int]] = {"rgb": (160, 192), "thermal": (128, 160)}


@dataclass
class Scene:
    """What both synthetic cameras of a rig look at, at the same time; a picture is drawn when it is first asked for."""

    sizes: dict[Sensor, tuple[int, int]] = field(default_factory=dict)
    """Height, width of each sensor; even."""
    begun_ns: int = field(default_factory=monotonic_ns)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _staged: dict[tuple[int, int], "Staged"] = field(default_factory=dict)

    def stage(self, seconds: int, seed: int) -> "Staged":
        """Make what lasts so long, or give what was made before."""
        from data.synthetic.video import stage  # 25 ms at the start of every run that needs no scene

        with self._lock:
            if (seconds, seed) not in self._staged:
                rgb, thermal = ({**_DEFAULT_SIZES, **self.sizes}[s] for s in ("rgb", "thermal"))
                self._staged[seconds, seed] = stage(np.random.default_rng([seed, 99]), seconds, rgb, thermal)[0]
            return self._staged[seconds, seed]


class Pictures:
    """One camera's view of a scene, by number: RGB H×W×3 uint8, thermal H×W in the unit that is asked for.

    A number's picture is the same whenever it is drawn. The first ones are kept, up to ``keep_bytes``: of a scene that
    repeats itself those are shown again as often as any others.

    Args:
        staged: The scene.
        sensor: Which of its views.
        unit: Of thermal: its counts, 8 bits after gain control, or °C.
        fps: Pictures per second.
        count: Of different pictures; then they begin anew.
        seed: Of the noise.
        keep_bytes: What is kept at most.
    """

    def __init__(
        self,
        staged: "Staged",
        sensor: Sensor,
        unit: Unit,
        fps: int,
        count: int,
        seed: int,
        keep_bytes: int = _KEEP_BYTES,
    ) -> None:
        self._staged = staged
        self._sensor = sensor
        self._unit = unit
        self._fps = fps
        self._count = count
        self._seed = seed
        self._room = keep_bytes
        self._kept: dict[int, Image] = {}
        self._span = self._look() if unit == "intensity8" and sensor == "thermal" else (0.0, 1.0)

    @property
    def kept_bytes(self) -> int:
        """What is held in memory."""
        return sum(image.nbytes for image in self._kept.values())

    def __getitem__(self, number: int) -> Image:
        """Draw the picture, unless it is kept."""
        number %= self._count
        if number in self._kept:
            return self._kept[number]
        image = self._draw(number)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[number] = image
        return image

    def _draw(self, number: int) -> Image:
        rng, time = np.random.default_rng([self._seed, self._sensor == "thermal", number]), number / self._fps
        if self._sensor == "rgb":
            return self._staged.rgb(time, rng)
        if self._unit == "counts16":
            return self._staged.thermal(time, rng)
        celsius = self._celsius(time, rng)
        if self._unit == "celsius":
            return celsius
        low, high = self._span
        return np.asarray(np.clip((celsius - low) * (255 / (high - low)), 0, 255), np.uint8)

    def _celsius(self, time: float, rng: np.random.Generator) -> NDArray[np.float32]:
        from data.synthetic.camera import COUNTS_PER_DEGREE

        above_ten = self._staged.thermal(time, rng) - np.float32(self._staged.counts_at_ten(time))
        return np.asarray(10 + above_ten / np.float32(COUNTS_PER_DEGREE), np.float32)

    def _look(self) -> tuple[float, float]:
        """Coldest and warmest of a picture from each act: the gain that 8 bits keep."""
        acts = len(self._staged.story.acts)
        times = [(act + 0.5) * self._staged.story.seconds / acts for act in range(acts)]
        seen = [self._celsius(time, np.random.default_rng(self._seed)) for time in times]
        return min(float(image.min()) for image in seen), max(float(image.max()) for image in seen)


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
        count = options["fps"] * options["seconds"]
        staged = scene.stage(options["seconds"], options["seed"])
        self._pictures = Pictures(staged, sensor, spec.unit, options["fps"], count, options["seed"])
        self._begun_ns = scene.begun_ns
        self._number = -(-(monotonic_ns() - self._begun_ns) // self._step_ns)
        self._sequence = 0
        self._closed = threading.Event()

    def read(self) -> Frame | None:
        """Wait until the next frame is due; frames that nobody read in time are lost, as a camera's are."""
        image = self._pictures[self._number]  # before it is due: drawing takes no part in its latency
        due_ns = self._begun_ns + self._number * self._step_ns
        self._closed.wait(max(0, due_ns - monotonic_ns()) / 1e9)
        if self._closed.is_set():
            return None
        frame = Frame(image, due_ns, self._sequence, self.name)
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
            raise UsageError(f"{text}: write such as synthetic:?fps=30&seconds=2&seed=0")
        options[name] = int(value)
    return options
