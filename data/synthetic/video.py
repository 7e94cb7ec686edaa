"""Writes a synthetic recording: two videos of one moving scene, the rig between them, and what is really there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data.rig import Rig
from data.synthetic.background import Background, Grid, make_background
from data.synthetic.camera import ThermalPattern, expose_rgb, expose_thermal, make_pattern, view_matrix
from data.synthetic.render import find_truth, render_celsius, render_rgb
from data.synthetic.settings import SETTINGS, Setting
from data.synthetic.site import CONDITIONS, Site, Weather, make_site, make_weather
from data.synthetic.surface import ROAD_STATES, make_surface, state_of
from data.synthetic.things import CLASSES, Thing
from data.synthetic.world import Mover, populate


@dataclass(frozen=True, slots=True)
class Story:
    """One place through several acts of an equal time each, with things that move on steadily.

    The acts are day, night and glare; of a road with states, each state by day and then each by night.
    """

    grid: Grid
    site: Site
    seconds: float
    movers: list[Mover]
    acts: list[tuple[Weather, Background]]

    def act(self, time: float) -> tuple[Weather, Background]:
        """Weather and place at a time in seconds."""
        number = int(time / self.seconds * len(self.acts))
        return self.acts[min(max(number, 0), len(self.acts) - 1)]

    def things(self, time: float) -> list[Thing]:
        """Everything that stands or moves, where it is at a time in seconds."""
        return [mover.at(time, self.grid.width / self.grid.height) for mover in self.movers]


@dataclass(frozen=True, slots=True)
class Staged:
    """A story before its two cameras; what they see at a time in seconds is drawn when it is asked for."""

    story: Story
    view: NDArray[np.float64]
    """3×3 from thermal pixels to RGB pixels."""
    pattern: ThermalPattern

    def rgb(self, time: float, rng: np.random.Generator) -> NDArray[Any]:
        """H×W×3 uint8; the noise is drawn from ``rng``."""
        weather, place = self.story.act(time)
        light = render_rgb(self.story.things(time), place, weather, self.story.grid)
        return expose_rgb(light, weather, self.story.grid, rng)

    def thermal(self, time: float, rng: np.random.Generator) -> NDArray[Any]:
        """H×W uint16 counts; the noise is drawn from ``rng``."""
        weather, place = self.story.act(time)
        celsius = render_celsius(self.story.things(time), place, weather, self.story.grid)
        return expose_thermal(celsius, self.story.grid, self.view, self.pattern, self.counts_at_ten(time), rng)

    def counts_at_ten(self, time: float) -> float:
        """Counts of 10 °C, which rise as the camera warms up; a degree more is COUNTS_PER_DEGREE."""
        return self.story.site.offset + 15 * time


def stage(
    rng: np.random.Generator,
    seconds: float,
    rgb_size: tuple[int, int],
    thermal_size: tuple[int, int],
    *,
    offset_ms: float = 0.0,
    misaligned: bool = False,
    setting: Setting = SETTINGS["default"],
) -> tuple[Staged, Rig]:
    """Draw a place, what moves there and two cameras; the arguments are those of write_video."""
    story = _story(rng, seconds, rgb_size, setting)
    pattern = make_pattern(rng, thermal_size)
    view, rig = _mount(rng, story.grid, thermal_size, offset_ms, misaligned)
    return Staged(story, view, pattern), rig


def write_video(
    out: Path,
    seconds: float,
    seed: int,
    rgb_size: tuple[int, int] = (160, 192),
    thermal_size: tuple[int, int] = (128, 160),
    rgb_fps: int = 30,
    thermal_fps: int = 25,
    offset_ms: float = 80.0,
    misaligned: bool = True,
    setting: str = "default",
) -> Path:
    """Write rgb.mp4, thermal.mkv, rig.yaml and truth.json into the folder ``out`` and return it.

    The recording is of a place of the split ``test``. Thermal time stamps start at 0 and are ``offset_ms`` behind
    the clock of RGB: rig.yaml says so, and truth.json lists the thermal frame that is nearest in truth.

    Args:
        out: A folder; created.
        seconds: Length of either video.
        seed: Of everything.
        rgb_size: Height, width; even, as H.264 wants it.
        thermal_size: Height, width.
        rgb_fps: Frames per second, H.264 yuv420p.
        thermal_fps: Frames per second, FFV1 gray16le.
        offset_ms: True time minus thermal time stamp.
        misaligned: Whether the thermal camera is turned, shifted and sees more, as the rig's homography says.
        setting: One of data.synthetic.settings.SETTINGS.
    """
    chosen = SETTINGS[setting]
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 99])
    staged, rig = stage(
        rng, seconds, rgb_size, thermal_size, offset_ms=offset_ms, misaligned=misaligned, setting=chosen
    )
    rig.save(out / "rig.yaml")

    rgb_times = [k / rgb_fps for k in range(round(seconds * rgb_fps))]
    thermal_times = [offset_ms / 1e3 + k / thermal_fps for k in range(round(seconds * thermal_fps))]
    _write(
        out / "rgb.mp4", "libx264", ("rgb24", "yuv420p"), rgb_fps, rgb_size, {"crf": "18", "preset": "veryfast"},
        (staged.rgb(time, rng) for time in rgb_times),
    )  # fmt: skip
    _write(
        out / "thermal.mkv", "ffv1", ("gray16le", "gray16le"), thermal_fps, thermal_size, {"level": "3"},
        (staged.thermal(time, rng) for time in thermal_times),
    )  # fmt: skip
    truth = {
        "classes": list(CLASSES),
        "image_classes": list(chosen.image_classes),
        "time_offset_ms": offset_ms,
        "frames": [_frame_truth(staged.story, k, time, thermal_times) for k, time in enumerate(rgb_times)],
    }
    (out / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    return out


def _story(rng: np.random.Generator, seconds: float, rgb_size: tuple[int, int], setting: Setting) -> Story:
    regime = setting.regimes["test"]
    site = make_site(rng, regime)
    grid = Grid(rgb_size[0], rgb_size[1], margin=round(0.12 * rgb_size[0]))
    weathers = [make_weather(rng, regime, condition) for condition in CONDITIONS]
    if setting.road:
        weathers = [
            replace(weather, surface=make_surface(state, telling=False, seed=number))
            for weather in weathers[:2]
            for number, state in enumerate(ROAD_STATES)
        ]
    acts = [(weather, make_background(site, weather, grid)) for weather in weathers]
    return Story(grid, site, seconds, populate(rng, site, grid.width / grid.height), acts)


def _mount(
    rng: np.random.Generator, grid: Grid, thermal_size: tuple[int, int], offset_ms: float, misaligned: bool
) -> tuple[NDArray[np.float64], Rig]:
    if not misaligned:
        return view_matrix(grid, thermal_size, (0, 0)), Rig(time_offset_ms=offset_ms)
    reach = 0.015 * grid.height
    shift = (float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach)))
    view = view_matrix(grid, thermal_size, shift, degrees=float(rng.uniform(-1, 1)), zoom=1.08)
    return view, Rig(
        rgb_size=(grid.height, grid.width),
        thermal_size=thermal_size,
        homography=tuple(tuple(row) for row in view.tolist()),
        time_offset_ms=offset_ms,
    )


def _frame_truth(story: Story, number: int, time: float, thermal_times: list[float]) -> dict[str, Any]:
    weather, _ = story.act(time)
    truth = find_truth(story.things(time), weather, story.grid)
    return {
        "index": number,
        "time_ms": round(time * 1e3, 3),
        "scene": weather.condition,
        "thermal_index": int(np.argmin(np.abs(np.array(thermal_times) - time))),
        "boxes": truth.boxes.tolist(),
        "labels": truth.labels.tolist(),
        "image_label": truth.nearest if weather.surface is None else state_of(weather.surface),
    }


def _write(
    path: Path,
    codec: str,
    formats: tuple[str, str],
    fps: int,
    size: tuple[int, int],
    options: dict[str, str],
    images: Iterator[NDArray[Any]],
) -> None:
    """Encode images; ``formats`` are that of the arrays and that in the file."""
    given, stored = formats
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = stored
        stream.codec_context.thread_count = 1  # the same bytes on any machine
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format=given)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
