"""Each engine that is installed answers its tiny network right; the others say what to install."""

import importlib.util
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipelines import engine_check
from pipelines.cli import main
from pipelines.engine_check import TRIALS, engines_run


def findings():
    return {finding.name: finding for finding in engines_run()}


def test_every_engine_is_tried_or_is_not_installed(capfd):
    found = findings()
    for engine, trial in TRIALS.items():
        if importlib.util.find_spec(trial.package) is None:
            assert found[engine].advice == f"pip install 'rgbt-fusion[{engine}]', for bundles with files for it"
        else:
            assert [name for name in found if name.startswith(f"{engine} ")] == [
                f"{engine} {p}" for p in trial.providers
            ]
    for name, finding in found.items():
        if name.endswith(" cpu"):
            assert (finding.level, finding.found) == ("ok", "runs"), name
        assert finding.level == "ok" or finding.advice, name
    assert capfd.readouterr().out == ""


def test_every_engine_of_a_session_has_a_trial():
    from export.session import ENGINES

    assert set(TRIALS) == set(ENGINES)


def test_the_tiny_networks_are_no_place_in_a_message(monkeypatch):
    monkeypatch.setitem(TRIALS, "openvino", engine_check.Trial("openvino", ("cpu",), {"tiny.onnx": b"no graph"}))
    pytest.importorskip("openvino", reason="openvino is not installed")
    finding = findings()["openvino cpu"]
    assert finding.level == "note" and finding.found.startswith("a tiny network: OpenVINO cannot read it")


def test_an_engine_that_answers_wrong(monkeypatch):
    trial = TRIALS["ncnn"]
    pytest.importorskip("ncnn", reason="ncnn is not installed")
    weights = trial.files["tiny.bin"].replace(np.float32(1).tobytes(), np.float32(2).tobytes())
    monkeypatch.setitem(TRIALS, "ncnn", engine_check.Trial("ncnn", ("cpu",), {**trial.files, "tiny.bin": weights}))
    finding = findings()["ncnn cpu"]
    assert (finding.level, finding.found) == ("note", "runs, but answers wrong") and "reinstall ncnn" in finding.advice


def test_a_package_that_is_not_there_is_one_line(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ncnn" else real(name, *more))
    assert main(["doctor", "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found["ncnn"]["found"] == "not installed" and "ncnn cpu" not in found


def test_tiny_model_is_what_it_says():
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert onnx.load_from_string(engine_check.TINY_MODEL) == model


def test_tiny_network_of_litert_is_what_it_says():
    """y = relu(conv(x)), channels last, with a signature that names both."""
    flatbuffers = pytest.importorskip("flatbuffers", reason="ai-edge-litert is not installed")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")

    def filled(kind, **fields):
        made = kind()
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def tensor(name, shape, buffer):
        return filled(schema.TensorT, name=name, shape=shape, type=schema.TensorType.FLOAT32, buffer=buffer)

    def buffer(*values):
        return filled(
            schema.BufferT, data=np.frombuffer(np.array(values, "<f4").tobytes(), np.uint8) if values else None
        )

    options = filled(
        schema.Conv2DOptionsT, padding=schema.Padding.VALID, strideH=1, strideW=1,
        fusedActivationFunction=schema.ActivationFunctionType.RELU,
    )  # fmt: skip
    conv = filled(
        schema.OperatorT, opcodeIndex=0, inputs=[0, 1, 2], outputs=[3], builtinOptions=options,
        builtinOptionsType=schema.BuiltinOptions.Conv2DOptions,
    )  # fmt: skip
    kind = schema.BuiltinOperator.CONV_2D
    tensors = [tensor("x", [1, 4, 4, 1], 0), tensor("w", [1, 3, 3, 1], 1), tensor("b", [1], 2)]
    graph = filled(
        schema.SubGraphT, tensors=[*tensors, tensor("y", [1, 2, 2, 1], 0)], inputs=[0], outputs=[3], operators=[conv]
    )
    named = {name: [filled(schema.TensorMapT, name=name, tensorIndex=index)] for name, index in (("x", 0), ("y", 3))}
    signature = filled(
        schema.SignatureDefT, inputs=named["x"], outputs=named["y"], signatureKey="serving_default", subgraphIndex=0
    )
    code = filled(schema.OperatorCodeT, builtinCode=kind, deprecatedBuiltinCode=kind, version=1)
    model = filled(
        schema.ModelT, version=3, operatorCodes=[code], subgraphs=[graph], signatureDefs=[signature],
        buffers=[buffer(), buffer(*[1.0] * 9), buffer(0.0)],
    )  # fmt: skip
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    assert bytes(builder.Output()) == engine_check.TINY_LITERT


def tiny(graph):
    return engine_check.Trial("onnxruntime", ("cpu",), {"tiny.onnx": graph})


def test_a_runtime_that_loads_and_does_not_run(monkeypatch, capsys):
    """Such as a GPU for which onnxruntime has no code; here a graph that reads beside its input."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["y"])],
        "beside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [numpy_helper.from_array(np.array([9]), "i")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    monkeypatch.setitem(TRIALS, "onnxruntime", tiny(model.SerializeToString()))
    assert main(["doctor"]) == 1
    said = capsys.readouterr()
    line = next(line for line in said.out.splitlines() if "onnxruntime cpu" in line)
    assert line.startswith("problem  onnxruntime cpu")
    assert "out of data bounds" in line and "→ free some memory, or repair" in line
    assert said.err == ""


def test_a_graph_that_does_not_load(monkeypatch):
    monkeypatch.setitem(TRIALS, "onnxruntime", tiny(b"no graph"))
    finding = findings()["onnxruntime cpu"]
    assert "cannot load it" in finding.found and finding.advice.startswith("install a newer onnxruntime")
