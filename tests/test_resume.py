"""kill -9 at any moment, then resume: the same final weights, bit for bit, as a run never stopped."""

import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.card import DatasetCard, Split
from data.errors import DataError
from fusion import learner, stage_run, validation
from fusion.checkpoint import Checkpoints, load_model
from fusion.errors import FusionError
from fusion.model import FusionModel
from pipelines.cli import main
from pipelines.recipe_file import load_recipe
from pipelines.train import train

RECIPE = """
about: small, with every kind of stage, a rollback among them
model:
  size: [64, 96]
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
  head: {width: 16}
batch: 4
stages:
  - {name: rgb-task, sensors: [rgb], epochs: 2, groups: [{match: "rgb.*|head", lr: 2.0e-3}]}
  - {name: pretrain, objective: masked, epochs: 2, groups: [{match: "thermal.*|objective", lr: 2.0e-3}]}
  - name: all
    epochs: 4
    modality_dropout: 0.4
    schedule: {kind: onecycle}
    accumulate: 2
    ema: 0.6
    groups: [{match: "rgb.*", lr: 1.0e-3, layer_decay: 0.7, l2_sp: 0.1}, {match: "blend.*|head", lr: 0.1}]
    unfreeze: {branch: thermal, every: 1, lr: 2.0e-3}
    guard: {metric: val_loss, tolerance: 0, lr_factor: 0.1}
"""
LONG = ["stages.rgb-task.epochs=4", "stages.pretrain.epochs=3", "stages.all.epochs=8"]
STEPS = 3  # of a labelled epoch: 12 pairs in batches of 4
THERMAL = 4  # of an epoch of all thermal pictures: 18


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def spawn():
    """Run a function in a fresh process that has torch loaded already; return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.train", "data.augment.augmenter", "torchmetrics.detection"])

    def run(*arguments):
        process = context.Process(target=train_until, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    return run


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_until(recipe_path, card, out, workers, resume, event, count, changes=()):
    """Train, and die of SIGKILL when ``event`` (see ``watched``) happens for the ``count``-th time."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # so that workers notice when their parent is killed
    seen = dict.fromkeys(("step", "validating", "saving", "saved", "removing", "handing", "never"), 0)

    def happens(name):
        seen[name] += 1
        if name == event and seen[name] == count:
            die()

    watched(happens)
    recipe = load_recipe(str(recipe_path), [f"workers={workers}", *changes])
    train(recipe, "small", DatasetCard.load(card), out, resume=resume, accelerator="cpu")


def watched(happens):
    """Tell of a step to come, of a validation and a checkpoint half done, of one done, removed by half, handed on."""
    step, save, write_bytes = learner.Learner.step, Checkpoints.save, Path.write_bytes
    gather, rmtree, hand_on = validation._gather, shutil.rmtree, stage_run.StageRun._hand_on

    def counted_step(self, *arguments):
        happens("step")
        return step(self, *arguments)

    def counted_gather(*arguments):
        happens("validating")
        return gather(*arguments)

    def half_written(self, content):
        if self.name == "optimizer.pt":
            write_bytes(self, content[: len(content) // 2])
            happens("saving")
        return write_bytes(self, content)

    def counted_save(self, *arguments):
        save(self, *arguments)
        happens("saved")

    def half_removed(path, **more):
        if (Path(path) / "optimizer.pt").exists():
            (Path(path) / "optimizer.pt").unlink()
            happens("removing")
        rmtree(path, **more)

    def counted_hand_on(self):
        happens("handing")
        hand_on(self)

    learner.Learner.step, Checkpoints.save, Path.write_bytes = counted_step, counted_save, half_written
    validation._gather, shutil.rmtree, stage_run.StageRun._hand_on = counted_gather, half_removed, counted_hand_on


def outcome(run):
    """Weights, and the history without what a clock measured."""
    history = json.loads((run / "history.json").read_text())
    timed = ("seconds", "validation_seconds", "pairs_per_s", "wait_share")
    return load_file(run / "model" / "weights.safetensors"), [
        {k: v for k, v in r.items() if k not in timed} for r in history
    ]


@pytest.fixture(scope="module")
def uninterrupted(recipe_path, synthetic_card, spawn, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert spawn(recipe_path, synthetic_card, run, 0, False, "never", 0) == 0
    return outcome(run)


# Checkpoints are saved at each stage's entry and after each epoch: 1 2 3 | 4 5 6 | 7 8 9 10 11.
MOMENTS = {
    "while the first checkpoint is written": ("saving", 1),
    "at the first stage's entry": ("saved", 1),
    "inside the first epoch": ("step", 2),
    "inside an epoch": ("step", STEPS + 2),
    "while a checkpoint is written": ("saving", 3),
    "before a stage boundary": ("step", 2 * STEPS),
    "at a stage boundary": ("saved", 3),
    "after a stage boundary": ("saved", 4),
    "inside a pretraining epoch": ("step", 2 * STEPS + THERMAL + 2),
    "in an epoch after a block has opened": ("step", 2 * STEPS + 2 * THERMAL + STEPS + 2),
    "in the last epoch": ("step", 2 * STEPS + 2 * THERMAL + 3 * STEPS + 2),
    "after the last epoch": ("saved", 11),
}


CASES = [(m, 0) for m in MOMENTS] + [(m, 2) for m in ("inside an epoch", "at a stage boundary", "in the last epoch")]


@pytest.mark.parametrize(("moment", "workers"), CASES)
def test_a_killed_run_resumes_to_the_same_bits(
    moment, workers, recipe_path, synthetic_card, spawn, uninterrupted, tmp_path
):
    run = tmp_path / "run"
    event, count = MOMENTS[moment]
    assert spawn(recipe_path, synthetic_card, run, workers, False, event, count) == -signal.SIGKILL
    assert spawn(recipe_path, synthetic_card, run, workers, True, "never", 0) == 0
    assert not list((run / "checkpoints").glob(".*"))  # nothing half-written stays
    weights, history = outcome(run)
    expected, expected_history = uninterrupted
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert history == expected_history


def test_the_run_that_is_killed_goes_through_a_rollback(uninterrupted):
    _, history = uninterrupted
    assert any("rolled_back" in row for row in history)
    assert any("rolled_back" not in row for row in history if row["stage"] == "all" and row["epoch"])


KILLS = ["step"] * 6 + ["saving"] * 3 + ["saved"] * 3 + ["validating"] * 3 + ["removing"] * 3 + ["handing"] * 2


def test_a_run_killed_at_twenty_random_moments_ends_in_the_same_bits(recipe_path, synthetic_card, spawn, tmp_path):
    assert spawn(recipe_path, synthetic_card, tmp_path / "whole", 0, False, "never", 0, LONG) == 0
    draw, run = random.Random(32), tmp_path / "run"  # a draw whose every event comes before the run's end
    checkpoints, after_rollback = Checkpoints(run), 0
    for event in draw.sample(KILLS, len(KILLS)):
        count = draw.randint(1, 5) if event == "step" else 1
        started = (run / "recipe.yaml").exists()
        assert spawn(recipe_path, synthetic_card, run, 0, started, event, count, LONG) == -signal.SIGKILL, event
        for folder in checkpoints.folder.glob("s*"):
            checkpoints.load(folder.name)  # readable to the last
            json.loads((folder / "state.json").read_text())
        after_rollback += any("rolled_back" in row for row in checkpoints.latest().history)
    assert after_rollback >= 1
    assert spawn(recipe_path, synthetic_card, run, 0, True, "never", 0, LONG) == 0
    (weights, history), (expected, expected_history) = outcome(run), outcome(tmp_path / "whole")
    assert all(torch.equal(weights[name], expected[name]) for name in expected) and len(weights) == len(expected)
    assert history == expected_history
    assert not list(checkpoints.folder.glob(".*"))


def test_what_is_kept_and_that_a_finished_run_loads(recipe_path, synthetic_card, spawn, tmp_path):
    run = tmp_path / "run"
    assert spawn(recipe_path, synthetic_card, run, 0, False, "never", 0) == 0
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"s00-e002", "s01-e002", "s02-e003", "s02-e004"} <= kept  # each stage's end, and the last two
    assert "s02-e000" in kept  # what l2_sp pulls towards
    assert len(kept) <= 7
    model = load_model(run)
    assert not model.training and model.config.classes


def test_a_run_is_never_overwritten_and_never_resumed_with_another_recipe(
    recipe_path, synthetic_card, tmp_path, capsys
):
    run = tmp_path / "run"
    base = ["train", str(recipe_path), "--data", str(synthetic_card), "--out", str(run), "--accelerator", "cpu"]
    assert main([*base, "--resume"]) == 1
    assert "no run to resume there" in capsys.readouterr().err
    (run / "checkpoints").mkdir(parents=True)
    assert main(base) == 1
    assert "holds a run already; go on with it by --resume" in capsys.readouterr().err
    (run / "recipe.yaml").write_text("about: another\n")
    assert main([*base, "--resume"]) == 1
    assert "started with another recipe" in capsys.readouterr().err


def test_an_unfinished_run_has_no_model_to_load(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FusionError, match="no finished model there"):
        load_model(tmp_path / "run")
    with pytest.raises(FusionError, match="no such run"):
        load_model(tmp_path / "nowhere")


def test_a_card_whose_training_pairs_lack_labels_is_one_line(recipe_path, synthetic_card, tmp_path):
    card = DatasetCard.load(synthetic_card)
    swapped = card.model_copy(update={"splits": {**card.splits, "train": card.splits["unlabelled"]}})
    swapped._path = card.path
    with pytest.raises(DataError, match=r"6 pairs of split 'train' have no labels"):
        train(load_recipe(str(recipe_path)), "small", swapped, tmp_path / "run", accelerator="cpu")


@pytest.fixture
def finished(recipe_path, synthetic_card, tmp_path):
    run = tmp_path / "finished"
    torch.set_num_threads(1)
    short = [f"stages.{i}.epochs=1" for i in range(3)] + ["workers=0"]
    train(load_recipe(str(recipe_path), short), "small", DatasetCard.load(synthetic_card), run, accelerator="cpu")
    changes = [word for change in short for word in ("--set", change)]
    call = ["train", str(recipe_path), "--out", str(run), "--accelerator", "cpu", "--resume", *changes]
    return run, call


def one_line(capsys):
    error = capsys.readouterr().err.strip().split("\n")[-1].split("\r")[-1]
    assert "Traceback" not in error
    return error


def test_a_run_does_not_go_on_with_other_labels(finished, synthetic_card, tmp_path, capsys):
    _, call = finished
    card = DatasetCard.load(synthetic_card)
    ids = tuple(sample.id for sample in card.samples("train"))[:-1]
    splits = {name: Split(ids=tuple(s.id for s in card.samples(name))) for name in card.splits}
    other = card.model_copy(update={"root": str(card.folder.resolve()), "splits": {**splits, "train": Split(ids=ids)}})
    other.save(tmp_path / "other.yaml")
    assert main([*call, "--data", str(tmp_path / "other.yaml")]) == 1
    assert "ids or labels are not those that" in one_line(capsys)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_is_one_line(name, finished, synthetic_card, capsys):
    run, call = finished
    (run / "checkpoints" / "s02-e001" / name).write_bytes(b"\x00damaged")
    assert main([*call, "--data", str(synthetic_card)]) == 1
    assert "s02-e001: damaged" in one_line(capsys)


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(
    recipe_path, synthetic_card, tmp_path, capsys, monkeypatch
):
    write_bytes = Path.write_bytes

    def full(self, content):
        if self.name == "optimizer.pt" and "s00-e001" in str(self):
            with Path("/dev/full").open("wb", buffering=0) as device:  # a real ENOSPC
                device.write(content)
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    run = tmp_path / "run"
    call = ["train", str(recipe_path), "--data", str(synthetic_card), "--out", str(run), "--accelerator", "cpu"]
    assert main([*call, "--set", "workers=0"]) == 1
    assert "no space left on the disk" in one_line(capsys)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["s00-e000"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_one_line_whatever_the_workers(workers, recipe_path, synthetic_card, tmp_path, capsys):
    folder = tmp_path / "pairs"
    shutil.copytree(synthetic_card.parent, folder)
    card = DatasetCard.load(folder / "card.yaml")
    picture = card.samples("val")[0].thermal
    picture.write_bytes(picture.read_bytes()[:200])
    call = ["train", str(recipe_path), "--data", str(card.path), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
    assert main([*call, "--set", f"workers={workers}"]) == 1
    error = one_line(capsys)
    assert error.startswith("rgbt: error:") and picture.name in error


def test_a_missing_picture_is_told_before_anything_is_written(recipe_path, synthetic_card, tmp_path, capsys):
    folder = tmp_path / "pairs"
    shutil.copytree(synthetic_card.parent, folder)
    card = DatasetCard.load(folder / "card.yaml")
    card.samples("train")[3].thermal.unlink()
    run = tmp_path / "run"
    assert main(["train", str(recipe_path), "--data", str(card.path), "--out", str(run), "--accelerator", "cpu"]) == 1
    assert "no such file (1 of split 'train' are missing)" in one_line(capsys)
    assert not run.exists()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_never_reaches_a_weight(what, recipe_path, synthetic_card, tmp_path, capsys, monkeypatch):
    """A loss of NaN, and a finite loss with a gradient that is not, are caught before the step; then the run ends."""

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * (float("nan") if what == "loss" else 1.0)

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    loss = FusionModel.loss

    def spoilt(self, maps, boxes, labels):
        terms = loss(self, maps, boxes, labels)
        return {**terms, "loss": Spoil.apply(terms["loss"])} if self.training else terms

    monkeypatch.setattr(FusionModel, "loss", spoilt)
    run = tmp_path / "run"
    call = ["train", str(recipe_path), "--data", str(synthetic_card), "--out", str(run), "--accelerator", "cpu"]
    assert main([*call, "--set", "workers=0"]) == 1
    error = one_line(capsys)
    assert f"stage 'rgb-task', step {STEPS + 1}: the {what}" in error and "on samples" in error
    entry, again = (load_file(run / "checkpoints" / f"s00-e00{i}" / "model.safetensors") for i in (0, 1))
    assert all(torch.isfinite(tensor).all() for tensor in entry.values())
    assert all(torch.equal(entry[name], again[name]) for name in entry)
