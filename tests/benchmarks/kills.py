"""How a killed camera is noticed and taken back: python tests/benchmarks/kills.py [BUNDLE] [--kills 20] [--json].

Two real RTSP servers (see tests/rtsp_server) and the loop of ``rgbt live`` on them. The thermal one is killed and
started again, twenty times. Told of each: seconds from the kill to the first answer with RGB alone, at most the pairing
budget + one inference + 0.1; and from the server's return, when it listens again, to the next full pair, at most 3.

Exits 1 when a bound is missed. Other work on the machine lengthens both: its load is printed beside them.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.live_rig import BUDGET_S, Running, running

LONE_WITHIN_S = 0.1
PAIRS_WITHIN_S = 3.0
_IN_A_ROW = 5
"""Answers of one kind: a single one may be a late frame's."""


def kill(live: Running) -> dict[str, float]:
    """Kill the thermal server and start it again."""
    killed_s = live.recorder.mark()
    live.thermal.kill()
    lone_s = live.recorder.first(True, False, _IN_A_ROW) - killed_s
    live.thermal.start()
    back_s = live.recorder.mark()
    return {"lone_s": round(lone_s, 3), "pairs_s": round(live.recorder.first(True, True, _IN_A_ROW) - back_s, 3)}


def main() -> int:
    """Measure and print; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="of unit intensity8, for 96×128; default: a small one")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder), args.bundle) as live:
            rows = [kill(live) for _ in range(args.kills)]
        inference_s = live.inference_s()
    bars = {"lone_s": round(BUDGET_S + inference_s + LONE_WITHIN_S, 3), "pairs_s": PAIRS_WITHIN_S}
    missed = {name: sum(row[name] > most for row in rows) for name, most in bars.items()}
    told = {"kills": rows, "at_most": bars, "missed": missed, "inference_s": round(inference_s, 4),
            "load": os.getloadavg()[0]}  # fmt: skip
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        for number, row in enumerate(rows, 1):
            print(f"{number:2}: alone after {row['lone_s']:.3f} s, pairs again {row['pairs_s']:.3f} s after its return")
        for name, most in bars.items():
            values = [row[name] for row in rows]
            print(f"{name}: median {np.median(values):.3f}, most {max(values):.3f}, at most {most:.3f}: "
                  f"{missed[name]} missed")  # fmt: skip
        print(f"one inference {inference_s * 1e3:.1f} ms, load {told['load']:.1f} on {os.cpu_count()} cores")
    return int(any(missed.values()))


if __name__ == "__main__":
    sys.exit(main())
