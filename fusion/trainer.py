"""The loop: plan → stage → epoch → step."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from tqdm import tqdm

from fusion.checkpoint import Checkpoints, Row, State, load_stage, save_model, save_stage
from fusion.context import Context, Loaders
from fusion.model import FusionModel
from fusion.plan import plan_stages
from fusion.recipe import Recipe
from fusion.stage_run import StageRun
from fusion.synchronise import sketch_objectives, trains_batch_norm

_APART = (
    "warning  batch-norms that train see only their own process's share of a batch (torch has no SyncBatchNorm on the "
    "CPU); frozen norms and head.norm: group do not"
)


class Store(Protocol):
    """Where the outcomes of stages are kept, so that recipes which begin alike share them."""

    def fetch(self, index: int) -> Path | None:
        """The folder of what the stages up to ``index`` made of the model; None when it is not there."""

    def keep(self, index: int, write: Callable[[Path], None]) -> None:
        """Keep a finished stage; ``write`` fills an empty folder."""


class NoStore:
    """Keeps nothing."""

    def fetch(self, index: int) -> Path | None:
        """Nothing is there."""
        return None

    def keep(self, index: int, write: Callable[[Path], None]) -> None:
        """Nothing is written."""


class Trainer:
    """Trains a model through the stages of a recipe, and can go on where it was stopped."""

    def __init__(
        self,
        model: FusionModel,
        recipe: Recipe,
        loaders: Loaders,
        run: Path,
        fabric: Fabric,
        say: Callable[[str], None],
        stop: Callable[[], bool] = lambda: False,
        store: Store | None = None,
    ) -> None:
        self.run, self.store = run, store or NoStore()
        self.plans = plan_stages(recipe, model.named_blocks())
        sketches = zip(sketch_objectives(model, recipe), self.plans, strict=True)
        if (
            fabric.world_size > 1
            and fabric.device.type != "cuda"
            and any(itertools.starmap(trains_batch_norm, sketches))
        ):
            say(_APART)
        self.model = model
        # A fifth faster on the CPU (mobilenetv4, 256×256, 2026-11-21); torch's stubs do not know the keyword.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.context = Context(recipe, loaders, run, fabric, say, stop, Checkpoints(run), tqdm(disable=True))
        self.state = State()

    def fit(self, resume: bool = False) -> list[Row]:
        """Run all stages and write RUN/model; return the history.

        Args:
            resume: Go on from the newest checkpoint: the result is bit for bit that of a run never stopped, on the same
                class of machine, number of threads and versions.

        Raises:
            Stopped: ``stop`` was heeded; everything done is in the newest checkpoint.
            FusionError: a checkpoint is damaged, or a stage keeps running into numbers that are none.
        """
        start = self.context.checkpoints.latest() if resume else None
        self.state = start or self._fetched()
        with self._bar() as self.context.progress:
            for index in range(self.state.stage, len(self.plans)):
                self._stage(index, resumed=start is not None and index == start.stage)
        if self.context.fabric.is_global_zero:
            save_model(self.run, self.model)
        self.context.fabric.barrier()
        return self.state.history

    def _stage(self, index: int, resumed: bool) -> None:
        if not resumed:
            self.state = State(stage=index, history=self.state.history)
        StageRun(self.context, self.model, self.plans[index], self.state, self._offsets()[index]).run(resumed)
        if self.context.fabric.is_global_zero:
            self.store.keep(index, lambda folder: save_stage(folder, self.model, self.state.history, self.run))

    def _fetched(self) -> State:
        """Begin after the last stage that the store has."""
        for index in reversed(range(len(self.plans))):
            folder = self.store.fetch(index)
            if folder is not None:
                self.context.say(f"{self.plans[index].stage.name:18} taken from {folder}")
                return State(stage=index + 1, history=load_stage(folder, self.model, self.run))
        return State()

    def _bar(self) -> "tqdm[Any]":
        steps, first = self._offsets(), self.context.fabric.is_global_zero
        done = steps[self.state.stage]
        if self.state.stage < len(self.plans):
            done += self.context.per_epoch(self.plans[self.state.stage]) * self.state.epoch + self.state.step
        return tqdm(total=steps[-1], initial=done, unit="step", dynamic_ncols=True, leave=False, disable=not first)

    def _offsets(self) -> list[int]:
        """Steps before each stage, and in all."""
        offsets = [0]
        for plan in self.plans:
            offsets.append(offsets[-1] + self.context.per_epoch(plan) * plan.stage.epochs)
        return offsets
