"""Two gloo processes train as one does: through a frozen stage, an unfreezing and a rollback."""

import json
import multiprocessing
import os
import socket

import pytest
import torch
import yaml
from lightning.fabric import Fabric
from safetensors.torch import load_file

from data.card import DatasetCard
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
    ],
}


@pytest.fixture(scope="module")
def spawn():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.train", "data.augment", "albumentations", "torchmetrics.detection"])
    return context


def train_one(rank, world, port, recipe_path, card_path, out):
    """What one process of the run does."""
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
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
        context.Process(target=train_one, args=(rank, world, port, recipe_path, card_path, out))
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
    for row, same, other in zip(alone, first, second, strict=True):
        for key in ("loss", "val_loss", "gradient_norm", "gradient_norm_thermal", "ap50", "ap50_rgb"):
            if key in row:
                assert same[key] == pytest.approx(row[key], rel=1e-5, abs=1e-9), (row["stage"], row["epoch"], key)
                assert other[key] == pytest.approx(same[key], rel=1e-9)
        for key in ("epoch", "lr", "frozen", "best"):
            assert same.get(key) == row.get(key) == other.get(key)
        assert ("rolled_back" in same) == ("rolled_back" in row)
    weights, shared = (load_file(tmp_path / n / "model" / "weights.safetensors") for n in ("one", "two"))
    assert all(torch.allclose(weights[name].double(), shared[name].double(), rtol=1e-5, atol=1e-7) for name in weights)
