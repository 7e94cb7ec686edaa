"""int8: what is quantised and how, and accuracy control, on a chain of small convolutions."""

import re
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.accuracy_control import control, too_few_pairs
from export.bundle_info import Variant
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.regions import regions
from export.variants.int8 import Quantiser, make, quantise, quantise_with_control
from export.variants.source import LEAST_PAIRS, Metric, Source
from export.variants.table import MAKERS
from export.write import Forms, _variants

LAYERS = [f"conv{i}" for i in range(8)]


@cache
def chain(wide=()):
    """Raw RGB → eight convolutions and a last one → a class map; before the layers ``wide`` one channel is 1000 ×.

    The layer takes it back, so that in fp32 nothing changes.
    """
    noise = np.random.default_rng(0)
    half = np.float32(0.5)
    constants = {"mean": np.float32(127), "std": np.float32(60), "axes": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Cast", ["rgb"], ["float"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centred"], name="centre"),
        helper.make_node("Div", ["centred", "std"], ["x0"], name="scale"),
    ]
    for at in range(len(LAYERS) + 1):
        last = at == len(LAYERS)
        sides = (5 if last else 8), (8 if at else 3)
        weights = noise.normal(0, 1.2 / sides[1] ** half, (*sides, 1, 1)).astype(np.float32)
        bias = noise.normal(0, 0.1, sides[0]).astype(np.float32)
        if at + 1 in wide:
            weights[0] *= 1000
            bias[0] *= 1000
        if at in wide:
            weights[:, 0] /= 1000
        constants |= {f"w{at}": weights, f"b{at}": bias}
        name = "logits" if last else LAYERS[at]
        nodes.append(
            helper.make_node("Conv", [f"x{at}", f"w{at}", f"b{at}"], ["scores" if last else f"c{at}"], name=name)
        )
        if not last:
            nodes.append(
                helper.make_node("LeakyRelu" if at == 3 else "Relu", [f"c{at}"], [f"x{at + 1}"], name=f"act{at}")
            )
    nodes.append(helper.make_node("ArgMax", ["scores"], ["class_map"], name="argmax", axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("class_map", TensorProto.INT64, ["batch", 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="task", value="segment")
    return model.SerializeToString()


def pairs(count, seed=1):
    noise = np.random.default_rng(seed)
    return [{"rgb": noise.integers(0, 255, (1, 16, 16, 3), np.uint8)} for _ in range(count)]


def source(graph, max_drop=1.0, calibration=16):
    """Its metric: the share of pixels of the class that fp32 says."""
    runtime, shown, said = OnnxRuntime(graph), pairs(6, seed=2), []
    truth = [runtime.run(feeds)["class_map"] for feeds in shown]

    def metric(run):
        return float(np.mean([run(f)["class_map"] == true for f, true in zip(shown, truth, strict=True)]))

    return Source(None, graph, None, "segment", pairs(calibration), metric, max_drop, said.append), said


def nodes_by(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_preparation_decoding_and_the_logits_stay_in_float(scheme):
    before = onnx.load_from_string(chain())
    after = onnx.load_from_string(quantise(chain(), pairs(8), scheme))
    where = regions(before)
    nodes = {node.name: node for node in after.graph.node}
    for node in before.graph.node:
        if where[node.name] != "body":
            assert list(nodes[node.name].output) == list(node.output)
    made = {tensor: node for node in after.graph.node for tensor in node.output}
    assert nodes["argmax"].input[0] == "scores" and made["scores"].name == "logits"
    assert not [node for node in nodes_by(after, "QuantizeLinear") if node.input[0] == "scores"]
    assert nodes["logits"].input[1] == "w8" and constants(after)["w8"].dtype == np.float32
    assert all(made[nodes[layer].input[1]].op_type == "DequantizeLinear" for layer in LAYERS)


def test_onnx_runtime_computes_every_layer_in_integers(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    onnxruntime.InferenceSession(quantise(chain(), pairs(8)), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node)
    assert found["QLinearConv"] == len(LAYERS) and found["Relu"] == 0


def test_weights_have_a_scale_for_each_channel():
    after = onnx.load_from_string(quantise(chain(), pairs(8)))
    values = constants(after)
    scales = [values[node.input[1]] for node in nodes_by(after, "DequantizeLinear") if node.input[0].startswith("w")]
    assert len(scales) == len(LAYERS) and {scale.shape for scale in scales} == {(8,)}


def test_tensorrt_has_no_zero_points_no_integer_biases_and_nothing_after_a_layer():
    after = onnx.load_from_string(quantise(chain(), pairs(8), "s8s8"))
    values = constants(after)
    ends = nodes_by(after, "QuantizeLinear") + nodes_by(after, "DequantizeLinear")
    assert ends and all(values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any() for node in ends)
    assert all(values[f"b{at}"].dtype == np.float32 for at in range(len(LAYERS)))
    said = {tensor for node in nodes_by(after, "Conv") for tensor in node.output}
    assert not said & {node.input[0] for node in nodes_by(after, "QuantizeLinear")}


def test_the_file_is_sorted_and_keeps_notes_and_its_one_operator_set():
    model = onnx.load_from_string(quantise(chain(), pairs(8)))
    onnx.checker.check_model(model, full_check=True)
    assert {note.key: note.value for note in model.metadata_props} == {"task": "segment"}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


def test_layers_left_in_float_are_as_before():
    after = onnx.load_from_string(quantise(chain(), pairs(8), float_layers=["conv2", "conv5"]))
    nodes = {node.name: node for node in after.graph.node}
    kept = {name for name in LAYERS if nodes[name].input[1] == name.replace("conv", "w")}
    assert kept == {"conv2", "conv5"}


def test_a_quantiser_makes_the_same_file_again_after_another():
    quantiser = Quantiser(chain(), pairs(8))
    first = quantiser.graph()
    assert quantiser.graph(["conv1"]) != first
    assert quantiser.graph() == first


def test_too_few_pairs_are_one_line():
    with pytest.raises(ExportError, match=f"at least {LEAST_PAIRS} pairs to calibrate on, found 3; name a split"):
        Quantiser(chain(), pairs(3))


def test_a_graph_without_layers_is_refused():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    with pytest.raises(ExportError, match="no layer to quantise"):
        Quantiser(model.SerializeToString(), [{"x": np.zeros(1, np.float32)}] * 8)


def test_pairs_are_held_one_at_a_time():
    alive: list[weakref.ref] = []

    class Streamed(Sequence):
        def __len__(self):
            return 12

        def __getitem__(self, at):
            if at >= 12:
                raise IndexError
            assert sum(ref() is not None for ref in alive) <= 1
            pair = pairs(1, seed=at)[0]
            alive.append(weakref.ref(pair["rgb"]))
            return pair

    quantise(chain(), Streamed())
    assert len(alive) == 12


def test_what_holds_is_written_with_all_layers_in_integers(tmp_path):
    given, said = source(chain(), max_drop=12.0)
    variant = make(given, tmp_path)
    assert (variant.key, variant.files, variant.float_layers) == ("onnxruntime-int8", ("model.int8.onnx",), ())
    assert given.metric(OnnxRuntime(tmp_path / "model.int8.onnx").run) > 0.88
    assert [line for line in said if "measuring the ranges of 8 layers on 16 pairs" in line]
    assert "may lose 12 points" in said[1] and said[2].startswith("int8: 0 in float")


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_a_wide_range_that_ruins_int8_is_left_in_float(scheme):
    given, said = source(chain(wide=(4,)), max_drop=12.0)
    naive = OnnxRuntime(quantise(given.graph, given.calibration, scheme))
    assert given.metric(naive.run) < 0.75
    made = quantise_with_control(given, scheme)
    assert {"conv4"} <= {*made.float_layers} <= {"conv3", "conv4"}
    assert given.metric(OnnxRuntime(made.graph).run) >= 0.88
    assert [line for line in said if "layers are hurt most" in line]
    assert sum("in float" in line for line in said) >= 2


def test_where_nothing_helps_it_is_refused_with_the_table(tmp_path):
    given, _ = source(chain(wide=tuple(range(1, 8))))
    with pytest.raises(ExportError) as error:
        make(given, tmp_path)
    text = str(error.value)
    assert "loses more than 1 points of 1.0000 even with half of its 8 layers in float" in text and "\n" not in text
    assert all(f"{count} in float 0." in text for count in (0, 1, 2, 4)) and "--max-drop" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8, 11, 16])
def test_as_few_layers_as_hold_are_left_in_float(needed):
    layers = [f"l{at}" for at in range(33)]
    asked, said = [], []

    def quantised(chosen):
        asked.append(len(chosen))
        return bytes([len(chosen)])

    found = control(
        quantised,
        lambda: layers,
        lambda g: 0.9 if g == b"fp32" else 0.9 - 0.02 * (g[0] < needed),
        b"fp32",
        1.0,
        said.append,
    )
    assert found.float_layers == tuple(layers[:needed]) and found.graph == bytes([needed])
    assert found.metric_fp32 == found.metric_int8 == 0.9 and found.drop == 0
    assert len(found.trials) <= 10 and [t.in_float for t in found.trials] == sorted({*asked})
    assert len(said) == len(found.trials) + 1


def test_just_the_allowed_loss_is_allowed():
    found = control(lambda _: b"int8", list, lambda g: 0.9 if g == b"fp32" else 0.89, b"fp32", 1.0)
    assert found.float_layers == () and found.drop == pytest.approx(1.0)
    assert str(found.trials[0]) == "0 in float 0.8900 (-1.00 points)"


@pytest.mark.parametrize(
    ("metric", "pairs", "max_drop", "steps"),
    [
        ("accuracy", 48, 1.0, "on 48 pairs moves in steps of 2.08 points, .* at most 1 allows none; validate on 100 "),
        (
            "accuracy",
            99,
            0.3,
            "in steps of 1.01 points, .* at most 0.3 allows none; validate on 334 ",
        ),
        ("accuracy", 100, 1.0, None),
        ("accuracy", 30, 0.0, None),
        ("ap50", 3, 1.0, None),
    ],
)
def test_a_loss_finer_than_one_pair_is_said(metric, pairs, max_drop, steps):
    said = too_few_pairs(metric, pairs, max_drop)
    assert said is None if steps is None else re.search(steps, said)


def test_an_export_says_it_once_and_only_of_int8(monkeypatch, tmp_path):
    def written(engine):
        return lambda source, folder: Variant(engine=engine, precision="int8", files=("x",))

    for engine in ("onnxruntime", "tensorrt"):
        monkeypatch.setitem(MAKERS, f"{engine}-int8", written(engine))
    said = []
    forms = Forms(("onnxruntime-int8", "tensorrt-int8"), metric=Metric("accuracy", 40, len), progress=said.append)
    _variants(forms, None, tmp_path)
    assert [line.startswith("int8: warning: accuracy on 40 pairs moves in steps of 2.50") for line in said] == [
        True,
        False,
        False,
    ]
    said.clear()
    _variants(replace(forms, keys=("onnxruntime-fp32",)), None, tmp_path)
    assert not said


def test_the_trained_graphs_layers_are_ranked_and_quantised(tiny_bundle, golden_pairs, tmp_path):
    """Two branches, a blend, resizes and decoding: the whole way, with a limit that the first try does not hold."""
    graph = (tiny_bundle / "model.onnx").read_bytes()
    feeds = [
        {"rgb": rgb[None], "thermal": thermal[None], "present": np.ones((1, 2), np.float32)}
        for rgb, thermal in zip(golden_pairs["rgb"], golden_pairs["thermal"], strict=True)
    ] * 3
    tries = iter([1.0, 0.5, 0.5, 1.0])
    given = Source(
        None, graph, None, "detect", feeds, lambda run: len(run(feeds[0])) * next(tries), 1.0, lambda _: None
    )
    variant = make(given, tmp_path)
    assert len(variant.float_layers) == 2
    assert OnnxRuntime(tmp_path / variant.files[0]).run(feeds[0])["boxes"].shape == (1, 100, 6)
