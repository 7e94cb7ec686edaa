"""Where an engine computes unless somebody says so, and what a bench keeps of a run in which something fails."""

import json
import shutil
from typing import ClassVar

import pytest

from export.bundle import read_bundle, write_info
from export.bundle_info import MODEL, Variant
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.session import ENGINES, Session
from pipelines import bundle_bench, live_bench
from pipelines.cli import _parser, main
from pipelines.subject import open_subject

LARGEST = 2


class Plan:
    """A TensorRT that computes on the CPU, wherever it is asked to, and takes batches up to LARGEST."""

    opened: ClassVar[list["Plan"]] = []

    def __init__(self, files, provider, threads, precision, cuda_graph=False):
        if provider != "cuda":
            raise ExportError(f"TensorRT runs on cuda, not on '{provider}'; give --provider cuda")
        self.provider, self.threads, self.closed = provider, threads, False
        self._graph = OnnxRuntime(files[0])
        self.signature, self.outputs = self._graph.signature, self._graph.outputs
        self.opened.append(self)

    def run(self, feeds):
        if len(feeds["rgb"]) > LARGEST:
            raise ExportError(f"TensorRT: a batch of {len(feeds['rgb'])}, but the plan takes at most {LARGEST}")
        return self._graph.run(feeds)

    def close(self):
        self.closed = True


@pytest.fixture
def bundle(tiny_bundle, tmp_path, monkeypatch):
    """A bundle with a form for TensorRT, on a machine that has it."""
    path = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    fields = json.loads((path / "bundle.json").read_text())
    fields.pop("files")
    plan = Variant(engine="tensorrt", precision="fp32", files=(MODEL,))
    write_info(path, {**fields, "variants": fields["variants"] | {plan.key: plan.model_dump()}})
    monkeypatch.setitem(ENGINES, "tensorrt", Plan)
    monkeypatch.setattr(Plan, "opened", [])
    return path


def bench(bundle, *more):
    return main(["bench", str(bundle), "--seconds", "0.01", *map(str, more)])


def test_each_engine_computes_where_it_can_unless_told(bundle, capsys):
    assert bench(bundle, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in answer["sessions"]] == ["onnxruntime-cpu", "tensorrt-cuda"]
    assert "--provider" not in answer["command"] and not answer["missing"] and not answer["failed"]
    assert bench(bundle, "--provider", "cpu", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["command"].endswith("--provider cpu")
    assert [row["target"] for row in answer["sessions"]] == ["onnxruntime-cpu"]
    assert "not on 'cpu'" in answer["missing"]["tensorrt-fp32"] and not answer["failed"]


def test_so_do_live_and_evaluate(bundle):
    for words in (["live", str(bundle)], ["evaluate", str(bundle), "--data", "card.yaml"]):
        args = _parser(words).parse_args([*words, "--engine", "tensorrt"])
        session = Session(read_bundle(args.bundle if words[0] == "live" else args.subject), args.engine, args.provider)
        assert session.target == "tensorrt-cuda"
    assert open_subject(bundle, engine="tensorrt").task == "detect"
    assert [plan.provider for plan in Plan.opened] == ["cuda"] * 3


def test_a_batch_that_is_too_large_has_its_own_line_beside_what_was_measured(bundle, capsys):
    words = ["--batch", 1, LARGEST + 1, LARGEST, "--threads", 1]
    assert bench(bundle, *words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    measured = [(row["target"], row["batch"]) for row in answer["sessions"]]
    assert measured == [*(("onnxruntime-cpu", n) for n in (1, 3, 2)), ("tensorrt-cuda", 1), ("tensorrt-cuda", 2)]
    assert list(answer["missing"]) == ["tensorrt-fp32 batch 3 threads 1"] and not answer["failed"]
    assert bench(bundle, *words, "--engine", "tensorrt") == 1
    said = capsys.readouterr()
    assert said.out.count("tensorrt-cuda ") == 2
    assert "tensorrt-fp32 batch 3 threads 1 not measured: TensorRT: a batch of 3, but" in said.out
    assert said.err.count("\n") == 1 and "rgbt: error: tensorrt-fp32 batch 3 threads 1 was not measured" in said.err
    assert len(Plan.opened) == 2 and all(plan.closed for plan in Plan.opened)


def test_a_session_is_closed_whatever_happens(bundle, monkeypatch):
    monkeypatch.setattr(bundle_bench, "measure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench(bundle, "--engine", "tensorrt")
    assert [plan.closed for plan in Plan.opened] == [True]


def test_a_gpu_that_fails_for_good_leaves_the_rows_before_it(bundle, monkeypatch, capsys):
    def close(plan):
        raise ExportError("CUDA: cudaFree fails (cudaErrorIllegalAddress)")

    monkeypatch.setattr(Plan, "close", close)
    assert bench(bundle, "--engine", "onnxruntime", "tensorrt") == 1
    said = capsys.readouterr()
    assert "onnxruntime-cpu " in said.out and "tensorrt-fp32         not measured: CUDA: cudaFree fails" in said.out
    assert said.err.count("\n") == 1


def test_no_memory_is_one_line(bundle, monkeypatch, capsys):
    def measure(session, batch, seconds):
        raise MemoryError("Unable to allocate 92.1 GiB")

    monkeypatch.setattr(bundle_bench, "measure", measure)
    assert bench(bundle, "--engine", "tensorrt", "--batch", 10**6) == 1
    assert "batch 1000000 was not measured: Unable to allocate 92.1 GiB" in capsys.readouterr().err


def test_where_nothing_runs_each_reason_is_an_error(bundle, capsys):
    assert bench(bundle, "--provider", "npu") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "onnxruntime-fp32 was not measured: unknown provider 'npu'" in error


def test_a_live_process_that_fails_leaves_the_table(bundle, monkeypatch, capsys):
    def measure_live(*_):
        raise ExportError("no video holds celsius")

    monkeypatch.setattr(live_bench, "measure_live", measure_live)
    assert bench(bundle, "--engine", "onnxruntime", "--live", "--json") == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert len(answer["sessions"]) == 1 and answer["missing"] == {"live": "no video holds celsius"}
    assert answer["failed"] == ["live"] and said.err.count("\n") == 1


def test_no_threads_are_refused_before_anything_is_measured(bundle, capsys):
    assert bench(bundle, "--threads", 1, 0) == 1
    said = capsys.readouterr()
    assert said.err == "rgbt: error: --threads is 0; give at least 1\n" and not said.out and not Plan.opened
