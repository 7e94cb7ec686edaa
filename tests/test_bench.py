"""The bench prints what was measured, on what, and how to measure it again."""

import json

import pytest

from export.bench import machine, measure
from export.bundle import read_bundle
from export.session import Session
from pipelines.cli import main


def test_measure(tiny_bundle):
    session = Session(read_bundle(tiny_bundle), threads=1)
    speed = measure(session, batch=4, seconds=0.05)
    assert (speed.target, speed.threads, speed.batch) == ("onnxruntime-cpu", 1, 4)
    assert speed.runs >= 1
    assert 0 < speed.p50_ms <= speed.p95_ms <= speed.p99_ms
    assert speed.pairs_per_s * speed.p99_ms / 1000 >= 4 * 0.5


def test_machine_says_what_counts():
    found = machine()
    assert found["cpu"]
    assert int(found["cores"]) >= 1
    assert "numpy" in found


def test_command(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--batch", "1", "2", "--threads", "1", "--seconds", "0.02", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in answer["sessions"]] == [1, 2]
    assert set(answer["sessions"][0]) >= {
        "target",
        "precision",
        "batch",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "pairs_per_s",
        "metric",
    }
    assert all(row["bare_p50_ms"] > 0 for row in answer["sessions"])
    assert answer["inputs"]["thermal"] == [30, 40]


def test_table(tiny_bundle, capsys):
    assert main(["bench", str(tiny_bundle), "--seconds", "0.02"]) == 0
    said = capsys.readouterr().out
    assert "p99 ms" in said
    assert "onnxruntime-cpu" in said
    assert said.startswith(f"$ rgbt bench {tiny_bundle} --batch 1 --seconds 0.02\n")


@pytest.mark.parametrize("batch", ["0", "-1"])
def test_batch_of_nothing(tiny_bundle, capsys, batch):
    assert main(["bench", str(tiny_bundle), "--batch", batch]) == 1
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "nan", "inf"])
def test_no_time_or_no_end(tiny_bundle, capsys, seconds):
    assert main(["bench", str(tiny_bundle), "--seconds", seconds]) == 1
    assert f"--seconds is {seconds}; give a time above 0" in capsys.readouterr().err
