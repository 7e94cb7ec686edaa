"""The table of GPU figures: its rows and shares; that it runs on the CPU, and says in one line where no GPU is."""

import importlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.bundle import read_bundle
from export.engines.onnx_runtime import PROVIDERS
from export.errors import ExportError


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    monkeypatch.setenv("RGBT_CACHE", os.environ.get("RGBT_CACHE", ""))  # the script sets it for itself
    return importlib.import_module("gpu")


@pytest.fixture
def tiny(gpu, monkeypatch, tiny_bundle):
    """Instead of an export of a minute: the tiny bundle's graph in every precision."""
    bundle = read_bundle(tiny_bundle)

    def write_graphs(size, canvas, precisions, folder):
        for precision in precisions:
            shutil.copy(bundle.model, folder / f"{precision}.onnx")
        return bundle.info.inputs.zeros

    monkeypatch.setattr(gpu, "write_graphs", write_graphs)
    return gpu


@pytest.fixture
def without_gpu(gpu, monkeypatch):
    """Providers of a GPU that do not load, also where there is one."""
    real = gpu.OnnxRuntime

    def opened(model, provider, **options):
        if provider != "cpu":
            raise ExportError(f"provider '{provider}' does not load here; install the NVIDIA driver")
        return real(model, provider, **options)

    monkeypatch.setattr(gpu, "OnnxRuntime", opened)


def test_without_a_gpu_it_ends_with_one_line(gpu, without_gpu, capsys):
    assert gpu.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == ["cuda", "tensorrt", "nothing measured"]


def test_the_rows_that_a_gpu_gives(gpu):
    rows = gpu.cases(["edge"], ["cuda", "tensorrt"], ["fp32", "fp16", "int8"], [1, 32])
    ways = {(row.binding, row.cuda_graph) for row in rows}
    assert ways == {(False, False), (True, False), (True, True)}
    assert len(set(rows)) == len(rows) == (2 + 3) * 3 * 2
    assert {row.provider for row in rows if row.precision == "int8"} == {"tensorrt"}
    assert not any(row.cuda_graph for row in gpu.cases(["edge"], ["cpu"], ["fp32"], [1]))
    assert set(gpu.PRECISIONS) == set(PROVIDERS)


def test_it_runs_on_the_cpu(tiny, capsys):
    words = ["--provider", "cpu", "--precision", "fp32", "--batch", "1", "2", "--seconds", "0.01"]
    assert tiny.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| size | provider | precision | IOBinding | CUDA graph | batch | p50 ms")
    assert {line.count("|") for line in lines[:6]} == {13}
    assert [line.split(" | ")[3:6] for line in lines[2:6]] == [
        ["off", "off", "1"],
        ["off", "off", "2"],
        ["on", "off", "1"],
        ["on", "off", "2"],
    ]
    assert f"$ python tests/benchmarks/gpu.py {' '.join(words)}" in lines
    assert any("onnxruntime" in line for line in lines)


def test_json_has_a_row_for_each_combination(tiny, without_gpu, capsys):
    words = ["--provider", "cuda", "cpu", "--precision", "fp32", "--batch", "2", "--seconds", "0.01", "--json"]
    assert tiny.main(words) == 0
    out, err = capsys.readouterr()
    assert "cuda: not here: " in err
    answer = json.loads(out)
    assert answer["missing"] == {}
    assert [(row["binding"], row["cuda_graph"], row["batch"]) for row in answer["rows"]] == [
        (False, False, 2),
        (True, False, 2),
    ]
    for row in answer["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["pairs_per_s"] > 0
        assert row["outside_share"] is None


def test_kernels_that_overlap_count_once(gpu):
    kernel = {"ph": "X", "cat": "kernel"}
    events = [
        {**kernel, "ts": 3000, "dur": 1000},
        {**kernel, "ts": 0, "dur": 1000},
        {**kernel, "ts": 500, "dur": 1000.5},
        {**kernel, "ts": 600, "dur": 100},
        {"ph": "X", "cat": "gpu_memcpy", "ts": 5000, "dur": 9000},
        {"ph": "M", "name": "process_name"},
    ]
    assert gpu.busy_ms(events) == pytest.approx(2.5005)
    assert gpu.busy_ms([]) == 0


def test_the_share_outside_is_of_each_rows_own_latency(tiny, monkeypatch):
    """Kernels are measured once for all ways to run one batch; what fails is told, and the rest goes on."""
    rows = tiny.cases(["edge"], ["cuda"], ["fp32", "fp16"], [1, 4])
    latency = {(False, False): 4.0, (True, False): 2.0, (True, True): 1.25}
    profiled = []

    def timed(case, graph, feeds, seconds):
        assert graph.is_file()
        assert len(feeds["rgb"]) == case.batch
        if case.precision == "fp16" and case.cuda_graph:
            raise ExportError("no graph")
        return {"p50_ms": latency[case.binding, case.cuda_graph]}

    def kernels_ms(case, graph, feeds):
        profiled.append(case)
        return 1.0 if case.batch == 1 else None

    monkeypatch.setattr(tiny, "timed", timed)
    monkeypatch.setattr(tiny, "kernels_ms", kernels_ms)
    found = tiny.measure(rows, (480, 640), 0.1)
    assert len(profiled) == 4
    assert all(case.binding and not case.cuda_graph for case in profiled)
    assert found["missing"] == {f"edge cuda fp16 binding graph batch {batch}": "no graph" for batch in (1, 4)}
    shares = [row["outside_share"] for row in found["rows"] if row["batch"] == 1]
    assert shares == pytest.approx([0.75, 0.5, 0.2, 0.75, 0.5])
    assert all(row["outside_share"] is None for row in found["rows"] if row["batch"] == 4)


def test_where_the_runs_lie(tiny, tiny_bundle):
    """Bound or not, the same frames give the same answer."""
    bundle = read_bundle(tiny_bundle)
    golden, case = bundle.golden(), tiny.Case("edge", "cpu", "fp32", False, False, 3)
    feeds = {name: golden[name][:3] for name in bundle.info.inputs.shapes()}
    answers = [tiny.opened(each, bundle.model, feeds)[1]()["boxes"] for each in (case, replace(case, binding=True))]
    assert np.array_equal(*answers)
    np.testing.assert_allclose(answers[0], golden["boxes"][:3], atol=1e-2)
