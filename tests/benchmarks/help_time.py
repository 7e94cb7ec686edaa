"""How long ``rgbt --help`` takes: python tests/benchmarks/help_time.py [RUNS]."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 0.4


def main(runs: int) -> int:
    """Time the installed command, cold start of Python included; 1 when the median is over the limit."""
    command = [str(Path(sys.executable).parent / "rgbt"), "--help"]
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    times = times[1:]  # the first run writes byte code and fills the disk cache
    median = statistics.median(times)
    print(f"rgbt --help: median {median:.3f} s, worst {max(times):.3f} s of {runs} runs (limit {LIMIT_S} s)")
    return int(median > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
