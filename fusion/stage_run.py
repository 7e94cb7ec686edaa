"""One stage: its epochs, what is measured after each, and what is decided from that."""

import math
from dataclasses import replace

import torch

from fusion.bootstrap import Record, Resampled, resampled
from fusion.checkpoint import Row, State, load_weights, save_pictures
from fusion.context import Context
from fusion.errors import Stopped
from fusion.faults import NonFinite
from fusion.guard import exhausted, factor, lineage, named, refuge, verdict
from fusion.learner import Learner
from fusion.model import FusionModel
from fusion.objectives import OBJECTIVES
from fusion.plan import StagePlan
from fusion.progress import TRAINING, VALIDATION, Clock, effort, epoch_line, epoch_row
from fusion.recipe import Guard
from fusion.seeds import derive
from fusion.unfreezing import anchor, decide, is_due, undecided
from fusion.validation import Validated, validate

LOG_EVERY = 10
"""Optimiser steps between two entries in the loggers."""
_NO_GUARD = Guard(on_jump="rollback")
"""What is done about numbers that are none in a stage that says nothing of a guard."""


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
        row = self._row(effort(self.state.totals, 0) | found.row)
        self.state.totals = {}
        self._note(row)

    def _epoch(self) -> None:
        """Train and validate one epoch; where a number is none, go back."""
        try:
            self._train()
            found = self._validate()
        except NonFinite as fault:
            self._undo(fault)
            return
        figures = epoch_row(self.state.totals, self.per_epoch) | {"lr": self._rates()}
        self._end_epoch()
        self._judge(self._row(figures | found.row | self._forgetting(found.row)), found)

    def _row(self, figures: Row) -> Row:
        """The epoch's row, the same on all devices: what is decided by it is decided once."""
        row: Row = self.fabric.broadcast({"stage": self.stage.name, "epoch": self.state.epoch, **figures})
        return row

    def _end_epoch(self) -> None:
        self.state.epoch += 1
        self.state.step, self.state.totals = 0, {}

    def _undo(self, fault: NonFinite) -> None:
        """Go back from numbers that are none, with lower rates; where that was done often enough, the stage ends.

        Raises:
            NonFinite: none of the stage's epochs was any good, and there is no further try.
        """
        spent, told = effort(self.state.totals, self.state.step), self.fabric.broadcast(str(fault))
        self._end_epoch()
        undone = ["rolled_back" in row for row in self._rows()[1:]]
        guard, good, back = self.stage.guard or _NO_GUARD, not all(undone), self.state.best_epoch
        over = sum(undone) >= guard.at_most
        if not good and (over or self.state.epoch == self.stage.epochs):
            raise NonFinite(
                f"{told}; going back with lower rates did not help, and nothing of it was saved; lower the stage's "
                "lr, or look at these samples with rgbt data show"
            ) from None
        reason = f"{told}; back to {named(back)} " + (
            f"and the stage ends after {sum(undone)} rollbacks" if over else f"with rates × {guard.lr_factor:g}"
        )
        ended = {"stopped": reason} if over else {}
        self._go_back(self._row(spent | self._undecided() | ended), reason, back)

    def _judge(self, row: Row, found: Validated) -> None:
        """Let the guard, early stop and auto unfreezing look at the epoch that ended."""
        rows = [*self._rows(), row]
        judged = verdict(self.stage.guard, rows) if self.stage.guard is not None else None
        if judged is not None and judged.action != "warn":
            ended = {"stopped": judged.text} if judged.action == "stop" else {}
            self._go_back(row | self._undecided() | ended, judged.text, judged.epoch)
            return
        if judged is not None:
            row["warning"] = judged.text
        if self.stage.early_stop is not None and (over := exhausted(self.stage.early_stop, rows)):
            row["stopped"] = over
        if found.pictures and self.fabric.is_global_zero:
            save_pictures(self.context.run, self.stage.name, found.pictures)
        if is_due(self.plan, self.state.epoch):
            row |= self._decide(found.records)
            if not row["decision"]["deeper"] and self.recipe.select == "last":
                back = anchor(rows)
                self._go_back(row, f"what opened last did not help; back to {named(back)}", back)
                return
        self._note(row)

    def _decide(self, records: list[Record]) -> Row:
        """Whether the blocks opened last were worth it."""
        now, before = self._resampled(records), self._resampled(self.reference)
        found: Row = self.fabric.broadcast(decide(self.plan, self.state.epoch, now, before))
        if found["decision"]["deeper"]:
            self.reference = records
        return found

    def _resampled(self, records: list[Record]) -> Resampled:
        return resampled(self.model.task, records, len(self.model.config.classes))

    def _undecided(self) -> Row:
        """What an epoch says of unfreezing whose weights are thrown away."""
        return undecided(self.plan, self.state.epoch) if is_due(self.plan, self.state.epoch) else {}

    def _go_back(self, row: Row, reason: str, epoch: int) -> None:
        """Take weights, average, moments and scaler of an earlier epoch; the epoch that ended counts as used."""
        self._load(self._name(epoch))
        self._note(row | {"rolled_back": reason, "back_to": epoch})

    def _train(self) -> None:
        """One epoch, or what is left of it; what it comes to is added to the state's totals."""
        self.learner.module.train()
        state, rows, clock = self.state, self._rows(), Clock()
        self.learner.kept = [epoch - 1 for epoch in lineage(rows)]
        lowered = factor(self.stage.guard or _NO_GUARD, rows)
        order = (self.recipe.seed, state.stage, state.epoch, sum("rolled_back" in row for row in rows))
        kind = OBJECTIVES[self.stage.objective].learns_from
        batches = self.context.loaders.train(kind, order, skip=state.step)
        try:
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
                    clock.add_to(state.totals, TRAINING)
                    self._stop()
        finally:
            clock.add_to(state.totals, TRAINING)

    def _rates(self) -> dict[str, float]:
        """Block → top rate in the epoch in hand."""
        lowered = factor(self.stage.guard or _NO_GUARD, self._rows())
        return {block.name: block.lr * lowered for block in self.plan.training(self.state.epoch)}

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
        """What the validation split says; where all devices read its row, it is the first device's."""
        clock, sensors = Clock(), self.recipe.sensors_of(self.stage)
        found = validate(self.fabric, self.learner.judged, self.context.loaders.validation(), sensors)
        clock.add_to(self.state.totals, VALIDATION)
        found = replace(found, row=self.fabric.broadcast(found.row))
        if not math.isfinite(found.row["val_loss"]):
            told = f"the validation loss is {found.row['val_loss']} {found.fault}".rstrip()
            raise NonFinite(f"stage '{self.stage.name}': {told}")
        return found

    def _rows(self) -> list[Row]:
        """This stage's rows so far, its entry first."""
        return [row for row in self.state.history if row["stage"] == self.stage.name]

    def _forgetting(self, now: Row) -> Row:
        """What each sensor alone has lost since the stage began, in points of the head's metric."""
        entry, main = self._rows()[0], self.model.head.criterion[0]
        return {
            f"forgetting_{sensor}": entry[f"{main}_{sensor}"] - now[f"{main}_{sensor}"]
            for sensor in ("rgb", "thermal")
            if f"{main}_{sensor}" in now
        }

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
        self.context.say(epoch_line(row, self.stage.epochs, self.model.head.criterion[0]))

    def _worth(self, row: Row) -> tuple[float, float]:
        """What makes an epoch the best: the head's metric where the stage has the task, then the loss."""
        if not self.stage.is_task:
            return 0.0, -row["val_loss"]
        name, direction = self.model.head.criterion
        return (row[name] if direction == "max" else -row[name]), -row["val_loss"]

    def _save(self) -> None:
        """Write a checkpoint, and remove those that nothing goes back to any more."""
        if self.fabric.is_global_zero:
            auto = self.stage.unfreeze is not None and self.stage.unfreeze.auto
            reference = self.reference if auto else ()
            self.context.checkpoints.save(self.state, self.learner.snapshot(), reference)
            keep = {self.state.best_epoch}
            if self.stage.guard is not None:
                keep.add(refuge(self.stage.guard, self._rows()))
            if auto and self.recipe.select == "last":
                keep.add(anchor(self._rows()))
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
