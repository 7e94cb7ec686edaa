"""``rgbt live``: run a bundle on two cameras or two recordings, or on one; or on many rigs."""

import argparse
import atexit
import gc
import json
import math
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from export.session import Session
    from pipelines.live.assembly import Assembled, Page, Setting
    from pipelines.live.log import Log
    from pipelines.live.reconnect import LiveRules
    from pipelines.live.report import LiveReport, LiveSettings
    from pipelines.live.site import Site

EXAMPLE = """examples:
  two cameras, with a page that shows what they see at http://127.0.0.1:8080:
    rgbt live bundle --rgb rtsp://10.0.0.5/rgb --thermal rtsp://10.0.0.5/thermal --rig rig.yaml --serve
  a USB camera and a raw 16-bit thermal one, answers to a broker; passwords stay in the environment:
    rgbt live bundle --rgb usb:0 --thermal 'usb:1?format=Y16' --mqtt 'mqtt://me:${BROKER_PASSWORD}@broker/site/gate'
  two recordings whose frames carry times, answers as annotated video and as JSON lines:
    rgbt live bundle --rgb rgb.mp4 --thermal thermal.mkv --rig rig.yaml --save out.mkv --jsonl out.jsonl
  two folders of pictures, taken at 25 a second; pictures of one name belong together:
    rgbt live bundle --rgb visible --thermal infrared --fps 25 --save out.mkv
  masks of a segmentation in the JSON lines too, and the same answers as a table:
    rgbt live bundle --rgb rgb.mp4 --thermal thermal.mkv --jsonl out.jsonl --rle --csv out.csv
  one camera only:
    rgbt live bundle --thermal thermal.mkv --jsonl out.jsonl
  many rigs on one model; site.yaml names the options of each:
    rgbt live bundle --config site.yaml --serve 0.0.0.0:8080 --token '${RGBT_TOKEN}' --log json

Of recordings every pair is answered, in order. Of cameras the newest pair is; what is lost is opened again, and the
other camera goes on alone meanwhile. A sink that stalls or fails holds up nothing: its losses are counted.

Ctrl-C and SIGTERM end the run after the pair in hand, within 5 s; what was written is complete. A second one ends it
at once. Under systemd (Type=notify, WatchdogSec=) the loop itself says that it is alive.

exit codes: 0 the sources ended, the limit was reached or a signal came; 1 an error, told in one line; 2 wrong usage;
3 a camera stayed away for longer than --give-up-after; 130 a second Ctrl-C."""

GAVE_UP = 3
_DEADLINE_S = 1.5
_OF_A_RIG = (
    "rgb", "thermal", "rig", "max_skew", "max_wait", "hold", "save", "jsonl", "rle", "csv", "mqtt", "webhook", "stream",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        nargs="?",
        help="folder that 'rgbt export' wrote (or in --config)",
    )
    source = "rtsp://…, http://…, usb:N[?format=Y16], gst:PIPELINE, synthetic:, video file or folder of pictures"
    parser.add_argument("--rgb", metavar="SRC", help=source)
    parser.add_argument("--thermal", metavar="SRC", help="likewise; 16-bit stays 16-bit")
    parser.add_argument("--rig", type=Path, metavar="RIG.YAML", help="where thermal lies on RGB, in space and time")
    parser.add_argument("--config", type=Path, metavar="SITE.YAML", help="many rigs: options of each by its name")
    parser.add_argument("--fps", type=float, metavar="N", help="pictures per second of folders (default: 25)")
    _configure_pairing(parser)
    _configure_sinks(parser)
    parser.add_argument("--score", type=float, default=0.3, help="detect: least score of a box (default: 0.3)")
    parser.add_argument("--limit", type=int, metavar="N", help="end after N answers (of each rig)")
    parser.add_argument("--engine", default="onnxruntime", help="runtime (default: onnxruntime)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: %(default)s)")
    parser.add_argument(
        "--provider", help="cpu, cuda, tensorrt, gpu, npu; never replaced silently (default: cpu; of TensorRT cuda)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: all cores)")
    parser.add_argument("--log", choices=("json", "text"), help="events as lines on stderr, instead of the status line")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _configure_pairing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-skew", type=float, metavar="MS",
        help="largest difference of capture times in a pair (default: half the slower sensor's frame period)",
    )  # fmt: skip
    parser.add_argument(
        "--max-wait", type=float, metavar="MS",
        help="cameras: longest that a frame waits for its partner (default: skew + the rig's offset + 50, or 100)",
    )  # fmt: skip
    parser.add_argument("--hold", action="store_true", help="hold the slower sensor's frame until its next one")
    parser.add_argument(
        "--every-frame", action="store_true", help="cameras: answer every frame, however late (default: the newest)"
    )
    parser.add_argument(
        "--give-up-after", type=float, metavar="S", help="cameras: end one that is away for so long (default: never)"
    )


def _configure_sinks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--save", type=Path, metavar="OUT.MKV", help="annotated video, both sensors side by side")
    parser.add_argument("--jsonl", type=Path, metavar="OUT.JSONL", help="one line of JSON for each answer")
    parser.add_argument("--rle", action="store_true", help="segment: put the masks into --jsonl, as COCO run lengths")
    parser.add_argument("--csv", type=Path, metavar="OUT.CSV", help="a table: a row for each object, class or label")
    parser.add_argument("--show", action="store_true", help="a window; q or Esc ends the run")
    parser.add_argument(
        "--mqtt",
        metavar="URL",
        help="a message for each answer: mqtt[s]://[USER:PW@]HOST[:PORT]/TOPIC[?qos=1&retain=1]",
    )
    parser.add_argument(
        "--webhook", metavar="URL", help="POST the answers that show something; RGBT_WEBHOOK_TOKEN holds a bearer token"
    )
    parser.add_argument("--stream", metavar="URL", help="annotated video to an RTSP server, or as HLS to OUT.m3u8")
    parser.add_argument(
        "--serve", metavar="HOST:PORT", nargs="?", const="127.0.0.1:8080",
        help="a page that shows it (default: %(const)s; any other host asks viewers for a token)",
    )  # fmt: skip
    parser.add_argument("--token", help="of the page, or ${NAME} (default on other hosts: a new one, printed)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="further name of the page")


def run(args: argparse.Namespace) -> int:
    """Run until the sources end, the limit is reached or a signal comes."""
    import cv2

    from pipelines.live.log import Log

    options, rules = _settings(args), _rules(args)
    site = _site(args)
    # Python would take a hundred thousand objects apart at its end, for 40 ms of CPU; the system frees them at once.
    atexit.register(gc.freeze)
    # Workers of OpenCV's pool spin while they wait; the pictures here are small, and other cores decode.
    cv2.setNumThreads(1)
    stop, log = threading.Event(), Log(sys.stderr if args.log else None, args.log or "json")
    setting = _setting(args, site, options, rules, stop, log)
    opened: list[Assembled] = []
    page: Page | None = None
    try:
        _assemble(site, setting, opened)
        session = _session(args, setting, len(opened))
        if site.serve is not None:
            page = _page(args, site.serve, setting, opened, log)
    except BaseException:
        for one in opened:
            one.close()
        raise
    try:
        with _stopped_by_signals(stop):
            reports = _run(session, setting, opened, args.log is None, page is not None)
    finally:
        if page is not None:
            page.stop(1.0)
    _tell(args, site, reports, session.provider)
    session.close()
    return GAVE_UP if any(report.ended_by == "gave up" for report in reports.values()) else 0


def _run(
    session: "Session", setting: "Setting", opened: "Sequence[Assembled]", with_line: bool, with_state: bool
) -> "dict[str, LiveReport]":
    from pipelines.live.cameras import run_cameras
    from pipelines.live.notify import Notifier
    from pipelines.live.operation import Operation
    from pipelines.live.run import run_live
    from pipelines.live.status import StatusLine

    rig, status = opened[0].camera_rig, sys.stderr if with_line else None
    if opened[0].is_live:
        operation = Operation(StatusLine(status), setting.log, Notifier())
        most = 1 if session.variant.form == "dense" else len(opened)
        rigs = [one.camera_rig for one in opened]
        return run_cameras(session, setting.inputs, rigs, stop=setting.stop, operation=operation, batch=most)
    state = rig.state if with_state else None
    report = run_live(
        session, setting.inputs, rig.sources, rig.rig, rig.sinks, rig.settings,
        stop=setting.stop, status=status, state=state,
    )  # fmt: skip
    return {rig.name: report}


def _assemble(site: "Site", setting: "Setting", opened: "list[Assembled]") -> None:
    from data.errors import DataError
    from pipelines.live.assembly import assemble

    for name, options in site.rigs.items():
        opened.append(assemble(name, options, setting))
        if len(site.rigs) > 1 and not opened[-1].is_live:
            raise DataError(f"--config: the rig {name} is a recording; several rigs are for cameras")


def _session(args: argparse.Namespace, setting: "Setting", rigs: int) -> "Session":
    from export.session import Session

    session = Session(setting.bundle, args.engine, args.provider, args.threads, args.precision)
    for size in (1, 2, 4, 8):
        if size <= rigs and (size == 1 or session.variant.form != "dense"):
            session.warm_up(size)
    return session


def _page(
    args: argparse.Namespace, address: str, setting: "Setting", opened: "Sequence[Assembled]", log: "Log"
) -> "Page":
    from pipelines.live.assembly import serve_page

    states = {one.camera_rig.name: one.camera_rig.state for one in opened if one.camera_rig.state is not None}
    page = serve_page(address, states, setting, args.token, args.allow_host)
    print(f"rgbt: {page.announcement}", file=sys.stderr)
    log.say("serving", url=page.url)
    return page


def _settings(args: argparse.Namespace) -> "LiveSettings":
    from data.errors import DataError
    from pipelines.live.report import LiveSettings

    if not 0 <= args.score <= 1:
        raise DataError(f"--score {args.score:g}: give a number from 0 to 1")
    if args.limit is not None and args.limit < 1:
        raise DataError(f"--limit {args.limit}: give at least 1")
    for option, value in (("--max-skew", args.max_skew), ("--max-wait", args.max_wait)):
        if value is not None and not 0 <= value < math.inf:
            raise DataError(f"{option} {value:g}: give milliseconds, 0 or more")
    return LiveSettings(limit=args.limit, every_frame=args.every_frame, deadline_s=_DEADLINE_S)


def _rules(args: argparse.Namespace) -> "LiveRules":
    from data.errors import DataError
    from pipelines.live.reconnect import LiveRules

    if args.give_up_after is not None and not 0 < args.give_up_after < math.inf:
        raise DataError(f"--give-up-after {args.give_up_after:g}: give seconds, more than 0")
    return LiveRules(give_up_after_s=args.give_up_after, every_frame=args.every_frame)


def _site(args: argparse.Namespace) -> "Site":
    """What was typed, or what the YAML file says, as options of each rig."""
    from data.errors import DataError
    from pipelines.live.site import RigOptions, Site

    if args.config is not None:
        typed = [name for name in _OF_A_RIG if getattr(args, name) not in (None, False)]
        if typed:
            raise DataError(f"--config {args.config}: --{typed[0].replace('_', '-')} belongs to a rig; write it there")
        site = Site.load(args.config)
        site = site.model_copy(update={"bundle": args.bundle or site.bundle, "serve": args.serve or site.serve})
    else:
        options = RigOptions.model_construct(score=args.score, **{name: getattr(args, name) for name in _OF_A_RIG})
        site = Site.model_construct(bundle=args.bundle, rigs={"live": options}, serve=args.serve)
    if site.bundle is None:
        raise DataError("no bundle; give the folder that 'rgbt export' wrote, or bundle: in --config")
    return site


def _setting(
    args: argparse.Namespace,
    site: "Site",
    settings: "LiveSettings",
    rules: "LiveRules",
    stop: threading.Event,
    log: "Log",
) -> "Setting":
    from data.prepare import InputSpec
    from export.bundle import read_bundle
    from pipelines.live.assembly import Setting

    assert site.bundle is not None
    bundle = read_bundle(site.bundle)
    used = bundle.info.sensors
    return Setting(
        bundle=bundle,
        inputs=InputSpec.model_validate(bundle.info.inputs.model_dump()),
        rules=rules,
        stop=stop,
        log=log,
        fps=args.fps,
        show=args.show,
        settings=replace(settings, required=used if len(used) == 1 else ()),
    )


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


def _tell(args: argparse.Namespace, site: "Site", reports: "dict[str, LiveReport]", provider: str) -> None:
    told: dict[str, Any] = {}
    for name, report in reports.items():
        options = site.rigs[name]
        files = {
            "jsonl": options.jsonl,
            "csv": options.csv,
            "video": options.save if report.stats.answers else None,
        }  # no answer, no picture
        written = {kind: None if path is None else str(path) for kind, path in files.items()}
        told[name] = {**report.as_dict(), "engine": args.engine, "provider": provider, **written}
        if not args.json:
            print((f"{name}: " if len(reports) > 1 else "") + "\n".join(report.lines(provider)))
            for path in written.values():
                if path is not None:
                    print(f"wrote {path}")
            for line in report.warnings():
                print(f"rgbt: warning: {line}", file=sys.stderr)
    if args.json:
        print(json.dumps(told if args.config is not None else told["live"], indent=2))
