"""The loop: plan → stage → epoch → step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from fusion.checkpoint import Checkpoints, Row, State, save_model
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.objectives import OBJECTIVES, Batch
from fusion.plan import StagePlan, parameter_groups, plan_stages, rate
from fusion.recipe import Recipe, Stage
from fusion.seeds import derive, modality_keep


class Batches(Protocol):
    """Batches of one epoch."""

    def __len__(self) -> int:
        """Number of batches."""

    def __iter__(self) -> Any:  # noqa: ANN401 - a torch DataLoader's iterator
        """Yield batches."""


class Loaders(Protocol):
    """Where batches come from; handed in by the pipelines, so that this room knows no files."""

    def train(self, labelled: bool, *order: int | str) -> Batches:
        """Batches of one epoch; ``order`` decides their order and augmentation, and nothing else does."""

    def validation(self) -> Batches:
        """Batches of the labelled validation split, in a fixed order, not augmented."""


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
    ) -> None:
        self.model, self.recipe, self.loaders, self.run, self.fabric, self.say = (
            model,
            recipe,
            loaders,
            run,
            fabric,
            say,
        )
        # A fifth faster on the CPU (mobilenetv4, 256×256, 2026-11-21); torch's stubs do not know the keyword.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.plans = plan_stages(recipe, model.named_blocks())
        for stage in recipe.stages:
            model.require_width(recipe.sensors_of(stage), stage.objective)
        self.checkpoints = Checkpoints(run)
        self.state = State()

    def fit(self, resume: bool = False) -> list[Row]:
        """Run all stages and write RUN/model; return the history.

        Args:
            resume: Go on from the newest checkpoint: the result is bit for bit that of a run never stopped, on the same
                class of machine, number of threads and versions.
        """
        start = self.checkpoints.latest() if resume else None
        self.state = start or State()
        with self._progress() as progress:
            for index in range(self.state.stage, len(self.plans)):
                self._stage(index, resumed=start is not None and index == start.stage, progress=progress)
        save_model(self.run, self.model)
        return self.state.history

    def _progress(self) -> "tqdm[Any]":
        steps = [len(self._epoch_batches(i, 0)) * plan.stage.epochs for i, plan in enumerate(self.plans)]
        done = sum(steps[: self.state.stage])
        if self.state.epoch:
            done += steps[self.state.stage] * self.state.epoch // self.plans[self.state.stage].stage.epochs
        quiet = 0.1 if self.fabric.is_global_zero else 3600.0
        return tqdm(total=sum(steps), initial=done, unit="step", mininterval=quiet, dynamic_ncols=True, leave=False)

    def _epoch_batches(self, stage: int, epoch: int) -> Batches:
        labelled = OBJECTIVES[self.plans[stage].stage.objective].labelled
        return self.loaders.train(labelled, self.recipe.seed, stage, epoch)

    def _stage(self, index: int, resumed: bool, progress: "tqdm[Any]") -> None:
        plan = self.plans[index]
        torch.manual_seed(derive(self.recipe.seed, index, "objective"))
        objective = OBJECTIVES[plan.stage.objective](self.model)
        self.model.hold(plan.frozen, plan.fixed_norms)
        modules = self.model.named_blocks()
        if plan.stage.objective != "task":
            modules["objective"] = list(objective.own.modules())
        groups = parameter_groups(plan, modules, self.recipe.optimiser.weight_decay)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, betas=self.recipe.optimiser.betas)
        if resumed:
            self.checkpoints.load(self.state.name, objective)
        # Wrapped anew for each stage: DDP builds its buckets from what requires grad when it wraps.
        module, optimizer = self.fabric.setup(objective, optimizer)
        if resumed:  # after the parameters have moved to their device: their moments follow them there
            optimizer.load_state_dict(self.checkpoints.load_optimizer(self.state.name))
        progress.set_description(plan.stage.name)
        if not resumed:
            self.state = State(stage=index, history=self.state.history)
            self._record(plan, self._evaluate(module, plan), {}, objective, optimizer)
        for epoch in range(self.state.epoch, plan.stage.epochs):
            trained = self._train_epoch(module, optimizer, plan, epoch, progress)
            self.state.epoch = epoch + 1
            self._record(plan, self._evaluate(module, plan), trained, objective, optimizer)
        if self.recipe.select == "best":
            self.checkpoints.load(f"s{index:02}-e{self.state.best_epoch:03}", objective)
            if self.state.best_epoch == 0:
                self.say(f"{plan.stage.name}: no epoch was better than its entry; it hands on what it was given")

    def _train_epoch(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: StagePlan,
        epoch: int,
        progress: "tqdm[Any]",
    ) -> Row:
        module.train()
        index, stage = self.state.stage, plan.stage
        batches = self.fabric.setup_dataloaders(self._epoch_batches(index, epoch), use_distributed_sampler=False)
        totals: dict[str, float] = {}
        seen, started = 0, time.perf_counter()
        for step, batch in enumerate(batches):
            torch.manual_seed(derive(self.recipe.seed, index, epoch, step))
            self._set_rates(optimizer, stage, epoch * len(batches) + step, stage.epochs * len(batches))
            terms = self._step(module, optimizer, stage, batch, step)
            size = len(batch["ids"])
            seen += size
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value * size
            progress.update()
            progress.set_postfix_str(f"epoch {epoch + 1}/{stage.epochs} loss {terms['loss']:.3f}", refresh=False)
        seconds = time.perf_counter() - started
        rates = {str(g["block"]): float(g["top"]) for g in optimizer.param_groups}
        return {name: total / seen for name, total in totals.items()} | {
            "seconds": seconds,
            "pairs_per_s": seen / seconds,
            "lr": rates,
        }

    def _set_rates(self, optimizer: torch.optim.Optimizer, stage: Stage, step: int, steps: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * rate(stage.schedule, step, steps)

    def _step(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, batch: Batch, step: int
    ) -> dict[str, float]:
        terms = module(batch, self.recipe.sensors_of(stage), self._keep(stage, batch))
        loss = terms["loss"]
        _require_finite(loss, "loss", stage, step, batch)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(module, optimizer, max_norm=stage.clip, error_if_nonfinite=False)
        assert norm is not None
        _require_finite(norm, "norm of the gradient", stage, step, batch)
        optimizer.step()
        return _scalars(terms) | {"gradient_norm": norm.item()}

    def _keep(self, stage: Stage, batch: Batch) -> Tensor | None:
        """Modality dropout: never of a sensor whose partner is absent anyway."""
        if not stage.modality_dropout:
            return None
        present: Tensor = batch["present"]
        keep = modality_keep(batch["seed"], stage.modality_dropout).to(present)
        return torch.where(present.amin(1, keepdim=True) > 0, keep, 1.0)

    @torch.no_grad()
    def _evaluate(self, module: nn.Module, plan: StagePlan) -> Row:
        """Mean loss over the validation split and, for the task, the head's metric."""
        module.eval()
        task = plan.stage.objective == "task"
        metric = self.model.head.metric(self.model.config.classes)
        totals: dict[str, float] = {}
        seen = 0
        for batch in self.fabric.setup_dataloaders(self.loaders.validation(), use_distributed_sampler=False):
            terms = module(batch, self.recipe.sensors_of(plan.stage), None)
            seen += len(batch["ids"])
            for name, value in _scalars(terms).items():
                totals[name] = totals.get(name, 0.0) + value * len(batch["ids"])
            if task:
                answers = self.model.answer(terms)["boxes"]
                for answer, boxes, labels in zip(answers, batch["boxes"], batch["labels"], strict=True):
                    metric.update(answer, boxes, labels)
        row: Row = {f"val_{name}": total / seen for name, total in totals.items()}
        return row | ({k: v for k, v in metric.compute().items() if k != "per_class"} if task else {})

    def _record(
        self,
        plan: StagePlan,
        validated: Row,
        trained: Row,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Append the epoch to the history, note whether it is the best, save, say it."""
        worth = self._worth(plan, validated)
        if self.state.best_value is None or worth > tuple(self.state.best_value):
            self.state.best_epoch, self.state.best_value = self.state.epoch, worth
        row = {"stage": plan.stage.name, "epoch": self.state.epoch, **trained, **validated}
        row |= {"frozen": sorted(plan.frozen), "best": self.state.best_epoch == self.state.epoch}
        self.state.history.append(row)
        self.checkpoints.save(self.state, objective, optimizer.state_dict())
        self.checkpoints.prune(self.state)
        self.say(_line(row, plan.stage))

    def _worth(self, plan: StagePlan, validated: Row) -> tuple[float, float]:
        """What makes an epoch the best: the head's metric where the stage has the task, then the loss."""
        if plan.stage.objective != "task":
            return 0.0, -validated["val_loss"]
        name, direction = self.model.head.metric([]).criterion
        return (validated[name] if direction == "max" else -validated[name]), -validated["val_loss"]


def _require_finite(value: Tensor, what: str, stage: Stage, step: int, batch: Batch) -> None:
    """Stop before something that is no number reaches a weight."""
    if not torch.isfinite(value):
        samples = ", ".join(batch["ids"][:8])
        raise FusionError(
            f"stage '{stage.name}', step {step}: the {what} is {value.item()} on samples {samples}; nothing of it was "
            "saved; lower the stage's lr, or look at these samples with rgbt data show"
        )


def _scalars(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items() if value.dim() == 0}


def _line(row: Row, stage: Stage) -> str:
    """An epoch in one line of text."""
    when = f"epoch {row['epoch']}/{stage.epochs}" if row["epoch"] else "at entry"
    parts = [f"{stage.name:18} {when:12}"]
    for key, form in (("loss", ".3f"), ("val_loss", ".3f"), ("ap50", ".3f"), ("pairs_per_s", ".1f")):
        if key in row:
            parts.append(f"{key.replace('_per_', '/')} {row[key]:{form}}")
    return "  ".join(parts) + ("  best" if row["best"] else "")
