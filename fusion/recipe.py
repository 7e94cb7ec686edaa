"""The staged protocol as data: what trains, when, how fast."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fusion.errors import FusionError
from fusion.model import HEADS, ModelSection, Sensor, Sensors
from fusion.objectives import OBJECTIVES
from fusion.optimisers import AdamW, BelowOne, Optimiser
from fusion.rates import SCHEDULES

Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(gt=0)]
MOST_EPOCHS = 999
"""Of one stage: the names of its checkpoints have three digits."""
NormPolicy = Literal["frozen", "train"]


def _percent(value: Any) -> Any:  # noqa: ANN401 - plain YAML content
    """``5%`` is 0.05."""
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip().removesuffix("%")) / 100
    return value


Tolerance = Annotated[float, BeforeValidator(_percent), Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Group(_Section):
    """Blocks that train together. The first group that matches a block has it; what none matches is frozen."""

    match: str
    """Globs over our names (rgb.stem, rgb.blocks.0 … or -1 from the end, blend.0, head, objective), joined by |."""
    lr: Positive
    """Learning rate at the schedule's top."""
    layer_decay: Factor = 1.0
    """The rate is multiplied by this once for each block between a block and its branch's deepest."""
    norm: NormPolicy | None = None
    """Statistics of batch-norms. Null: frozen in an encoder that was pretrained, train in one that never was."""
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    """Pull towards the weights that this stage began with, decoupled as AdamW's decay is. These are the starting point
    of Li et al. (ICML 2018), the pretrained weights, in the first stage that trains the blocks; in a later stage they
    are what the stages before have made of them."""


class Schedule(_Section):
    """The rate as a function of the step within a stage: linear warm-up, then the kind's curve down to ``floor``."""

    kind: str = "cosine"
    """constant, cosine, onecycle (Smith & Topin, 2018) or cyclic (triangular; Smith, WACV 2017)."""
    warmup: BelowOne | None = None
    """Share of the stage's steps; null: what is usual for the kind."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Lowest rate as a share of the top."""
    cycles: Count = 3
    """Triangles of a cyclic stage."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in SCHEDULES:
            raise ValueError(f"unknown schedule '{self.kind}'; one of {', '.join(SCHEDULES)}")
        return self


class Guard(_Section):
    """Watches a figure after each epoch, and acts when it jumps the wrong way."""

    metric: str = "val_loss"
    """val_loss, one of the head's metrics, the main one with one sensor alone (ap50_rgb, miou_rgb, accuracy_rgb), or
    forgetting_rgb."""
    tolerance: Tolerance = 0.05
    """Share of the best value for a loss, absolute points for all else; 5% is 0.05."""
    on_jump: Literal["warn", "stop", "rollback"] = "rollback"
    """warn: say it. stop: end the stage. rollback: back to the best epoch, with lower rates; the epoch counts."""
    lr_factor: Factor = 0.5
    """Every rate of the stage is multiplied by this at each rollback."""
    at_most: Annotated[int, Field(ge=0)] = 3
    """Rollbacks of one stage; a further jump ends it."""


class EarlyStop(_Section):
    """Ends a stage whose figure has not improved for some epochs."""

    metric: str = "val_loss"
    patience: Count = 5
    """Epochs without an improvement."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What counts as one."""


class Unfreeze(_Section):
    """Opens the blocks of a branch one after the other within one stage, under one schedule."""

    branch: Literal["rgb", "thermal", "both"] = "both"
    start: Literal["last", "first"] = Field("last", alias="from")
    """Which block opens first."""
    every: Count = 2
    """Epochs from one block to the next."""
    lr: Positive | None = None
    """Top rate of the first block; null: the highest of the stage's groups."""
    lr_factor: Factor = 0.4
    """Each further block learns at this share of the one before; a block that a group matches has the group's rate."""
    norm: NormPolicy | None = None
    auto: bool = False
    """Open the next block only where the metric has improved by more than one standard error of the paired difference;
    else the stage ends, and with ``select: last`` hands on what there was before the opening that did not help."""


def _auto(value: Any) -> Any:  # noqa: ANN401 - plain YAML content
    return {"auto": True} if value == "auto" else value


class Stage(_Section):
    """One stage of the protocol."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS)]
    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    objective: str = "task"
    """task: the labelled answer. Without labels: autoencode, masked (thermal alone), distill (from RGB, on pairs)."""
    sensors: Sensors | None = None
    """Sensors that this stage uses; null: all that the model has, or that the objective looks at."""
    modality_dropout: BelowOne = 0.0
    """Chance for each sample that one of its sensors, drawn evenly, is cut out at the blend."""
    alone: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss of what each sensor answers alone, from the same features, beside that of both: no branch may
    rest on the other, and either camera may fail."""
    schedule: Schedule | None = None
    """Null: the recipe's."""
    optimiser: Optimiser | None = None
    """Null: the recipe's."""
    clip: Positive = 5.0
    """Largest norm of the gradient."""
    accumulate: Count = 1
    """Parts that a batch is worked through in; the step is the same, the memory less."""
    ema: BelowOne | None = None
    """Decay of a moving average of the weights, which is then what is validated and handed on; 0: none; null: the
    recipe's."""
    early_stop: EarlyStop | None = None
    guard: Guard | None = None
    unfreeze: Annotated[Unfreeze | None, BeforeValidator(_auto)] = None
    """Gradual unfreezing in one line; ``auto`` alone is {auto: true}."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective '{self.objective}'; one of {', '.join(OBJECTIVES)}")
        if self.modality_dropout and self.sensors is not None and len(self.sensors) < 2:
            raise ValueError("modality_dropout needs both sensors in the stage")
        if self.unfreeze and self.unfreeze.auto and self.objective != "task":
            raise ValueError("unfreeze: auto decides by the task's metric, so it needs objective: task")
        return self

    @property
    def is_task(self) -> bool:
        """Whether it learns from labels."""
        return OBJECTIVES[self.objective].learns_from == "labelled"


class Recipe(_Section):
    """A model and the stages that train it."""

    about: str
    """One sentence: what it is for."""
    model: ModelSection
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=99)]
    batch: Count = 8
    """Pairs of one optimiser step, over all devices."""
    repeat: Count = 1
    """Passes over the labelled pairs in one epoch: for sets so small that an epoch would be a few steps."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read and augment pictures; the result does not depend on it."""
    seed: int = 0
    optimiser: Optimiser = AdamW()
    schedule: Schedule = Schedule()
    ema: BelowOne = 0.0
    """Of the stages that say nothing of it."""
    select: Literal["best", "last"] = "best"
    """Which epoch's weights a stage hands on: the best on the validation split (its entry included), or the last."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have one name: {', '.join(names)}")
        for index, stage in enumerate(self.stages):
            self._require_sensors(stage)
            if self.model.is_early and not stage.is_task:
                raise ValueError(
                    f"stages.{index}.objective: stage '{stage.name}' pretrains a thermal branch, but an early fusion "
                    "has none"
                )
            for field, section in (("guard", stage.guard), ("early_stop", stage.early_stop)):
                known = self.figures(stage)
                if section is not None and section.metric not in known:
                    raise ValueError(
                        f"stages.{index}.{field}.metric: stage '{stage.name}' has no figure '{section.metric}'; "
                        f"one of {', '.join(known)}"
                    )
            if self.batch % stage.accumulate:
                raise ValueError(
                    f"stages.{index}.accumulate: a batch of {self.batch} cannot be split into {stage.accumulate} "
                    "equal parts"
                )
        return self

    def _require_sensors(self, stage: Stage) -> None:
        lacking = [s for s in self.sensors_of(stage) if s not in self.model.sensors]
        if lacking:
            raise ValueError(f"stage '{stage.name}' uses {', '.join(lacking)}, which model.sensors leaves out")

    def scaled(self, share: float) -> Self:
        """The recipe with ``share`` times the epochs of every stage, and what counts in epochs with them.

        Raises:
            FusionError: a stage would become too long, or nothing; the text begins with the field.
        """

        def epochs(count: int) -> int:
            return max(1, round(count * share))

        def shorter(stage: Stage) -> Stage:
            update: dict[str, Any] = {"epochs": epochs(stage.epochs)}
            if stage.unfreeze is not None:
                update["unfreeze"] = stage.unfreeze.model_copy(update={"every": epochs(stage.unfreeze.every)})
            if stage.early_stop is not None:
                patience = epochs(stage.early_stop.patience)
                update["early_stop"] = stage.early_stop.model_copy(update={"patience": patience})
            return stage.model_copy(update=update)

        if not 0 < share <= MOST_EPOCHS:
            raise FusionError(f"stages: the epochs cannot be multiplied by {share:g}; expected a number above 0")
        changed = self.model_copy(update={"stages": tuple(shorter(stage) for stage in self.stages)})
        try:
            type(self).model_validate(changed.model_dump())  # model_copy checks nothing
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place, found = ".".join(map(str, first["loc"])), first["input"]
            raise FusionError(f"{place}: {found} once multiplied by {share:g}: {first['msg']}") from None
        return changed

    def sensors_of(self, stage: Stage) -> tuple[Sensor, ...]:
        """The sensors that a stage uses."""
        return stage.sensors or OBJECTIVES[stage.objective].default_sensors or self.model.sensors

    def figures(self, stage: Stage) -> Sequence[str]:
        """Names of what is measured after each epoch of a stage, so that a guard can watch it."""
        if not stage.is_task:
            return ("val_loss",)
        metrics = HEADS[self.model.head.kind].metrics
        if len(self.sensors_of(stage)) < 2:
            return ("val_loss", *metrics)
        main = metrics[0]
        alone = [f"{kind}_{sensor}" for kind in (main, "forgetting") for sensor in ("rgb", "thermal")]
        return ("val_loss", *metrics, *alone)

    def optimiser_of(self, stage: Stage) -> Optimiser:
        """The optimiser that a stage uses."""
        return stage.optimiser or self.optimiser

    def schedule_of(self, stage: Stage) -> Schedule:
        """The schedule that a stage uses."""
        return stage.schedule or self.schedule

    def ema_of(self, stage: Stage) -> float:
        """The decay of a stage's moving average; 0: it keeps none."""
        return self.ema if stage.ema is None else stage.ema
