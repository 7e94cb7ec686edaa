"""What may be typed after ``rgbt live``, and what it means; imports no library before it is asked what it means."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.live.usage import UsageError

if TYPE_CHECKING:
    from pipelines.live.reconnect import LiveRules
    from pipelines.live.report import LiveSettings
    from pipelines.live.site import Site

_DEADLINE_S = 1.5
_PAGE = ("127.0.0.1", 8080)
_OF_A_RIG = (
    "rgb", "thermal", "rig", "max_skew", "max_wait", "hold", "save", "jsonl", "rle", "csv", "mqtt", "webhook", "stream",
    "score",
)  # fmt: skip


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        nargs="?",
        help="folder that 'rgbt export' wrote (or in --config)",
    )
    _declare_sources(parser)
    _declare_pairing(parser)
    _declare_sinks(parser)
    _declare_page(parser)
    _declare_model(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--limit", type=int, metavar="N", help="end after N answers (of each rig)")
    run.add_argument("--log", choices=("json", "text"), help="events as lines on stderr, instead of the status line")
    run.add_argument("--json", action="store_true", help="print the report as JSON")


def _declare_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where frames come from")
    group.add_argument(
        "--rgb", metavar="SRC",
        help="rtsp://…, http://…, usb:N[?format=Y16], gst:PIPELINE, synthetic:, video file or folder of pictures",
    )  # fmt: skip
    group.add_argument("--thermal", metavar="SRC", help="likewise; 16-bit stays 16-bit")
    group.add_argument("--rig", type=Path, metavar="RIG.YAML", help="where thermal lies on RGB, in space and time")
    group.add_argument("--config", type=Path, metavar="SITE.YAML", help="many rigs: options of each by its name")
    group.add_argument("--fps", type=float, metavar="N", help="folders: pictures per second (default: 25)")
    group.add_argument(
        "--give-up-after", type=float, metavar="S",
        help="cameras: wait no longer for one that is away for so long; the other goes on alone (default: never)",
    )  # fmt: skip
    group.add_argument(
        "--frozen-after", type=float, metavar="S",
        help="cameras: the very same picture for so long is a stall; 0: it may stand still (default: 10)",
    )  # fmt: skip


def _declare_pairing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which frames belong together")
    group.add_argument(
        "--max-skew", type=float, metavar="MS",
        help="largest difference of capture times in a pair (default: half the slower sensor's frame period)",
    )  # fmt: skip
    group.add_argument(
        "--max-wait", type=float, metavar="MS",
        help="cameras: longest that a frame waits for its partner (default: skew + the rig's offset + 50, or 100)",
    )  # fmt: skip
    group.add_argument(
        "--hold", action="store_true", help="pair the slower sensor's frame with every frame until its next one"
    )
    group.add_argument(
        "--every-frame", action="store_true", help="cameras: answer every frame, however late (default: the newest)"
    )


def _declare_sinks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where answers go")
    group.add_argument(
        "--save",
        type=Path,
        metavar="OUT.MKV",
        help="annotated video, both sensors side by side; of cameras OUT.2.MKV and so on where it is there",
    )
    group.add_argument(
        "--jsonl",
        type=Path,
        metavar="OUT.JSONL",
        help="one line of JSON for each answer; of cameras at the end of what is there",
    )
    group.add_argument(
        "--rle", action="store_true",
        help="segment: put the masks into the JSON of --jsonl, --mqtt and --webhook, as COCO run lengths",
    )  # fmt: skip
    group.add_argument(
        "--csv",
        type=Path,
        metavar="OUT.CSV",
        help="a table: a row for each object, class or label; of cameras as --jsonl",
    )
    group.add_argument("--show", action="store_true", help="a window on the desktop, of one rig; q or Esc ends it")
    group.add_argument(
        "--mqtt", metavar="URL",
        help="a message for each answer: mqtt[s]://[USER:PW@]HOST[:PORT]/TOPIC[?qos=1&retain=1&client=ID&ca=FILE]",
    )  # fmt: skip
    group.add_argument(
        "--webhook", metavar="URL", help="POST the answers that show something; RGBT_WEBHOOK_TOKEN holds a bearer token"
    )
    group.add_argument("--stream", metavar="URL", help="annotated video to an RTSP server, or as HLS to OUT.m3u8")


def _declare_page(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the page")
    default = f"{_PAGE[0]}:{_PAGE[1]}"
    group.add_argument(
        "--serve", metavar="HOST:PORT", nargs="?", const=default,
        help="a page that shows it (default: %(const)s; any other host asks viewers for a token)",
    )  # fmt: skip
    group.add_argument(
        "--token", metavar="WORD", help="of the page, or ${NAME} (default on other hosts: a new one, told)"
    )
    group.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a further name under which browsers ask for the page, as of a proxy before it; viewers then need a token",
    )  # fmt: skip


def _declare_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--score", type=float, metavar="P", help="detect: least score of a box (default: 0.3)")
    group.add_argument("--engine", default="onnxruntime", metavar="NAME",
        help="onnxruntime, openvino, tensorrt, ncnn or litert (default: %(default)s)")  # fmt: skip
    group.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32, fp16, bf16 or int8 (default: %(default)s)"
    )
    group.add_argument(
        "--provider", metavar="NAME",
        help="cpu, cuda, tensorrt, gpu, npu; never replaced silently (default: cpu; of TensorRT cuda)",
    )  # fmt: skip
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: all cores)")


def read_settings(args: argparse.Namespace) -> "LiveSettings":
    """What is said of each run; UsageError when a number is none of those that make sense."""
    from pipelines.live.report import LiveSettings

    if args.score is not None and not 0 <= args.score <= 1:
        raise UsageError(f"--score {args.score:g}: give a number from 0 to 1")
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit {args.limit}: give at least 1")
    for option, value in (("--max-skew", args.max_skew), ("--max-wait", args.max_wait)):
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{option} {value:g}: give milliseconds, 0 or more")
    return LiveSettings(limit=args.limit, every_frame=args.every_frame, deadline_s=_DEADLINE_S)


def read_rules(args: argparse.Namespace) -> "LiveRules":
    """How cameras are kept open; UsageError when a number is none of those that make sense."""
    from pipelines.live.reconnect import LiveRules

    frozen_s = LiveRules().frozen_after_s if args.frozen_after is None else args.frozen_after
    if frozen_s is None or not 0 <= frozen_s < math.inf:
        raise UsageError(f"--frozen-after {frozen_s:g}: give seconds, or 0 for a camera that sees a still scene")
    if args.give_up_after is not None and not 0 < args.give_up_after < math.inf:
        raise UsageError(f"--give-up-after {args.give_up_after:g}: give seconds, more than 0")
    return LiveRules(
        give_up_after_s=args.give_up_after,
        every_frame=args.every_frame,
        frozen_after_s=frozen_s or None,
    )


def read_site(args: argparse.Namespace) -> "Site":
    """What was typed, or what the YAML file says, as options of each rig.

    Raises:
        UsageError: options do not go together.
        DataError: the file is wrong, a recording is not there, or two options take one place.
    """
    from pipelines.live.idle import refuse_idle, shown_option
    from pipelines.live.places import refuse_shared_places
    from pipelines.live.redact import fill_in
    from pipelines.live.site import RigOptions, Site
    from pipelines.live.web.access import agreed_token

    typed = {name: value for name in _OF_A_RIG if (value := getattr(args, name)) is not None and value is not False}
    if args.config is not None:
        if typed:
            name = next(iter(typed)).replace("_", "-")
            raise UsageError(f"--config {args.config}: --{name} belongs to a rig; write it there")
        site = Site.load(args.config)
        site = site.model_copy(update={"bundle": args.bundle or site.bundle, "serve": args.serve or site.serve})
    else:
        options = RigOptions.model_construct(**typed)
        site = Site.model_construct(bundle=args.bundle, rigs={"live": options}, serve=args.serve)
    if site.serve is None and (args.token is not None or args.allow_host):
        raise UsageError(f"--{'allow-host' if args.token is None else 'token'} is of the page; add --serve")
    if site.bundle is None:
        raise UsageError("no bundle; give the folder that 'rgbt export' wrote, or bundle: in --config")
    if args.token is not None:
        agreed_token("", fill_in(args.token))
    if args.show and len(site.rigs) > 1:
        raise UsageError("--show: one window shows one rig; of many give --serve")
    if site.serve is not None:
        read_address(site.serve)
    config = None if args.config is None else str(args.config)
    if config is None and args.rgb is None and args.thermal is None:
        raise UsageError("no source; give --rgb, --thermal or both")
    refuse_idle(args, site.rigs, config)
    refuse_shared_places(
        site.rigs,
        lambda rig, option: shown_option(option, None if config is None else rig),
        "" if config is None else f"{config}: ",
    )
    return site


def read_address(text: str) -> tuple[str, int]:
    """HOST:PORT, HOST, :PORT or PORT; this machine alone and port 8080 where one is left out.

    Raises:
        UsageError: the port is no number from 0 to 65535.
    """
    host, _, port = ("", "", text) if text.isdecimal() else text.rpartition(":") if _has_port(text) else (text, "", "")
    if port and not (port.isdecimal() and int(port) <= 65535):
        raise UsageError(f"--serve {text}: give HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]") or _PAGE[0], int(port) if port else _PAGE[1]


def _has_port(text: str) -> bool:
    return ":" in text.rpartition("]")[2] if text.startswith("[") else text.count(":") == 1
