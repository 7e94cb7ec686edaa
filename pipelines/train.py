"""Trains a recipe on a card into a run folder, and goes on with a run that was stopped."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from tqdm import tqdm

from data.card import DatasetCard
from data.errors import DataError
from data.yaml_file import atomic, read_model
from fusion.checkpoint import Row
from fusion.model import FusionModel, ModelConfig, build_model
from fusion.plan import count_parameters, plan_stages, table
from fusion.trainer import Trainer
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import TrainRecipe, dump_recipe

RECIPE, RUN, HISTORY = "recipe.yaml", "run.json", "history.json"


@dataclass(frozen=True)
class RunInfo:
    """What a run folder remembers of itself, beside its recipe."""

    recipe_name: str
    recipe_sha256: str
    card: str
    """Path of the dataset card, absolute."""
    card_sha256: str
    """Of what a run takes from it: sizes, unit, classes, ids and labels."""


def train(
    recipe: TrainRecipe,
    name: str,
    card: DatasetCard,
    out: Path,
    resume: bool = False,
    accelerator: str = "auto",
    precision: Any = "32-true",  # noqa: ANN401 - Fabric's own union of literals
) -> list[Row]:
    """Train through all stages; return the history.

    Writes into ``out``: recipe.yaml (resolved), run.json, checkpoints, history.json, and model/ at the end.

    Raises:
        DataError: the folder holds another run, the card does not fit or has changed, or a picture cannot be read.
        FusionError: recipe, weights or checkpoint do not fit.
    """
    text = dump_recipe(recipe)
    _claim(out, text, resume)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    fabric.launch()
    loaders = CardLoaders(card, recipe)
    model, reports = build_model(model_config(recipe, card), recipe.seed)
    for report in reports:
        _say(f"weights  {report}")
    trainer = Trainer(model, recipe, loaders, out, fabric, _say)
    info = RunInfo(name, hashlib.sha256(text.encode()).hexdigest(), str(card.path.resolve()), loaders.fingerprint)
    if resume:
        _require_same_card(out, info)
    _write(out / RECIPE, text)
    _write(out / RUN, json.dumps(asdict(info), indent=1))
    _say(table(recipe, trainer.plans, count_parameters(model)))
    try:
        history = trainer.fit(resume)
    except DataError as error:  # a worker's error comes wrapped in its traceback
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("data.errors.DataError: ")) from None
    _write(out / HISTORY, json.dumps(history))
    return history


def model_config(recipe: TrainRecipe, card: DatasetCard) -> ModelConfig:
    """Join the recipe's model section with the card's classes and inputs."""
    section = recipe.model.model_dump()
    return ModelConfig(**section, classes=card.classes, inputs=card.inputs().model_dump(mode="json"))


def stage_table(recipe: TrainRecipe) -> tuple[str, dict[str, int]]:
    """The expanded stages as text, and every block name with its parameters; no weights are loaded."""
    thermal = {"unit": "intensity8", "polarity": "white-hot", "range": None, "min_span": 16.0, "invalid": 0.0}
    inputs = {"rgb_size": recipe.model.size, "thermal_size": recipe.model.size, "thermal": thermal}
    config = ModelConfig(**recipe.model.model_dump(), classes=("object",), inputs=inputs)
    counts = count_parameters(FusionModel(config))
    return table(recipe, plan_stages(recipe, counts), counts), counts


def read_run(run: Path) -> tuple[TrainRecipe, RunInfo, list[Row]]:
    """Read what a finished run remembers; DataError when it is no run, or not finished."""
    info = _read_info(run)
    if info is None or not (run / HISTORY).exists():
        missing = RUN if info is None else HISTORY
        raise DataError(f"{run}: not a finished run ({missing} is missing); train it, or go on with --resume")
    history = json.loads((run / HISTORY).read_text())
    return read_model(run / RECIPE, TrainRecipe), info, history


def _claim(out: Path, recipe: str, resume: bool) -> None:
    """Refuse a folder that holds another run."""
    if resume:
        if not (out / RECIPE).exists():
            raise DataError(f"{out}: no run to resume there ({RECIPE} is missing); run without --resume")
        if (out / RECIPE).read_text() != recipe:
            raise DataError(
                f"{out / RECIPE}: the run was started with another recipe; resume with the same one and --set"
            )
        return
    if any((out / name).exists() for name in (RECIPE, "checkpoints", "model")):
        raise DataError(f"{out}: holds a run already; go on with it by --resume, or name another --out")


def _say(text: str) -> None:
    """Progress goes to stderr, above the bar: stdout is for results."""
    tqdm.write(text, file=sys.stderr)


def _require_same_card(out: Path, info: RunInfo) -> None:
    before = _read_info(out)
    if before is not None and before.card_sha256 != info.card_sha256:
        raise DataError(
            f"{info.card}: sizes, classes, ids or labels are not those that {out} was started with ({before.card}); "
            "resume with the same data, or start a new run"
        )


def _read_info(run: Path) -> RunInfo | None:
    """What run.json holds; None when the run was stopped before it was written."""
    if not (run / RUN).exists():
        return None
    try:
        return RunInfo(**json.loads((run / RUN).read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{run / RUN}: damaged ({error}); start a new run") from None


def _write(path: Path, text: str) -> None:
    with atomic(path, "w") as file:
        file.write(text)
