"""What rgbt compare is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import DataError
from pipelines.recipe_file import find_recipe


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
    accelerator: str = "auto"
    """auto, cpu, cuda or mps: what trains."""
    precision: str = "32-true"
    """32-true, bf16-mixed or 16-mixed."""


def require_sane(request: Request) -> None:
    """Refuse numbers out of range, two recipes of one name, and changes that are none of a recipe's."""
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
