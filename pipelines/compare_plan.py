"""What rgbt compare has to do: which pictures train, select and are reported, and a cell for each recipe and seed."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.card import DatasetCard, Sample
from data.errors import DataError
from data.subset import holdout, subset
from fusion.model import build_model
from fusion.objectives import OBJECTIVES
from fusion.plan import plan_stages
from pipelines.compare_cells import Cell, Setting, Work
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import TrainRecipe, dump_recipe, find_recipe, load_recipe
from pipelines.stage_store import stage_keys
from pipelines.train import RECIPE, RUN, model_config


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    recipes: tuple[str, ...]
    """Names of shipped recipes, or YAML files; the others are compared with the first."""
    card: Path
    out: Path
    seeds: int = 3
    changes: tuple[str, ...] = ()
    """``key=value`` for all recipes, ``RECIPE:key=value`` for one."""
    labels: float = 1.0
    """Share of the labelled training pairs that keep their labels."""
    report: str | None = None
    """Split that is reported; None: test, else val."""
    select: Literal["last", "best"] | None = None
    """Which epoch a stage hands on, for all recipes; None: as each says."""
    holdout: float = 0.15
    """Share of train that is cut off for validation where the card's val is reported."""
    jobs: int = 1
    epochs: float = 1.0
    """Every stage's epochs are multiplied by this."""


def plan(request: Request) -> list[Cell]:
    """The cells, seed by seed.

    Raises:
        DataError: a recipe, change, split or share that does not fit, or a folder that holds another run.
        FusionError: a recipe whose groups or weights do not fit.
    """
    _require_sane(request)
    setting = choose_setting(request)
    names = {Path(text).stem: text for text in request.recipes}
    recipes = {name: _load(name, text, request) for name, text in names.items()}
    cells = []
    work = {name: _work(recipe, setting) for name, recipe in recipes.items()}
    for seed in range(request.seeds):
        for name, recipe in recipes.items():
            seeded = recipe.model_copy(update={"seed": seed})
            folder = request.out / "runs" / name / f"seed-{seed}"
            steps, fingerprint = work[name]
            keys = tuple(stage_keys(seeded, fingerprint))
            cells.append(Cell(name, seeded, setting, folder, request.out / "stages", keys, tuple(steps), fingerprint))
    for cell in cells:
        _require_own(cell)
    for name in {cell.name: None for cell in cells if not cell.trained}:
        _require_fitting(recipes[name], setting.card)
    return cells


def _require_sane(request: Request) -> None:
    for option, value, fits, expected in (
        ("--seeds", request.seeds, request.seeds >= 1, "1 or more"),
        ("--jobs", request.jobs, request.jobs >= 1, "1 or more"),
        ("--labels", request.labels, 0 < request.labels <= 1, "a share above 0, at most 1"),
        ("--epochs", request.epochs, 0 < request.epochs <= 100, "a factor above 0, at most 100"),
        ("--holdout", request.holdout, 0 < request.holdout < 1, "a share between 0 and 1"),
    ):
        if not fits:
            raise DataError(f"{option} {value}: expected {expected}")
    names = [find_recipe(text).stem for text in request.recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise DataError(f"two recipes are called '{twice}'; their runs would share a folder: rename one file")
    for change in request.changes:
        key = change.partition("=")[0]
        recipe, colon, field = key.rpartition(":")
        if colon and recipe not in names:
            raise DataError(f"--set {change}: no recipe '{recipe}' is compared; there is {', '.join(names)}")
        if field == "seed":
            raise DataError(f"--set {change}: the seeds are 0 … N-1; say --seeds N")


def _load(name: str, text: str, request: Request) -> TrainRecipe:
    changes = []
    for change in request.changes:
        key, equals, value = change.partition("=")
        recipe, _, field = key.rpartition(":")
        if recipe in ("", name):
            changes.append(f"{field}{equals}{value}")
    loaded = load_recipe(text, changes).scaled(request.epochs)
    # Fewer labelled pairs, as many passes more: the optimiser steps stay equal.
    update: dict[str, Any] = {"repeat": loaded.repeat * round(1 / request.labels)}
    if request.select is not None:
        update["select"] = request.select
    return loaded.model_copy(update=update)


def choose_setting(request: Request) -> Setting:
    """Decide which pictures train, select and are reported: never is anything chosen on the reported ones."""
    source = DatasetCard.load(request.card)
    both = {"val", "test"} <= set(source.splits)
    reported = request.report or ("test" if both or "val" not in source.splits else "val")
    samples = source.samples(reported)
    lacking = next((sample.id for sample in samples if sample.boxes is None), None)
    if lacking is not None:
        raise DataError(
            f"{source.path}: pair '{lacking}' of split '{reported}' has no labels, so it cannot be reported; "
            "name another split by --report"
        )
    card = source if request.labels == 1 else subset(source, request.labels)
    if reported != "val" and "val" in source.splits:
        words = f"the card's split 'val' ({len(source.samples('val'))} pairs)"
    else:
        cut = holdout(card, request.holdout)
        tail = f"{len(cut.samples('val'))} pairs from the end of train"
        if request.select == "last":
            card = card.model_copy(update={"splits": card.splits | {"val": cut.splits["val"]}})
            words = f"{tail}, which it also trains on (in-sample: for monitoring and the guard only)"
        else:
            card, words = cut, f"{tail}, which are cut off and not trained on"
    _require_apart(source, card, reported)
    shown = {sample.id for sample in samples}
    leaks = sum(sample.id in shown for split in card.unlabelled for sample in card.samples(split))
    return Setting(card, source, reported, len(samples), _digest(reported, samples), words, leaks)


def _digest(split: str, samples: list[Sample]) -> str:
    digest = hashlib.sha256(split.encode())
    for sample in samples:
        assert sample.boxes is not None and sample.labels is not None
        digest.update(sample.id.encode() + sample.boxes.tobytes() + sample.labels.tobytes())
    return digest.hexdigest()


def _require_apart(source: DatasetCard, card: DatasetCard, reported: str) -> None:
    """What is reported neither trains nor selects."""
    shown = {sample.id for sample in source.samples(reported)}
    for split in ("train", "val"):
        common = [sample.id for sample in card.samples(split) if sample.id in shown]
        if common:
            raise DataError(
                f"{card.path}: {len(common)} pairs of the reported split '{reported}' (first: '{common[0]}') are used "
                f"in training too ({split}); report a split of other pairs"
            )


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


def _require_fitting(recipe: TrainRecipe, card: DatasetCard) -> None:
    """Fail before the first cell trains, not when the last one begins."""
    with recipe.blamed():
        model, _ = build_model(model_config(recipe, card), recipe.seed)
        plan_stages(recipe, model.named_blocks())
        for stage in recipe.stages:
            model.require_width(recipe.sensors_of(stage), stage.objective)
