"""What a stage minimises: the task's loss on labelled pictures, or a pretraining objective on unlabelled ones."""

from typing import ClassVar

from torch import Tensor, nn

from fusion.model import FusionModel, Sensor
from fusion.pretrain import AutoencodeObjective, DistillObjective, LearnsFrom, MaskedObjective
from fusion.pretrain import Batch as Batch


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

    def prepare(self, batch: Batch) -> tuple[Batch, Tensor]:
        """Draw the head's targets, once for all parts of a batch.

        Returns:
            The batch with ``targets`` (tensors [B,…]), and ``counts`` float32 [n]: what the loss is divided by. Summed
            over all devices they go into every part's ``forward``.
        """
        targets = self.model.targets(batch["boxes"], batch["labels"])
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
        maps = self.model.maps(batch["rgb"], batch["thermal"], batch["present"], keep, sensors)
        return self.model.loss(maps, batch["targets"], counts) | maps


Objective = TaskObjective | AutoencodeObjective | MaskedObjective | DistillObjective
OBJECTIVES: dict[str, type[Objective]] = {
    "task": TaskObjective,
    "autoencode": AutoencodeObjective,
    "masked": MaskedObjective,
    "distill": DistillObjective,
}
