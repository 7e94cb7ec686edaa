"""fp16 inside; raw counts and pixels never pass through it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bundle_info import Inputs
from export.engines.onnx_runtime import OnnxRuntime
from export.graph import export_graph
from export.regions import name_nodes, regions
from export.variants.fp16 import to_fp16
from fusion.model import ModelConfig, RgbEncoder, ThermalEncoder, build_model

TASKS = ("detect", "segment", "classify")


def exported(task, unit="counts16"):
    inputs = InputSpec(rgb_size=(48, 64), thermal_size=(48, 64), thermal=ThermalSpec(unit=unit)).model_dump(mode="json")
    config = ModelConfig(
        size=(64, 64),
        rgb=RgbEncoder(arch="test_resnet", weights=None),
        thermal=ThermalEncoder(arch="test_resnet"),
        classes=("a", "b"),
        inputs=inputs,
        head={"kind": task, "width": 16},
    )
    return export_graph(build_model(config, 0)[0].eval(), Inputs.model_validate(inputs))


@pytest.fixture(scope="module")
def graphs():
    return {task: exported(task) for task in TASKS}


def feeds(level=40_000):
    noise = np.random.default_rng(0)
    return {
        "rgb": noise.integers(0, 255, (1, 48, 64, 3), np.uint8),
        "thermal": noise.integers(level, level + 200, (1, 48, 64)).astype(np.uint16),
        "present": np.ones((1, 2), np.float32),
    }


def ends(model):
    return {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}


@pytest.mark.parametrize("task", TASKS)
def test_inputs_and_answers_keep_their_types_and_layers_are_half_as_large(graphs, task):
    before, after = onnx.load_from_string(graphs[task]), onnx.load_from_string(to_fp16(graphs[task]))
    assert ends(before) == ends(after)
    weights = {tensor.name: tensor for tensor in after.graph.initializer}
    layers = [node for node in after.graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers and all(weights[node.input[1]].data_type == TensorProto.FLOAT16 for node in layers)


@pytest.mark.parametrize("level", [40_000, 65_000])
@pytest.mark.parametrize("task", TASKS)
def test_raw_counts_above_what_fp16_resolves_answer_as_in_fp32(graphs, task, level):
    wanted, found = (OnnxRuntime(graph).run(feeds(level)) for graph in (graphs[task], to_fp16(graphs[task])))
    for name in wanted.keys() - {"class_map", "boxes"}:
        np.testing.assert_allclose(found[name], wanted[name], atol=5e-3)
    if task == "segment":
        assert (found["class_map"] == wanted["class_map"]).mean() > 0.98
    if task == "detect":
        np.testing.assert_allclose(found["boxes"][..., 4], wanted["boxes"][..., 4], atol=2e-3)


def test_nothing_of_preparation_and_decoding_is_ever_half(graphs):
    """What fp16 steps would show: thermal of 40 000 counts moves in 32s, and pixels above 512 in halves."""
    before = onnx.load_from_string(graphs["detect"])
    name_nodes(before)
    ends = {name for name, region in regions(before).items() if region != "body"}
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(to_fp16(graphs["detect"])))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kept = [node for node in model.graph.node if node.name in ends]
    assert len(kept) == len(ends)
    for node in kept:
        halves = [tensor for tensor in (*node.input, *node.output) if types.get(tensor) == TensorProto.FLOAT16]
        assert not halves, f"{node.op_type} reads or writes {halves}"
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    for node in casts.values():
        before = casts.get(node.input[0])
        assert before is None or before.attribute[0].i != TensorProto.FLOAT16, f"{node.name} is a round trip"


def test_celsius_reaches_its_scaling_in_full(graphs):
    graph = exported("segment", "celsius")
    pair = feeds() | {"thermal": (21 + np.random.default_rng(1).random((1, 48, 64)) / 100).astype(np.float32)}
    wanted, found = (OnnxRuntime(g).run(pair) for g in (graph, to_fp16(graph)))
    assert (found["class_map"] == wanted["class_map"]).mean() > 0.98


def test_notes_in_the_file_survive(graphs):
    model = onnx.load_from_string(graphs["classify"])
    model.metadata_props.add(key="task", value="classify")
    notes = onnx.load_from_string(to_fp16(model.SerializeToString())).metadata_props
    assert {n.key: n.value for n in notes}["task"] == "classify"
