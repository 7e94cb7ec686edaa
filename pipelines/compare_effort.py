"""What a recipe of rgbt compare cost, and which pictures chose what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.compare_cells import Cell
from pipelines.recipe_file import TrainRecipe


@dataclass(frozen=True)
class Pretraining:
    """A stage that learns without labels."""

    stage: str
    objective: str
    epochs: int
    pictures: int


@dataclass(frozen=True)
class Effort:
    """What a recipe cost, and which pictures chose what; means over the seeds."""

    name: str
    about: str
    sensors: tuple[str, ...]
    selection: str
    """In words: which epoch was handed on, and what watched the training."""
    labelled_steps: float
    """Optimiser steps on labelled pairs."""
    pretraining: tuple[Pretraining, ...]
    seconds: float
    """Of training, stages that were taken from another run included."""
    shared_seconds: float
    """How many of them another run spent."""
    parameters: int
    runs: tuple[str, ...]
    """Folders, in the order of the seeds."""


def effort_of(cells: Sequence[Cell], out: Path) -> Effort:
    """Of one recipe, from its cells of all seeds; ``out`` is the folder that the runs are named in."""
    first = cells[0]
    spent = [_spent(cell) for cell in cells]
    steps, seconds, shared = (sum(values) / len(cells) for values in zip(*spent, strict=True))
    return Effort(
        name=first.name,
        about=first.recipe.about,
        sensors=first.recipe.model.sensors,
        selection=_selection(first),
        labelled_steps=steps,
        pretraining=tuple(_pretraining(first)),
        seconds=seconds,
        shared_seconds=shared,
        parameters=first.measured()["parameters"],
        runs=tuple(str(cell.folder.relative_to(out)) for cell in cells),
    )


def _epochs(cell: Cell) -> dict[str, int]:
    """Stage → epochs that were trained, those that were thrown away included."""
    done: dict[str, set[int]] = {work.stage: set() for work in cell.work}
    for row in cell.history():
        if row["epoch"]:
            done[row["stage"]].add(row["epoch"])
    return {stage: len(epochs) for stage, epochs in done.items()}


def _spent(cell: Cell) -> tuple[float, float, float]:
    """Labelled optimiser steps, seconds of training, and how many of these another run spent."""
    epochs = _epochs(cell)
    steps = sum(work.steps * epochs[work.stage] for work in cell.work if work.labelled)
    foreign = {cell.work[index].stage for index in cell.store.shared()}
    seconds = {True: 0.0, False: 0.0}
    for row in cell.history():
        seconds[row["stage"] in foreign] += row.get("seconds", 0.0)
    return steps, sum(seconds.values()), seconds[True]


def _pretraining(cell: Cell) -> list[Pretraining]:
    epochs = _epochs(cell)
    return [Pretraining(w.stage, w.objective, epochs[w.stage], w.pictures) for w in cell.work if not w.labelled]


def _selection(cell: Cell) -> str:
    """Which pictures chose what."""
    recipe, validation = cell.recipe, cell.setting.validation
    epoch = "the last epoch of each stage" if recipe.select == "last" else f"each stage's best epoch on {validation}"
    if any(recipe.ema_of(stage) for stage in recipe.stages):
        epoch += ", as a moving average of the weights"
    used = " and ".join(watchers(recipe))
    return f"{epoch}; {used} on {validation}" if used else epoch


def watchers(recipe: TrainRecipe) -> list[str]:
    """What acts while training on what the validation pictures say."""
    there = {
        "the guard": any(stage.guard for stage in recipe.stages),
        "early stop": any(stage.early_stop for stage in recipe.stages),
        "auto unfreezing": any(stage.unfreeze and stage.unfreeze.auto for stage in recipe.stages),
    }
    return [name for name, acts in there.items() if acts]


def duration(effort: Effort) -> str:
    """Training time; a star marks that stages of another run are in it."""
    star = "*" if effort.shared_seconds else ""
    return f"{effort.seconds:.0f} s{star}" if effort.seconds < 600 else f"{effort.seconds / 60:.0f} min{star}"
