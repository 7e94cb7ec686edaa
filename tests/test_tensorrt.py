"""What can be held about TensorRT without a GPU: profiles, commands, the cache's key, refusals, and how a plan is used.

A stand-in for the two libraries records what it is asked for; it computes nothing. None of this has run on a GPU.
"""

import ctypes
import sys
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from export.bundle_info import Inputs
from export.engines import tensor_rt_build
from export.engines.onnx_runtime import OnnxRuntime
from export.engines.tensor_rt import TensorRt
from export.engines.tensor_rt_build import PlanSpec, cache_key, cuda_call, device_facts, plan_for, profiles
from export.errors import ExportError
from export.session import Session
from export.variants.source import Source
from export.variants.table import MAKERS
from export.variants.tensor_rt import float_thermal, make_fp32, plan_spec
from export.write import Forms, export_bundle


@pytest.fixture
def source(tiny_bundle, tiny_model):
    """What a variant is made from; nothing of it is calibrated."""
    lines = []
    graph = (tiny_bundle / "model.onnx").read_bytes()
    inputs = Inputs.model_validate(tiny_model.config.inputs)
    made = Source(tiny_model, graph, inputs, "detect", (), lambda run: 0.0, 1.0, lines.append)
    return SimpleNamespace(source=made, lines=lines)


class Code(IntEnum):
    cudaSuccess = 0
    cudaErrorNoDevice = 100


class Cuda:
    """The CUDA runtime's calls, on this machine's own memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, gpu="Orin", driver=12080, code=Code.cudaSuccess):
        self.gpu, self.driver, self.code = gpu, driver, code
        self.blocks, self.freed = {}, 0

    def __getattr__(self, name):
        answers = {
            "cudaGetDevice": 0,
            "cudaGetDeviceProperties": SimpleNamespace(name=self.gpu.encode() + b"\0", major=8, minor=7),
            "cudaDriverGetVersion": self.driver,
            "cudaStreamCreate": 7,
        }
        return lambda *arguments: (self.code, answers[name]) if name in answers else (self.code,)

    def cudaMalloc(self, size):
        block = np.zeros(size, np.uint8)
        self.blocks[block.ctypes.data] = block
        return self.code, block.ctypes.data

    def cudaFree(self, address):
        del self.blocks[address]
        return (self.code,)

    def cudaMemcpyAsync(self, to, origin, size, direction, stream):
        assert (direction in (1, 2), stream) == (True, 7)
        ctypes.memmove(to, origin, size)
        return (self.code,)


class TensorRtDouble:
    """The library: a plan is the graph's bytes, and an engine hands thermal on as its answer."""

    __version__ = "10.9.0"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
    BuilderFlag = SimpleNamespace(TF32="tf32")

    def __init__(self, parses=True, builds=True):
        self.parses, self.builds, self.asked = parses, builds, []
        self.Logger = lambda level: SimpleNamespace()
        self.Logger.ERROR = 1
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine())

    @staticmethod
    def nptype(dtype):
        return dtype

    def OnnxParser(self, network, logger):
        error = SimpleNamespace(desc=lambda: "no importer for Unique\nmore")
        return SimpleNamespace(parse=lambda graph: self.parses, num_errors=1, get_error=lambda index: error)

    def Builder(self, logger):
        config = SimpleNamespace(
            clear_flag=lambda flag: self.asked.append(("clear", flag)), add_optimization_profile=lambda profile: None
        )
        profile = SimpleNamespace(set_shape=lambda *shapes: self.asked.append(("profile", *shapes)))
        return SimpleNamespace(
            create_network=lambda flags: self.asked.append(("network", flags)),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: b"plan" if self.builds else None,
        )


TENSORS = {"rgb": np.uint8, "thermal": np.float32, "present": np.float32, "boxes": np.float32}


class Engine:
    num_io_tensors = len(TENSORS)

    def get_tensor_name(self, index):
        return list(TENSORS)[index]

    def get_tensor_dtype(self, name):
        return TENSORS[name]

    def create_execution_context(self):
        return Context()


class Context:
    """Copies what lies at thermal's address to that of the answer."""

    def __init__(self):
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape

    def get_tensor_shape(self, name):
        return self.shapes["thermal"]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shapes["thermal"])) * 4
        ctypes.memmove(self.addresses["boxes"], self.addresses["thermal"], size)
        return stream == 7


@pytest.fixture
def library(monkeypatch, tmp_path):
    """TensorRT and CUDA as they would be on a device, with a cache of their own."""
    trt, cuda = TensorRtDouble(), Cuda()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setenv("RGBT_CACHE", str(tmp_path / "cache"))
    return SimpleNamespace(trt=trt, cuda=cuda, cache=tmp_path / "cache")


@pytest.fixture
def nothing_here(monkeypatch):
    """A machine without TensorRT."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def test_profiles_name_every_input_and_bound():
    found = profiles({"rgb": ("batch", 48, 64, 3), "present": ("batch", 2), "fixed": (2, 5)}, 16, 4)
    assert (found["rgb"].min, found["rgb"].opt, found["rgb"].max) == ((1, 48, 64, 3), (4, 48, 64, 3), (16, 48, 64, 3))
    assert found["present"].max == (16, 2)
    assert (found["fixed"].min, found["fixed"].max) == ((2, 5), (2, 5))


@pytest.mark.parametrize(
    ("shapes", "batches", "reason"),
    [
        ({"rgb": ("batch", "height", "width", 3)}, (8, 1), r"rgb has dynamic sides .* export with fixed sizes"),
        ({"rgb": ("batch", 2)}, (4, 8), "tuned for batch 8 of at most 4"),
    ],
)
def test_profiles_that_cannot_be_are_one_line(shapes, batches, reason):
    with pytest.raises(ExportError, match=reason) as caught:
        profiles(shapes, *batches)
    assert "\n" not in str(caught.value)


def test_without_tensorrt_the_bundle_gets_the_command(source, nothing_here, tmp_path):
    variant = make_fp32(source.source, tmp_path)
    assert variant.files == ("tensorrt/fp32.onnx", "tensorrt/fp32.json", "tensorrt/fp32.txt")
    assert all((tmp_path / name).stat().st_size for name in variant.files)
    assert "no plan was built (TensorRT cannot be used here" in variant.notes[0]
    assert source.lines == [f"tensorrt-fp32: {variant.notes[0]}"]
    text = (tmp_path / "tensorrt/fp32.txt").read_text()
    assert (
        "trtexec --onnx=tensorrt/fp32.onnx --stronglyTyped --noTF32 "
        "--minShapes=rgb:1x48x64x3,thermal:1x30x40,present:1x2 --optShapes=rgb:1x48x64x3,thermal:1x30x40,present:1x2 "
        "--maxShapes=rgb:8x48x64x3,thermal:8x30x40,present:8x2 --saveEngine=tensorrt/fp32.plan\n"
    ) in text
    assert "rgbt bench . --engine tensorrt --provider cuda --precision fp32\n" in text
    spec = PlanSpec.load(tmp_path / "tensorrt/fp32.json")
    assert spec == plan_spec(source.source.inputs, "fp32")
    assert spec.dtypes["thermal"] == "uint16"


def test_graph_takes_thermal_as_float_and_answers_alike(source, golden_pairs):
    graph = float_thermal(source.source.graph)
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load_from_string(graph).graph.input}
    assert types["thermal"] == onnx.TensorProto.FLOAT
    feeds = {**golden_pairs, "present": np.ones((3, 2), np.float32)}
    before = OnnxRuntime(source.source.graph).run(feeds)["boxes"]
    after = OnnxRuntime(graph).run({**feeds, "thermal": feeds["thermal"].astype(np.float32)})["boxes"]
    assert np.array_equal(before, after)


def test_key_changes_with_all_that_a_plan_is_tied_to(source):
    spec = plan_spec(source.source.inputs, "fp32")
    trt, newer = TensorRtDouble(), TensorRtDouble()
    newer.__version__ = "10.10.0"
    facts = [
        device_facts(trt, Cuda()),
        device_facts(newer, Cuda()),
        device_facts(trt, Cuda(gpu="H200")),
        device_facts(trt, Cuda(driver=13000)),
    ]
    keys = [cache_key(b"graph", spec, fact) for fact in facts]
    half = plan_spec(source.source.inputs, "fp16")
    keys += [cache_key(b"other", spec, facts[0]), cache_key(b"graph", half, facts[0])]
    assert len(set(keys)) == 6
    assert cache_key(b"graph", spec, device_facts(TensorRtDouble(), Cuda())) == keys[0]
    assert facts[0]["gpu"] == "Orin sm_87"


def test_a_plan_is_built_once(source, library, tmp_path):
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(source.source.graph)
    lines, spec = [], plan_spec(source.source.inputs, "fp32")
    first = plan_for(library.trt, library.cuda, graph, spec, lines.append)
    assert first == (b"plan", next(library.cache.iterdir()))
    assert plan_for(library.trt, library.cuda, graph, spec, lines.append) == first
    assert len(lines) == 1
    assert ("network", 1 << 3) in library.trt.asked
    assert ("clear", "tf32") in library.trt.asked
    assert ("profile", "thermal", (1, 30, 40), (1, 30, 40), (8, 30, 40)) in library.trt.asked


def test_engine_hands_thermal_on_as_float(source, library, tmp_path):
    variant = make_fp32(source.source, tmp_path)
    assert variant.notes[0].startswith("plan built for this GPU: ")
    engine = TensorRt([tmp_path / name for name in variant.files], "cuda", None, "fp32")
    assert engine.signature()["thermal"] == ("uint16", ("batch", 30, 40))
    assert engine.outputs() == ["boxes"]
    for batch in (1, 3, 2):
        feeds = source.source.inputs.zeros(batch)
        feeds["thermal"][:] = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) + 50000
        found = engine.run(feeds)["boxes"]
        assert found.dtype == np.float32
        assert np.array_equal(found, feeds["thermal"].astype(np.float32))
    with pytest.raises(ExportError, match="a batch of 9, but the plan takes at most 8"):
        engine.run(source.source.inputs.zeros(9))
    assert len(library.cuda.blocks) == 4
    engine.close()
    assert not library.cuda.blocks


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_engine_takes_what_every_precision_writes(source, library, golden_pairs, precision, tmp_path):
    pairs = [
        {"rgb": rgb[None], "thermal": thermal[None], "present": np.ones((1, 2), np.float32)}
        for rgb, thermal in zip(golden_pairs["rgb"], golden_pairs["thermal"], strict=True)
    ] * 3
    variant = MAKERS[f"tensorrt-{precision}"](replace(source.source, calibration=pairs), tmp_path)
    assert (variant.engine, variant.precision) == ("tensorrt", precision)
    assert variant.notes[-1].startswith("plan built for this GPU: ")
    engine = TensorRt([tmp_path / name for name in variant.files], "cuda", None, precision)
    assert engine.signature()["thermal"] == ("uint16", ("batch", 30, 40))
    engine.close()
    graph = OnnxRuntime(tmp_path / variant.files[0])
    answer = graph.run({**pairs[0], "thermal": pairs[0]["thermal"].astype(np.float32)})
    assert answer["boxes"].shape == (1, 100, 6)


def test_a_bundle_of_another_machine_carries_graph_and_command(
    tiny_model, golden_pairs, nothing_here, monkeypatch, tmp_path
):
    monkeypatch.setattr("export.prove._SECONDS", 0.01)
    lines, config = [], tiny_model.config
    forms = Forms(keys=("tensorrt-fp32",), progress=lines.append)
    path = tmp_path / "bundle"
    bundle = export_bundle(
        tiny_model, config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64, path, forms=forms
    )
    assert set(bundle.info.variants) == {"onnxruntime-fp32", "tensorrt-fp32"}
    assert set(bundle.info.proofs) == {"onnxruntime-fp32-cpu"}
    assert "tensorrt/fp32.txt" in bundle.info.files
    assert any(line.startswith("tensorrt-fp32: not measured here: TensorRT cannot be used") for line in lines)
    with pytest.raises(ExportError, match="pip install"):
        Session(bundle, "tensorrt", "cuda")


@pytest.mark.parametrize(
    ("trt", "reason"),
    [
        (TensorRtDouble(parses=False), r"TensorRT 10.9.0 cannot read the graph \(no importer for Unique\)"),
        (TensorRtDouble(builds=False), "cannot build the graph on this GPU"),
    ],
)
def test_a_graph_that_tensorrt_refuses_is_one_line(source, library, tmp_path, trt, reason):
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"graph")
    with pytest.raises(ExportError, match=reason) as caught:
        plan_for(trt, library.cuda, graph, plan_spec(source.source.inputs, "fp32"), print)
    assert "\n" not in str(caught.value)
    assert not library.cache.exists()


FILES = [Path("a.onnx"), Path("a.json")]


@pytest.mark.parametrize(
    ("files", "provider", "reason"),
    [
        (FILES, "cpu", "TensorRT runs on cuda, not on 'cpu'"),
        (FILES[:1], "cuda", "rgbt export RUN --target tensorrt --precision fp16 adds one"),
        (FILES, "cuda", r"cannot be used here .* pip install 'rgbt-fusion\[tensorrt\]'"),
    ],
)
def test_engine_refuses_in_one_line(nothing_here, files, provider, reason):
    with pytest.raises(ExportError, match=reason) as caught:
        TensorRt(files, provider, None, "fp16")
    assert "\n" not in str(caught.value)


def test_no_gpu_is_one_line(library):
    library.cuda.code = Code.cudaErrorNoDevice
    with pytest.raises(ExportError, match=r"cudaGetDevice fails \(cudaErrorNoDevice\)"):
        tensor_rt_build.load_cuda()
    with pytest.raises(ExportError, match="cudaMalloc fails"):
        cuda_call(library.cuda, "cudaMalloc", 4)


def test_a_spec_that_is_no_json_is_one_line(tmp_path):
    (tmp_path / "fp32.json").write_text("{")
    with pytest.raises(ExportError, match=r"fp32\.json: cannot be read .* export the bundle again") as caught:
        PlanSpec.load(tmp_path / "fp32.json")
    assert "\n" not in str(caught.value)


def test_coreml_without_its_package_is_one_line(source, monkeypatch, tmp_path):
    from export.variants import coreml

    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match="coremltools") as caught:
        coreml.make(source.source, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_coreml_is_asked_for_float_inputs(source, monkeypatch, tmp_path):
    from export.variants import coreml

    asked = {}

    def package(path):
        (Path(path) / "Data").mkdir(parents=True)
        for name in ("Data/weight.bin", "Manifest.json"):
            (Path(path) / name).write_bytes(b"1")

    def convert(program, **options):
        asked.update(options, program=program)
        return SimpleNamespace(save=package)

    library = SimpleNamespace(
        convert=convert,
        TensorType=lambda **fields: fields,
        precision=SimpleNamespace(FLOAT32="f32", FLOAT16="f16"),
        target=SimpleNamespace(iOS16="ios16"),
    )
    monkeypatch.setitem(sys.modules, "coremltools", library)
    small = replace(source.source, model=Small().eval())
    variant = coreml.make(small, tmp_path)
    assert variant.files == ("coreml/model.mlpackage/Manifest.json", "coreml/model.mlpackage/Data/weight.bin")
    assert [(one["name"], one["shape"]) for one in asked["inputs"]] == [
        ("rgb", (1, 48, 64, 3)), ("thermal", (1, 30, 40)), ("present", (1, 2)),
    ]  # fmt: skip
    assert {one["dtype"] for one in asked["inputs"]} == {np.float32}
    assert asked["compute_precision"] == "f32"
    assert "not been run" in variant.notes[0]


class Small(torch.nn.Module):
    def forward(self, rgb, thermal, present):
        return {"boxes": rgb.float().mean() + thermal.float().mean() + present}
