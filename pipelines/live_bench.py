"""What the live pipeline costs beyond its parts: CPU time per pair of model, decoding and the whole process.

M is the bare session on decoded, prepared frames; D is bare PyAV decoding and conversion of both files; L is the
whole live process from its start to its end, with a JSON-lines sink only. CPU time is that of user and system
together, over all threads, and each is measured in a process of its own.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from data.errors import DataError
from data.prepare import InputSpec, Prepared, Preparer
from data.rig import Rig
from export.bundle import read_bundle
from export.bundle_info import MODEL
from export.cores import cores
from export.session import Session
from pipelines.live.pairing import Sensor
from pipelines.live.sources import open_sources
from pipelines.live.video import DECODING_THREADS

FRAMES, RATE = 300, 30
RGB_SIZE, THERMAL_SIZE = (720, 1280), (512, 640)
_RENDERED_S = 1
_RING = 32


@dataclass(frozen=True)
class LiveFigures:
    """What ``rgbt bench BUNDLE --live`` prints."""

    live_efficiency: float
    """(M + D) / L: 1 means that pairing, aligning, sinks, start-up and end cost nothing."""
    live_ratio: float
    """Wall clock: live pairs per second over those of the bare model; decoding shares the cores."""
    m_cpu_ms: float
    d_cpu_ms: float
    l_cpu_ms: float
    m_share: float
    """M / (M + D)."""
    startup_cpu_ms: float
    """Part of L, measured as a live process of one pair: imports, hash check, loading and warming up the model, the
    end; spread over the pairs, so it weighs the more, the shorter the run and the smaller the model."""
    live_fps: float
    model_fps: float
    pairs: int
    threads: int
    model: str
    input_size: dict[str, list[int]]
    """Model input → shape."""
    files: dict[str, str]
    """Sensor → size and coding of the generated recording."""


def measure_live(
    bundle: Path,
    engine: str = "onnxruntime",
    provider: str | None = None,
    threads: int | None = None,
    frames: int = FRAMES,
    workdir: Path | None = None,
) -> dict[str, Any]:
    """Measure a bundle on two generated files of ``frames`` frames each; return LiveFigures as plain JSON.

    The files are 1280×720 H.264 and 640×512 FFV1 where the bundle takes any size (a canvas), else of the one size
    that it takes; thermal has the depth of the bundle's unit.

    Args:
        bundle: The bundle's folder.
        engine: As Session takes it.
        provider: As Session takes it.
        threads: Threads of the model; None: all cores that this process may use.
        frames: Frames of each file.
        workdir: Where the files are written; None: a temporary folder.

    Raises:
        DataError: the bundle's unit has no video format (celsius), or a part of the measurement failed.
    """
    inputs = InputSpec.model_validate(read_bundle(bundle).info.inputs.model_dump())
    threads = threads or cores()
    with tempfile.TemporaryDirectory(prefix="rgbt-bench-", dir=workdir) as folder:
        files, described = write_files(Path(folder), inputs, frames)
        model = [str(bundle), "--engine", engine, "--threads", str(threads)]
        model += ["--provider", provider] if provider else []
        both = ["--rgb", str(files["rgb"]), "--thermal", str(files["thermal"])]
        live = ["live", *model, *both, "--json", "--jsonl", str(Path(folder) / "out.jsonl")]
        _, startup_cpu_s = _child("pipelines.cli", [*live, "--limit", "1"])
        # Half of M before and half after, so that a machine that slows down meanwhile favours neither side.
        half = ["model", *model, *both, "--frames", str((frames + 1) // 2)]
        before, _ = _child("pipelines.live_bench", half)
        d, _ = _child("pipelines.live_bench", ["decode", *both])
        report, l_cpu_s = _child("pipelines.cli", live)
        after, _ = _child("pipelines.live_bench", half)
    m_cpu_s, m_wall_s = ((before[key] + after[key]) / (frames + frames % 2) * frames for key in ("cpu_s", "wall_s"))
    if report["counts"]["pairs"] != frames:
        raise DataError(f"the live process made {report['counts']} of {frames} frames each: nothing to compare")
    parts_s = m_cpu_s + d["cpu_s"]
    figures = LiveFigures(
        live_efficiency=round(parts_s / l_cpu_s, 4),
        live_ratio=round(report["pairs_per_s"] * m_wall_s / frames, 4),
        m_cpu_ms=round(m_cpu_s / frames * 1e3, 3),
        d_cpu_ms=round(d["cpu_s"] / frames * 1e3, 3),
        l_cpu_ms=round(l_cpu_s / frames * 1e3, 3),
        m_share=round(m_cpu_s / parts_s, 4),
        startup_cpu_ms=round(startup_cpu_s / frames * 1e3, 3),
        live_fps=report["pairs_per_s"],
        model_fps=round(frames / m_wall_s, 2),
        pairs=frames,
        threads=threads,
        model=f"{bundle.name}, model.onnx {(bundle / MODEL).stat().st_size / 1e6:.1f} MB",
        input_size={"rgb": list(inputs.rgb_size), "thermal": list(inputs.thermal_size)},
        files=described,
    )
    return dataclasses.asdict(figures)


def write_files(folder: Path, inputs: InputSpec, frames: int) -> tuple[dict[Sensor, Path], dict[str, str]]:
    """Write a synthetic recording that the bundle takes; return its files and what they are.

    One second is rendered and repeated, so that writing takes less time than measuring.
    """
    from data.synthetic.video import write_video

    if inputs.thermal.unit == "celsius":
        raise DataError("no video holds °C, so a bundle of unit 'celsius' cannot be measured on video files")
    rgb_size = RGB_SIZE if inputs.letterbox else inputs.rgb_size
    thermal_size = THERMAL_SIZE if inputs.letterbox else inputs.thermal_size
    if any(length % 2 for length in rgb_size):
        raise DataError(f"H.264 takes even sizes only, the bundle takes RGB of {rgb_size[1]}×{rgb_size[0]}")
    rendered = write_video(
        folder / "rendered", _RENDERED_S, 0, rgb_size, thermal_size, RATE, RATE, offset_ms=0, misaligned=False
    )
    is_16_bit = inputs.thermal.unit == "counts16"
    pixels = "gray16le" if is_16_bit else "gray"
    colour, counts = _read(rendered / "rgb.mp4", "rgb24"), _read(rendered / "thermal.mkv", "gray16le")
    warm = counts if is_16_bit else _eight_bits(counts)
    _repeat(colour, folder / "rgb.mp4", "libx264", ("rgb24", "yuv420p"), {"preset": "veryfast"}, frames)
    _repeat(warm, folder / "thermal.mkv", "ffv1", (pixels, pixels), {"level": "3"}, frames)
    described = {
        "rgb": f"{rgb_size[1]}×{rgb_size[0]} H.264",
        "thermal": f"{thermal_size[1]}×{thermal_size[0]} {16 if is_16_bit else 8}-bit FFV1",
    }
    return {"rgb": folder / "rgb.mp4", "thermal": folder / "thermal.mkv"}, described


def _read(path: Path, pixels: str) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=pixels) for frame in container.decode(video=0)]


def _eight_bits(images: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Spread the counts of a recording over 0…255, as a camera's AGC does."""
    low, high = min(int(image.min()) for image in images), max(int(image.max()) for image in images)
    return [((image - low) * (255 / max(1, high - low))).astype(np.uint8) for image in images]


def _repeat(
    images: list[NDArray[Any]], out: Path, codec: str, formats: tuple[str, str], options: dict[str, str], frames: int
) -> None:
    """Encode images over and over; ``formats`` are those handed to the encoder and stored."""
    with av.open(str(out), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = formats[1]
        for number, image in zip(range(frames), itertools.cycle(images), strict=False):
            frame = av.VideoFrame.from_ndarray(image, format=formats[0])
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _child(module: str, arguments: list[str]) -> tuple[dict[str, Any], float]:
    """Run ``python -m module``; return the JSON it printed and the CPU seconds of the whole process."""
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        assert process.stdout is not None
        with process.stdout:
            printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            lines = said.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise DataError(f"a part of the measurement failed: {lines[-1].removeprefix('rgbt: error: ')}")
    return json.loads(printed), usage.ru_utime + usage.ru_stime


def _model_alone(args: argparse.Namespace) -> tuple[float, float]:
    """CPU and wall seconds of ``args.frames`` runs over a ring of prepared pairs, without start-up."""
    bundle = read_bundle(args.bundle)
    session = Session(bundle, args.engine, args.provider, args.threads)
    session.warm_up()
    ring = list(itertools.islice(_prepared(args, InputSpec.model_validate(bundle.info.inputs.model_dump())), _RING))
    batches = [(pair.rgb[None], pair.thermal[None], pair.present[None]) for pair in ring]
    session.run(*batches[0])
    cpu_s, wall_s = process_time(), perf_counter()
    for _, batch in zip(range(args.frames), itertools.cycle(batches), strict=False):
        session.run(*batch)
    return process_time() - cpu_s, perf_counter() - wall_s


def _prepared(args: argparse.Namespace, inputs: InputSpec) -> Iterator[Prepared]:
    sources = open_sources({"rgb": args.rgb, "thermal": args.thermal}, inputs.thermal, None)
    prepare = Preparer(inputs, Rig())
    while (rgb := sources["rgb"].read()) and (thermal := sources["thermal"].read()):
        yield prepare(rgb.image, thermal.image)


def _decoding_alone(args: argparse.Namespace) -> tuple[float, float]:
    """CPU and wall seconds of decoding and converting both files, one after the other."""
    reformatter = VideoReformatter()

    def rgb(frame: av.VideoFrame) -> NDArray[Any]:
        return reformatter.reformat(frame, format="rgb24").to_ndarray()

    cpu_s, wall_s = process_time(), perf_counter()
    for path, convert in ((args.rgb, rgb), (args.thermal, av.VideoFrame.to_ndarray)):
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            stream.codec_context.thread_count = DECODING_THREADS
            for frame in container.decode(stream):
                convert(frame)
    return process_time() - cpu_s, perf_counter() - wall_s


def main() -> None:
    """Measure one part, in the process that this module was started in, and print it as JSON."""
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    model = parts.add_parser("model")
    model.add_argument("bundle", type=Path)
    model.add_argument("--engine")
    model.add_argument("--provider")
    model.add_argument("--threads", type=int)
    model.add_argument("--frames", type=int)
    model.set_defaults(measure=_model_alone)
    decode = parts.add_parser("decode")
    decode.set_defaults(measure=_decoding_alone)
    for part in (model, decode):
        part.add_argument("--rgb")
        part.add_argument("--thermal")
    args = parser.parse_args()
    cpu_s, wall_s = args.measure(args)
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s}))


if __name__ == "__main__":
    main()
