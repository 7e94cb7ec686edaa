"""OpenVINO answers as PyTorch does, rounds only what may be rounded, and its int8 keeps the metric or is refused."""

import subprocess
import sys

import numpy as np
import pytest

from export.errors import ExportError
from export.verify import compare

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from export.engines.open_vino import OpenVino
from export.engines.open_vino_regions import regions
from export.variants.openvino_int8 import FILES, float_layers, make
from export.variants.source import LEAST_PAIRS, Source

BOTH, RGB_ONLY, THERMAL_ONLY = (1, 1), (1, 0), (0, 1)


def refusal(action):
    with pytest.raises(ExportError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture(scope="module", params=["detect", "segment", "classify"])
def network(request, tiny_model, tiny_bundle, tmp_path_factory):
    """A PyTorch model of the task, and its graph."""
    import torch

    from export.bundle_info import Inputs
    from export.graph import export_graph
    from fusion.model import build_model

    if request.param == "detect":
        return tiny_model, tiny_bundle / "model.onnx"
    config = tiny_model.config
    head = config.head.model_copy(update={"kind": request.param, "width": 16})
    model, _ = build_model(config.model_copy(update={"head": head}), 0)
    with torch.no_grad():
        for parameter in model.blend.parameters():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    path.write_bytes(export_graph(model.eval(), Inputs.model_validate(config.inputs)))
    return model, path


def feeds_of(pairs, present):
    """Feeds in which an absent sensor's buffer holds what a camera left behind."""
    return {**pairs, "present": np.tile(np.array(present, np.float32), (len(pairs["rgb"]), 1))}


def test_answers_as_pytorch_does(network, golden_pairs):
    import torch

    model, graph = network
    engine = OpenVino([graph], "cpu", 1)
    for present in (BOTH, RGB_ONLY, THERMAL_ONLY):
        feeds = feeds_of(golden_pairs, present)
        with torch.no_grad():
            wanted = {name: value.numpy() for name, value in model(*map(torch.from_numpy, feeds.values())).items()}
        assert engine.outputs() == list(wanted)
        assert compare(wanted, engine.run(feeds)).holds  # scores, confidences, probabilities to 1e-4
        alone = engine.run({name: value[:1] for name, value in feeds.items()})  # the batch is dynamic
        assert compare({name: value[:1] for name, value in wanted.items()}, alone).holds
    shapes = {
        "rgb": ("uint8", (None, 48, 64, 3)),
        "thermal": ("uint16", (None, 30, 40)),
        "present": ("float32", (None, 2)),
    }
    assert engine.signature() == shapes and engine.provider == "cpu"
    engine.close()


def network_of_colours(wide):
    """A graph: which of red, green, blue and warm is strongest; a fifth channel is ``wide`` times as strong.

    Where it is wide, one int8 step of what enters the last layer is more than the other four channels ever reach.
    """
    from onnx import TensorProto, helper, numpy_helper

    kept, nodes = [], []

    def constant(name, values):
        kept.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(kind, name, *inputs, **attributes):
        nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def layer(name, x, weight):
        bias = constant(f"{name}.bias", np.zeros(len(weight), np.float32))
        return node("Conv", name, x, constant(f"{name}.weight", weight.astype(np.float32)), bias)

    counts = node("Cast", "counts", "thermal", to=TensorProto.FLOAT)
    above = node("Sub", "above", counts, constant("low", np.float32(51200)))
    scaled = node("Div", "scaled", above, constant("span", np.float32(1000)))
    warm = node("Unsqueeze", "warm", scaled, constant("one", [1]))
    pixels = node("Transpose", "planes", node("Cast", "pixels", "rgb", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    there = node("Gather", "there", "present", constant("of rgb", 0), axis=1)
    there = node("Unsqueeze", "mask", there, constant("axes", [1, 2, 3]))
    colours = node("Mul", "seen", node("Div", "colours", pixels, constant("white", np.float32(255))), there)
    x = node("Concat", "stacked", colours, warm, axis=1)
    spread = np.concatenate([np.eye(4), np.full((1, 4), wide)])[..., None, None]
    x = node("Relu", "clean", layer("first", x, np.eye(4)[..., None, None]))
    x = node("Relu", "active", layer("spread", x, spread))
    x = layer("tail", x, 20 * np.eye(4, 5)[..., None, None])
    node("Softmax", "probabilities", node("ReduceMean", "mean", x, constant("plane", [2, 3]), keepdims=0), axis=1)
    types = {"rgb": (TensorProto.UINT8, ["b", 8, 8, 3]), "thermal": (TensorProto.UINT16, ["b", 8, 8]),
             "present": (TensorProto.FLOAT, ["b", 2])}  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, *described) for name, described in types.items()]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["b", 4])
    graph = helper.make_graph(nodes, "colours", inputs, [output], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def scenes(count):
    """Feeds of batch 1 with one of the four a little stronger, and which."""
    noise = np.random.default_rng(0)
    for index in range(count):
        strongest = index % 4
        levels = noise.uniform(0.2, 0.5, 4)
        levels[strongest] = levels.max() + 0.1
        rgb = np.broadcast_to(255 * levels[:3], (1, 8, 8, 3)).astype(np.uint8)
        thermal = np.full((1, 8, 8), 51200 + 1000 * levels[3]).astype(np.uint16)
        yield {"rgb": rgb, "thermal": thermal, "present": np.ones((1, 2), np.float32)}, strongest


@pytest.fixture
def source_of(tmp_path):
    """Makes a Source around a graph, the lines it says, and the folder to write to."""

    def build(graph, **fields):
        lines, card = [], list(scenes(24))

        def metric(run):
            return float(np.mean([run(feeds)["probabilities"].argmax() == truth for feeds, truth in card]))

        given = {
            "calibration": [feeds for feeds, _ in scenes(LEAST_PAIRS)],
            "metric": metric,
            "max_drop": 1.0,
        } | fields
        return Source(None, graph, None, "classify", progress=lines.append, **given), lines

    return build


@pytest.fixture
def colours(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(network_of_colours(1))
    return path


def test_bf16_rounds_the_body_and_not_the_counts(colours):
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert "does not compute in bf16, only in" in refusal(lambda: OpenVino([colours], "cpu", 1, "bf16"))
        return
    exact, rounded = OpenVino([colours], "cpu", 1), OpenVino([colours], "cpu", 1, "bf16")
    differences = [
        np.abs(exact.run(feeds)["probabilities"] - rounded.run(feeds)["probabilities"]).max() for feeds, _ in scenes(8)
    ]
    assert 0 < max(differences) < 0.02  # with the counts in bf16, whose steps are of 256 there, about 0.5


def test_bf16_of_a_trained_shape_keeps_batches_and_outputs(network, golden_pairs):
    _, graph = network
    try:
        engine = OpenVino([graph], "cpu", 1, "bf16")
    except ExportError as error:
        pytest.skip(f"no bf16: {error}")
    for batch in (3, 1):
        answer = engine.run(feeds_of({name: value[:batch] for name, value in golden_pairs.items()}, BOTH))
        assert list(answer) == engine.outputs() and all(len(value) == batch for value in answer.values())
        assert all(np.isfinite(value).all() for value in answer.values())


def test_int8_quantises_the_body_alone(source_of, tmp_path):
    import openvino

    source, lines = source_of(network_of_colours(1))
    variant = make(source, tmp_path)
    assert (variant.key, variant.form, variant.files, variant.float_layers) == ("openvino-int8", "full", FILES, ())
    model = openvino.Core().read_model(tmp_path / FILES[0])
    assert float_layers(model) == ([], 3)
    where = regions(model)
    quantisers = [node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"]
    readers = [where[p.get_node().get_name()] for q in quantisers for p in q.output(0).get_target_inputs()]
    assert readers and set(readers) == {"body"}
    assert lines[0] == f"OpenVINO int8: calibrating on {LEAST_PAIRS} pairs" and "points below fp32" in lines[1]
    engine = OpenVino([tmp_path / name for name in FILES], "cpu", 1, "int8")
    assert engine.outputs() == ["probabilities"] and source.metric(engine.run) == 1


def test_int8_leaves_a_wide_tail_in_float(source_of, tmp_path, capfd):
    source, lines = source_of(network_of_colours(1000))
    variant = make(source, tmp_path)
    assert variant.float_layers == ("tail",) and variant.notes[0].startswith("1.0000 in fp32, ")
    naive = float(lines[1].removeprefix("OpenVINO int8: metric ").partition(",")[0])
    assert naive < 0.6 and any(line.startswith("OpenVINO int8: left in float: ") for line in lines)
    assert source.metric(OpenVino([tmp_path / FILES[0]], "cpu", 1, "int8").run) >= 0.99
    assert capfd.readouterr() == ("", "")


def test_int8_that_cannot_keep_the_metric_is_refused(source_of, tmp_path):
    answers = iter([0.9])
    source, _ = source_of(network_of_colours(1), metric=lambda run: next(answers, 0.5))
    line = refusal(lambda: make(source, tmp_path))
    assert (
        "loses 40.00 points with all 3 layers in int8 and 40.00 with" in line
        and "--max-drop allows 1: raise it" in line
        and "the metric is 0.9000 in fp32; tried, with ever more layers in float: 0.5000" in line
    )


def test_int8_wants_pairs(source_of, tmp_path):
    source, _ = source_of(b"", calibration=[feeds for feeds, _ in scenes(LEAST_PAIRS - 1)])
    assert refusal(lambda: make(source, tmp_path)).startswith("int8 for OpenVINO is calibrated on 7 pairs, expected at")
    assert not list(tmp_path.iterdir())


def test_a_provider_or_precision_that_is_not_there_is_one_line(colours):
    import openvino

    assert "unknown provider 'cuda'" in refusal(lambda: OpenVino([colours], "cuda"))
    assert "unknown precision 'fp8'" in refusal(lambda: OpenVino([colours], precision="fp8"))
    if not any(device.startswith("NPU") for device in openvino.Core().available_devices):
        line = refusal(lambda: OpenVino([colours], "npu"))
        assert "no device 'npu' here, only CPU" in line and "--provider cpu" in line


def test_a_missing_package_says_what_to_install(colours, monkeypatch, source_of, tmp_path):
    monkeypatch.setitem(sys.modules, "nncf", None)
    source, _ = source_of(colours.read_bytes())
    assert "pip install 'rgbt-fusion[openvino-int8]'" in refusal(lambda: make(source, tmp_path))
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'rgbt-fusion[openvino]'" in refusal(lambda: OpenVino([colours]))


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_broken_graph_is_one_line(colours, tmp_path, share):
    path, content = tmp_path / "broken.onnx", colours.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert refusal(lambda: OpenVino([path])).startswith(f"{path}: OpenVINO cannot read it (")


def test_feeds_are_checked_and_answers_are_the_caller_s(colours):
    engine = OpenVino([colours], "cpu", 1)
    (one, truth), (other, _) = scenes(2)
    for array in one.values():
        array.flags.writeable = False  # as a decoder hands frames out
    first = engine.run(one)["probabilities"]
    kept = first.copy()
    assert first.argmax() == truth and not np.array_equal(engine.run(other)["probabilities"], first)
    assert np.array_equal(first, kept)
    assert "fed ['rgb'], the graph takes" in refusal(lambda: engine.run({"rgb": one["rgb"]}))
    wrong = {**other, "rgb": np.zeros((1, 8, 9, 3), np.uint8)}
    assert refusal(lambda: engine.run(wrong)).startswith("OpenVINO fails on provider 'cpu' (Can't set the input tensor")


def test_bound_buffers_are_read_when_asked(colours):
    engine = OpenVino([colours], "cpu", 1)
    buffers = {name: np.zeros(array.shape, array.dtype) for name, array in next(scenes(1))[0].items()}
    ask = engine.bind(buffers)
    for feeds, truth in scenes(4):
        for name, array in feeds.items():
            buffers[name][:] = array
        assert ask()["probabilities"].argmax() == truth


def test_neither_session_nor_variant_imports_it_and_nncf_sends_nothing():
    code = """
import sys
import export.engines.open_vino, export.session
assert not {"openvino", "torch"} & set(sys.modules)
import export.variants.openvino_int8 as variant
assert not {"openvino", "nncf"} & set(sys.modules)
before = sys.modules.get("openvino_telemetry")
nncf, _ = variant.converter()
from nncf.telemetry.decorator import telemetry
from nncf.telemetry.wrapper import NNCFTelemetryStub
assert isinstance(telemetry, NNCFTelemetryStub), telemetry
assert sys.modules["openvino_telemetry"] is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
