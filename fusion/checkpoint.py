"""What a run leaves on disk: tensors and JSON, never a pickled module."""

import io
import itertools
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusion.bootstrap import Record
from fusion.bootstrap import load as load_records
from fusion.bootstrap import save as save_records
from fusion.errors import FusionError
from fusion.folder import atomic_folder
from fusion.model import FusionModel, ModelConfig

Row = dict[str, Any]
Tensors = dict[str, Tensor]
PICTURES = "pictures"
"""Folder of a run with what its stages without labels made of some pictures."""
_NAME = re.compile(r"s\d{2}-e\d{3}(-\d{6})?")
_LEFTOVER = re.compile(rf"\.{_NAME.pattern}\..+")
"""What a killed process may leave: a checkpoint half-written (see atomic_folder), or half-removed."""
_WEIGHTS, _AVERAGE, _MOMENTS, _STATE, _REFERENCE = (
    "model.safetensors", "average.safetensors", "optimizer.pt", "state.json", "reference.npz",
)  # fmt: skip


@dataclass
class State:
    """Where a run stands; with the recipe it decides all that follows."""

    stage: int = 0
    epoch: int = 0
    """Epochs of the stage that are done; 0 is its entry."""
    step: int = 0
    """Optimiser steps done in the epoch in hand; above 0 only where a run was asked to stop inside an epoch."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sums over those steps, for the epoch's row."""
    best_epoch: int = 0
    best_value: tuple[float, float] | None = None
    """Criterion and negative loss at the stage's best epoch so far; larger is better, the loss decides a tie."""
    history: list[Row] = field(default_factory=list)
    """One row for each epoch done, and one for each stage's entry; rollbacks and decisions are written there."""

    @property
    def name(self) -> str:
        """Name of the checkpoint folder of this moment."""
        return f"s{self.stage:02}-e{self.epoch:03}" + (f"-{self.step:06}" if self.step else "")


@dataclass(frozen=True)
class Snapshot:
    """The tensors of one moment."""

    weights: Tensors
    """Of the objective, those of the model included."""
    average: Tensors | None
    """Their moving average, where the stage keeps one."""
    optimizer: dict[str, Any]
    """Moments by the name of their parameter, and the gradient scaler's state."""


class Checkpoints:
    """The folder RUN/checkpoints, with a checkpoint for each epoch that something may still go back to.

    Kept are the last two, the end of each stage, the best epoch of the stage in hand, and of its other epochs those
    that it names (see fusion.stage_run): where its guard or its unfreezing would go back to, and its entry where l2_sp
    pulls towards it.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, state: State, snapshot: Snapshot, reference: Sequence[Record] = ()) -> None:
        """Write one checkpoint: first beside its place, flushed, then renamed.

        Args:
            state: Where the run stands.
            snapshot: Its tensors.
            reference: What the next unfreezing decision is compared with; empty where the stage decides nothing.
        """
        with atomic_folder(self.folder / state.name) as folder:
            _save_tensors(snapshot.weights, folder / _WEIGHTS)
            if snapshot.average is not None:
                _save_tensors(snapshot.average, folder / _AVERAGE)
            moments = io.BytesIO()
            torch.save(snapshot.optimizer, moments)
            (folder / _MOMENTS).write_bytes(moments.getvalue())
            if reference:
                save_records(folder / _REFERENCE, reference)
            (folder / _STATE).write_text(json.dumps(asdict(state)))

    def latest(self) -> State | None:
        """The state of the newest checkpoint; None when there is none yet."""
        names = self._found(_NAME)
        if not names:
            return None
        with _damage(self.folder / names[-1]):
            return State(**json.loads((self.folder / names[-1] / _STATE).read_text()))

    def load(self, name: str) -> Snapshot:
        """Read the tensors of a checkpoint, onto the CPU."""
        folder = self.folder / name
        with _damage(folder):
            average = load_file(folder / _AVERAGE) if (folder / _AVERAGE).exists() else None
            optimizer: dict[str, Any] = torch.load(folder / _MOMENTS, weights_only=True, map_location="cpu")
            return Snapshot(load_file(folder / _WEIGHTS), average, optimizer)

    def reference(self, name: str) -> list[Record]:
        """What the next unfreezing decision is compared with; empty where the stage decides nothing."""
        path = self.folder / name / _REFERENCE
        with _damage(self.folder / name):
            return load_records(path) if path.exists() else []

    def prune(self, state: State, keep: set[int]) -> None:
        """Remove what is no longer needed, and what a killed process left half-written.

        Args:
            state: Where the run stands.
            keep: Epochs of the stage that may still be gone back to.
        """
        for leftover in self._found(_LEFTOVER):
            shutil.rmtree(self.folder / leftover)
        names = self._found(_NAME)
        ends = {n for n, following in itertools.pairwise(names) if n[:3] != following[:3]}
        kept = {*names[-2:], *ends, *(f"s{state.stage:02}-e{epoch:03}" for epoch in keep)}
        for name in set(names) - kept:
            doomed = (self.folder / name).rename(self.folder / f".{name}.removed")  # what has its name is whole
            shutil.rmtree(doomed)

    def _found(self, pattern: re.Pattern[str]) -> list[str]:
        """Names of the folders that match, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if pattern.fullmatch(p.name) and p.is_dir())


def _save_tensors(tensors: Tensors, path: Path) -> None:
    """Write through bytes: safetensors and torch hide a full disk behind errors of their own."""
    path.write_bytes(safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))


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


def load_weights(module: nn.Module, tensors: Tensors, where: Path) -> None:
    """Copy a checkpoint's tensors into ``module``; FusionError when they are not its own."""
    with _damage(where):
        module.load_state_dict(tensors)


def save_model(run: Path, model: FusionModel) -> None:
    """Write the trained model into RUN/model: config.json and weights."""
    with atomic_folder(run / "model") as folder:
        (folder / "config.json").write_text(model.config.model_dump_json(indent=1))
        _save_tensors(model.state_dict(), folder / "weights.safetensors")


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


def save_pictures(run: Path, stage: str, pictures: Tensors) -> None:
    """Write what a stage without labels made of some pictures into RUN/pictures: of its first epoch, and of the last.

    Args:
        run: The run's folder.
        stage: The stage's name.
        pictures: By name, each [B,…] float; kept as float16.
    """
    folder = run / PICTURES
    folder.mkdir(exist_ok=True)
    arrays = {name: picture.numpy().astype(np.float16) for name, picture in pictures.items()}
    first, last = (folder / f"{stage}-{moment}.npz" for moment in ("first", "last"))
    for path in (last,) if first.exists() else (first, last):
        with path.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        path.with_suffix(".part").replace(path)


def save_stage(folder: Path, model: FusionModel, history: list[Row], run: Path) -> None:
    """Write what the stages up to here made into an empty folder: weights, history, and the run's pictures."""
    if (run / PICTURES).is_dir():
        shutil.copytree(run / PICTURES, folder / PICTURES, ignore=shutil.ignore_patterns("*.part"))
    _save_tensors(model.state_dict(), folder / _WEIGHTS)
    (folder / "history.json").write_text(json.dumps(history))


def load_stage(folder: Path, model: FusionModel, run: Path) -> list[Row]:
    """Put what ``save_stage`` wrote into the model and the run; return the history."""
    with _damage(folder):
        if (folder / PICTURES).is_dir():
            shutil.copytree(folder / PICTURES, run / PICTURES, dirs_exist_ok=True)
        model.load_state_dict(load_file(folder / _WEIGHTS))
        history: list[Row] = json.loads((folder / "history.json").read_text())
    return history
