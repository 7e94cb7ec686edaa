"""Our training loop against a bare one, at full size: python tests/benchmarks/train_ratio.py [RUNS] [THREADS].

The model is the ``edge`` pair (two mobilenetv4_conv_small) at 256×256, batch 8; see pipelines.train_bench.
"""

import json
import os
import statistics
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as pipelines.cli does, before torch is loaded

from export.bench import machine
from pipelines.train_bench import measure_train

LIMIT = 0.95


def main(runs: int, threads: int | None) -> int:
    """Measure ``runs`` times; 1 when the median of train_ratio is under the limit."""
    rows = [measure_train(threads=threads) for _ in range(runs)]
    for row in rows:
        print(json.dumps(row))
    median = statistics.median(row["train_ratio"] for row in rows)
    print(f"{machine()}\ntrain_ratio: median {median:.3f} of {runs} runs (at least {LIMIT})")
    return int(median < LIMIT)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(numbers[0] if numbers else 3, numbers[1] if len(numbers) > 1 else None))
