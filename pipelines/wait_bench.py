"""How long a real run on a card waits for its data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from data.card import DatasetCard
from fusion.model import build_model
from pipelines.loaders import CardLoaders
from pipelines.recipe_file import TrainRecipe, load_recipe
from pipelines.train import model_config
from pipelines.train_bench import Cut, as_loader, fit_once, torch_threads


def measure_wait(
    card: Path,
    recipe: str,
    steps: int,
    threads: int | None = None,
    accelerator: str = "auto",
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Train two short epochs of a recipe's last stage on a card, and say how long they waited for data.

    The first also starts the recipe's workers, which then live on: a real run is like the second.

    Args:
        card: The dataset card.
        recipe: Name or path.
        steps: Most steps of an epoch.
        threads: CPU threads of torch; None: as torch is set.
        accelerator: As Fabric takes it.
        changes: To the recipe, as ``--set`` takes them.

    Returns:
        ``wait_share`` of the second epoch, ``wait_share_first_epoch``, and what was trained, as plain JSON.

    Raises:
        DataError: card or recipe is wrong.
        FusionError: the recipe does not fit, or its weights cannot be read.
    """
    loaded = DatasetCard.load(card)
    short = _last_stage(load_recipe(recipe, changes))
    loaders = _Short(CardLoaders(loaded, short), steps)
    with torch_threads(threads):
        model, _ = build_model(model_config(short, loaded), short.seed)
        _, first, second = fit_once(model, short, loaders, Fabric(accelerator=accelerator, devices=1))
    return {
        "wait_share": round(second["wait_share"], 4),
        "wait_share_first_epoch": round(first["wait_share"], 4),
        "wait_steps": loaders.taken,
        "wait_workers": short.workers,
        "wait_recipe": f"{recipe}, stage {short.stages[0].name}, batch {short.batch}",
    }


def _last_stage(recipe: TrainRecipe) -> TrainRecipe:
    """The last stage alone, for two epochs, with nothing that could end it."""
    line = recipe.stages[-1].unfreeze
    free = {"unfreeze": line.model_copy(update={"auto": False})} if line else {}
    last = recipe.stages[-1].model_copy(update={"epochs": 2, "guard": None, "early_stop": None, **free})
    thermal = recipe.model.thermal.model_copy(update={"start": "random"})
    model = recipe.model.model_copy(update={"thermal": thermal})
    return recipe.model_copy(update={"model": model, "stages": (last,), "select": "last"})


class _Short:
    """The first batches of each of a card's epochs, read by its own workers; see fusion.context.Loaders."""

    def __init__(self, loaders: CardLoaders, steps: int) -> None:
        self._loaders, self._steps = loaders, steps
        self.taken = 0
        """Batches of an epoch."""

    def train(self, kind: str, order: tuple[int | str, ...], skip: int = 0) -> DataLoader[Any]:
        cut = Cut(self._loaders.train(kind, order, skip), self._steps)
        self.taken = len(cut)
        return as_loader(cut)

    def validation(self) -> DataLoader[Any]:
        return as_loader(Cut(self._loaders.validation(), 1))
