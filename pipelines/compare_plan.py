"""What rgbt compare has to do: a cell for each recipe and seed, or one line that says why it cannot be done."""

import json
from collections.abc import Mapping
from pathlib import Path

from data.card import DatasetCard
from data.errors import DataError
from fusion.errors import FusionError
from fusion.model import build_model
from fusion.objectives import OBJECTIVES
from fusion.plan import plan_stages
from fusion.synchronise import sketch_objectives
from pipelines.compare_cells import Cell, Setting, Work
from pipelines.compare_labels import with_equal_steps
from pipelines.compare_request import Request, require_sane
from pipelines.compare_setting import choose_setting
from pipelines.launch import find_processes, make_fabric
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import TrainRecipe, dump_recipe, load_recipe
from pipelines.stage_store import stage_keys
from pipelines.train import RECIPE, RUN, model_config
from pipelines.versions import versions


def plan(request: Request) -> list[Cell]:
    """The cells, seed by seed.

    Raises:
        DataError: a recipe, change, split, share or device that does not fit, or a folder that holds another run.
        FusionError: a recipe whose groups or weights do not fit.
    """
    require_sane(request)
    names = {Path(text).stem: text for text in request.recipes}
    loaded = {name: _load(name, text, request) for name, text in names.items()}
    setting = choose_setting(request, _task(loaded))
    recipes = with_equal_steps(loaded, request.labels, setting)
    device = make_fabric(find_processes(1, 1), request.accelerator, request.precision).device.type
    cells = []
    work = {name: _work(recipe, setting) for name, recipe in recipes.items()}
    for seed in range(request.seeds):
        for name, recipe in recipes.items():
            seeded = recipe.model_copy(update={"seed": seed})
            folder = request.out / "runs" / name / f"seed-{seed}"
            steps, fingerprint = work[name]
            keys = tuple(stage_keys(seeded, fingerprint, device, request.precision))
            where = (folder, request.out / "stages")
            cells.append(
                Cell(name, seeded, setting, *where, keys, tuple(steps), fingerprint, device, request.precision)
            )
    for cell in cells:
        _require_own(cell)
        _require_same_making(cell)
    for name in {cell.name: None for cell in cells if not cell.trained}:
        _require_fitting(recipes[name], setting.card)
    return cells


def _load(name: str, text: str, request: Request) -> TrainRecipe:
    changes = []
    for change in request.changes:
        key, equals, value = change.partition("=")
        owner, _, field = key.rpartition(":")
        if owner in ("", name):
            changes.append(f"{field}{equals}{value}")
    recipe = _scaled(load_recipe(text, changes), name, request.epochs)
    return recipe if request.select is None else recipe.model_copy(update={"select": request.select})


def _task(recipes: Mapping[str, TrainRecipe]) -> str:
    """What all recipes train a model to do."""
    tasks = {name: recipe.model.head.kind for name, recipe in recipes.items()}
    if len(set(tasks.values())) > 1:
        listed = ", ".join(f"'{name}' to {task}" for name, task in tasks.items())
        raise DataError(f"the recipes train for different tasks ({listed}), which no figure compares")
    return next(iter(tasks.values()))


def _scaled(recipe: TrainRecipe, name: str, factor: float) -> TrainRecipe:
    """The recipe with its epochs times ``factor``; what does not fit then is the factor's fault, not the file's."""
    try:
        return recipe.scaled(factor)
    except FusionError as error:
        raise DataError(f"--epochs {factor:g}: recipe '{name}': {error}") from None


def _work(recipe: TrainRecipe, setting: Setting) -> tuple[list[Work], str]:
    """What each stage costs, and the fingerprint of the card."""
    loaders = CardLoaders(setting.card, recipe)
    found = []
    for stage in recipe.stages:
        kind = OBJECTIVES[stage.objective].learns_from
        steps = len(loaders.train(kind, (0,)))
        found.append(Work(stage.name, stage.objective, stage.is_task, stage.epochs, steps, loaders.sizes[kind]))
    return found, loaders.fingerprint


def _require_own(cell: Cell) -> None:
    """A folder that holds a run of another recipe or other data is not gone on with, nor counted as finished."""
    for name, expected, what in (
        (RECIPE, dump_recipe(cell.recipe), "recipe"),
        (RUN, cell.fingerprint, "data"),
    ):
        path = cell.folder / name
        if not path.exists():
            continue
        found = path.read_text() if name == RECIPE else json.loads(path.read_text()).get("card_sha256")
        if found != expected:
            raise DataError(
                f"{path}: that run was trained with another {what}, or other options of compare; remove the folder "
                f"{cell.folder}, or name another --out"
            )


def _require_same_making(cell: Cell) -> None:
    """What other versions, another kind of device or another precision made is not compared with what these make.

    What an older run does not say of itself is not asked for.
    """
    path = cell.folder / RUN
    if not path.exists():
        return
    note = json.loads(path.read_text())
    now = {"accelerator": cell.accelerator, "precision": cell.precision, **versions()}
    before = note.get("versions", {}) | {name: note[name] for name in ("accelerator", "precision") if name in note}
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        raise DataError(
            f"{path}: that run was made by {'; '.join(changed)}; go back to that, remove the folder {cell.folder} to "
            "train it again, or name another --out"
        )


def _require_fitting(recipe: TrainRecipe, card: DatasetCard) -> None:
    """Fail before the first cell trains, not when the last one begins."""
    with recipe.blamed():
        model, _ = build_model(model_config(recipe, card), recipe.seed)
        plan_stages(recipe, model.named_blocks())
        sketch_objectives(model, recipe)
