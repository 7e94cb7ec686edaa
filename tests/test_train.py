"""What rgbt train refuses before any process starts, and how its end is told."""

import json
import re
from dataclasses import asdict

import pytest
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger

from data.card import DatasetCard
from fusion.errors import Stopped
from fusion.trainer import Trainer
from pipelines import train as training
from pipelines.cli import main
from pipelines.loggers import STOPPED
from pipelines.recipe_file import dump_recipe, load_recipe

RECIPE = """
about: two stages of a small pair
model:
  size: [64, 96]
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
  head: {width: 16, norm: group}
batch: 4
workers: 0
stages:
  - name: head
    epochs: 1
    groups: [{match: "blend.*|head", lr: 1.0e-3}]
  - name: deeper
    epochs: 2
    groups: [{match: "thermal.blocks.-1", lr: 1.0e-4, norm: frozen}, {match: "blend.*|head", lr: 1.0e-3}]
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def arguments(recipe, card, run, *more):
    return ["train", str(recipe), "--data", str(card), "--out", str(run), "--accelerator", "cpu", *more]


def test_more_devices_than_there_are_is_one_line_of_the_command(small, synthetic_card, tmp_path, capsys):
    assert main(arguments(small, synthetic_card, tmp_path / "run", "--devices", "4096")) == 1
    error = capsys.readouterr().err
    assert error.startswith("rgbt: error: --devices 4096: asked for 4096 on each node, found ")
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


class Ended(Logger):
    """Keeps how it was told that a run ended."""

    name, version = "ended", ""

    def __init__(self):
        self.status = None

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def finalize(self, status):
        self.status = status


def test_a_stop_is_no_failure_for_trackers_nor_for_the_other_processes(small, synthetic_card, tmp_path, monkeypatch):
    told, failures = Ended(), []
    monkeypatch.setattr(training, "make_loggers", lambda names, run: [told])
    monkeypatch.setattr(training, "end_processes", lambda fabric, failed: failures.append(failed))
    recipe, card = load_recipe(str(small)), DatasetCard.load(synthetic_card)
    with pytest.raises(Stopped):
        training.train(recipe, "small", card, tmp_path / "run", accelerator="cpu", stop=lambda: True)
    assert (told.status, failures) == (STOPPED, [False])
    monkeypatch.setattr(Trainer, "fit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.train(recipe, "small", card, tmp_path / "run", resume=True, accelerator="cpu")
    assert (told.status, failures) == ("failed", [False, True])


def test_another_precision_than_the_run_was_started_with_is_one_line(small, synthetic_card, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe(str(small))))
    info = training.RunInfo("small", "", "card.yaml", "", precision="bf16-mixed")
    (run / "run.json").write_text(json.dumps(asdict(info)))
    assert main(arguments(small, synthetic_card, run, "--resume")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"rgbt: error: --precision 32-true: {run} was started with bf16-mixed; go on with --prec")
    assert error.count("\n") == 1 and sorted(path.name for path in run.iterdir()) == ["recipe.yaml", "run.json"]


def test_a_stage_that_its_model_cannot_train_is_said_with_its_place_before_processes_start(
    small, synthetic_card, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Fabric, "launch", lambda *_: pytest.fail("processes were started"))
    changes = ["model.rgb.arch=test_efficientnet", "stages.1.sensors=[thermal]", "stages.1.groups.1.match=head"]
    sets = [word for change in changes for word in ("--set", change)]
    assert main(arguments(small, synthetic_card, tmp_path / "run", *sets)) == 1
    error = capsys.readouterr().err
    words = r"small.yaml:\d+: stages.1.sensors: a stage with thermal alone trains it straight into the head"
    assert re.search(words, error) and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()
