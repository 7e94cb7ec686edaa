import json
import os
import subprocess
import sys

import av
import pytest

from data.errors import DataError
from data.prepare import InputSpec
from data.thermal import ThermalSpec
from pipelines import live_bench
from pipelines.cli import main
from pipelines.live_bench import measure_live, write_files


def test_figures_hang_together(tiny_bundle, tmp_path):
    found = measure_live(tiny_bundle, threads=1, frames=40, workdir=tmp_path)
    assert json.loads(json.dumps(found)) == found
    m, d, l = found["m_cpu_ms"], found["d_cpu_ms"], found["l_cpu_ms"]  # noqa: E741 - the issue's names
    assert min(m, d, l) > 0
    assert found["live_efficiency"] == pytest.approx((m + d) / l, rel=0.01)
    assert found["m_share"] == pytest.approx(m / (m + d), rel=0.01)
    assert found["live_ratio"] == pytest.approx(found["live_fps"] / found["model_fps"], rel=0.01)
    # A run this short is nearly all start-up, and the two were measured apart: noise may put either above the other,
    # but start-up not spread over the 40 pairs would be 40 times L.
    assert 0 < found["startup_cpu_ms"] < 5 * l
    assert (found["threads"], found["pairs"]) == (1, 40)
    assert found["input_size"] == {"rgb": [48, 64], "thermal": [30, 40]}
    assert found["files"] == {"rgb": "64×48 H.264", "thermal": "40×30 16-bit FFV1"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("unit", "letterbox", "pixels", "sizes"),
    [
        ("counts16", False, "gray16le", ((96, 64), (40, 30))),
        ("intensity8", False, "gray", ((96, 64), (40, 30))),
        ("counts16", True, "gray16le", ((128, 72), (64, 50))),  # a canvas takes the declared files, here small ones
    ],
)
def test_files_are_what_the_bundle_takes(tmp_path, monkeypatch, unit, letterbox, pixels, sizes):
    monkeypatch.setattr(live_bench, "RGB_SIZE", (72, 128))
    monkeypatch.setattr(live_bench, "THERMAL_SIZE", (50, 64))
    spec = ThermalSpec(unit=unit)
    thermal_size = (64, 96) if letterbox else (30, 40)
    inputs = InputSpec(rgb_size=(64, 96), thermal_size=thermal_size, letterbox=letterbox, thermal=spec)
    files, _ = write_files(tmp_path, inputs, 45)
    for sensor, size in zip(("rgb", "thermal"), sizes, strict=True):
        with av.open(str(files[sensor])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.average_rate) == (*size, 30)
            frames = list(container.decode(stream))
        assert len(frames) == 45
        assert frames[0].format.name == {"rgb": "yuv420p", "thermal": pixels}[sensor]
    assert frames[0].to_ndarray().std() > 1


def test_what_no_file_can_hold_is_one_line(tmp_path):
    for unit, size, says in (("celsius", (64, 96), "°C"), ("counts16", (65, 96), "even sizes")):
        inputs = InputSpec(rgb_size=size, thermal_size=(30, 40), thermal=ThermalSpec(unit=unit))
        with pytest.raises(DataError, match=says):
            write_files(tmp_path, inputs, 10)


def test_a_part_that_fails_says_why(tiny_bundle, tmp_path):
    with pytest.raises(DataError, match="unknown provider 'nope'"):
        measure_live(tiny_bundle, provider="nope", frames=4, workdir=tmp_path)


def test_threads_are_those_that_this_process_may_use(tiny_bundle, tmp_path, monkeypatch):
    def tell(module, arguments):
        raise DataError(" ".join(arguments))

    monkeypatch.setattr(live_bench, "cores", lambda: 3)
    monkeypatch.setattr(live_bench, "_child", tell)
    with pytest.raises(DataError, match="--threads 3 "):
        measure_live(tiny_bundle, frames=4, workdir=tmp_path)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that binds processes to cores")
def test_decoding_takes_no_more_threads_than_this_process_may_use():
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from pipelines.live.video import DECODING_THREADS; print(DECODING_THREADS)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"1\n"


def test_the_command_prints_the_figures(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr(live_bench, "measure_live", lambda *_: {"live_efficiency": 0.95})
    assert main(["bench", str(tiny_bundle), "--seconds", "0.02", "--live", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["live_efficiency"] == 0.95
