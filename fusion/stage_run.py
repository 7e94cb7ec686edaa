"""One stage: its epochs, what is measured after each, and what is decided from that."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from tqdm import tqdm

from fusion.bootstrap import Record, Resampled, paired_difference
from fusion.checkpoint import PICTURES, Checkpoints, Row, State, load_weights
from fusion.errors import FusionError, Stopped
from fusion.guard import exhausted, factor, refuge, verdict
from fusion.learner import Learner, NonFinite
from fusion.model import FusionModel
from fusion.objectives import OBJECTIVES
from fusion.plan import StagePlan
from fusion.progress import Clock, epoch_line, epoch_row
from fusion.recipe import Guard, Recipe
from fusion.seeds import derive
from fusion.validation import Validated, validate

LOG_EVERY = 10
"""Optimiser steps between two entries in the loggers."""
_NO_GUARD = Guard(on_jump="rollback")
"""What is done about numbers that are none in a stage that says nothing of a guard."""


class Batches(Protocol):
    """Batches of one epoch."""

    def __len__(self) -> int:
        """Number of batches of the whole epoch."""

    def __iter__(self) -> Any:  # noqa: ANN401 - a torch DataLoader's iterator
        """Yield batches."""


class Loaders(Protocol):
    """Where batches come from; handed in by the pipelines, so that this room knows no files."""

    def train(self, kind: str, order: tuple[int | str, ...], skip: int = 0) -> Batches:
        """This device's share of an epoch's batches.

        Args:
            kind: What an objective learns from: labelled, thermal or pairs.
            order: Decides order and augmentation, and nothing else does.
            skip: Batches that are done already and are not read.
        """

    def validation(self) -> Batches:
        """This device's share of the labelled validation split, in a fixed order, not augmented."""


@dataclass
class Context:
    """What all stages of a run share."""

    recipe: Recipe
    loaders: Loaders
    run: Path
    fabric: Fabric
    say: Callable[[str], None]
    stop: Callable[[], bool]
    checkpoints: Checkpoints
    progress: "tqdm[Any]"

    def per_epoch(self, plan: StagePlan) -> int:
        """Optimiser steps of one epoch of a stage."""
        return len(self.loaders.train(OBJECTIVES[plan.stage.objective].learns_from, ("count",)))


class StageRun:
    """Runs one stage; where it stands is ``state``, which it brings forward and saves after each epoch."""

    def __init__(self, context: Context, model: FusionModel, plan: StagePlan, state: State, offset: int) -> None:
        self.context, self.model, self.plan, self.state, self.offset = context, model, plan, state, offset
        self.stage, self.recipe, self.fabric = plan.stage, context.recipe, context.fabric
        self.per_epoch = context.per_epoch(plan)
        self.reference: list[Record] = []
        """What the next unfreezing decision is compared with."""

    def run(self, resumed: bool) -> None:
        """Go from the stage's entry, or from where ``state`` stands, to its end; the model then has what it hands on.

        Raises:
            Stopped: the run was asked to stop; all is saved.
            FusionError: going back did not help against numbers that are none, or a checkpoint is damaged.
        """
        torch.manual_seed(derive(self.recipe.seed, self.state.stage, "objective"))
        if self.plan.copies and not resumed:
            self.context.say(f"weights  {self.model.copy_thermal_start()}")
        self.learner = Learner(self.model, self.recipe, self.plan, self.fabric)
        self.context.progress.set_description(self.stage.name)
        if resumed:
            self._load(self.state.name)
            self.reference = self.context.checkpoints.reference(self.state.name)
            self.learner.open(self.state.epoch)
        else:
            self.learner.open(0)
            self._enter()
        if any(group.l2_sp for group in self.stage.groups):
            self.learner.begin(self.context.checkpoints.load(self._name(0)).weights)
        while self.state.epoch < self.stage.epochs and "stopped" not in self.state.history[-1]:
            self.learner.open(self.state.epoch)
            self._epoch()
        self._hand_on()

    def _enter(self) -> None:
        found = self._validate()
        self.reference = found.records
        self._note({"stage": self.stage.name, "epoch": 0, **found.row})

    def _epoch(self) -> None:
        """Train and validate one epoch; where a number is none, go back."""
        try:
            trained = self._train()
            found = self._validate()
        except NonFinite as fault:
            self._end_epoch()
            if self._is_hopeless():
                raise FusionError(
                    f"{fault}; going back with lower rates did not help, and nothing of it was saved; lower the "
                    "stage's lr, or look at these samples with rgbt data show"
                ) from None
            epoch, slower = self.state.best_epoch, (self.stage.guard or _NO_GUARD).lr_factor
            self._go_back({}, f"{fault}; back to epoch {epoch} with rates × {slower:g}", epoch)
            return
        self._end_epoch()
        self._judge(trained | found.row, found)

    def _is_hopeless(self) -> bool:
        """Whether going back once more is pointless: done often enough, or no epoch is left and none was good."""
        epochs = self._rows()[1:]
        gone_back = sum("rolled_back" in row for row in epochs)
        at_most = (self.stage.guard or _NO_GUARD).at_most
        return gone_back >= at_most or gone_back == len(epochs) == self.stage.epochs - 1

    def _end_epoch(self) -> None:
        self.state.epoch += 1
        self.state.step, self.state.totals = 0, {}

    def _judge(self, figures: Row, found: Validated) -> None:
        """Let the guard, early stop and auto unfreezing look at the epoch that ended."""
        row = {"stage": self.stage.name, "epoch": self.state.epoch, **figures, **self._forgetting(found.row)}
        rows = [*self._rows(), row]
        judged = verdict(self.stage.guard, rows) if self.stage.guard is not None else None
        if judged is not None and judged.action != "warn":
            ended = {"stopped": judged.text} if judged.action == "stop" else {}
            self._go_back(row | ended, judged.text, judged.epoch)
            return
        if judged is not None:
            row["warning"] = judged.text
        if self.stage.early_stop is not None and (over := exhausted(self.stage.early_stop, rows)):
            row["stopped"] = over
        line = self.stage.unfreeze
        if line is not None and line.auto and self.state.epoch % line.every == 0:
            row |= self._decide(found.records)
        self._keep_pictures(found)
        self._note(row)

    def _go_back(self, row: Row, reason: str, epoch: int) -> None:
        """Take weights, average, moments and scaler of an earlier epoch; the epoch that ended counts as used."""
        self._load(self._name(epoch))
        self._note({"stage": self.stage.name, "epoch": self.state.epoch, **row, "rolled_back": reason})

    def _train(self) -> Row:
        """One epoch, or what is left of it."""
        self.learner.module.train()
        state, rows = self.state, self._rows()
        lowered = factor(self.stage.guard or _NO_GUARD, rows)
        order = (self.recipe.seed, state.stage, state.epoch, sum("rolled_back" in row for row in rows))
        kind = OBJECTIVES[self.stage.objective].learns_from
        batches = self.context.loaders.train(kind, order, skip=state.step)
        clock = Clock()
        for batch in clock.timed(self.fabric.setup_dataloaders(batches, use_distributed_sampler=False)):
            torch.manual_seed(derive(*order, state.step, self.fabric.global_rank))
            number = state.epoch * self.per_epoch + state.step
            found = self.learner.step(batch, number, self.per_epoch, lowered, self.context.stop())
            state.step += 1
            stopping = found.pop("stop") > 0
            for name, value in (found | {"pairs": len(batch["ids"]) * self.fabric.world_size}).items():
                state.totals[name] = state.totals.get(name, 0.0) + value
            self._show(found, number)
            if stopping:
                clock.add_to(state.totals)
                self._stop()
        clock.add_to(state.totals)
        rates = {block.name: block.lr * lowered for block in self.plan.training(state.epoch)}
        return epoch_row(state.totals, self.per_epoch) | {"lr": rates}

    def _show(self, found: dict[str, float], number: int) -> None:
        progress = self.context.progress
        progress.update()
        progress.set_postfix_str(f"epoch {self.state.epoch + 1}/{self.stage.epochs} loss {found['loss']:.3f}", False)
        if self.fabric.loggers and (number + 1) % LOG_EVERY == 0:
            rates = {f"train/lr.{group['block']}": group["lr"] for group in self.learner.optimizer.param_groups}
            self._log({f"train/{name}": value for name, value in found.items()} | rates, number + 1)

    def _log(self, values: dict[str, float], number: int) -> None:
        self.fabric.log_dict(values, step=self.offset + number)

    def _stop(self) -> None:
        """Save in the middle of the epoch, and leave."""
        self._save()
        raise Stopped(f"stage '{self.stage.name}', epoch {self.state.epoch + 1}, step {self.state.step}")

    def _validate(self) -> Validated:
        sensors = self.recipe.sensors_of(self.stage)
        found = validate(self.fabric, self.learner.judged, self.context.loaders.validation(), sensors)
        if not np.isfinite(found.row["val_loss"]):
            raise NonFinite(f"stage '{self.stage.name}': the validation loss is {found.row['val_loss']}")
        return found

    def _rows(self) -> list[Row]:
        """This stage's rows so far, its entry first."""
        return [row for row in self.state.history if row["stage"] == self.stage.name]

    def _forgetting(self, now: Row) -> Row:
        """What each sensor alone has lost since the stage began, in points of the head's metric."""
        entry, main = self._rows()[0], self.model.head.metric([]).criterion[0]
        return {
            f"forgetting_{sensor}": entry[f"{main}_{sensor}"] - now[f"{main}_{sensor}"]
            for sensor in ("rgb", "thermal")
            if f"{main}_{sensor}" in now
        }

    def _decide(self, records: list[Record]) -> Row:
        """Whether the blocks opened last were worth it: by more than one standard error of the paired difference."""
        classes = len(self.model.config.classes)
        found = paired_difference(Resampled(records, classes), Resampled(self.reference, classes))
        deeper, gain, error = self.fabric.broadcast((bool(found.mean > found.se), found.mean, found.se))
        blocks = sum(b.group == -1 or b.opens > 0 for b in self.plan.training(self.state.epoch - 1))
        decision = {"blocks": blocks, "gain": gain, "se": error, "deeper": deeper}
        if deeper:
            self.reference = records
            return {"decision": decision}
        text = f"unfreezing stops at {blocks} blocks: the metric changed by {gain:+.4f}, standard error {error:.4f}"
        return {"decision": decision, "stopped": text}

    def _note(self, row: Row) -> None:
        """Append the epoch to the history, note whether it is the best, save, say it."""
        state = self.state
        if "rolled_back" not in row:
            worth = self._worth(row)
            if state.best_value is None or worth > tuple(state.best_value):
                state.best_epoch, state.best_value = state.epoch, worth
        row |= {"frozen": sorted(self.plan.frozen(max(0, state.epoch - 1))), "best": state.best_epoch == state.epoch}
        state.history.append(row)
        if self.fabric.loggers:  # before it is saved: told again after a kill in between, but never lost
            numbers = {k: v for k, v in row.items() if isinstance(v, float)}
            self._log({f"epoch/{name}": value for name, value in numbers.items()}, state.epoch * self.per_epoch)
        self._save()
        self.context.say(epoch_line(row, self.stage.epochs))

    def _worth(self, row: Row) -> tuple[float, float]:
        """What makes an epoch the best: the head's metric where the stage has the task, then the loss."""
        if not self.stage.is_task:
            return 0.0, -row["val_loss"]
        name, direction = self.model.head.metric([]).criterion
        return (row[name] if direction == "max" else -row[name]), -row["val_loss"]

    def _save(self) -> None:
        """Write a checkpoint, and remove those that nothing goes back to any more."""
        if self.fabric.is_global_zero:
            line = self.stage.unfreeze
            reference = self.reference if line is not None and line.auto else ()
            self.context.checkpoints.save(self.state, self.learner.snapshot(), reference)
            keep = {self.state.best_epoch}
            if self.stage.guard is not None:
                keep.add(refuge(self.stage.guard, self._rows()))
            if any(group.l2_sp for group in self.stage.groups):
                keep.add(0)
            self.context.checkpoints.prune(self.state, keep)
        self.fabric.barrier()

    def _load(self, name: str) -> None:
        snapshot = self.context.checkpoints.load(name)
        load_weights(self.learner.objective, snapshot.weights, self.context.checkpoints.folder / name)
        self.learner.restore(snapshot)

    def _name(self, epoch: int) -> str:
        return State(stage=self.state.stage, epoch=epoch).name

    def _hand_on(self) -> None:
        """Put the chosen epoch's weights into the model, of the moving average where there is one."""
        if self.recipe.select == "best":
            best = self.context.checkpoints.load(self._name(self.state.best_epoch))
            self.learner.objective.load_state_dict(best.weights if best.average is None else best.average)
            if self.state.best_epoch == 0:
                self.context.say(
                    f"{self.stage.name}: no epoch was better than its entry; it hands on what it was given"
                )
        elif self.learner.average is not None:
            self.learner.objective.load_state_dict(self.learner.judged.state_dict())

    def _keep_pictures(self, found: Validated) -> None:
        """Of a stage without labels: what it made of the first validation pictures, at its first and last epoch."""
        if not found.pictures or not self.fabric.is_global_zero:
            return
        folder = self.context.run / PICTURES
        folder.mkdir(exist_ok=True)
        arrays = {name: picture.numpy().astype(np.float16) for name, picture in found.pictures.items()}
        for moment in ("first", "last") if self.state.epoch == 1 else ("last",):
            path = folder / f"{self.stage.name}-{moment}.npz"
            with path.with_suffix(".part").open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            path.with_suffix(".part").replace(path)
