"""What can be held about sessions on a GPU without one: options, fixed places, page-locked memory, CUDA graphs.

A stand-in for the CUDA runtime works on this machine's memory, and ONNX Runtime's CPU answers for the GPU. None of this
has run on a GPU.
"""

import ctypes
import json
import os
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from export.bundle import read_bundle
from export.engines import onnx_runtime, onnx_runtime_gpu, pinned
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.session import Session
from pipelines.cli import main


class Cudart:
    """The calls of the CUDA runtime that are made here; remembers what is locked."""

    def __init__(self, refuses=False, fails=False):
        self.refuses, self.fails = refuses, fails
        self.locked, self.copies, self.errors_read = {}, 0, 0

    def cudaHostRegister(self, address, size, flags):
        assert flags.value == 0
        if self.refuses:
            return 2
        first, last = address.value, address.value + size.value
        assert first % os.sysconf("SC_PAGE_SIZE") == 0
        assert all(last <= start or end <= first for start, end in self.locked.items()), "one page was locked twice"
        self.locked[first] = last
        return 0

    def cudaHostUnregister(self, address):
        del self.locked[address.value]
        return 0

    def cudaGetLastError(self):
        self.errors_read += 1
        return 2

    def cudaMemcpy(self, to, origin, size, kind):
        assert kind.value == 2
        self.copies += 1
        ctypes.memmove(to, origin, size.value)
        return 700 if self.fails else 0


@pytest.fixture
def gpu(monkeypatch):
    """Opens sessions on a GPU that is this CPU."""
    opened, real = [], onnx_runtime._open

    def set_up(cudart):
        def open_on_cpu(model, provider, threads, cuda_graph):
            opened.append((provider, cuda_graph))
            return real(model, "cpu", 1, False)

        monkeypatch.setattr(onnx_runtime, "_open", open_on_cpu)
        monkeypatch.setattr(onnx_runtime_gpu, "_DEVICE", "cpu")
        monkeypatch.setattr(pinned, "loaded_runtime", lambda: cudart)
        return opened

    return set_up


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return read_bundle(tiny_bundle)


def feeds(pairs, batch, row=0):
    rows = [(row + index) % 3 for index in range(batch)]
    return {"rgb": pairs["rgb"][rows], "thermal": pairs["thermal"][rows], "present": np.ones((batch, 2), np.float32)}


def refusal(call):
    with pytest.raises(ExportError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("refuses", [False, True])
def test_a_session_on_a_gpu_answers_as_on_the_cpu(bundle, golden_pairs, gpu, cuda_graph, refuses):
    with_cpu = Session(bundle, threads=1)
    cudart = Cudart(refuses=refuses)
    opened = gpu(cudart)
    session = Session(bundle, provider="cuda", cuda_graph=cuda_graph)
    for batch, row in ((1, 0), (3, 0), (1, 1), (3, 2)):
        given = feeds(golden_pairs, batch, row)
        np.testing.assert_allclose(session.run(**given)["boxes"], with_cpu.run(**given)["boxes"], atol=1e-5)
    assert opened == [("cuda", cuda_graph)]
    assert session.pinned is not refuses
    assert cudart.copies == (0 if refuses else 4)
    assert cudart.errors_read == (8 if refuses else 0)
    session.close()


def test_answers_are_not_overwritten_by_the_next(bundle, golden_pairs, gpu):
    gpu(Cudart())
    session = Session(bundle, provider="cuda", cuda_graph=True)
    first = session.run(**feeds(golden_pairs, 1, 0))["boxes"]
    kept = first.copy()
    assert not np.array_equal(session.run(**feeds(golden_pairs, 1, 1))["boxes"], kept)
    assert np.array_equal(first, kept)


def test_each_batch_has_a_graph_of_its_own_that_outlives_its_buffers(bundle, golden_pairs, gpu):
    """A client of many batch sizes: the host's buffers go, but a recorded graph finds its addresses."""
    gpu(Cudart())
    session = Session(bundle, provider="cuda", cuda_graph=True)
    for batch in (1, 2, 3, 4, 5, 6):
        session.run(**feeds(golden_pairs, batch))
    recorded = dict(session._runtime._recorded)
    numbers = [batch._options.get_run_config_entry("gpu_graph_id") for batch in recorded.values()]
    assert numbers == ["1", "2", "3", "4", "5", "6"]
    session.run(**feeds(golden_pairs, 1))
    assert session._runtime._recorded == recorded


def test_the_engines_own_call_uses_the_recorded_places(bundle, golden_pairs, gpu):
    gpu(Cudart())
    session = Session(bundle, provider="cuda", cuda_graph=True)
    given = feeds(golden_pairs, 2)
    through = session.run(**given)["boxes"]
    places = dict(session._runtime._recorded)
    assert np.array_equal(session.bare(**given)()["boxes"], through)
    assert session._runtime._recorded == places


def test_tensorrt_records_one_batch(bundle, golden_pairs, gpu):
    gpu(Cudart())
    session = Session(bundle, provider="tensorrt", cuda_graph=True)
    session.run(**feeds(golden_pairs, 2))
    with pytest.raises(RuntimeError, match="gpu_graph_id"):  # its graph has no number
        session._runtime._recorded[2]._options.get_run_config_entry("gpu_graph_id")
    assert "here of batch 2, and this batch is 1" in refusal(lambda: session.run(**feeds(golden_pairs, 1)))
    free = Session(bundle, provider="tensorrt")
    for batch in (1, 2):
        assert len(free.run(**feeds(golden_pairs, batch))["boxes"]) == batch


def test_an_answer_that_cannot_be_copied(bundle, golden_pairs, gpu):
    gpu(Cudart(fails=True))
    session = Session(bundle, provider="cuda")
    assert "error 700" in refusal(lambda: session.run(**feeds(golden_pairs, 1)))


def test_locked_memory_is_freed_with_its_last_array():
    cudart = Cudart()
    arrays = [pinned.zeros((3, 5), np.dtype(np.float32), cudart) for _ in range(4)]
    assert all(locked for _, locked in arrays)
    assert len(cudart.locked) == 4
    view = arrays[0][0][1:]
    assert (view.shape, view.dtype) == ((2, 5), np.float32)
    del arrays
    assert len(cudart.locked) == 1, "memory under a view was freed, or memory without one was kept"
    del view
    assert not cudart.locked


def test_without_a_cuda_runtime_memory_is_ordinary(monkeypatch):
    monkeypatch.setattr(pinned, "_RUNTIMES", ("libcudart.so.none",))
    assert pinned.loaded_runtime() is None
    array, locked = pinned.zeros((2, 3), np.dtype(np.uint16), None)
    assert (array.shape, array.dtype, array.any(), locked) == ((2, 3), np.uint16, False, False)


@pytest.mark.parametrize(
    ("engine", "provider", "says"),
    [
        ("onnxruntime", "cpu", "need provider cuda or tensorrt, found 'cpu'"),
        ("ncnn", "cpu", "are for engine onnxruntime, found 'ncnn'"),
        ("openvino", "cpu", "are for engine onnxruntime, found 'openvino'"),
    ],
)
def test_cuda_graphs_elsewhere_are_one_line(bundle, monkeypatch, engine, provider, says):
    variant = bundle.variant("onnxruntime", "fp32")
    monkeypatch.setattr(type(bundle), "variant", lambda *_: variant)
    line = refusal(lambda: Session(bundle, engine, provider, cuda_graph=True))
    assert says in line
    assert "leave out --cuda-graph" in line


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What ONNX Runtime is asked for, on a machine with a driver; it opens nothing."""
    found = SimpleNamespace(providers=None, fallback=True)

    class Opened:
        def __init__(self, model, options, providers):
            found.providers = providers
            self.names = [name for name, _ in providers]

        def get_providers(self):
            return self.names

        def get_outputs(self):
            return []

        def disable_fallback(self):
            found.fallback = False

    driver = tmp_path / "version"
    driver.write_text("NVRM version: 580\nGCC")
    found.driver, found.cache = driver, tmp_path / "cache"
    monkeypatch.setattr(onnxruntime, "InferenceSession", Opened)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnx_runtime_gpu, "_DRIVERS", (driver, tmp_path / "none"))
    monkeypatch.setenv("RGBT_CACHE", str(found.cache))
    return found


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_options_of_cuda(asked, cuda_graph):
    OnnxRuntime(b"graph", "cuda", cuda_graph=cuda_graph)
    ((name, options),) = asked.providers
    assert name == "CUDAExecutionProvider"
    assert options == {"use_tf32": "0"} | ({"enable_cuda_graph": "1"} if cuda_graph else {})
    assert not asked.fallback, "a GPU that fails in a run would be left for the CPU"


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_options_of_tensorrt(asked, cuda_graph):
    OnnxRuntime(b"graph", "tensorrt", cuda_graph=cuda_graph)
    (name, options), (second, cuda) = asked.providers
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert "enable_cuda_graph" not in cuda
    assert ("trt_cuda_graph_enable" in options) == cuda_graph
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
    assert options["trt_engine_cache_path"].startswith(str(asked.cache / "onnxruntime"))
    assert os.path.isdir(options["trt_engine_cache_path"])  # noqa: PTH112
    assert not {"trt_fp16_enable", "trt_int8_enable"} & set(options), "then fp32 layers of a file are no longer in fp32"


def test_engines_are_kept_by_model_and_machine(asked, monkeypatch, tmp_path):
    def place(graph=b"graph", version="1"):
        return onnx_runtime_gpu.tensorrt_options(graph, version, False)["trt_engine_cache_path"]

    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    first = place()
    assert place() == place(path) == first
    others = [place(b"other weights"), place(version="2")]
    monkeypatch.setattr(onnx_runtime_gpu, "tensorrt_version", lambda: "10.3")
    others.append(place())
    asked.driver.write_text("NVRM version: 590\n")
    others.append(place())
    assert len({first, *others}) == 5


def test_nothing_is_kept_without_a_driver(asked):
    asked.driver.unlink()
    assert onnx_runtime_gpu.tensorrt_options(b"graph", "1", False) == {}
    assert not asked.cache.exists()


def test_a_folder_that_cannot_be_made(asked):
    asked.cache.write_text("a file")
    line = refusal(lambda: OnnxRuntime(b"graph", "tensorrt"))
    assert "set RGBT_CACHE to a folder" in line


def test_bench_records_graphs(bundle, gpu, capsys):
    gpu(Cudart())
    words = ["bench", str(bundle.path), "--provider", "cuda", "--cuda-graph", "--batch", "1", "2", "--seconds", "0.02"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cuda_graph"] is True
    assert answer["command"].endswith("--provider cuda --cuda-graph")
    assert [(row["target"], row["batch"], row["pinned"]) for row in answer["sessions"]] == [
        ("onnxruntime-cuda", 1, True),
        ("onnxruntime-cuda", 2, True),
    ]
    assert main([word if word != "cuda" else "tensorrt" for word in words]) == 0
    assert "CUDA graphs on; buffers in page-locked memory" in capsys.readouterr().out


def test_bench_says_where_graphs_are_not(bundle, capsys):
    assert main(["bench", str(bundle.path), "--cuda-graph"]) == 1
    assert "found 'cpu'; leave out --cuda-graph" in capsys.readouterr().err
    for other in (["--live", str(bundle.path)], ["--train"], ["--data", "card.yaml"]):
        assert main(["bench", "--cuda-graph", *other]) == 2
        assert "--cuda-graph is for a bundle by itself" in capsys.readouterr().err
