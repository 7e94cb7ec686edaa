"""LiteRT answers as PyTorch does: three tasks, either sensor absent, fp32 and weights in half.

Conversion needs an environment of its own, which RGBT_LITERT_PYTHON names; without one only the rest is tested.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.dense_form import answer, prepare
from export.errors import ExportError
from export.variants import litert as maker
from export.variants.dense_model import dense_spec

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from export.engines.litert import LiteRt

TASKS = ("detect", "segment", "classify")
PRESENT = np.array([(1, 1), (1, 0), (0, 1)], np.float32)


@pytest.fixture(params=TASKS, scope="module")
def made(request, dense_source, tmp_path_factory):
    """A model of each task, and the folder with LiteRT's files of it."""
    if not os.environ.get(maker.PYTHON):
        tried = "its converter is not here" if os.environ.get("RGBT_NO_LITERT") else "no converter"
        pytest.skip(f"{maker.PYTHON} names no environment with litert-torch: {tried}")
    source, folder = dense_source(request.param), tmp_path_factory.mktemp(request.param)
    variants = [maker.make_fp32(source, folder), maker.make_fp16(source, folder)]
    assert [(v.precision, v.form, v.files) for v in variants] == [
        ("fp32", "dense", (maker.SINGLE,)),
        ("fp16", "dense", (maker.HALF,)),
    ]
    return source.model, folder


def tensors(feeds):
    return [torch.from_numpy(feeds[name]) for name in ("rgb", "thermal", "present")]


def test_head_maps_are_pytorchs_with_either_sensor_absent(made, dense_feeds):
    model, folder = made
    spec, feeds = dense_spec(model), dense_feeds(PRESENT)
    engine = LiteRt([folder / maker.SINGLE], "cpu", 1, "fp32")
    assert engine.provider == "cpu"
    assert engine.signature() == {name: ("float32", shape) for name, shape in spec.inputs.items()}
    assert sorted(engine.outputs()) == sorted(spec.outputs)
    found = engine.run(prepare(feeds, spec))
    with torch.no_grad():
        maps, full = model.maps(*tensors(feeds)), model(*tensors(feeds))
    for name, values in maps.items():
        assert values.std() > 1e-3
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4)
    answers = answer(engine.run, feeds, spec)
    for name, values in full.items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-3)
    engine.close()


def test_half_is_smaller_and_stays_near(made, dense_feeds):
    model, folder = made
    feeds = prepare(dense_feeds(PRESENT), dense_spec(model))
    single = LiteRt([folder / maker.SINGLE], "cpu", 1, "fp32").run(feeds)
    half = LiteRt([folder / maker.HALF], "cpu", 1, "fp16").run(feeds)
    assert (folder / maker.HALF).stat().st_size < 0.7 * (folder / maker.SINGLE).stat().st_size
    for name, values in single.items():
        assert not np.array_equal(half[name], values)
        np.testing.assert_allclose(half[name], values, rtol=0.01, atol=0.01 * np.abs(values).max())


def stand_in(folder, monkeypatch, code):
    """Put an interpreter in the place of litert-torch's that does as ``code`` says; ``job`` is what it is given."""
    script = folder / "python"
    text = f"import json, sys\nassert sys.argv[1] == '-I'\njob = json.load(open(sys.argv[3]))\n{code}\n"
    script.write_text(f"#!{sys.executable}\n{text}")
    script.chmod(0o755)
    monkeypatch.setenv(maker.PYTHON, str(script))


def test_the_job_names_what_is_to_be_made_and_leaves_nothing_behind(dense_source, monkeypatch, tmp_path):
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    stand_in(tmp_path, monkeypatch, "open(job['single'], 'w').write(json.dumps(job))")
    source = dense_source("segment")
    maker.make_fp32(source, tmp_path / "bundle")
    job = json.loads((tmp_path / "bundle" / maker.SINGLE).read_text())
    assert list(job["inputs"]) == ["rgb", "thermal", "rgb_present", "thermal_present"]
    assert job["inputs"]["rgb"] == [1, 3, 64, 96] and job["outputs"] == ["scores"] and job["half"] is None
    assert not list((tmp_path / "temp").iterdir())


def test_half_is_made_of_the_file_that_is_there(dense_source, monkeypatch, tmp_path):
    stand_in(tmp_path, monkeypatch, "open(job['half'], 'w').write(open(job['single']).read() + ' in half')")
    (tmp_path / "bundle" / "litert").mkdir(parents=True)
    (tmp_path / "bundle" / maker.SINGLE).write_text("single")
    maker.make_fp16(dense_source("classify"), tmp_path / "bundle")
    assert (tmp_path / "bundle" / maker.HALF).read_text() == "single in half"


def test_a_failing_converter_is_one_line(dense_source, monkeypatch, tmp_path):
    stand_in(tmp_path, monkeypatch, "raise RuntimeError('no lowering for aten.topk')")
    with pytest.raises(ExportError, match=r"fails with code 1: RuntimeError: no lowering for aten\.topk") as error:
        maker.make_fp32(dense_source("classify"), tmp_path / "bundle")
    assert "\n" not in str(error.value) and not (tmp_path / "bundle").exists()


def test_without_a_converter_the_line_says_how_to_get_one(dense_source, monkeypatch, tmp_path):
    monkeypatch.delenv(maker.PYTHON, raising=False)
    with pytest.raises(ExportError, match=r"venv litert-env && .*deploy/litert-requirements\.txt.*RGBT_LITERT_PYTHON="):
        maker.make_fp32(dense_source("classify"), tmp_path)
    assert (Path(__file__).parent.parent / "deploy" / "litert-requirements.txt").is_file()
    monkeypatch.setenv(maker.PYTHON, str(tmp_path / "gone"))
    with pytest.raises(ExportError, match=r"converter cannot run .*RGBT_LITERT_PYTHON names .*gone"):
        maker.make_fp32(dense_source("classify"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpu", None, "fp32"), "runs on cpu"),
        (("cpu", None, "int8"), "fp32 or fp16, not in 'int8'"),
        (("cpu", None, "fp32"), r"bad\.tflite: LiteRT cannot load it"),
    ],
)
def test_what_it_does_not_take_is_refused(arguments, message, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"no flatbuffer" * 10)
    with pytest.raises(ExportError, match=message):
        LiteRt([tmp_path / "bad.tflite"], *arguments)
