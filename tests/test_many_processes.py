"""Two gloo processes train as one does: through frozen stages, unfreezing, rollbacks, early stop and a decision.

What the second process sees of the validation is none of the run's business, and a gradient that is no number on that
process alone is everybody's.
"""

import json
import multiprocessing
import os
import socket
from dataclasses import replace

import pytest
import torch
import yaml
from lightning.fabric import Fabric
from safetensors.torch import load_file

from data.card import DatasetCard
from fusion import stage_run
from fusion.learner import Learner
from fusion.model import build_model
from fusion.trainer import Trainer
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import load_recipe
from pipelines.train import model_config

RECIPE = {
    "about": "nothing in it depends on how a batch is shared out",
    "model": {
        "size": [64, 96],
        "rgb": {"arch": "test_resnet", "weights": None},
        "thermal": {"arch": "test_resnet"},
        "head": {"width": 16, "norm": "group"},
    },
    "batch": 4,
    "workers": 0,
    "stages": [
        {"name": "head", "epochs": 2, "groups": [{"match": "blend.*|head", "lr": 2e-3}]},
        {
            "name": "deeper",
            "epochs": 5,
            "accumulate": 2,
            "groups": [{"match": "blend.*|head", "lr": 0.3, "norm": "frozen"}],
            "unfreeze": {"branch": "thermal", "every": 2, "lr": 1e-2, "norm": "frozen"},
            "guard": {"metric": "val_loss", "tolerance": "0%", "lr_factor": 0.02},
        },
        {
            "name": "patient",
            "epochs": 9,
            "groups": [{"match": "head", "lr": 1e-4}],
            "early_stop": {"metric": "val_loss", "patience": 2, "min_delta": 100.0},
        },
        {
            "name": "auto",
            "epochs": 9,
            "groups": [{"match": "head", "lr": 1e-9}],
            "unfreeze": {"branch": "thermal", "every": 1, "lr": 1e-9, "norm": "frozen", "auto": True},
        },
    ],
}


@pytest.fixture(scope="module")
def spawn():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.train", "data.augment.augmenter", "torchmetrics.detection"])
    return context


def skew():
    """Let this process see nothing in the validation that is a number."""
    validate = stage_run.validate

    def found(*arguments):
        seen = validate(*arguments)
        return replace(seen, row=dict.fromkeys(seen.row, float("nan")))

    stage_run.validate = found


def spoil():
    """Let this process find a gradient's norm that is no number, in the second step of stage patient."""
    norms, step = Learner._norms, Learner.step

    def counted(self, batch, number, *arguments):
        self.broken = self.stage.name == "patient" and number == 1
        return step(self, batch, number, *arguments)

    Learner.step, Learner._norms = counted, lambda self: norms(self) * (float("nan") if self.broken else 1.0)


def train_one(rank, world, port, recipe_path, card_path, out):
    """What one process of the run does."""
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if rank:
        skew()
    if rank == world - 1:
        spoil()
    recipe, card = load_recipe(str(recipe_path)), DatasetCard.load(card_path)
    strategy = "ddp" if world > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=world, strategy=strategy, precision="64-true")
    fabric.launch()
    model, _ = build_model(model_config(recipe, card), 0)
    history = Trainer(model, recipe, CardLoaders(card, recipe, rank, world), out, fabric, lambda _: None).fit()
    (out / f"history-{rank}.json").write_text(json.dumps(history))
    if world > 1:
        torch.distributed.destroy_process_group()


def run(context, world, recipe_path, card_path, out):
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=train_one, args=(rank, world, port, recipe_path, card_path, out), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world
    return [json.loads((out / f"history-{rank}.json").read_text()) for rank in range(world)]


def test_two_processes_train_as_one(spawn, synthetic_card, tmp_path):
    recipe_path = tmp_path / "recipe.yaml"
    recipe_path.write_text(yaml.safe_dump(RECIPE))
    (alone,) = run(spawn, 1, recipe_path, synthetic_card, tmp_path / "one")
    first, second = run(spawn, 2, recipe_path, synthetic_card, tmp_path / "two")
    assert any("rolled_back" in row for row in alone), "the test is to go through a rollback"
    assert any("rolled_back" not in row and row["epoch"] > 2 and row["stage"] == "deeper" for row in alone)
    assert len({tuple(row["frozen"]) for row in alone}) >= 3, "and through an unfreezing"
    ends = {row["stage"]: row for row in alone}
    assert "has not improved" in ends["patient"]["stopped"] and ends["patient"]["epoch"] == 3
    assert "the gradient of head is nan" in alone[[row["stage"] for row in alone].index("patient") + 1]["rolled_back"]
    assert ends["auto"]["decision"]["deeper"] is False and ends["auto"]["epoch"] == 1
    for row, same, other in zip(alone, first, second, strict=True):
        for key in ("loss", "val_loss", "gradient_norm", "gradient_norm_thermal", "ap50", "ap50_rgb"):
            if key in row:
                assert same[key] == pytest.approx(row[key], rel=1e-5, abs=1e-9), (row["stage"], row["epoch"], key)
        assert other == same  # to the last bit, clocks included
        for key in ("stage", "epoch", "steps", "lr", "frozen", "best", "back_to", "decision"):
            assert same.get(key) == row.get(key)
        assert row.keys() == same.keys()
    weights, shared = (load_file(tmp_path / n / "model" / "weights.safetensors") for n in ("one", "two"))
    assert all(torch.allclose(weights[name].double(), shared[name].double(), rtol=1e-5, atol=1e-7) for name in weights)
