"""The journeys as a user types them, through the real main(), on a tiny model for a few steps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from data.card import DatasetCard
from data.pairs import load_pair
from data.prepare import Preparer
from export.bundle import read_bundle
from export.errors import ExportError
from export.session import Session
from fusion.heads import HEADS
from pipelines.cli import main
from pipelines.commands import demo as demo_command
from pipelines.demo import JOURNEYS

SMALL = [
    "--set", "model.size=[64,96]", "--set", "model.rgb.arch=test_resnet", "--set", "model.rgb.weights=null",
    "--set", "model.thermal.arch=test_resnet", "--set", "model.head.width=16", "--set", "workers=0", "--set", "batch=4",
    "--set", "model.thermal.start=random",
]  # fmt: skip
STAGES = {
    "staged-autoencode": ("thermal-pretrain", "fuse", "unfreeze"), "rgb-only": ("rgb-task",),
    "thermal-only": ("thermal-task",),
}  # fmt: skip


def short(*stages):
    return [word for name in stages for word in ("--set", f"stages.{name}.epochs={1 + (name == 'unfreeze')}")]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(synthetic_card, tmp_path_factory):
    """Folder with the runs staged, rgb-only and thermal-only, and a bundle."""
    home = tmp_path_factory.mktemp("journey")
    for name, stages in STAGES.items():
        out = home / name.removesuffix("-autoencode")
        arguments = ["train", name, "--data", str(synthetic_card), "--out", str(out), "--accelerator", "cpu"]
        assert main([*arguments, *SMALL, *short(*stages)]) == 0
    assert main(["export", str(home / "staged"), "--out", str(home / "bundle")]) == 0
    return home


def test_a_run_tells_what_was_frozen_when(trained):
    history = json.loads((trained / "staged" / "history.json").read_text())
    frozen = {(row["stage"], row["epoch"]): set(row["frozen"]) for row in history}
    assert "rgb.stem" in frozen["thermal-pretrain", 1] and "thermal.stem" not in frozen["thermal-pretrain", 1]
    assert {"rgb.blocks.3", "thermal.blocks.3"} <= frozen["fuse", 1] and "head" not in frozen["fuse", 1]
    assert "thermal.blocks.3" not in frozen["unfreeze", 1] and "thermal.blocks.2" in frozen["unfreeze", 1]
    assert "thermal.blocks.2" not in frozen["unfreeze", 2] and "thermal.blocks.1" in frozen["unfreeze", 2]
    assert all("rgb.stem" in names and "rgb.blocks.3" in names for names in frozen.values())
    assert all(np.isfinite(row["val_loss"]) for row in history)
    epochs = {"thermal-pretrain": 1, "fuse": 1, "unfreeze": 2}  # each stage begins with a validation at its entry
    assert list(frozen) == [(stage, epoch) for stage, last in epochs.items() for epoch in range(last + 1)]


def test_evaluate_writes_the_report_with_single_sensor_rows(trained, synthetic_card, capsys):
    others = [str(trained / "rgb-only"), str(trained / "thermal-only")]
    call = ["evaluate", str(trained / "staged"), "--data", str(synthetic_card), "--split", "test", "--beside", *others]
    assert main([*call, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in result["rows"]]
    assert names == ["fused", "fused, rgb absent", "fused, thermal absent", "rgb only", "thermal only"]
    assert result["pairs"] == 6 and all(0 <= row["ap50"] <= 1 for row in result["rows"])
    page = (trained / "staged" / "report.html").read_text()
    assert "thermal-pretrain" in page and "rgb only" in page and "data:image" in page
    assert main(call) == 0
    assert "AP50" in capsys.readouterr().out


def test_a_bundle_is_measured_as_its_run_is(trained, synthetic_card, capsys):
    rows = []
    for subject in ("staged", "bundle"):
        assert main(["evaluate", str(trained / subject), "--data", str(synthetic_card), "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out)["rows"])
    for of_run, of_bundle in zip(*rows, strict=True):
        assert of_run["name"] == of_bundle["name"]
        assert of_run["ap50"] == pytest.approx(of_bundle["ap50"], abs=1e-3)


def test_verify_and_live_on_the_bundle_give_what_evaluate_measures(trained, synthetic_card, tmp_path, capsys):
    """Proof of truth: live on two folders answers, frame by frame, as the session does on the same prepared pairs."""
    assert main(["verify", str(trained / "bundle")]) == 0
    card = DatasetCard.load(synthetic_card)
    samples = card.samples("test")
    folders = {"rgb": tmp_path / "rgb", "thermal": tmp_path / "thermal"}
    for sensor, folder in folders.items():
        folder.mkdir()
        for sample in samples:
            source = getattr(sample, sensor)
            (folder / source.name).write_bytes(source.read_bytes())
    lines = tmp_path / "out.jsonl"
    call = ["live", str(trained / "bundle"), "--rgb", str(folders["rgb"]), "--thermal", str(folders["thermal"])]
    assert main([*call, "--score", "0", "--jsonl", str(lines), "--save", str(tmp_path / "out.mkv")]) == 0
    capsys.readouterr()
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(answers) == len(samples)
    preparer, session = Preparer(card.inputs(), card.load_rig()), Session(read_bundle(trained / "bundle"))
    for sample, answer in zip(sorted(samples, key=lambda s: s.id), answers, strict=True):
        pair, _ = load_pair(sample, preparer)
        expected = session.run(pair.rgb[None], pair.thermal[None], pair.present[None])["boxes"][0]
        expected = expected[expected[:, 4] > 0]
        assert len(answer["boxes"]) == len(expected) > 0
        assert np.abs(np.array([b["score"] for b in answer["boxes"]]) - expected[:, 4]).max() <= 1e-4
        height, width = pair.rgb.shape[:2]
        inside = np.clip(expected[:, :4], 0, [width, height, width, height])
        found = np.clip(np.array([b["box"] for b in answer["boxes"]]), 0, [width, height, width, height])
        assert np.abs(found - inside).max() <= 0.1


@pytest.fixture
def _few_pairs(monkeypatch):
    few = {"train": 8, "val": 4, "test": 4, "unlabelled": 4}
    short = {task: replace(journey, pairs=few) for task, journey in JOURNEYS.items()}
    monkeypatch.setattr("pipelines.demo.JOURNEYS", short)
    monkeypatch.setattr("pipelines.demo.VIDEO_SECONDS", 1.0)
    monkeypatch.setattr("pipelines.demo._BENCH_SECONDS", 0.1)


def test_the_command_line_knows_every_demo():
    assert demo_command._FOLDERS.keys() == JOURNEYS.keys() == HEADS.keys()


@pytest.mark.usefixtures("_few_pairs")
@pytest.mark.parametrize(("task", "metric"), [("detect", "ap50"), ("segment", "miou"), ("classify", "accuracy")])
def test_the_demo_of_each_task_from_nothing_to_live(task, metric, tmp_path, capsys):
    wanted = [c for c in SMALL if c != "--set" and not c.startswith(("model.rgb.weights", "model.thermal.start"))]
    changes = [word for change in [*wanted, "stages.0.epochs=1"] for word in ("--set", change)]
    call = ["demo", "--task", task, "--json", "--out", str(tmp_path / "demo"), *changes]
    assert main(call) == 0
    result = json.loads(capsys.readouterr().out)  # nothing but JSON on stdout
    rows = ["fused", "fused_without_rgb", "fused_without_thermal", "rgb_only", "thermal_only"]
    assert all(0 <= result[f"{metric}.{row}"] <= 1 for row in rows)
    assert result["task"] == task and result["parity_max_abs"] <= 1e-4
    assert {key for key in result if key.startswith("parity_")} == {"parity_max_abs", *PARITY[task]}
    assert result["live_fps"] > 0 and result["model_fps"] > 0
    for key in ("report", "bundle", "video"):
        assert Path(result[key]).exists()
    info = read_bundle(Path(result["bundle"])).info
    assert (info.task, set(info.outputs)) == (task, OUTPUTS[task])
    lines = [json.loads(line) for line in (tmp_path / "demo" / "live.jsonl").read_text().splitlines()]
    assert len(lines) >= 25 and all(SAYS[task] <= line.keys() for line in lines)
    assert main(["verify", result["bundle"]]) == 0
    if task == "detect":
        _go_on(call, capsys)


PARITY = {"detect": {"parity_boxes_px"}, "segment": {"parity_class_map_differs"}, "classify": set()}
OUTPUTS = {"detect": {"boxes"}, "segment": {"class_map", "confidence"}, "classify": {"probabilities"}}
SAYS = {"detect": {"boxes"}, "segment": {"classes"}, "classify": {"class", "probability", "probabilities"}}


def _go_on(call, capsys):
    """What is done is not done again, and figures of other settings are never given out as these."""
    capsys.readouterr()
    assert main(call) == 0
    assert capsys.readouterr().err.count("trained already") == 3
    assert main([*call, "--set", "batch=2"]) == 1
    assert "started with another recipe" in capsys.readouterr().err
    assert main([*call, "--task", "segment"]) == 1
    assert "holds a demo of other settings" in capsys.readouterr().err


def test_a_single_sensor_bundle_says_that_it_needs_its_sensor(trained, synthetic_card, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    assert main(["export", str(trained / "rgb-only"), "--out", str(bundle)]) == 0
    assert read_bundle(bundle).info.sensors == ("rgb",)
    capsys.readouterr()
    assert main(["evaluate", str(bundle), "--data", str(synthetic_card), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["rgb only"]
    assert main(["evaluate", str(bundle), "--data", str(synthetic_card), "--without", "rgb"]) == 1
    assert "looks at rgb alone" in capsys.readouterr().err
    session = Session(read_bundle(bundle))
    zeros = read_bundle(bundle).info.inputs.zeros(1)
    with pytest.raises(ExportError, match="looks at rgb alone"):
        session.run(zeros["rgb"], zeros["thermal"], np.array([[0, 1]], np.float32))


def test_training_ends_with_a_report_though_nothing_was_measured(trained):
    page = (trained / "thermal-only" / "report.html").read_text()
    assert "not measured yet" in page and "thermal-task" in page


def test_pretrained_rgb_weights_from_a_local_file(synthetic_card, tmp_path, capsys):
    path = tmp_path / "rgb.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), path)
    call = ["train", "staged", "--data", str(synthetic_card), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    given = ["--set", f"model.rgb.weights={path}", "--set", "model.thermal.start=copied"]
    assert main([*call, *SMALL, *given, *short("fuse", "unfreeze")]) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert f"{path}: loaded" in said and "the RGB encoder: loaded" in said  # thermal starts as its copy


WRONG = {
    "weights that do not fit": (["--set", "model.rgb.weights={other}"], "does not fit the encoder"),
    "weights that are not there": (["--set", "model.rgb.weights=nowhere.pth"], "nowhere.pth: no such weights file"),
    "unknown key": (["--set", "model.colour=red"], "unknown key 'model.colour'"),
    "pattern that matches nothing": (["--set", "stages.0.groups.0.match=nothing.*"], "matches nothing"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_wrong_call_of_train_is_one_line_and_leaves_nothing(case, synthetic_card, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(1, 1, 1, 1)}, other)
    changes, words = WRONG[case]
    out = tmp_path / "run"
    changes = [word.format(other=other) for word in changes]
    code = main(
        ["train", "staged", "--data", str(synthetic_card), "--out", str(out), "--accelerator", "cpu", *SMALL, *changes]
    )
    error = capsys.readouterr().err
    assert code == 1 and words in error and error.count("\n") == 1
    assert not out.exists()


def test_a_model_is_not_measured_on_cameras_of_another_size(trained, synthetic_card, tmp_path, capsys):
    card = DatasetCard.load(synthetic_card)
    other = card.model_copy(update={"root": str(card.folder.resolve()), "rgb_size": (128, 192)})
    other = other.model_copy(update={"splits": {k: v for k, v in card.splits.items() if v.file is None}})
    other.save(tmp_path / "card.yaml")
    assert main(["evaluate", str(trained / "bundle"), "--data", str(tmp_path / "card.yaml")]) == 1
    error = capsys.readouterr().err
    assert "rgb_size is (128, 192)" in error and error.count("\n") == 1


def test_something_that_is_neither_run_nor_bundle(synthetic_card, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), "--data", str(synthetic_card)]) == 1
    assert "neither a bundle" in capsys.readouterr().err
