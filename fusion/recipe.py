"""The staged protocol as data: what trains, when, how fast."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fusion.model import ModelSection, Sensor, Sensors
from fusion.objectives import OBJECTIVES

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(_Section):
    """Blocks that train together. The first group that matches a block has it; what none matches is frozen."""

    match: str
    """Globs over our names (rgb.stem, rgb.blocks.0 … or -1 from the end, blend.0, head, objective), joined by |."""
    lr: Positive
    """Learning rate at the schedule's top."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate is multiplied by this once for each block between a block and its branch's deepest."""
    norm: Literal["frozen", "train"] | None = None
    """Statistics of batch-norms. Null: frozen in an encoder that was pretrained, train in one that never was."""


class Optimiser(_Section):
    """AdamW; biases and norms are exempt from weight decay."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    betas: tuple[Share, Share] = (0.9, 0.999)


class Schedule(_Section):
    """The rate as a function of the step within a stage: linear warm-up, then constant or cosine to ``floor``."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup: Share = 0.05
    """Share of the stage's steps."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Last rate as a share of the top."""


class Stage(_Section):
    """One stage of the protocol."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    epochs: Annotated[int, Field(gt=0, lt=1000)]
    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    objective: str = "task"
    """task: the labelled answer. autoencode: thermal pictures from themselves, without labels."""
    sensors: Sensors | None = None
    """Sensors that this stage uses; null: all that the model has."""
    modality_dropout: Share = 0.0
    """Chance for each sample that one of its sensors, drawn evenly, is cut out at the blend."""
    schedule: Schedule = Schedule()
    clip: Positive = 5.0
    """Largest norm of the gradient."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective '{self.objective}'; one of {', '.join(OBJECTIVES)}")
        if self.modality_dropout and self.sensors is not None and len(self.sensors) < 2:
            raise ValueError("modality_dropout needs both sensors in the stage")
        return self


class Recipe(_Section):
    """A model and the stages that train it."""

    about: str
    """One sentence: what it is for."""
    model: ModelSection
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=99)]
    batch: Annotated[int, Field(gt=0)] = 8
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read and augment pictures; the result does not depend on it."""
    seed: int = 0
    optimiser: Optimiser = Optimiser()
    select: Literal["best", "last"] = "best"
    """Which epoch's weights a stage hands on: the best on the validation split (its entry included), or the last."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        for stage in self.stages:
            lacking = set(stage.sensors or ()) - set(self.model.sensors)
            if lacking:
                raise ValueError(f"stage '{stage.name}' uses {', '.join(lacking)}, which model.sensors leaves out")
            if stage.objective == "autoencode" and "thermal" not in self.model.sensors:
                raise ValueError(f"stage '{stage.name}' pretrains thermal, which model.sensors leaves out")
        return self

    def sensors_of(self, stage: Stage) -> tuple[Sensor, ...]:
        """The sensors that a stage uses."""
        return stage.sensors or (("thermal",) if stage.objective == "autoencode" else self.model.sensors)
