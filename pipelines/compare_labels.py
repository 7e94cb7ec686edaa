"""Fewer labelled pairs at equal optimiser steps: how often each is looked at, and which shares allow it."""

from collections.abc import Mapping

from data.errors import DataError
from data.subset import held_out_count, kept_count
from pipelines.compare_cells import Setting
from pipelines.recipe_file import TrainRecipe

APART = 0.05
"""Steps of an epoch may differ by this share from those with all labels."""


def with_equal_steps(recipes: Mapping[str, TrainRecipe], labels: float, setting: Setting) -> dict[str, TrainRecipe]:
    """Raise ``repeat`` so that fewer labelled pairs make as many optimiser steps as all of them.

    Args:
        recipes: Name → recipe.
        labels: Share of the training pairs that keeps their labels.
        setting: How many there are.

    Raises:
        DataError: no number of passes comes near enough; the line names the nearest shares at which one does.
    """
    kept, found = kept_count(setting.labelled, labels), {}
    for name, recipe in recipes.items():
        if not _fits(recipe, kept, setting):
            nearest = " or ".join(_nearest(list(recipes.values()), kept, setting))
            raise DataError(
                f"--labels {labels:g}: {_misfit(recipe, kept, setting)} (recipe '{name}'); nearest shares at which the "
                f"steps are equal: {nearest}"
            )
        found[name] = recipe.model_copy(update={"repeat": _repeat(recipe, kept, setting)})
    return found


def _misfit(recipe: TrainRecipe, kept: int, setting: Setting) -> str:
    few = _steps(recipe, _trained(kept, setting), _repeat(recipe, kept, setting))
    whole = _steps(recipe, _trained(setting.labelled, setting), recipe.repeat)
    return f"{kept} of {setting.labelled} pairs make {few} steps in an epoch, all of them {whole}"


def _trained(labelled: int, setting: Setting) -> int:
    """How many of the labelled pairs are trained on: some may be cut off to validate on."""
    return labelled - held_out_count(labelled, setting.cut) if setting.cut else labelled


def _steps(recipe: TrainRecipe, pairs: int, repeat: int) -> int:
    """Optimiser steps of an epoch, as pipelines.loaders counts them."""
    return max(1, pairs * repeat // recipe.batch)


def _repeat(recipe: TrainRecipe, kept: int, setting: Setting) -> int:
    """How many passes over the pairs that keep their labels come nearest to the steps with all of them."""
    pairs, whole = _trained(kept, setting), _trained(setting.labelled, setting)
    wanted, ratio = _steps(recipe, whole, recipe.repeat), recipe.repeat * whole / pairs
    near = range(max(1, int(ratio)), int(ratio) + 2)
    return min(near, key=lambda n: (abs(_steps(recipe, pairs, n) - wanted), abs(n - ratio)))


def _fits(recipe: TrainRecipe, kept: int, setting: Setting) -> bool:
    wanted = _steps(recipe, _trained(setting.labelled, setting), recipe.repeat)
    found = _steps(recipe, _trained(kept, setting), _repeat(recipe, kept, setting))
    return abs(found - wanted) <= APART * wanted or not any(stage.is_task for stage in recipe.stages)


def _nearest(recipes: list[TrainRecipe], kept: int, setting: Setting) -> list[str]:
    """The nearest shares below and above at which all recipes keep their steps; 1 always does."""
    least = 2 if setting.cut else 1
    sides = (range(kept - 1, least - 1, -1), range(kept + 1, setting.labelled + 1))
    found = (next((n for n in side if all(_fits(one, n, setting) for one in recipes)), None) for side in sides)
    return [_share(count, setting.labelled) for count in found if count is not None]


def _share(count: int, whole: int) -> str:
    """The shortest share that keeps so many."""
    texts = (f"{count / whole:.{digits}f}" for digits in range(12))
    return next(text for text in texts if 0 < float(text) <= 1 and kept_count(whole, float(text)) == count)
