"""What export.inspect says of graphs whose figures are known by hand, and who is said to take them."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.engine_limits import ENGINES
from export.errors import ExportError
from export.inspect import as_text, inspect

FLOAT = TensorProto.FLOAT


def saved(folder, nodes, inputs, outputs, weights, opset=18, domains=()):
    """Write a graph of these nodes; weights are arrays by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, producer_name="hand"), path)
    return path


@pytest.fixture
def convolutions(tmp_path):
    """Two convolutions (one grouped), a transposed one, a matrix product and a Gemm, at a dynamic batch."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["c"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "w3"], ["d"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Reshape", ["e", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w4"], ["g"]),
        helper.make_node("Gemm", ["g", "w5"], ["y"], transB=1),
    ]
    ones = {
        "w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (8, 4, 2, 2), "w4": (4, 10), "w5": (5, 10),
    }  # fmt: skip
    weights = {name: np.ones(shape, np.float32) for name, shape in ones.items()}
    weights["shape"] = np.array([-1, 4], np.int64)
    return saved(tmp_path, nodes, [("x", FLOAT, ["batch", 3, 16, 20])], [("y", FLOAT, ["batch", 5])], weights)


def test_figures_are_those_counted_by_hand(convolutions):
    found = inspect(convolutions)
    by_hand = [8 * 8 * 10 * 27, 8 * 8 * 10 * 9, 8 * 8 * 10 * 4 * 4, 4 * 10, 10 * 5]
    assert found["macs"] == sum(by_hand)
    assert found["flops"] == 2 * found["macs"]
    assert found["uncounted"] == []
    assert found["parameters"] == 8 * 27 + 8 + 8 * 9 + 8 * 16 + 40 + 50
    assert found["operators"]["Conv"] == 2
    assert next(iter(found["operators"])) == "Conv"
    assert (found["opset"], found["producer"]) == (18, "hand")
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 3, 16, 20]}]
    assert json.loads(json.dumps(found)) == found
    assert set(found["engines"]) == set(ENGINES)


def test_layers_of_unknown_shape_are_named(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    weights = {"w": np.ones((4, 3, 1, 1), np.float32)}
    sides = ["batch", 3, "height", "width"]
    path = saved(tmp_path, [node], [("x", FLOAT, sides)], [("y", FLOAT, ["batch", 4, "h", "w"])], weights)
    found = inspect(path)
    assert (found["macs"], found["uncounted"]) == (0, ["first"])
    assert "at least: the shape of 1 layers is not known" in as_text(found)
    assert "x: dynamic batch, height, width, takes fixed shapes" in found["engines"]["ncnn"]["why"]


@pytest.mark.parametrize(("zero", "takes"), [(0, True), (3, False)])
def test_quantised_layers_count_and_zero_points_decide(tmp_path, zero, takes):
    scale, point = {"s": np.float32(0.1)}, {"z": np.int8(zero)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    weights = {"w": np.ones((4, 3, 1, 1), np.int8), **{k: np.array(v) for k, v in (scale | point).items()}}
    path = saved(tmp_path, nodes, [("x", FLOAT, ["b", 3, 8, 8])], [("y", FLOAT, ["b", 4, 8, 8])], weights)
    found = inspect(path)
    assert found["macs"] == 4 * 64 * 3
    assert found["parameters"] == 12
    assert found["engines"]["tensorrt"]["takes"] is takes
    assert found["engines"]["onnxruntime"]["takes"]


@pytest.mark.parametrize(
    ("build", "engine", "reason"),
    [
        (lambda: ({"dtype": TensorProto.UINT16}, "Cast", {"to": FLOAT}), "tensorrt", "uint16 x: has no 16-bit"),
        (lambda: ({"dtype": TensorProto.UINT8}, "Cast", {"to": FLOAT}), "ncnn", "uint8 x: takes float32 alone"),
        (lambda: ({"opset": 8}, "Relu", {}), "tensorrt", "opset 8: reads 9 to 25"),
        (lambda: ({}, "Det", {}), "tensorrt", "1 × Det: has no such layer"),
        (lambda: ({"domain": "com.microsoft"}, "Gelu", {}), "openvino", "com.microsoft.Gelu: only ONNX Runtime"),
        (lambda: ({}, "Relu", {}), "litert", "converted from the PyTorch model"),
    ],
)
def test_reasons_of_an_engine(tmp_path, build, engine, reason):
    options, op, attributes = build()
    domain = options.get("domain", "")
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    inputs = [("x", options.get("dtype", FLOAT), ["b", 2, 2])]
    shape = ["b"] if op == "Det" else ["b", 2, 2]
    path = saved(
        tmp_path, [node], inputs, [("y", FLOAT, shape)], {}, options.get("opset", 18), (domain,) if domain else ()
    )
    verdict = inspect(path)["engines"][engine]
    assert not verdict["takes"]
    assert any(reason in why for why in verdict["why"]), verdict
    if engine != "openvino":
        assert verdict["instead"].startswith("rgbt export")


def test_a_large_topk_is_not_for_tensorrt(tmp_path):
    node = helper.make_node("TopK", ["x", "k"], ["y", "at"])
    outputs = [("y", FLOAT, ["b", 4000]), ("at", TensorProto.INT64, ["b", 4000])]
    path = saved(tmp_path, [node], [("x", FLOAT, ["b", 9000])], outputs, {"k": np.array([4000])})
    assert inspect(path)["engines"]["tensorrt"]["why"] == ["TopK of 4000: at most 3840"]


def test_scalars_and_an_old_topk_are_described_too(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "factor"], ["z"]), helper.make_node("TopK", ["z"], ["y", "at"], k=4)]
    outputs = [("y", FLOAT, ["b", 4]), ("at", TensorProto.INT64, ["b", 4])]
    found = inspect(saved(tmp_path, nodes, [("x", FLOAT, ["b", 9]), ("factor", FLOAT, [])], outputs, {}, opset=9))
    assert [value["shape"] for value in found["inputs"]] == [["b", 9], []] and found["operators"]["TopK"] == 1


def test_a_bundle_and_its_text(tiny_bundle):
    found = inspect(tiny_bundle)
    assert [value["name"] for value in found["inputs"]] == ["rgb", "thermal", "present"]
    assert found["variants"][0] == "onnxruntime-fp32"
    assert found["uncounted"] == []
    assert found["macs"] > 1e6
    assert found["engines"]["onnxruntime"] == {"takes": True, "why": [], "instead": None}
    assert not found["engines"]["tensorrt"]["takes"]
    text = as_text(found)
    for piece in ("thermal", "uint16", "boxes", "opset 18", "TopK 1", "openvino    takes it", "no 16-bit unsigned"):
        assert piece in text


@pytest.mark.parametrize("content", [b"", b"no graph at all, but a text", b"\x08\x0a"])
def test_no_graph_is_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx: ") as caught:
        inspect(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ExportError, match="no such file; give an ONNX file, or a bundle"):
        inspect(tmp_path / "nothing.onnx")
