"""What a hundred reconnects leave behind, and how long a killed camera is away.

    python tests/benchmarks/reconnects.py [--reconnects 100] [--kills 20]

A real RTSP server (see tests/rtsp_server) drops the connection a hundred times: threads and descriptors must be those
of before, and resident memory may grow by at most 50 KiB for each reconnect from the 20th on. Then the server is
killed and started again: told are the seconds until the loss was seen, and from its return to the first frame.
"""

import argparse
import json
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.thermal import ThermalSpec
from pipelines.live.capture import Capture
from pipelines.live.sources import open_sources
from tests.rtsp_server.fixture import RtspServer, moving_bar, write_units

_PATIENCE_S = 30.0


def held() -> dict[str, int]:
    """Threads, descriptors and resident KiB of this process."""
    resident = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4
    return {
        "threads": threading.active_count(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "resident_kib": resident,
    }


def until_up(capture: Capture, reconnects: int) -> float:
    """Seconds until the source is up for the given time."""
    start, tick = monotonic(), threading.Event()
    while capture.status().reconnects < reconnects:
        capture.poll()
        tick.wait(0.01)
        assert monotonic() - start < _PATIENCE_S
    return monotonic() - start


def drop(server: RtspServer, capture: Capture, times: int) -> dict[str, object]:
    """Reconnect again and again; what is held before and after, and the slope of memory."""
    until_up(capture, 0)
    capture.get(_PATIENCE_S)
    before, memory = held(), []
    for number in range(1, times + 1):
        server.tell("drop rgb")
        until_up(capture, number)
        memory.append(held()["resident_kib"])
    late = np.array(memory[times // 5 :])
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) if len(late) > 1 else 0.0
    return {"before": before, "after": held(), "kib_per_reconnect": round(slope, 2)}


def kill(server: RtspServer, capture: Capture, times: int) -> dict[str, float]:
    """Kill and start the server; seconds until the loss is seen and until frames come again."""
    seen, back = [], []
    for _ in range(times):
        reconnects, start, tick = capture.status().reconnects, monotonic(), threading.Event()
        server.kill()
        while capture.status().state == "up":
            tick.wait(0.005)
        seen.append(monotonic() - start)
        server.start()
        back.append(until_up(capture, reconnects + 1))
    return {"seen_max_s": round(max(seen), 3), "back_median_s": round(float(np.median(back)), 3),
            "back_max_s": round(max(back), 3)}  # fmt: skip


def main() -> int:
    """Measure, print JSON; 1 when something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reconnects", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        units = write_units(Path(folder) / "rgb.units", moving_bar((240, 320)), gop=5)
        server = RtspServer({"rgb": (units, 30)}).start()
        source = open_sources({"rgb": server.url("rgb")}, ThermalSpec(unit="intensity8"), None)["rgb"]
        capture = Capture(source)
        try:
            told: dict[str, object] = {"dropped": drop(server, capture, args.reconnects)}
            if args.kills:
                told["killed"] = kill(server, capture, args.kills)
        finally:
            stopped = capture.stop(5)
            server.kill()
    print(json.dumps(told, indent=2))
    dropped = told["dropped"]
    assert isinstance(dropped, dict)
    same = all(dropped["before"][what] == dropped["after"][what] for what in ("threads", "descriptors"))
    return 0 if stopped and same and dropped["kib_per_reconnect"] <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
