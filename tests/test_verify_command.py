"""``rgbt verify`` of a bundle of which something is missing, wrong, or for another machine."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.bundle import write_info
from export.bundle_info import MODEL, Variant
from export.errors import ExportError
from export.session import Session
from pipelines.cli import main

TENSORRT = ("tensorrt/fp32.onnx", "tensorrt/fp32.json")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """Makes a bundle whose hashes hold, with these files and variants beside its own."""
    path = shutil.copytree(tiny_bundle, tmp_path / "bundle")

    def build(files, *variants):
        for name, content in files.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(content)
        fields = json.loads((path / "bundle.json").read_text())
        fields.pop("files")
        write_info(path, {**fields, "variants": fields["variants"] | {v.key: v.model_dump() for v in variants}})
        return path

    return build


def broken(graph):
    """A network whose weights are NaN: it finds no box anywhere."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4 and values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    return model.SerializeToString()


def test_an_engine_that_finds_nothing_does_not_agree_with_an_unsure_model(bundle, tiny_bundle, capfd):
    half = Variant(engine="onnxruntime", precision="fp16", files=("nan.onnx",))
    path = bundle({"nan.onnx": broken((tiny_bundle / MODEL).read_bytes())}, half)
    assert main(["verify", str(path), "--json"]) == 1
    said = capfd.readouterr()
    rows = {row["precision"]: row for row in json.loads(said.out)["rows"]}
    assert rows["fp32"]["holds"] and not rows["fp16"]["holds"] and rows["fp16"]["ran"]
    assert said.err.count("\n") == 1 and "onnxruntime-cpu fp16: answers otherwise" in said.err


def test_one_engine_that_fails_does_not_hide_the_others(bundle, tiny_bundle, monkeypatch, capfd):
    half = Variant(engine="onnxruntime", precision="fp16", files=("half.onnx",))
    path = bundle({"half.onnx": (tiny_bundle / MODEL).read_bytes()}, half)
    run = Session.run

    def fails_in_half(session, *feeds):
        if session.precision == "fp16":
            raise ExportError("no memory left")
        return run(session, *feeds)

    monkeypatch.setattr(Session, "run", fails_in_half)
    assert main(["verify", str(path)]) == 1
    said = capfd.readouterr()
    assert "onnxruntime-cpu fp32: 5 golden pairs" in said.out
    assert said.err.count("\n") == 1 and said.err.endswith("onnxruntime-cpu fp16: no memory left\n")


def test_tensorrt_is_asked_on_the_gpu_unless_another_is_named(bundle, capfd):
    path = bundle(dict.fromkeys(TENSORRT, b"{}"), Variant(engine="tensorrt", precision="fp32", files=TENSORRT))
    assert main(["verify", str(path), "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert [row["target"] for row in rows] == ["onnxruntime-cpu", "tensorrt-cuda"]
    assert rows[0]["holds"] and not rows[1]["ran"]


def test_where_nothing_runs_that_is_the_error(tiny_bundle, capfd):
    assert main(["verify", str(tiny_bundle), "--provider", "npu"]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "nothing of it runs here: unknown provider 'npu'" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "abacus"], "no such engine; one of onnxruntime, openvino"),
        (["--engine", "ncnn", "--precision", "int8"], "ncnn takes fp32, fp16"),
        (["--precision", "bf16"], "onnxruntime takes fp32, fp16, int8"),
        (["--engine", "openvino", "--precision", "int8"], "--target openvino --precision int8 writes one"),
    ],
)
def test_what_the_bundle_lacks_is_advised_only_where_it_can_be_written(tiny_bundle, capfd, words, says):
    assert main(["verify", str(tiny_bundle), *words]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_a_reduced_precision_tells_its_agreement_alone(bundle, tiny_bundle, capfd):
    half = Variant(engine="onnxruntime", precision="fp16", files=("half.onnx",))
    path = bundle({"half.onnx": (tiny_bundle / MODEL).read_bytes()}, half)
    assert main(["verify", str(path)]) == 0
    lines = {line.split(":")[0]: line for line in capfd.readouterr().out.splitlines()}
    assert "px" in lines["onnxruntime-cpu fp32"] and "px" not in lines["onnxruntime-cpu fp16"]
    assert "100.0% of the answers agree (limit 90.0%)" in lines["onnxruntime-cpu fp16"]


def test_a_description_nested_without_end_is_one_line(tiny_bundle, tmp_path, capfd):
    path = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (path / "bundle.json").write_text("[" * 200_000)
    assert main(["verify", str(path)]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "bundle.json: cannot be read" in error
