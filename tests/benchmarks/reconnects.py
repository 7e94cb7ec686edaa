"""What a hundred reconnects leave behind: python tests/benchmarks/reconnects.py [BUNDLE] [--reconnects 100] [--json].

Two real RTSP servers (see tests/rtsp_server) and the loop of ``rgbt live`` on them, with JSON lines. The thermal one
drops its connection a hundred times, each time when full pairs have come again: threads and descriptors must be those
of before, and resident memory may grow by at most 50 KiB for each reconnect from the 20th on.

Exits 1 when something was left behind.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.live_rig import Running, reconnects, running

MOST_KIB = 50.0
_PATIENCE_S = 60.0
_EVERY = 10


def held() -> dict[str, int]:
    """Threads, descriptors and resident KiB of this process."""
    resident = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4
    return {
        "threads": threading.active_count(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "resident_kib": resident,
    }


def drop(live: Running, times: int) -> dict[str, object]:
    """Lose the connection again and again; what is held before and after, and the slope of memory."""
    before, memory = held(), []
    for number in range(1, times + 1):
        live.thermal.tell("drop thermal")
        end, tick = monotonic() + _PATIENCE_S, threading.Event()
        while reconnects(live, "thermal") < number:
            assert monotonic() < end, f"reconnect {number} did not come"
            tick.wait(0.01)
        live.recorder.mark()
        live.recorder.first(True, True)
        memory.append(held()["resident_kib"])
    late = np.array(memory[times // 5 :])
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) if len(late) > 1 else 0.0
    return {"before": before, "after": settled(before), "kib_per_reconnect": round(slope, 2),
            "resident_kib": memory[::_EVERY] + memory[-1:]}  # fmt: skip


def settled(before: dict[str, int]) -> dict[str, int]:
    """What is held once the last lost connection is closed."""
    end, tick = monotonic() + 10.0, threading.Event()
    while (now := held())["threads"] > before["threads"] or now["descriptors"] > before["descriptors"]:
        if monotonic() > end:
            break
        tick.wait(0.1)
    return now


def main() -> int:
    """Measure and print; 1 when something was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="of unit intensity8, for 96×128; default: a small one")
    parser.add_argument("--reconnects", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), args.bundle) as live:
        told = drop(live, args.reconnects)
    told["load"] = os.getloadavg()[0]
    before, after = told["before"], told["after"]
    assert isinstance(before, dict) and isinstance(after, dict) and isinstance(told["kib_per_reconnect"], float)
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        for what in ("threads", "descriptors"):
            print(f"{what}: {before[what]} before, {after[what]} after {args.reconnects} reconnects")
        print(f"resident KiB, every {_EVERY}th: {told['resident_kib']}")
        print(f"{told['kib_per_reconnect']} KiB for each reconnect (at most {MOST_KIB:g}), load {told['load']:.1f}")
    same = all(before[what] == after[what] for what in ("threads", "descriptors"))
    return 0 if same and told["kib_per_reconnect"] <= MOST_KIB else 1


if __name__ == "__main__":
    sys.exit(main())
