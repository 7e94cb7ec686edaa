"""Contract of every engine and precision that can be written and run here, for every task: PyTorch's answers."""

import numpy as np
import pytest

from export.bundle import read_bundle
from export.session import ENGINES, Session
from export.variants.source import Metric
from export.variants.table import MAKERS, keys
from export.verify import AGREEMENT, compare, replay
from export.write import REPORT, Forms, export_bundle
from pipelines.cli import main
from pipelines.report.bundle import bundle_page

TASKS = ("detect", "segment", "classify")
HERE = [key for key in MAKERS if key.partition("-")[0] in ("onnxruntime", "openvino", "ncnn")]
"""What CI can run; LiteRT and TensorRT have tests of their own."""
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.97, "bf16": 0.9, "int8": 0.6}
"""Of a model with random weights, whose scores lie close together; of a trained one the metric is what counts."""
PRESENT = {"both": (1, 1), "no thermal": (1, 0), "no rgb": (0, 1)}


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def model(task, dense_source):
    return dense_source(task).model


@pytest.fixture(scope="module")
def bundle(model, task, golden_pairs, tmp_path_factory):
    """Every form in one bundle; the metric is how far an answer agrees with PyTorch's."""
    import torch

    rows = range(len(golden_pairs["rgb"]))
    calibration = [
        {"rgb": np.roll(golden_pairs["rgb"][[i % 3]], i, 1), "thermal": np.roll(golden_pairs["thermal"][[i % 3]], i, 1),
         "present": np.ones((1, 2), np.float32)}
        for i in range(8)
    ]  # fmt: skip
    feeds = [
        {**{name: golden_pairs[name][[i]] for name in golden_pairs}, "present": np.ones((1, 2), np.float32)}
        for i in rows
    ]

    def agreement(run):
        with torch.no_grad():
            answers = [model(*(torch.from_numpy(one[name]) for name in ("rgb", "thermal", "present"))) for one in feeds]
        return float(np.mean([
            compare({name: value.numpy() for name, value in wanted.items()}, run(one)).figures[AGREEMENT]
            for one, wanted in zip(feeds, answers, strict=True)
        ]))  # fmt: skip

    metric = {"detect": "ap50", "segment": "miou", "classify": "accuracy"}[task]
    forms = Forms(HERE, calibration, Metric(metric, len(feeds), agreement), 40.0, lambda line: None, bundle_page)
    config = model.config
    out = tmp_path_factory.mktemp(task) / "bundle"
    return export_bundle(
        model, config.inputs, config.classes, config.sensors, golden_pairs, {}, "a" * 64, out, task, forms
    )


def test_every_engine_can_be_asked_for():
    assert {key.partition("-")[0] for key in MAKERS} - {"coreml"} == set(ENGINES)  # Core ML is built, not run


@pytest.mark.parametrize("key", HERE)
def test_it_answers_as_pytorch_with_each_sensor_missing(bundle, key):
    engine, precision = key.split("-")
    session = Session(bundle, engine, precision=precision, threads=1)
    parity = replay(session)
    assert parity.holds, str(parity)
    golden = bundle.golden()
    for present in PRESENT.values():
        rows = np.flatnonzero((golden["present"] == present).all(1))
        assert len(rows), f"no golden pair has {present}"
        found = session.run(golden["rgb"][rows], golden["thermal"][rows], golden["present"][rows])
        figures = compare({name: golden[name][rows] for name in bundle.info.outputs}, found).figures
        assert figures[AGREEMENT] >= LEAST_AGREEMENT[precision], present
    session.close()


@pytest.mark.parametrize("key", HERE)
def test_what_an_absent_sensor_left_behind_is_overwritten(bundle, key):
    engine, precision = key.split("-")
    session = Session(bundle, engine, precision=precision, threads=1)
    zeros = bundle.info.inputs.zeros(1)
    rgb, thermal = (bundle.golden()[name][:1] for name in ("rgb", "thermal"))
    there = np.array([[1, 0]], np.float32)
    session.run(rgb, thermal, zeros["present"])
    stale, clean = session.run(rgb, thermal, there), session.run(rgb, zeros["thermal"], there)
    assert all(np.array_equal(stale[name], clean[name]) for name in stale)
    session.close()


def test_the_proof_lies_in_the_bundle(bundle, task):
    assert {key.rpartition("-")[0] for key in bundle.info.proofs} == set(HERE)
    for proof in bundle.info.proofs.values():
        assert proof.parity["pairs"] == 5 and proof.size_bytes > 0 and len(proof.metric) == 1
        assert proof.metric_pairs == 3
        assert 0 < proof.p50_ms <= proof.p95_ms <= proof.p99_ms and proof.machine["cpu"]
    page = (bundle.path / REPORT).read_text()
    assert all(key in page for key in bundle.info.proofs) and "<svg" in page
    assert REPORT in bundle.info.files and "3 pairs" in page


def test_verify_replays_all_and_prints_the_proof(bundle, capfd):
    assert main(["verify", str(bundle.path), "--threads", "1"]) == 0
    said = capfd.readouterr().out
    assert all(f"{key}-cpu" in said for key in HERE) and "golden pairs" in said


def test_bench_has_a_row_for_each(bundle, capsys):
    import json

    assert main(["bench", str(bundle.path), "--threads", "1", "--seconds", "0.01", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["sessions"]
    assert [f"{row['target'].partition('-')[0]}-{row['precision']}" for row in rows] == list(bundle.info.variants)
    assert all(0 <= next(iter(row["metric"].values())) <= 1 for row in rows)


def test_what_the_bundle_lacks_is_named_with_the_command(tiny_bundle, capfd):
    assert main(["verify", str(tiny_bundle), "--engine", "ncnn"]) == 1
    said = capfd.readouterr().err
    assert "holds no fp32 model for ncnn; it has onnxruntime-fp32" in said and "--target ncnn --precision fp32" in said


@pytest.mark.parametrize(
    ("targets", "precisions", "says"),
    [
        (["abacus"], ["fp32"], "no such engine; one of onnxruntime"),
        (["ncnn"], ["int8"], "takes fp32, fp16, not int8"),
        (["ncnn"], ["fp32", "int8"], "--precision int8: taken by onnxruntime"),
    ],
)
def test_combinations_that_do_not_exist(targets, precisions, says):
    from export.errors import ExportError

    with pytest.raises(ExportError, match=says):
        keys(targets, precisions)


def test_a_bundle_written_before_is_still_read(tiny_bundle, tmp_path):
    import json
    import shutil

    from export.bundle_info import INFO
    from export.hashes import NO_DIGEST, seal

    old = shutil.copytree(tiny_bundle, tmp_path / "old")
    fields = json.loads((old / INFO).read_text())
    fields = {name: value for name, value in fields.items() if name not in ("variants", "proofs", "dense")}
    seal(old / INFO, json.dumps({**fields, "schema_version": 1, "files": {**fields["files"], INFO: NO_DIGEST}}))
    assert list(read_bundle(old).info.variants) == ["onnxruntime-fp32"]
