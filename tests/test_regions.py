from collections import Counter

import onnx
import pytest
from onnx import helper

from export.regions import name_nodes, regions, tail_layers


def graph(*nodes):
    """Nodes as 'name: Op(inputs)→output' would say; no weights needed, only names."""
    made = [helper.make_node(op, inputs.split(), outputs.split(), name=name) for name, op, inputs, outputs in nodes]
    return helper.make_model(helper.make_graph(made, "g", [], []))


@pytest.fixture
def two_branches():
    return graph(
        ("cast", "Cast", "rgb", "a"),
        ("scale", "Sub", "a mean", "b"),
        ("there", "Greater", "present half", "p"),
        ("first", "Conv", "b w", "c"),
        ("relu", "Relu", "c", "d"),
        ("cut", "Where", "p d zero", "e"),
        ("logits", "Conv", "e v", "f"),
        ("sides", "Conv", "e u", "g"),
        ("sigmoid", "Sigmoid", "f", "h"),
        ("answer", "Concat", "h g", "boxes"),
    )


def test_preparation_ends_at_the_first_layer_and_decoding_begins_after_the_last(two_branches):
    where = regions(two_branches)
    assert where == {
        "cast": "pre", "scale": "pre", "there": "pre",
        "first": "body", "relu": "body", "cut": "body", "logits": "body", "sides": "body",
        "sigmoid": "post", "answer": "post",
    }  # fmt: skip


def test_the_tail_is_the_layers_that_only_decoding_reads(two_branches):
    assert tail_layers(two_branches) == ["logits", "sides"]


def test_what_no_layer_touches_is_preparation():
    assert regions(graph(("a", "Shape", "rgb", "s"), ("b", "Relu", "rgb", "t"))) == {"a": "pre", "b": "pre"}


def test_nodes_without_a_name_and_with_anothers_get_their_own():
    model = graph(("", "Relu", "x", "y"), ("n", "Relu", "y", "z"), ("n", "Conv", "z w", "answer"))
    name_nodes(model)
    assert [node.name for node in model.graph.node] == ["Relu_y", "n", "Conv_answer"]
    assert list(regions(model).values()) == ["pre", "pre", "body"]


def test_thermal_scaling_and_peaks_of_the_real_graph_lie_outside_its_body(tiny_bundle):
    model = onnx.load(tiny_bundle / "model.onnx")
    name_nodes(model)
    where = regions(model)
    found = {
        region: Counter(n.op_type for n in model.graph.node if where[n.name] == region)
        for region in ("pre", "body", "post")
    }
    assert found["pre"]["ReduceMin"] and found["pre"]["AveragePool"] and not found["pre"]["Conv"]
    assert found["post"]["TopK"] and found["post"]["MaxPool"] and not found["post"]["Conv"]
    assert found["body"]["Conv"] > 20 and not found["body"]["TopK"] and not found["body"]["ReduceMin"]
    assert len(tail_layers(model)) == 2  # heat and box
