"""What a run leaves on disk: tensors and JSON, never a pickled module."""

import io
import itertools
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
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
    best_value: tuple[float, float] | None = None
    """Criterion and negative loss at the stage's best epoch so far; larger is better, the loss decides a tie."""
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

    def save(self, state: State, objective: nn.Module, optimizer: dict[str, Any]) -> None:
        """Write one checkpoint: first beside its place, flushed, then renamed.

        Args:
            state: Where the run stands.
            objective: Its tensors, those of the model included, are saved.
            optimizer: State dict of the optimiser.
        """
        with atomic_folder(self.folder / state.name) as folder:
            _save_tensors(objective, folder / "model.safetensors")
            moments = io.BytesIO()
            torch.save(optimizer, moments)
            (folder / "optimizer.pt").write_bytes(moments.getvalue())
            (folder / "state.json").write_text(json.dumps(asdict(state)))

    def latest(self) -> State | None:
        """The state of the newest checkpoint; None when there is none yet.

        What a killed process left half-written is removed.
        """
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover)
        names = self._names()
        if not names:
            return None
        with _damage(self.folder / names[-1]):
            return State(**json.loads((self.folder / names[-1] / "state.json").read_text()))

    def load(self, name: str, objective: nn.Module) -> None:
        """Restore the objective, its model included."""
        with _damage(self.folder / name):
            objective.load_state_dict(load_file(self.folder / name / "model.safetensors"))

    def load_optimizer(self, name: str) -> dict[str, Any]:
        """Read the optimiser's state dict, onto the CPU."""
        with _damage(self.folder / name):
            state: dict[str, Any] = torch.load(
                self.folder / name / "optimizer.pt", weights_only=True, map_location="cpu"
            )
        return state

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


def _save_tensors(module: nn.Module, path: Path) -> None:
    """Write through bytes: safetensors and torch hide a full disk behind errors of their own."""
    path.write_bytes(safetensors.torch.save({k: v.contiguous() for k, v in module.state_dict().items()}))


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Turn what a damaged folder raises into one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FusionError(
            f"{folder}: damaged ({reason:.160}); remove this folder, and go on from the one before"
        ) from None


def save_model(run: Path, model: FusionModel) -> None:
    """Write the trained model into RUN/model: config.json and weights."""
    with atomic_folder(run / "model") as folder:
        (folder / "config.json").write_text(model.config.model_dump_json(indent=1))
        _save_tensors(model, folder / "weights.safetensors")


def load_model(run: Path) -> FusionModel:
    """Rebuild the trained model of a run, in eval mode; FusionError when the run is not finished or is damaged."""
    folder = run / "model"
    if not run.is_dir():
        raise FusionError(f"{run}: no such run")
    if not (folder / "config.json").exists():
        raise FusionError(
            f"{run}: no finished model there; train it first, or go on with rgbt train … --out {run} --resume"
        )
    with _damage(folder):  # pydantic's ValidationError is a ValueError
        model = FusionModel(ModelConfig.model_validate_json((folder / "config.json").read_text()))
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval()
