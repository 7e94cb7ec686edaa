"""What a stage minimises: the task's loss on labelled pictures, or a pretraining objective on unlabelled ones."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fusion.model import FusionModel, Sensor
from fusion.pretrain import AutoencodeObjective, DistillObjective, LearnsFrom, MaskedObjective
from fusion.pretrain import Batch as Batch

ALONE: dict[str, tuple[float, float]] = {"rgb": (1.0, 0.0), "thermal": (0.0, 1.0)}
"""Sensor → what is left at the blend when the other is taken away."""


class TaskObjective(nn.Module):
    """The head's loss on labelled pairs."""

    learns_from: ClassVar[LearnsFrom] = "labelled"
    """Which pictures loaders hand in."""
    default_sensors: ClassVar[tuple[Sensor, ...] | None] = None
    """Sensors of a stage that names none; None: all that the model has."""
    title: ClassVar[str] = "The model learns the task from labels."
    """A sentence for reports."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model
        self.own = nn.ModuleList()
        """What the objective trains beside the model; nothing here."""
        self.alone = 0.0
        """Weight of the loss of each sensor's answer alone, beside that of both: see fusion.recipe.Stage.alone."""

    def prepare(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Draw the head's targets, once for all parts of a batch.

        Returns:
            The batch with ``targets`` (tensors [B,…]), and ``counts`` float32 [n]: what the loss is divided by. Summed
            over all devices they go into every part's ``forward``.
        """
        targets = self.model.targets(batch)
        return batch | {"targets": targets}, self.model.head.counts(targets)

    def forward(
        self, batch: Batch, sensors: tuple[Sensor, ...], keep: Tensor | None, counts: Tensor
    ) -> dict[str, Tensor]:
        """Contributions of a part of a batch: summed over the parts, scalars are the whole batch's.

        Args:
            batch: What ``prepare`` returned, or a part of its samples.
            sensors: Sensors in use.
            keep: Modality dropout, float32 [B,2] in {0, 1}.
            counts: ``prepare``'s, summed over all parts and devices.

        Returns:
            Scalars ``loss`` and its terms, and the head's ``maps``.
        """
        present = batch["present"]
        features = self.model.features(batch["rgb"], batch["thermal"], present, sensors)
        choices = {"both": present if keep is None else present * keep}
        if self.alone and len(sensors) > 1:
            choices |= {sensor: present * present.new_tensor(left) for sensor, left in ALONE.items()}
        maps = self._answers(features, choices)
        terms = self.model.loss(maps["both"], batch["targets"], counts)
        weighted = terms["loss"]
        for sensor in ALONE:
            if sensor in choices:
                terms[f"alone_{sensor}"] = self.model.loss(maps[sensor], batch["targets"], counts)["loss"]
                weighted = weighted + self.alone * terms[f"alone_{sensor}"]
        return terms | {"loss": weighted / (1 + self.alone * (len(choices) - 1))} | maps["both"]

    def _answers(self, features: dict[str, list[Tensor]], choices: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The head's maps for each choice of sensors; in one pass, so that its batch-norms see all of them alike."""
        joined = [self.model.join(features, there) for there in choices.values()]
        maps: dict[str, Tensor] = self.model.head([torch.cat(level) for level in zip(*joined, strict=True)])
        parts = {name: value.chunk(len(choices)) for name, value in maps.items()}
        return {choice: {name: part[at] for name, part in parts.items()} for at, choice in enumerate(choices)}


Objective = TaskObjective | AutoencodeObjective | MaskedObjective | DistillObjective
OBJECTIVES: dict[str, type[Objective]] = {
    "task": TaskObjective,
    "autoencode": AutoencodeObjective,
    "masked": MaskedObjective,
    "distill": DistillObjective,
}
