"""A session answers what PyTorch answers, or says in one line why it cannot."""

import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from export.bundle import read_bundle
from export.engines.error_lines import first_line, last_line, status_message
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.session import ENGINES, Session

BOTH = np.ones((1, 2), np.float32)


@pytest.fixture(scope="module")
def session(tiny_bundle):
    session = Session(read_bundle(tiny_bundle), threads=1)
    session.warm_up()
    yield session
    session.close()


@pytest.fixture
def pair(golden_pairs):
    return golden_pairs["rgb"][:1].copy(), golden_pairs["thermal"][:1].copy()


def refusal(call):
    with pytest.raises(ExportError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_answer_is_described_by_the_bundle(session, golden_pairs):
    answer = session.run(golden_pairs["rgb"], golden_pairs["thermal"], np.ones((3, 2), np.float32))
    assert list(answer) == ["boxes"]
    assert answer["boxes"].shape == (3, 100, 6)
    assert answer["boxes"].dtype == np.float32


@pytest.mark.parametrize(("sensor", "present"), [("rgb", (0, 1)), ("thermal", (1, 0))])
def test_buffer_of_an_absent_sensor_does_not_matter(session, pair, sensor, present):
    rgb, thermal = pair
    there = np.array([present], np.float32)
    garbage = {"rgb": rgb, "thermal": thermal}
    zeros = {name: np.zeros_like(image) if name == sensor else image for name, image in garbage.items()}
    kept = garbage[sensor].copy()
    answer = session.run(**garbage, present=there)["boxes"]
    assert np.array_equal(answer, session.run(**zeros, present=there)["boxes"])
    assert not np.array_equal(answer, session.run(**garbage, present=BOTH)["boxes"])
    assert np.array_equal(garbage[sensor], kept), "the caller's array was overwritten"


def test_absent_sensor_inside_a_batch(session, golden_pairs):
    rgb, thermal = golden_pairs["rgb"], golden_pairs["thermal"]
    present = np.array([[1, 1], [1, 0], [0, 1]], np.float32)
    whole = session.run(rgb, thermal, present)["boxes"]
    for row in range(3):
        alone = session.run(rgb[row : row + 1], thermal[row : row + 1], present[row : row + 1])["boxes"]
        np.testing.assert_allclose(whole[row, :, 4], alone[0, :, 4], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rgb": np.zeros((1, 48, 65, 3), np.uint8)}, "rgb is uint8 [1, 48, 65, 3], expected uint8 [1, 48, 64, 3]"),
        ({"rgb": np.zeros((1, 48, 64, 3), np.float32)}, "rgb is float32"),
        ({"thermal": np.zeros((1, 30, 40), np.uint8)}, "thermal is uint8 [1, 30, 40], expected uint16"),
        ({"thermal": np.zeros((2, 30, 40), np.uint16)}, "thermal is uint16 [2, 30, 40]"),
        ({"present": np.ones((1, 2))}, "present is float64"),
        ({"present": np.full((1, 2), 0.5, np.float32)}, "expected only 0 and 1"),
        ({"present": np.array([[1, np.nan]], np.float32)}, "expected only 0 and 1"),
        ({"present": np.zeros((1, 2), np.float32)}, "neither RGB nor thermal"),
    ],
)
def test_wrong_input(session, pair, change, text):
    feeds = {"rgb": pair[0], "thermal": pair[1], "present": BOTH} | change
    assert text in refusal(lambda: session.run(**feeds))


def test_names_are_checked_and_read_back(tiny_bundle, session):
    bundle = read_bundle(tiny_bundle)
    assert session.target == "onnxruntime-cpu"
    assert all(name in refusal(lambda: Session(bundle, engine="abacus")) for name in ENGINES)
    assert "cpu, cuda, tensorrt" in refusal(lambda: Session(bundle, provider="abacus"))
    assert "at least 1" in refusal(lambda: Session(bundle, threads=0))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_runs_or_is_an_error(tiny_bundle, capfd, provider):
    """No fall-back to the CPU, and nothing but our one line on the terminal."""
    try:
        session = Session(read_bundle(tiny_bundle), provider=provider)
    except ExportError as error:
        assert f"provider '{provider}'" in str(error)
        assert "--provider cpu" in str(error)
        assert "\n" not in str(error)
    else:
        assert session.provider == provider
    assert capfd.readouterr() == ("", "")


def test_engine_leaves_the_cores_alone_while_it_waits(session):
    options = session._runtime._session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


@pytest.fixture
def other_model(tiny_bundle, tmp_path, monkeypatch):
    """A bundle whose hashes hold, around another graph."""
    import json

    from export.bundle import write_info

    def build(content):
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        (bundle / "model.onnx").write_bytes(content)
        fields = json.loads((bundle / "bundle.json").read_text())
        fields.pop("files")
        write_info(bundle, fields)
        return read_bundle(bundle)

    return build


def test_truncated_graph(tiny_bundle, other_model, capfd):
    content = (tiny_bundle / "model.onnx").read_bytes()
    bundle = other_model(content[: len(content) // 2])
    assert "cannot load it" in refusal(lambda: Session(bundle))
    assert capfd.readouterr() == ("", "")


def test_empty_graph(other_model):
    assert "cannot load it" in refusal(lambda: Session(other_model(b"")))


def test_graph_that_the_description_does_not_fit(other_model):
    from pipelines.engine_check import TINY_MODEL

    assert "but bundle.json says" in refusal(lambda: Session(other_model(TINY_MODEL)))


def graph(node, inputs, outputs):
    """Bytes of a model of one node; inputs and outputs are name → (dtype, shape)."""
    from onnx import TensorProto, helper

    def values(named):
        return [helper.make_tensor_value_info(n, getattr(TensorProto, dtype), s) for n, (dtype, s) in named.items()]

    one = helper.make_node(node, list(inputs), list(outputs))
    made = helper.make_graph([one], "g", values(inputs), values(outputs))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("node", "inputs", "feeds", "says"),
    [
        ("ConstantOfShape", {"s": ("INT64", [1])}, {"s": np.array([1 << 50])}, "buffer of size 4503599627370496)"),
        ("Relu", {"x": ("FLOAT", ["n"])}, {"x": np.zeros((2, 2), np.float32)}, "Invalid rank for input: x"),
        ("Gather", {"x": ("FLOAT", ["n"]), "i": ("INT64", ["m"])},
         {"x": np.zeros(3, np.float32), "i": np.array([9])}, "(indices element out of data bounds"),
        ("Relu", {"x": ("FLOAT", ["n"])}, {}, "missing from input feed"),
    ],
)  # fmt: skip
def test_a_run_that_fails_is_one_line(capfd, node, inputs, feeds, says):
    engine = OnnxRuntime(graph(node, inputs, {"y": ("FLOAT", ["k"])}))
    line = refusal(lambda: engine.run(feeds))
    assert line.startswith("ONNX Runtime fails on provider 'cpu' (")
    assert says in line and "; free some memory" in line
    assert capfd.readouterr() == ("", "")


def test_the_reason_of_a_gpu_s_failure_is_what_the_driver_said():
    error = RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'c' Status "
        f"Message: CUDA error {'x' * 300} no kernel image is available for execution on the device ; GPU=0 ; hostname=h"
    )
    reason = status_message(error)
    assert reason.startswith("…") and reason.endswith("no kernel image is available for execution on the device")


@pytest.mark.parametrize("line", [first_line, status_message, last_line])
def test_the_reason_of_a_failure_is_one_line_of_bounded_length(line):
    assert line(RuntimeError()) == line(RuntimeError(" \n ")) == "RuntimeError"
    assert line(RuntimeError("\n one \n")) == "one"
    assert "\n" not in line(ValueError("one\ntwo")) and len(line(ValueError("x" * 999))) <= 201


def test_each_library_says_its_reason_at_another_place():
    error = RuntimeError(
        "Exception from a.cpp:3:\nCheck 'ok' failed at b.cpp:4:\nno memory left\nException from c.cpp:5"
    )
    assert first_line(error) == "Exception from a.cpp:3:" and last_line(error) == "no memory left"


def test_closed_session_lets_go_of_the_graph(tiny_bundle):
    session = Session(read_bundle(tiny_bundle))
    assert isinstance(session._runtime._session, onnxruntime.InferenceSession)
    session.close()
    assert session._runtime._session is None


def test_no_engine_reports_home(tiny_bundle, tmp_path):
    """Official builds of ONNX Runtime write a device id to the home folder and report, unless they are told not to."""
    program = "import sys; from pathlib import Path; from export.bundle import read_bundle; "
    program += "from export.session import Session; Session(read_bundle(Path(sys.argv[1])), threads=1).close()"
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tiny_bundle)], env=plain, check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
