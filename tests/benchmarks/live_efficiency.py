"""What the live pipeline costs beyond its parts, at full size: python tests/benchmarks/live_efficiency.py [RUNS].

The bundle is the ``edge`` pair (two mobilenetv4_conv_small) at 480×640 for a 1280×720 RGB and a 640×512 16-bit thermal
camera, with random weights: the cost of a model does not depend on what it has learnt.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bench import machine
from export.write import export_bundle
from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model
from pipelines.live_bench import RGB_SIZE, THERMAL_SIZE, measure_live

LIMIT = 0.95
"""Of live_efficiency, and of live_ratio as a share of M / (M + D), which no pipeline exceeds on saturated cores."""


def write_bundle(out: Path) -> Path:
    """Export the untrained edge pair."""
    inputs = InputSpec(rgb_size=RGB_SIZE, thermal_size=THERMAL_SIZE, thermal=ThermalSpec(unit="counts16"))
    arch = "mobilenetv4_conv_small"
    config = ModelConfig(
        size=(480, 640), rgb=RgbEncoder(arch=arch, weights=None), thermal=ThermalEncoder(arch=arch),
        classes=("person", "car"), inputs=inputs.model_dump(mode="json"),
    )  # fmt: skip
    model, _ = build_model(config, seed=0)
    random = np.random.default_rng(0)
    golden = {
        "rgb": random.integers(0, 255, (1, *RGB_SIZE, 3), np.uint8),
        "thermal": random.integers(21_000, 23_000, (1, *THERMAL_SIZE), np.uint16),
    }
    export_bundle(model.eval(), config.inputs, config.classes, config.sensors, golden, {}, "0" * 64, out)
    return out


def main(runs: int) -> int:
    """Measure ``runs`` times; 1 when the median of live_efficiency or of live_ratio is under its limit."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "edge")
        rows = [measure_live(bundle, threads=2) for _ in range(runs)]
    for row in rows:
        print(json.dumps(row))
    efficiency = statistics.median(row["live_efficiency"] for row in rows)
    ratio = statistics.median(row["live_ratio"] / row["m_share"] for row in rows)
    print(f"{machine()}\nlive_efficiency {efficiency:.3f}, live_ratio / m_share {ratio:.3f}: medians of {runs} runs")
    print(f"at least {LIMIT} each")
    return int(min(efficiency, ratio) < LIMIT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
