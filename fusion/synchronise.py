"""Batch-norms over all devices, and whether any of them trains at all."""

import torch
from lightning.fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import nn

from fusion.encoders import norm_layers
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.objectives import OBJECTIVES, Objective
from fusion.plan import StagePlan
from fusion.recipe import Recipe


def sketch_objectives(model: FusionModel, recipe: Recipe) -> list[Objective]:
    """Each stage's objective on the model; its own parts have a shape but no values, and cost nothing.

    Raises:
        FusionError: a stage's objective cannot learn from this model; the text begins with the recipe's field.
    """
    sketches = []
    for index, stage in enumerate(recipe.stages):
        try:
            model.require_width(recipe.sensors_of(stage), stage.objective)
        except FusionError as error:
            raise FusionError(f"stages.{index}.sensors: {error}") from None
        try:
            with torch.device("meta"):
                sketches.append(OBJECTIVES[stage.objective](model))
        except FusionError as error:
            raise FusionError(f"stages.{index}.objective: {error}") from None
    return sketches


def trains_batch_norm(objective: Objective, plan: StagePlan) -> bool:
    """Whether some running statistics move in a stage: of the model's blocks, or of the objective's own parts."""
    modules = objective.model.named_blocks()
    moving = [block.name for block in plan.blocks if block.norm == "train" and block.group is not None]
    parts = [*objective.own.modules(), *(module for name in moving for module in modules.get(name, ()))]
    return any(True for _ in norm_layers(parts))


def synchronise(objective: Objective, plan: StagePlan, fabric: Fabric) -> None:
    """Where a batch-norm trains on several devices, let all of them take their statistics over the whole batch.

    In place, model and objective's own parts alike; names, parameters and buffers stay. Torch can do it on CUDA alone.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda" and trains_batch_norm(objective, plan):
        _convert(objective)


def _convert(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            continue  # since an earlier stage; once more, and timm's would lose its activation
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            module.add_module(name, convert_sync_batchnorm(child))
        else:
            _convert(child)
