"""What a run leaves on disk: tensors and JSON, never a pickled module."""

import itertools
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fusion.errors import FusionError
from fusion.folder import atomic_folder
from fusion.model import FusionModel, ModelConfig

Row = dict[str, Any]
_NAME = re.compile(r"s(\d{2})-e(\d{3})")


@dataclass
class State:
    """Where a run stands; with the recipe it decides all that follows."""

    stage: int = 0
    epoch: int = 0
    """Epochs of the stage that are done; 0 is its entry."""
    best_epoch: int = 0
    best_value: float | None = None
    """The criterion at the stage's best epoch so far."""
    history: list[Row] = field(default_factory=list)
    """One row for each epoch done, and one for each stage's entry."""

    @property
    def name(self) -> str:
        """Name of the checkpoint folder of this moment."""
        return f"s{self.stage:02}-e{self.epoch:03}"


class Checkpoints:
    """The folder RUN/checkpoints: the last two, the best of the stage, and the end of each stage."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, state: State, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write one checkpoint: first beside its place, flushed, then renamed."""
        with atomic_folder(self.folder / state.name) as folder:
            save_file({k: v.contiguous() for k, v in objective.state_dict().items()}, folder / "model.safetensors")
            torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            (folder / "state.json").write_text(json.dumps(asdict(state)))

    def latest(self) -> State:
        """The state of the newest checkpoint.

        Raises:
            FusionError: there is none.
        """
        names = self._names()
        if not names:
            raise FusionError(f"{self.folder}: no checkpoint to resume from; run without --resume")
        return State(**json.loads((self.folder / names[-1] / "state.json").read_text()))

    def load(self, name: str, objective: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Restore the objective (its model included), and the optimiser where one is given."""
        objective.load_state_dict(load_file(self.folder / name / "model.safetensors"))
        if optimizer is not None:
            optimizer.load_state_dict(torch.load(self.folder / name / "optimizer.pt", weights_only=True))

    def prune(self, state: State) -> None:
        """Remove what is no longer needed."""
        names = self._names()
        ends = {n for n, following in itertools.pairwise(names) if n[:3] != following[:3]}
        keep = {*names[-2:], *ends, f"s{state.stage:02}-e{state.best_epoch:03}"}
        for name in set(names) - keep:
            shutil.rmtree(self.folder / name)

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name))


def save_model(run: Path, model: FusionModel) -> None:
    """Write the trained model into RUN/model: config.json and weights."""
    with atomic_folder(run / "model") as folder:
        (folder / "config.json").write_text(model.config.model_dump_json(indent=1))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")


def load_model(run: Path) -> FusionModel:
    """Rebuild the trained model of a run, in eval mode; FusionError when the run is not finished or is damaged."""
    folder = run / "model"
    if not run.is_dir():
        raise FusionError(f"{run}: no such run")
    if not (folder / "config.json").exists():
        raise FusionError(
            f"{run}: no finished model there; train it first, or go on with rgbt train … --out {run} --resume"
        )
    try:
        config = ModelConfig.model_validate_json((folder / "config.json").read_text())
        model = FusionModel(config)
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    except (ValidationError, SafetensorError, RuntimeError, OSError) as error:
        raise FusionError(f"{folder}: damaged model ({str(error).splitlines()[0]})") from None
    return model.eval()
