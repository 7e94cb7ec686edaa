"""The clients of a bundle that do without this package, in Python and in C++, answer as a session does."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.prepare import InputSpec, Preparer
from data.rig import Rig
from data.thermal import ThermalSpec
from export.bundle import read_bundle, write_info
from export.bundle_info import BundleInfo, Inputs, ThermalInput
from export.session import Session
from export.write import export_bundle
from fusion.model import build_model

CLIENTS = Path(__file__).parent.parent / "deploy" / "clients"
CLIENT = CLIENTS / "client.py"
HIDDEN = ["data", "export", "fusion", "pipelines", "pydantic", "torch"]
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({HIDDEN}))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""Our packages cannot be imported, installed or not; nor can pydantic and torch, which the client does without."""


def run(*words):
    return subprocess.run([*map(str, words)], cwd=CLIENTS, capture_output=True, text=True, check=False)


def python(*words):
    """Run the Python client in an isolated interpreter, from a folder that is not the checkout."""
    return run(sys.executable, "-I", "-c", RUN, CLIENT, *words)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The C++ client, built as its CMakeLists.txt says; RGBT_ONNXRUNTIME names an unpacked release of ONNX Runtime."""
    if os.environ.get("RGBT_NO_CPP"):
        pytest.skip("its headers are not here")
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    build, release = tmp_path_factory.mktemp("build"), os.environ.get("RGBT_ONNXRUNTIME")
    where = [f"-DONNXRUNTIME={release}"] if release else []
    done = run("cmake", "-S", CLIENTS, "-B", build, "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *where)
    if done.returncode:
        pytest.skip(f"a library is not installed: {' '.join(done.stderr.split())[:300]}")
    done = run("cmake", "--build", build)
    assert done.returncode == 0, done.stdout + done.stderr
    return build / "rgbt_client"


@pytest.fixture(params=["python", "cpp"])
def client(request):
    """Asks a client about a bundle and two pictures; either may be None."""
    if request.param == "python":

        def ask(bundle, rgb, thermal):
            named = {"--rgb": rgb, "--thermal": thermal}
            return python(bundle, *(word for item in named.items() if item[1] for word in item))

        return ask
    program = request.getfixturevalue("program")
    return lambda bundle, rgb, thermal: run(program, bundle, rgb or "-", thermal or "-")


def pair(spec, size, thermal_size):
    """Noise: uint8 H×W×3 and H×W in the unit, a part of it holes or, where holes are not marked, 0."""
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 256, (*size, 3), np.uint8)
    thermal = noise.integers(0, 40, thermal_size).astype(spec.dtype)
    thermal[3:19, 4:31] = np.nan if spec.unit == "celsius" else 0
    return rgb, thermal


@torch.no_grad()
def enliven(model, task, rgb, thermal):
    """Let thermal count, and the answer differ from place to place: an untrained model says the same everywhere."""
    for parameter in model.blend.parameters():
        parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    if task == "classify":
        return
    last, seen = (model.head.heat if task == "detect" else model.head.score)[-1], []
    last.weight.mul_(600)
    with last.register_forward_hook(lambda module, given, scores: seen.append(scores)):
        model(torch.from_numpy(rgb)[None], torch.from_numpy(thermal.astype(np.float32))[None], torch.ones(1, 2))
    last.bias.sub_(seen[0].mean((0, 2, 3)) + (task == "detect"))  # there a few have 0.3, which is what a client tells


@pytest.fixture(
    scope="module",
    params=[("detect", "intensity8", True), ("segment", "counts16", False), ("classify", "celsius", True)],
    ids=lambda case: case[0],
)
def exported(request, tiny_model, tmp_path_factory):
    """A bundle of each task and unit, two of which fit frames onto a canvas."""
    task, unit, letterbox = request.param
    size, thermal_size = (48, 64), (48, 64) if letterbox else (30, 40)
    spec = ThermalSpec(unit=unit, marked=unit == "intensity8")
    inputs = InputSpec(rgb_size=size, thermal_size=thermal_size, letterbox=letterbox, thermal=spec)
    head = tiny_model.config.head.model_copy(update={"kind": task, "width": 16})
    update = {"head": head, "inputs": inputs.model_dump(mode="json")}
    model, _ = build_model(tiny_model.config.model_copy(update=update), 0)
    rgb, thermal = pair(spec, size, thermal_size)
    whole = np.nan_to_num(thermal, nan=spec.invalid)
    enliven(model.eval(), task, rgb, whole)
    golden = {"rgb": rgb[None], "thermal": whole[None]}
    config, out = model.config, tmp_path_factory.mktemp(task) / "bundle"
    export_bundle(model, config.inputs, config.classes, config.sensors, golden, {}, "a" * 64, out, task)
    return out


@pytest.fixture(scope="module")
def module():
    """The client as a module."""
    spec = importlib.util.spec_from_file_location("rgbt_client", CLIENT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_client_needs_numpy_onnxruntime_and_opencv_alone():
    names = {node.names[0].name for node in ast.walk(ast.parse(CLIENT.read_text())) if isinstance(node, ast.Import)}
    brought = {name for name in names if name not in sys.stdlib_module_names}
    assert brought == {"numpy", "onnxruntime", "cv2"}
    assert "pickle" not in names and "allow_pickle=False" in CLIENT.read_text()


def test_the_client_replays_the_golden_pairs(exported):
    done = python(exported, "--verify")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["holds"] and max(said["worst"].values()) < 1e-3


def test_clients_answer_pictures_as_a_session_does(exported, client, tmp_path):
    bundle = read_bundle(exported)
    inputs = InputSpec.model_validate_json(bundle.info.inputs.model_dump_json())
    sizes = ((37, 70), (25, 47)) if inputs.letterbox else (inputs.rgb_size, inputs.thermal_size)
    rgb, thermal = pair(inputs.thermal, *sizes)
    files = (tmp_path / "rgb.png", tmp_path / ("thermal.tiff" if thermal.dtype == np.float32 else "thermal.png"))
    cv2.imwrite(str(files[0]), rgb[:, :, ::-1])
    cv2.imwrite(str(files[1]), thermal)
    with closing(Session(bundle)) as session:
        for there in ((1, 1), (1, 0), (0, 1)):
            done = client(exported, *(file if held else None for file, held in zip(files, there, strict=True)))
            assert done.returncode == 0, done.stderr
            pictures = (picture if held else None for picture, held in zip((rgb, thermal), there, strict=True))
            wanted = Preparer(inputs, Rig())(*pictures)
            answer = session.run(wanted.rgb[None], wanted.thermal[None], wanted.present[None])
            compare(json.loads(done.stdout), answer, wanted, bundle.info.classes)


def compare(told, answer, wanted, classes):
    """What a client told is what the session answered to that pair."""
    if "boxes" in answer:
        boxes = [row for row in answer["boxes"][0].tolist() if row[4] >= 0.3]
        assert boxes and [box["class"] for box in told] == [classes[int(row[5])] for row in boxes]
        sides = np.array([row[:4] for row in boxes]) / wanted.scale
        np.testing.assert_allclose([box["box"] for box in told], sides, atol=0.1)
        np.testing.assert_allclose([box["score"] for box in told], [row[4] for row in boxes], atol=1e-3)
    elif "class_map" in answer:
        height, width = wanted.content
        shown = answer["class_map"][0, :height, :width]
        shares = np.bincount(shown.reshape(-1), minlength=3) / shown.size
        assert shares.max() < 0.9
        np.testing.assert_allclose([told[name] for name in ("background", *classes)], shares, atol=1e-3)
    else:
        np.testing.assert_allclose([told[name] for name in classes], answer["probabilities"][0], atol=1e-4)


@pytest.mark.parametrize("unit", ["intensity8", "counts16", "celsius"])
@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_the_client_prepares_frames_as_we_do(module, unit, letterbox, marked):
    inputs = InputSpec(
        rgb_size=(48, 64), thermal_size=(48, 64), letterbox=letterbox, thermal=ThermalSpec(unit=unit, marked=marked)
    )
    size = (37, 70) if letterbox else (48, 64)
    rgb, thermal = pair(inputs.thermal, size, size)
    info = {"inputs": json.loads(inputs.model_dump_json()), "sensors": ["rgb", "thermal"]}
    for given in ((rgb, thermal), (rgb, None), (None, thermal)):
        wanted = Preparer(inputs, Rig())(*given)
        feeds, scale = module.prepare(*given, info)
        assert scale == wanted.scale and feeds["present"].tolist() == [wanted.present.tolist()]
        for name in ("rgb", "thermal"):
            assert feeds[name].dtype == getattr(wanted, name).dtype
            assert np.array_equal(feeds[name][0], getattr(wanted, name)), name


def see_thermal_alone(bundle):
    fields = json.loads((bundle / "bundle.json").read_text()) | {"sensors": ["thermal"]}
    del fields["files"]
    write_info(bundle, fields)


def flip_a_bit(bundle):
    content = bytearray((bundle / "golden.npz").read_bytes())
    content[-1] ^= 1
    (bundle / "golden.npz").write_bytes(content)


BROKEN = {
    "golden.npz: was changed after export": flip_a_bit,
    "golden.npz: not a file that can be read": lambda bundle: (bundle / "golden.npz").unlink(),
    "bundle.json: not a file that can be read": shutil.rmtree,
    "newer than this client": lambda bundle: (bundle / "bundle.json").write_text('{"schema_version": 3, "files": {}}'),
    "the model looks at thermal alone": see_thermal_alone,
    "bundle.json: ": lambda bundle: (bundle / "bundle.json").write_text("{"),
    "bundle.json:  ": lambda bundle: (bundle / "bundle.json").write_text('{"schema_version": 2}'),
}


@pytest.mark.parametrize("says", BROKEN)
def test_clients_refuse_a_broken_bundle(tiny_bundle, client, tmp_path, says):
    bundle, picture = shutil.copytree(tiny_bundle, tmp_path / "bundle"), tmp_path / "rgb.png"
    cv2.imwrite(str(picture), np.zeros((48, 64, 3), np.uint8))
    BROKEN[says](bundle)
    done = client(bundle, picture, None)
    assert done.returncode == 1 and says.strip() in done.stderr and done.stderr.count("\n") == 1


def test_the_client_refuses_a_precision_that_the_bundle_lacks(tiny_bundle):
    done = python(tiny_bundle, "--verify", "--precision", "int8")
    assert done.returncode == 1 and "holds no onnxruntime-int8" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "is_rgb", "says"),
    [
        (None, True, "picture.png: not a file that can be read"),
        (b"", True, "picture.png: not a picture that can be read"),
        (b"no picture", False, "picture.png: not a picture that can be read"),
        (np.zeros((50, 70, 3), np.uint8), True, "rgb is 70×50, expected 64×48"),
        (np.zeros((50, 70), np.uint16), False, "thermal is 70×50, expected 40×30"),
        (np.zeros((30, 40), np.uint8), False, "thermal is "),
    ],
)
def test_clients_refuse_a_picture(tiny_bundle, client, tmp_path, content, is_rgb, says):
    path = tmp_path / "picture.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        cv2.imwrite(str(path), content)
    done = client(tiny_bundle, path if is_rgb else None, None if is_rgb else path)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_the_program_says_what_it_takes(program, tiny_bundle):
    for words, says in (([], "usage: rgbt_client BUNDLE"), ([tiny_bundle, "-", "-"], "at least one sensor")):
        done = run(program, *words)
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_the_client_in_cpp_reads_the_same_fields_and_is_built_of_what_the_readme_says():
    text = (CLIENTS / "client.cpp").read_text()
    fields = set(re.findall(r'\.at\("(\w+)"\)', text))
    known = {*BundleInfo.model_fields, *Inputs.model_fields, *ThermalInput.model_fields}
    assert fields <= known and {"schema_version", "files", "inputs", "letterbox", "invalid", "marked"} <= fields
    cmake = (CLIENTS / "CMakeLists.txt").read_text()
    for package in ("OpenCV", "OpenSSL", "nlohmann_json"):
        assert f"find_package({package}" in cmake
