"""NCNN answers as PyTorch does: three tasks, either sensor absent, fp32 and half, and every blend."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from export.dense_form import answer, prepare
from export.errors import ExportError
from export.variants import ncnn as maker
from export.variants.dense_model import DenseModel, dense_model, dense_spec

pytest.importorskip("ncnn", reason="ncnn is not installed")
pytest.importorskip("pnnx", reason="pnnx is not installed")

from export.engines.ncnn import Ncnn

TASKS = ("detect", "segment", "classify")
PRESENT = np.array([(1, 1), (1, 0), (0, 1)], np.float32)


@pytest.fixture(scope="module")
def folders(dense_source, tmp_path_factory):
    """A model of each task, and the folder with NCNN's files of it."""
    made = {}
    for task in TASKS:
        source, folder = dense_source(task), tmp_path_factory.mktemp(task)
        maker.make_fp32(source, folder)
        made[task] = source.model, folder
    return made


def engine_of(folder, precision="fp32", threads=1):
    return Ncnn([folder / name for name in maker.FILES], "cpu", threads, precision)


@pytest.mark.parametrize("task", TASKS)
def test_head_maps_are_pytorchs_with_either_sensor_absent(folders, dense_feeds, task):
    model, folder = folders[task]
    spec, feeds, engine = dense_spec(model), dense_feeds(PRESENT), engine_of(folder)
    found = engine.run(prepare(feeds, spec))
    with torch.no_grad():
        expected = model.maps(*(torch.from_numpy(feeds[name]) for name in ("rgb", "thermal", "present")))
        full = model(*(torch.from_numpy(feeds[name]) for name in ("rgb", "thermal", "present")))
    assert engine.provider == "cpu"
    assert {name: shape for name, (_, shape) in engine.signature().items()} == spec.inputs
    assert sorted(found) == sorted(engine.outputs()) == sorted(spec.outputs)
    for name, values in expected.items():
        assert values.std() > 1e-3
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-3)
    answers = answer(engine.run, feeds, spec)
    for name, values in full.items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-3, atol=1e-3)
    engine.close()


@pytest.mark.parametrize("task", TASKS)
def test_half_reads_the_same_files_and_stays_near(folders, dense_feeds, task):
    model, folder = folders[task]
    feeds = prepare(dense_feeds(PRESENT), dense_spec(model))
    single, half = engine_of(folder).run(feeds), engine_of(folder, "fp16").run(feeds)
    for name, values in single.items():
        np.testing.assert_allclose(half[name], values, rtol=0.02, atol=0.02 * np.abs(values).max())


def test_both_precisions_are_described_and_share_files(dense_source, folders, tmp_path):
    _, folder = folders["detect"]
    shutil.copytree(folder, tmp_path / "bundle")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "bundle").rglob("*")}
    variant = maker.make_fp16(dense_source("detect"), tmp_path / "bundle")
    assert (variant.engine, variant.precision, variant.form, variant.files) == ("ncnn", "fp16", "dense", maker.FILES)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "bundle").rglob("*")} == before


@pytest.mark.parametrize("blend", [{"kind": "gated"}, {"kind": "cross_attention"}, {"kind": "early"}], ids=str)
def test_blends_become_layers_of_ncnn(dense_source, dense_feeds, blend, tmp_path):
    source = dense_source("classify", blend=blend)
    maker.make_fp32(source, tmp_path)
    spec, feeds = dense_spec(source.model), dense_feeds(PRESENT)
    with torch.no_grad():
        expected = source.model.maps(*(torch.from_numpy(feeds[name]) for name in ("rgb", "thermal", "present")))
    found = engine_of(tmp_path).run(prepare(feeds, spec))
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-3)


class _TopK(DenseModel):
    def forward(self, *inputs):
        (scores,) = super().forward(*inputs)
        return (scores.topk(2, 1).values,)


def test_an_operator_that_ncnn_lacks_is_named(dense_source):
    model = dense_source("classify").model
    _, spec = dense_model(model)
    with pytest.raises(ExportError, match=r"no layer for .*topk"):
        maker._converted(_TopK(model).eval(), spec)


def test_a_failing_converter_is_one_line_and_leaves_nothing(dense_source, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(maker, "converter", lambda: shutil.which("false"))
    with pytest.raises(ExportError, match="pnnx fails with code 1") as error:
        maker.make_fp32(dense_source("classify"), tmp_path / "bundle")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists() and not list((tmp_path / "temp").iterdir())


def test_a_hanging_converter_is_stopped(dense_source, monkeypatch, tmp_path):
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ExportError, match=r"pnnx cannot run .*timed out"):
        maker.make_fp32(dense_source("classify"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("gpu", None, "fp32"), "runs on cpu"), (("cpu", None, "int8"), "fp32 or fp16, not in 'int8'")],
)
def test_another_provider_or_precision_is_refused(folders, arguments, message):
    files = [folders["detect"][1] / name for name in maker.FILES]
    with pytest.raises(ExportError, match=message):
        Ncnn(files, *arguments)


def test_files_that_are_no_network_are_refused(folders, tmp_path):
    (tmp_path / "a.param").write_text("7767517\n1 1\nInput rgb 0 1 rgb\n")
    with pytest.raises(ExportError, match=r"a\.param: is no NCNN network of a bundle"):
        Ncnn([tmp_path / "a.param", tmp_path / "a.bin"], "cpu", None, "fp32")
    param, weights = (folders["detect"][1] / name for name in maker.FILES)
    (tmp_path / "short.bin").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ExportError, match="NCNN cannot load it"):
        Ncnn([param, tmp_path / "short.bin"], "cpu", None, "fp32")
