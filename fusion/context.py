"""What all stages of a run share, and what the room is handed from outside."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.fabric import Fabric
from tqdm import tqdm

from fusion.checkpoint import Checkpoints
from fusion.objectives import OBJECTIVES
from fusion.plan import StagePlan
from fusion.recipe import Recipe


class Batches(Protocol):
    """Batches of one epoch."""

    def __len__(self) -> int:
        """Number of batches of the whole epoch."""

    def __iter__(self) -> Any:  # noqa: ANN401 - a torch DataLoader's iterator
        """Yield batches."""


class Loaders(Protocol):
    """Where batches come from; handed in by the pipelines, so that this room knows no files."""

    def train(self, kind: str, order: tuple[int | str, ...], skip: int = 0) -> Batches:
        """This device's share of an epoch's batches.

        Args:
            kind: What an objective learns from: labelled, thermal or pairs.
            order: Decides order and augmentation, and nothing else does.
            skip: Batches that are done already and are not read.
        """

    def validation(self) -> Batches:
        """This device's share of the labelled validation split, in a fixed order, not augmented."""


@dataclass
class Context:
    """What all stages of a run share."""

    recipe: Recipe
    loaders: Loaders
    run: Path
    fabric: Fabric
    say: Callable[[str], None]
    stop: Callable[[], bool]
    checkpoints: Checkpoints
    progress: "tqdm[Any]"

    def per_epoch(self, plan: StagePlan) -> int:
        """Optimiser steps of one epoch of a stage."""
        return len(self.loaders.train(OBJECTIVES[plan.stage.objective].learns_from, ("count",)))
