"""``rgbt live``: run a bundle on two cameras or two recordings, or on one; or on many rigs."""

import argparse
import atexit
import gc
import json
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.live.arguments import declare, read_rules, read_settings, read_site

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
3 every camera has ended, and one of them stayed away for longer than --give-up-after; 130 a second Ctrl-C."""

GAVE_UP = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    declare(parser)


def run(args: argparse.Namespace) -> int:
    """Run until the sources end, the limit is reached or a signal comes."""
    import cv2

    from pipelines.live.log import Log

    options, rules, site = read_settings(args), read_rules(args), read_site(args)
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
        nothing = {kind for kind, of in report.sinks.items() if of["errors"] and not of["delivered"]}
        written = {kind: None if path is None or kind in nothing else str(path) for kind, path in files.items()}
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
