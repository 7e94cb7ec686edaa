"""The table of what int8 gains: its rows hang together, and a file that lost too much is an error."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from export.bundle import read_bundle
from export.bundle_info import Proof, Variant


@pytest.fixture
def int8_speed(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    return importlib.import_module("int8_speed")


@pytest.fixture
def bundle(tiny_bundle):
    """Instead of a calibration of a minute: a bundle whose int8 file is the fp32 graph, with proofs of both."""

    def build(lost):
        plain = read_bundle(tiny_bundle)
        fp32 = plain.variant("onnxruntime", "fp32")
        int8 = Variant(engine="onnxruntime", precision="int8", files=fp32.files, float_layers=("Conv_1",))
        speed = {"size_bytes": 1, "p50_ms": 1, "p95_ms": 1, "p99_ms": 1, "pairs_per_s": 1000}
        proofs = {
            f"onnxruntime-{precision}-cpu": Proof(
                provider="cpu", parity={}, metric={"ap50": metric}, machine={"cores": "2"}, **speed
            )
            for precision, metric in (("fp32", 0.8), ("int8", 0.8 - lost / 100))
        }
        variants = {variant.key: variant for variant in (fp32, int8)}
        return replace(plain, info=plain.info.model_copy(update={"variants": variants, "proofs": proofs}))

    return build


def test_a_row_says_speed_and_accuracy_of_both(int8_speed, bundle, monkeypatch, capsys):
    monkeypatch.setattr(int8_speed, "read_bundle", lambda path: bundle(0.5))
    assert int8_speed.main(["any", "--threads", "1", "--runs", "2", "--seconds", "0.01", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["metric"], row["fp32"], row["int8"], row["float_layers"]) == ("ap50", 0.8, 0.795, ["Conv_1"])
    assert row["lost"] == pytest.approx(0.5)
    assert len(row["runs"]) == 2
    for run in row["runs"]:
        assert run["ratio"] == pytest.approx(run["fp32_ms"] / run["int8_ms"], rel=0.02)
    assert int8_speed.table([row]).count(f"{row['runs'][0]['ratio']:.2f}") >= 1


def test_more_than_a_point_lost_is_an_error(int8_speed, bundle, monkeypatch, capsys):
    monkeypatch.setattr(int8_speed, "read_bundle", lambda path: bundle(1.5))
    assert int8_speed.main(["any", "--threads", "1", "--runs", "1", "--seconds", "0.01"]) == 1
    assert "ap50 0.800 → 0.785" in capsys.readouterr().out


def test_a_bundle_without_int8_is_one_line(int8_speed, tiny_bundle, capsys):
    assert int8_speed.main([str(tiny_bundle), "--threads", "1", "--runs", "1", "--seconds", "0.01"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "int8" in error
