"""Bundles of class maps and of labels: described, proven and answered as those of boxes are."""

import json
import shutil

import numpy as np
import pytest
import torch

from export.bundle import read_bundle, write_info
from export.errors import ExportError
from export.session import Session
from export.verify import compare, replay
from export.write import export_bundle
from fusion.model import build_model
from pipelines.cli import main

OUTPUTS = {
    "segment": {
        "class_map": (("B", 48, 64), "uint8", "0 for background, i for classes[i-1]"),
        "confidence": (("B", 48, 64), "float32", "probability of the class"),
    },
    "classify": {"probabilities": (("B", 2), "float32", "sum to 1")},
}
FIGURES = {"segment": {"class_map_differs", "confidence_max_abs"}, "classify": {"probabilities_max_abs"}}


@pytest.fixture(scope="module", params=list(OUTPUTS))
def task(request):
    return request.param


@pytest.fixture(scope="module")
def model(task, tiny_model):
    config = tiny_model.config
    head = config.head.model_copy(update={"kind": task, "width": 16})
    built, _ = build_model(config.model_copy(update={"head": head}), 0)
    with torch.no_grad():
        for parameter in built.blend.parameters():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return built.eval()


@pytest.fixture(scope="module")
def exported(model, task, golden_pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp(task) / "bundle"
    config = model.config
    export_bundle(model, config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64, out, task)
    return out


@pytest.fixture(scope="module")
def session(exported):
    session = Session(read_bundle(exported), threads=1)
    yield session
    session.close()


def test_outputs_are_described_as_they_are(session, task, golden_pairs):
    info = session.bundle.info
    assert (info.task, info.classes) == (task, ("person", "car"))
    answer = session.run(golden_pairs["rgb"], golden_pairs["thermal"], np.ones((3, 2), np.float32))
    assert set(answer) == set(info.outputs) == set(OUTPUTS[task])
    for name, (shape, dtype, layout) in OUTPUTS[task].items():
        described = info.outputs[name]
        assert (described.shape, described.dtype) == (shape, dtype) and layout in described.layout
        assert (answer[name].shape, str(answer[name].dtype)) == ((3, *shape[1:]), dtype)


def test_values_are_what_the_layout_says(session, task, golden_pairs):
    answer = session.run(golden_pairs["rgb"], golden_pairs["thermal"], np.ones((3, 2), np.float32))
    if task == "segment":
        assert answer["class_map"].max() <= 2
        assert answer["confidence"].min() >= 1 / 3 - 1e-5 and answer["confidence"].max() <= 1
    else:
        np.testing.assert_allclose(answer["probabilities"].sum(1), 1, atol=1e-5)


def test_golden_pairs_are_replayed_with_either_sensor_missing(session, task):
    parity = replay(session)
    assert parity.pairs == 5 and parity.holds and set(parity.figures) == FIGURES[task] | {"agreement"}
    assert session.bundle.info.parity["onnxruntime-cpu"]["pairs"] == 5
    golden = session.bundle.golden()
    name = next(name for name in golden if name in ("confidence", "probabilities"))
    for absent in (3, 4):
        assert not np.allclose(golden[name][0], golden[name][absent], atol=1e-6)


@pytest.mark.parametrize(("sensor", "present"), [("rgb", (0, 1)), ("thermal", (1, 0))])
def test_buffer_of_an_absent_sensor_does_not_matter(session, golden_pairs, sensor, present):
    garbage = {"rgb": golden_pairs["rgb"][:1], "thermal": golden_pairs["thermal"][:1]}
    zeros = garbage | {sensor: np.zeros_like(garbage[sensor])}
    there = np.array([present], np.float32)
    one, other = session.run(**garbage, present=there), session.run(**zeros, present=there)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_verify_tells_the_tasks_own_figures_and_fails_beyond_their_limits(exported, task, tmp_path, capfd):
    assert main(["verify", str(exported), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["task"] == task and said["holds"] and set(said["rows"][0]["limits"]) == FIGURES[task]
    bundle = shutil.copytree(exported, tmp_path / "bundle")
    with np.load(bundle / "golden.npz") as archive:
        golden = dict(archive)
    if task == "segment":
        golden["class_map"][2, 0, :4] = (golden["class_map"][2, 0, :4] + 1) % 3  # 4 of 3072 pixels
    else:
        golden["probabilities"][2] += 2e-4
    np.savez(bundle / "golden.npz", **golden)
    fields = json.loads((bundle / "bundle.json").read_text())
    fields.pop("files")
    write_info(bundle, fields)
    assert main(["verify", str(bundle)]) == 1
    assert "otherwise than PyTorch" in capfd.readouterr().err


def test_a_single_sensor_model_of_the_task_is_exported_too(model, task, golden_pairs, tmp_path):
    built, _ = build_model(model.config.model_copy(update={"sensors": ("thermal",)}), 0)
    config = built.config
    bundle = export_bundle(built, config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64,
                           tmp_path / "bundle", task)  # fmt: skip
    assert bundle.info.sensors == ("thermal",) and len(bundle.golden()["present"]) == 3


class Depth(torch.nn.Module):
    """Answers what no rule compares."""

    def forward(self, rgb, thermal, present):
        return {"depth": rgb.float().mean((1, 2, 3)) + thermal.float().mean((1, 2)) + present.sum(1)}


def test_an_answer_that_no_task_has_is_not_exported(tiny_model, golden_pairs, tmp_path):
    config = tiny_model.config
    with pytest.raises(ExportError, match="the model answers 'depth', expected of boxes, probabilities"):
        export_bundle(
            Depth(), config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64, tmp_path / "b"
        )
    assert not list(tmp_path.iterdir())


def test_an_answer_that_is_not_finite_is_told():
    maps = {"confidence": np.full((1, 2, 2), np.nan)}
    with pytest.raises(ExportError, match="confidence holds NaN"):
        compare({"confidence": np.zeros((1, 2, 2))}, maps)
