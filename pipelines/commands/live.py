"""``rgbt live``: run a bundle on two cameras or two recordings, or on one; or on many rigs."""

import argparse
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.live.arguments import declare
from pipelines.live.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
  one sensor only:
    rgbt live bundle --thermal thermal.mkv --jsonl out.jsonl
  many rigs on one model; site.yaml names the options of each:
    rgbt live bundle --config site.yaml --serve 0.0.0.0:8080 --token '${RGBT_TOKEN}' --log json

Of recordings every pair is answered, in order. Of cameras the newest pair is; what is lost is opened again, and the
other camera goes on alone meanwhile, or for good once it is given up. A sink that stalls or fails holds up nothing: it
is told once, with its reason, and its losses are counted. An option that would have no effect is refused.

Recordings replace the files that lie at --jsonl, --csv and --save. Cameras never do: a service that is started again
goes on at the end of the first two (half a line that a kill left is ended first), and in OUT.2.mkv, OUT.3.mkv …

Ctrl-C and SIGTERM end the run after the pair in hand, within 5 s, and at any time before the first one; what was
written is complete. A second one ends it at once. Under systemd (Type=notify, WatchdogSec=) the loop itself says that
it is alive, and so does /healthz of the page.

exit codes:
  0    the sources ended, the limit was reached or a signal came
  1    an error, told in one line; of many rigs: one has failed, though the others went on
  2    wrong usage, told in one line
  3    a camera was given up (--give-up-after), however the run ended then: once nothing is left to answer at once
  130  a second Ctrl-C; 143 a second SIGTERM"""

MISUSE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    declare(parser)


def run(args: argparse.Namespace) -> int:
    """Run until the sources end, the limit is reached or a signal comes."""
    stop = threading.Event()
    with _stopped_by_signals(stop):  # from here on, as what follows takes its time to load
        from pipelines.live.service import serve

        try:
            return serve(args, stop)
        except UsageError as error:
            print(f"rgbt live: error: {error}", file=sys.stderr)
            return MISUSE


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> "Iterator[None]":
    """Let the first Ctrl-C or SIGTERM end the run in order, and the second one at once."""

    def handle(_: int, __: object) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
