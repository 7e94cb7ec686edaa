"""``rgbt export`` with its options, from a run on a card whose rig turns and moves thermal."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
import yaml

from data.card import DatasetCard
from export.bundle import read_bundle
from export.write import ANY_SIZE
from pipelines.cli import main

SMALL = [
    "--set", "model.size=[64,96]", "--set", "model.rgb.arch=test_resnet", "--set", "model.rgb.weights=null",
    "--set", "model.thermal.arch=test_resnet", "--set", "model.head.width=16", "--set", "workers=0", "--set", "batch=4",
    "--set", "model.thermal.start=random", "--set", "stages.fuse.epochs=1", "--set", "stages.unfreeze.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def card(synthetic_card, tmp_path_factory):
    """The synthetic card with a rig: thermal hangs upside down, and half a pixel beside RGB."""
    home = tmp_path_factory.mktemp("rigged")
    folder = shutil.copytree(synthetic_card.parent, home / "card")
    (folder / "rig.yaml").write_text(
        yaml.safe_dump({"rotate": 180, "homography": [[1.2, 0, 0.5], [0, 1.333, -0.25], [0, 0, 1]],
                        "rgb_size": [64, 96], "thermal_size": [48, 80]})
    )  # fmt: skip
    fields = yaml.safe_load((folder / synthetic_card.name).read_text()) | {"rig": "rig.yaml"}
    (folder / synthetic_card.name).write_text(yaml.safe_dump(fields, sort_keys=False))
    return folder / synthetic_card.name


@pytest.fixture(scope="module", params=["detect", "segment"])
def run(request, card, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / request.param
    call = ["train", "staged", "--data", str(card), "--out", str(out), "--accelerator", "cpu", *SMALL]
    assert main([*call, "--set", f"model.head.kind={request.param}"]) == 0
    return out


def rows(subject, card, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(subject), "--data", str(card), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    return {row["name"]: row[answer["metrics"][0]] for row in answer["rows"]}


def test_int8_is_calibrated_measured_and_proven(run, card, tmp_path, capsys):
    out = tmp_path / "bundle"
    call = ["export", str(run), "--out", str(out), "--precision", "fp32", "fp16", "int8", "--calibration-pairs", "8"]
    assert main([*call, "--max-drop", "100", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert list(info["variants"]) == ["onnxruntime-fp32", "onnxruntime-fp16", "onnxruntime-int8"]
    assert all(len(proof["metric"]) == 1 for proof in info["proofs"].values()) and len(info["proofs"]) == 3
    assert (out / "model.int8.onnx").stat().st_size < (out / "model.onnx").stat().st_size
    assert main(["verify", str(out)]) == 0
    assert "onnxruntime-int8-cpu" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--data", str(card), "--precision", "int8"]) == 0


def test_a_baked_rig_takes_the_cameras_own_frames(run, card, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert main(["export", str(run), "--out", str(out), "--bake-rig"]) == 0
    assert read_bundle(out).info.inputs.rig_baked
    own, baked = rows(run, card, capsys), rows(out, card, capsys)
    assert own.keys() == baked.keys()
    assert all(baked[name] == pytest.approx(own[name], abs=0.02) for name in own)


def test_a_map_at_the_networks_resolution_is_measured_on_the_whole_frame(run, card, tmp_path, capsys):
    out = tmp_path / "bundle"
    call = ["export", str(run), "--out", str(out), "--map-size", "network"]
    if "segment" not in run.name:
        assert main(call) == 1
        assert "--map-size is of a class map" in capsys.readouterr().err and not out.exists()
        return
    assert main(call) == 0
    output = read_bundle(out).info.outputs["class_map"]
    assert output.shape == ("B", 16, 24) and "network's resolution" in output.layout
    own, small = rows(run, card, capsys), rows(out, card, capsys)
    assert small["fused"] == pytest.approx(own["fused"], abs=0.1)


def test_a_graph_for_any_size_lies_beside_the_fixed_one(run, card, tmp_path):
    out = tmp_path / "bundle"
    assert main(["export", str(run), "--out", str(out), "--size", "dynamic", "--opset", "19"]) == 0
    assert ANY_SIZE in read_bundle(out).info.files and read_bundle(out).info.opset == 19
    session = onnxruntime.InferenceSession(str(out / ANY_SIZE), providers=["CPUExecutionProvider"])
    thermal = DatasetCard.load(card).inputs().thermal.dtype
    for height, width in ((64, 96), (90, 70)):
        feeds = {"rgb": np.zeros((1, height, width, 3), np.uint8), "thermal": np.zeros((1, 48, 80), thermal),
                 "present": np.ones((1, 2), np.float32)}  # fmt: skip
        answer = session.run(None, feeds)
        assert len(answer) == len(read_bundle(out).info.outputs)
        if "segment" in run.name:
            assert answer[0].shape == (1, height, width)


def test_inspect_says_what_a_bundle_is(run, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert main(["export", str(run), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["export", "--inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Conv" in said and "thermal" in said and "onnxruntime" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--precision", "int8", "--calibration-pairs", "2"], 2, "--calibration-pairs is 2; give at least 8"),
        (["--precision", "int8", "--max-drop", "-1"], 2, "--max-drop is -1"),
        (["--target", "ncnn", "--precision", "int8"], 1, "takes fp32, fp16, not int8"),
        (["--target", "abacus"], 1, "no such engine"),
        (["--opset", "7"], 1, "opset 7: expected 18 to 23"),
        (["--precision", "int8", "--split", "unlabelled"], 1, "has no labels for"),
        (["--golden", "0"], 2, "--golden is 0"),
    ],
)
def test_what_cannot_be_is_one_line_and_the_old_bundle_stays(run, tmp_path, capsys, words, code, says):
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "bundle.json").write_text("old")
    assert main(["export", str(run), "--out", str(out), *words]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1 and says in said[0]
    assert (out / "bundle.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("option", "change", "says"),
    [
        ("--data", {"thermal_spec": {"unit": "celsius"}}, "thermal_spec.unit is celsius, but"),
        ("--calibration", {"thermal_spec": {"unit": "celsius"}}, "thermal_spec.unit is celsius, but"),
        ("--calibration", {"thermal_spec": {"unit": "counts16", "invalid": 7}}, "thermal_spec.invalid is 7"),
        ("--data", {"rgb_size": [64, 97]}, "rgb_size is (64, 97), but"),
        ("--data", {"classes": ["cone", "car", "person", "animal"]}, "classes are ['cone', 'car', 'person', 'animal']"),
    ],
)
def test_a_card_of_other_cameras_or_classes_is_refused(run, card, tmp_path, capsys, option, change, says):
    other = card.with_name("other.yaml")
    fields = yaml.safe_load(card.read_text()) | change
    other.write_text(yaml.safe_dump({key: value for key, value in fields.items() if key != "rig"}))
    out = tmp_path / "bundle"
    words = ["--precision", "int8", "--calibration-pairs", "8", option, str(other)]
    assert main(["export", str(run), "--out", str(out), *words]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(said) == 1 and says in said[0] and str(other) in said[0] and not out.exists()


@pytest.mark.parametrize(
    ("target", "precision", "missing", "says"),
    [
        ("litert", "fp32", None, "LiteRT's converter wants an environment of its own"),
        ("ncnn", "fp16", "pnnx", "pip install 'rgbt-fusion[ncnn-export]'"),
        ("ncnn", "fp32", "ncnn", "pip install 'rgbt-fusion[ncnn]'"),
        ("openvino", "int8", "nncf", "pip install 'rgbt-fusion[openvino-int8]'"),
        ("coreml", "fp32", "coremltools", "pip install coremltools"),
    ],
)
def test_what_is_not_installed_is_said_before_anything_is_written(
    run, tmp_path, monkeypatch, capsys, target, precision, missing, says
):
    monkeypatch.delenv("RGBT_LITERT_PYTHON", raising=False)
    find = importlib.util.find_spec
    for module in ("importlib.util", "export.variants.table"):
        monkeypatch.setattr(
            f"{module}.find_spec", lambda name: None if name in (missing, "litert_torch") else find(name)
        )
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    words = ["--target", "onnxruntime", target, "--precision", "fp32", precision, "--calibration-pairs", "8"]
    assert main(["export", str(run), "--out", str(tmp_path / "bundle"), *dict.fromkeys(words)]) == 1
    error = capsys.readouterr().err
    assert says in error and "writing" not in error and not list(tmp_path.iterdir())


def test_nothing_to_export_or_two_things_at_once(run, capsys):
    assert main(["export"]) == 2 and "name a run's folder" in capsys.readouterr().err
    assert main(["export", str(run), "--inspect", str(run)]) == 2 and "leave out" in capsys.readouterr().err
