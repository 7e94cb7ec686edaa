"""The deployment files name what is really there; no container engine is needed to see that."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from data.prepare import InputSpec, Preparer
from data.rig import Rig
from data.thermal import ThermalSpec
from export.bundle import read_bundle
from export.bundle_info import BundleInfo, Inputs, ThermalInput
from export.session import Session
from export.write import export_bundle
from fusion.model import build_model
from pipelines.cli import _parser

HOME = Path(__file__).parent.parent
DEPLOY = HOME / "deploy"
CLIENT = DEPLOY / "clients" / "client.py"


def accepted(words):
    return callable(_parser(words).parse_args(words).run)


@pytest.mark.parametrize("name", ["edge.Dockerfile", "train.Dockerfile"])
def test_images_copy_what_the_wheel_needs(name):
    lines = (DEPLOY / name).read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "README.md", "LICENSE", "data", "export", "fusion", "pipelines"}
    assert all((HOME / source).exists() for source in copied)
    ignored = (HOME / ".dockerignore").read_text().split()
    assert not copied & set(ignored)


def test_only_the_training_image_brings_torch():
    assert "[train]" in (DEPLOY / "train.Dockerfile").read_text()
    assert "train" not in (DEPLOY / "edge.Dockerfile").read_text()


def test_compose_runs_a_command_that_exists():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["live"]
    assert accepted(service["command"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    mounted = {re.search(r":(/\w+)(:ro)?$", volume)[1] for volume in service["volumes"]}
    for word in service["command"]:
        path = word.rpartition("=")[2]
        assert not path.startswith("/") or f"/{Path(path).parts[1]}" in mounted


def test_commands_of_the_readme_are_accepted():
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines = [line for line in lines if "docker build" not in line]
    called = re.compile(r"(?:bin/rgbt|rgbt-fusion:(?:edge-cuda|edge|train)) (.+)")
    found = [match[1] for line in lines if (match := called.search(line))]
    assert len(found) >= 5
    for command in found:
        assert accepted(shlex.split(command, comments=True)), command


def test_readme_explains_every_field_of_a_bundle():
    text = (DEPLOY / "README.md").read_text()
    for field in BundleInfo.model_fields:
        assert f"`{field}`" in text


TASKS = ("detect", "segment", "classify")
HIDDEN = ["data", "export", "fusion", "pipelines", "pydantic", "torch"]
RUN = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({HIDDEN}))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""Our packages cannot be imported, installed or not; nor can pydantic and torch, which the client does without."""


@pytest.fixture(scope="module", params=TASKS)
def exported(request, tiny_model, tiny_bundle, golden_pairs, tmp_path_factory):
    """A bundle of each task."""
    if request.param == "detect":
        return tiny_bundle
    config = tiny_model.config
    head = config.head.model_copy(update={"kind": request.param, "width": 16})
    model, _ = build_model(config.model_copy(update={"head": head}), 0)
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    inputs, sensors = config.inputs, config.sensors
    export_bundle(model.eval(), inputs, config.classes, sensors, golden_pairs, {}, "a" * 64, out, request.param)
    return out


def client(*words):
    """Run the Python client in an isolated interpreter, from a folder that is not the checkout."""
    command = [sys.executable, "-I", "-c", RUN, str(CLIENT), *map(str, words)]
    return subprocess.run(command, cwd=CLIENT.parent, capture_output=True, text=True, check=False)


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
    done = client(exported, "--verify")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["holds"] and max(said["worst"].values()) < 1e-3


def test_the_client_answers_pictures_as_a_session_does(exported, golden_pairs, tmp_path):
    rgb, thermal = golden_pairs["rgb"][0], golden_pairs["thermal"][0]
    cv2.imwrite(str(tmp_path / "rgb.png"), rgb[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "thermal.png"), thermal)
    files = ["--rgb", tmp_path / "rgb.png", "--thermal", tmp_path / "thermal.png"]
    session = Session(read_bundle(exported))
    for words, present in ((files, (1, 1)), (files[:2], (1, 0)), (files[2:], (0, 1))):
        done = client(exported, *words)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        answer = session.run(rgb[None], thermal[None], np.array([present], np.float32))
        classes = session.bundle.info.classes
        if "boxes" in answer:
            boxes = [row for row in answer["boxes"][0].tolist() if row[4] >= 0.3]
            assert [box["class"] for box in told] == [classes[int(row[5])] for row in boxes]
            np.testing.assert_allclose([box["box"] for box in told], [row[:4] for row in boxes], atol=0.1)
        elif "class_map" in answer:
            shares = np.bincount(answer["class_map"].reshape(-1), minlength=3) / answer["class_map"].size
            np.testing.assert_allclose([told[name] for name in ("background", *classes)], shares, atol=1e-3)
        else:
            np.testing.assert_allclose([told[name] for name in classes], answer["probabilities"][0], atol=1e-4)
    session.close()


@pytest.mark.parametrize("unit", ["intensity8", "counts16", "celsius"])
@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_the_client_prepares_frames_as_we_do(module, unit, letterbox, marked):
    noise = np.random.default_rng(0)
    inputs = InputSpec(
        rgb_size=(48, 64), thermal_size=(48, 64), letterbox=letterbox, thermal=ThermalSpec(unit=unit, marked=marked)
    )
    size = (37, 70) if letterbox else (48, 64)
    rgb = noise.integers(0, 256, (*size, 3), np.uint8)
    thermal = noise.integers(0, 40, size).astype(inputs.thermal.dtype)
    if unit == "celsius":
        thermal[3:9, 4:11] = np.nan
    info = {"inputs": json.loads(inputs.model_dump_json())}
    for given in ((rgb, thermal), (rgb, None), (None, thermal)):
        wanted = Preparer(inputs, Rig())(*given)
        feeds, scale = module.prepare(*given, info)
        assert scale == wanted.scale and feeds["present"].tolist() == [wanted.present.tolist()]
        for name in ("rgb", "thermal"):
            assert feeds[name].dtype == getattr(wanted, name).dtype
            assert np.array_equal(feeds[name][0], getattr(wanted, name)), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("byte", "golden.npz: was changed after export"),
        ("schema", "schema 3 is newer"),
        ("words", "holds no onnxruntime-int8"),
    ],
)
def test_the_client_refuses(tiny_bundle, tmp_path, change, says):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    if change == "byte":
        content = bytearray((bundle / "golden.npz").read_bytes())
        content[-1] ^= 1
        (bundle / "golden.npz").write_bytes(content)
    elif change == "schema":
        info = json.loads((bundle / "bundle.json").read_text()) | {"schema_version": 3}
        (bundle / "bundle.json").write_text(json.dumps(info))
    done = client(bundle, "--verify", *(["--precision", "int8"] if change == "words" else []))
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


def test_the_client_in_cpp_reads_the_same_fields_and_is_built_of_what_the_readme_says():
    text = (CLIENT.parent / "client.cpp").read_text()
    fields = set(re.findall(r'\.at\("(\w+)"\)', text))
    known = {*BundleInfo.model_fields, *Inputs.model_fields, *ThermalInput.model_fields}
    assert fields <= known and {"schema_version", "files", "inputs", "letterbox", "invalid", "marked"} <= fields
    cmake = (CLIENT.parent / "CMakeLists.txt").read_text()
    for package in ("OpenCV", "OpenSSL", "nlohmann_json"):
        assert f"find_package({package}" in cmake
