"""``rgbt live``: run a bundle on two recordings, or on one."""

import argparse
import atexit
import gc
import json
import math
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from data.prepare import InputSpec
    from export.bundle import Bundle
    from pipelines.live.pairing import Sensor
    from pipelines.live.run import LiveReport, LiveSettings
    from pipelines.live.sinks import Sink
    from pipelines.live.sources import Source

EXAMPLE = """examples:
  two recordings whose frames carry times, answers as annotated video and as JSON lines:
    rgbt live bundle --rgb rgb.mp4 --thermal thermal.mkv --rig rig.yaml --save out.mkv --jsonl out.jsonl
  two folders of pictures, taken at 25 a second; pictures of one name belong together:
    rgbt live bundle --rgb visible --thermal infrared --fps 25 --save out.mkv
  masks of a segmentation in the JSON lines too, and the same answers as a table:
    rgbt live bundle --rgb rgb.mp4 --thermal thermal.mkv --jsonl out.jsonl --rle --csv out.csv
  one camera only:
    rgbt live bundle --thermal thermal.mkv --jsonl out.jsonl

Ctrl-C and SIGTERM end the run after the pair in hand; what was written is complete (exit code 0)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that 'rgbt export' wrote")
    parser.add_argument("--rgb", metavar="SRC", help="video file or folder of pictures")
    parser.add_argument("--thermal", metavar="SRC", help="video file (16-bit stays 16-bit) or folder of pictures")
    parser.add_argument("--rig", type=Path, metavar="RIG.YAML", help="where thermal lies on RGB, in space and time")
    parser.add_argument("--fps", type=float, metavar="N", help="pictures per second of folders (default: 25)")
    parser.add_argument(
        "--max-skew", type=float, metavar="MS",
        help="largest difference of capture times in a pair (default: half the slower sensor's frame period)",
    )  # fmt: skip
    parser.add_argument("--hold", action="store_true", help="hold the slower sensor's frame until its next one")
    parser.add_argument("--save", type=Path, metavar="OUT.MKV", help="annotated video, both sensors side by side")
    parser.add_argument("--jsonl", type=Path, metavar="OUT.JSONL", help="one line of JSON for each answer")
    parser.add_argument("--rle", action="store_true", help="segment: put the masks into --jsonl, as COCO run lengths")
    parser.add_argument("--csv", type=Path, metavar="OUT.CSV", help="a table: a row for each object, class or label")
    parser.add_argument("--show", action="store_true", help="a window; q or Esc ends the run")
    parser.add_argument("--score", type=float, default=0.3, help="detect: least score of a box (default: 0.3)")
    parser.add_argument("--limit", type=int, metavar="N", help="end after N answers")
    parser.add_argument("--engine", default="onnxruntime", help="runtime (default: onnxruntime)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: %(default)s)")
    parser.add_argument(
        "--provider", help="cpu, cuda, tensorrt, gpu, npu; never replaced silently (default: cpu; of TensorRT cuda)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run until the sources end, the limit is reached or a signal comes."""
    import cv2

    from data.errors import DataError
    from data.prepare import InputSpec
    from data.rig import Rig
    from export.bundle import read_bundle
    from export.session import Session
    from pipelines.live.run import run_live
    from pipelines.live.sources import open_sources

    settings = _settings(args)
    # Python would take a hundred thousand objects apart at its end, for 40 ms of CPU; the system frees them at once.
    atexit.register(gc.freeze)
    # Workers of OpenCV's pool spin while they wait; the pictures here are small, and other cores decode.
    cv2.setNumThreads(1)
    bundle = read_bundle(args.bundle)
    inputs = InputSpec.model_validate(bundle.info.inputs.model_dump())
    rig = Rig() if args.rig is None else Rig.load(args.rig)
    if inputs.rig_baked and rig.moves:
        raise DataError(
            f"{args.bundle}: the rig is baked into this bundle's graph, which takes the camera's own frames; leave "
            "--rig out, or give one that holds time_offset_ms alone"
        )
    stop = threading.Event()
    sources = open_sources(_arguments(args), inputs.thermal, args.fps)
    try:
        sinks = _sinks(args, bundle, inputs, sources, stop)
        session = Session(bundle, args.engine, args.provider, args.threads, args.precision)
        session.warm_up()
    except BaseException:
        for source in sources.values():
            source.close()
        raise
    with _stopped_by_signals(stop):
        report = run_live(session, inputs, sources, rig, sinks, settings, stop=stop, status=sys.stderr)
    _tell(args, report, session.provider)
    session.close()
    return 0


def _settings(args: argparse.Namespace) -> "LiveSettings":
    from data.errors import DataError
    from pipelines.live.run import LiveSettings

    if not 0 <= args.score <= 1:
        raise DataError(f"--score {args.score:g}: give a number from 0 to 1")
    if args.limit is not None and args.limit < 1:
        raise DataError(f"--limit {args.limit}: give at least 1")
    if args.max_skew is not None and not 0 <= args.max_skew < math.inf:
        raise DataError(f"--max-skew {args.max_skew:g}: give milliseconds, 0 or more")
    max_skew_ns = None if args.max_skew is None else round(args.max_skew * 1e6)
    return LiveSettings(score=args.score, max_skew_ns=max_skew_ns, hold=args.hold, limit=args.limit)


def _arguments(args: argparse.Namespace) -> "dict[Sensor, str]":
    given: dict[Sensor, str | None] = {"rgb": args.rgb, "thermal": args.thermal}
    return {sensor: text for sensor, text in given.items() if text is not None}


def _sinks(
    args: argparse.Namespace,
    bundle: "Bundle",
    inputs: "InputSpec",
    sources: "Mapping[Sensor, Source]",
    stop: threading.Event,
) -> "list[Sink]":
    from pipelines.live.draw import Composer
    from pipelines.live.sinks import SINKS

    compose = Composer(inputs, bundle.info.classes)
    sinks: list[Sink] = []
    if args.jsonl is not None:
        sinks.append(SINKS["jsonl"](args.jsonl, bundle.info.classes, args.rle))
    if args.csv is not None:
        sinks.append(SINKS["csv"](args.csv, bundle.info.classes))
    if args.save is not None:
        paced = sources.get("rgb") or sources["thermal"]
        sinks.append(SINKS["video"](args.save, compose, paced.period_ns))
    if args.show:
        sinks.append(SINKS["window"](compose, stop))
    return sinks


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> "Iterator[None]":
    """Let the first Ctrl-C or SIGTERM end the run in order, and the second one at once."""

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(args: argparse.Namespace, report: "LiveReport", provider: str) -> None:
    from pipelines.live.status import summary

    files = {
        "jsonl": args.jsonl,
        "csv": args.csv,
        "video": args.save if report.stats.answers else None,
    }  # no answer, no picture
    written = {name: None if path is None else str(path) for name, path in files.items()}
    if args.json:
        print(json.dumps({**report.as_dict(), "engine": args.engine, "provider": provider, **written}, indent=2))
        return
    print(summary(report.stats.answers, report.counts, report.seconds))
    infer, skew = report.stats.stage_ms["infer"], report.stats.skew_ms
    if report.stats.answers:
        print(f"inference {infer.percentile(50):.1f} ms (99 %: {infer.percentile(99):.1f} ms) on {provider}")
    if skew.count:
        print(f"skew {skew.percentile(50):.1f} ms (99 %: {skew.percentile(99):.1f} ms)")
    for path in written.values():
        if path is not None:
            print(f"wrote {path}")
    for line in report.warnings():
        print(f"rgbt: warning: {line}", file=sys.stderr)
