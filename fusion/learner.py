"""One stage at work: the objective, the optimiser over what trains, and the step."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fusion.checkpoint import Snapshot, Tensors
from fusion.faults import GRADIENT, culprits, non_finite, samples, what, where
from fusion.faults import NonFinite as NonFinite
from fusion.model import FusionModel
from fusion.objectives import OBJECTIVES, Batch
from fusion.optimisers import build_optimiser
from fusion.plan import StagePlan
from fusion.rates import fresh, parameter_groups, rate
from fusion.recipe import Recipe
from fusion.seeds import modality_keep
from fusion.synchronise import synchronise

MOST_SKIPS = 20
"""Steps in a row that fp16's scaler may skip for gradients that are no numbers; while it finds its scale, a few are."""


class Learner:
    """Trains a model through one stage, step by step; rebuilt for the next stage."""

    def __init__(self, model: FusionModel, recipe: Recipe, plan: StagePlan, fabric: Fabric) -> None:
        self.model, self.recipe, self.plan, self.fabric = model, recipe, plan, fabric
        self.stage = plan.stage
        self.sensors = recipe.sensors_of(plan.stage)
        objective = OBJECTIVES[plan.stage.objective](model)
        synchronise(objective, plan, fabric)
        self.objective = fabric.to_device(objective)
        if plan.stage.is_task:
            self.objective.alone = plan.stage.alone
        self.module: nn.Module = self.objective
        self.optimizer: Any = None
        decay = recipe.ema_of(plan.stage)
        self.average = ModelEmaV3(self.objective, decay, use_warmup=True) if decay else None
        self.kept: Sequence[int] = ()
        """Epochs of the stage (from 0) whose steps the weights and moments have in them: see fusion.rates.fresh."""
        self._training: list[str] = []
        self._branches: dict[str, list[nn.Parameter]] = {}
        self._moments: dict[str, Any] = {}
        self._start: Tensors = {}
        self._skips = 0
        """Steps in a row, up to now, that fp16's scaler has skipped."""

    @property
    def judged(self) -> nn.Module:
        """The objective whose weights are validated and handed on: the moving average where there is one."""
        judged: nn.Module = self.objective if self.average is None else self.average.module
        return judged

    def open(self, epoch: int) -> None:
        """Prepare for an epoch (from 0) of the stage: what trains then gets gradients, an optimiser, its moments.

        Moments of parameters that go on training are carried over; those of new ones start empty.
        """
        blocks = self.plan.training(epoch)
        names = [block.name for block in blocks]
        if self.optimizer is not None and names == self._training:
            return
        if self.optimizer is not None:
            self._moments = self._named_moments()
        self._training = names
        self.module, self.optimizer = self.objective, None  # the old wrapper goes before the new one is made
        self.model.hold(self.plan.frozen(epoch), self.plan.fixed_norms)
        modules = self.model.named_blocks() | {"objective": list(self.objective.own.modules())}
        constants = self.recipe.optimiser_of(self.stage)
        groups = parameter_groups(blocks, modules, constants.weight_decay)
        self._branches = {}
        for group in groups:
            self._branches.setdefault(group["block"].split(".")[0], []).extend(group["params"])
        optimizer = build_optimiser(constants, groups)
        # Wrapped anew whenever what trains changes: DDP builds its buckets from what requires grad when it wraps.
        self.module, self.optimizer = self.fabric.setup(self.objective, optimizer)
        self._restore_moments()

    def begin(self, start: Tensors) -> None:
        """Take the weights that the stage began with, by name: where a group says l2_sp, it is pulled towards them."""
        self._start = {name: start[name].to(parameter) for name, parameter in self.objective.named_parameters()}

    def snapshot(self) -> Snapshot:
        """The tensors of this moment; they are the live ones, not copies."""
        average = None if self.average is None else self.average.module.state_dict()
        moments = self._moments if self.optimizer is None else self._named_moments()
        scaler = self.fabric.strategy.precision.state_dict()
        steps = {"moments": moments, "scaler": scaler, "skips": self._skips}
        return Snapshot(self.objective.state_dict(), average, steps)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot: weights, average, moments and scaler."""
        self.objective.load_state_dict(snapshot.weights)
        if self.average is not None and snapshot.average is not None:
            self.average.module.load_state_dict(snapshot.average)
        self.fabric.strategy.precision.load_state_dict(snapshot.optimizer["scaler"])
        self._skips = snapshot.optimizer.get("skips", 0)
        self._moments = snapshot.optimizer["moments"]
        if self.optimizer is not None:
            self._restore_moments()

    def step(self, batch: Batch, number: int, per_epoch: int, factor: float, stop: bool = False) -> dict[str, float]:
        """One optimiser step.

        Args:
            batch: This device's share of a batch.
            number: Step of the stage, from 0.
            per_epoch: Steps of an epoch.
            factor: What rollbacks made of the rates.
            stop: Whether this process was asked to stop.

        Returns:
            The whole batch's loss and terms, gradient norms before clipping (in all and by branch), and ``stop``: above
            0 when any process was asked to. With fp16 also ``skipped``: 1 where its scaler let no weight move, and
            then there are no gradient norms.

        Raises:
            NonFinite: loss or gradient is no number, with fp16 a gradient for too long; no weight was touched.
        """
        self._set_rates(number, per_epoch, factor)
        batch, counts = self.objective.prepare(batch)
        counts = self._sum(torch.cat([counts.float(), counts.new_tensor([float(stop)])]))
        terms = self._backward(batch, counts[:-1])
        norms = self._norms()
        names = [*terms, GRADIENT, *(f"{GRADIENT}_{branch}" for branch in self._branches)]
        # The norms are the same on all devices but for a broken one: summed, all see what is no number on any.
        summed = self._sum(torch.cat([torch.stack(list(terms.values())), norms / self.fabric.world_size]))
        values = torch.cat([summed.float(), counts[-1:].float()]).tolist()
        found = dict(zip([*names, "stop"], values, strict=True))
        if wrong := non_finite(found):
            return self._skip(wrong, found, batch, counts[:-1], number)
        self._skips = 0
        clip_grads_with_norm_((p for ps in self._branches.values() for p in ps), self.stage.clip, norms[0])
        self.optimizer.step()
        self._pull()
        if self.average is not None:
            self.average.update(self.objective, step=number + 1)
        return found if self._scaler is None else found | {"skipped": 0.0}

    def _set_rates(self, number: int, per_epoch: int, factor: float) -> None:
        share = factor * rate(self.recipe.schedule_of(self.stage), number, per_epoch * self.stage.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * share * fresh(number, per_epoch, group["opens"], self.kept)

    def _backward(self, batch: Batch, counts: Tensor) -> dict[str, Tensor]:
        """Sum the contributions of a batch's parts, and their gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        parts = list(split(batch, self.stage.accumulate))
        for index, part in enumerate(parts):
            with self._no_sync(index < len(parts) - 1):
                terms = self.module(part, self.sensors, self._keep(part), counts)
                # DDP takes the mean of the devices' gradients; contributions are to be summed.
                self.fabric.backward(terms["loss"] * self.fabric.world_size)
            for name, value in terms.items():
                if value.dim() == 0:
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        return sums

    def _no_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.fabric.no_backward_sync(self.module, enabled=enabled)
        return context

    def _norms(self) -> Tensor:
        """The norm of all gradients, and that of each branch."""
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        gradients = [[p.grad for p in parameters if p.grad is not None] for parameters in self._branches.values()]
        norms = torch.stack([get_total_norm(some).to(self.fabric.device) for some in gradients])
        return torch.cat([torch.linalg.vector_norm(norms).view(1), norms])

    @property
    def _scaler(self) -> GradScaler | None:
        """Of fp16: it doubles its scale until gradients overflow, skips that step and halves it."""
        scaler: GradScaler | None = getattr(self.fabric.strategy.precision, "scaler", None)
        return scaler

    def _skip(
        self, wrong: list[str], found: dict[str, float], batch: Batch, counts: Tensor, number: int
    ) -> dict[str, float]:
        """Refuse a step that would put something that is no number into a weight; let fp16 go on a little lower."""
        scaler, told = self._scaler, what(wrong, found)
        if scaler is None or not all(name.startswith(GRADIENT) for name in wrong):
            raise self._fault(told, batch, counts, number)
        self._skips += 1
        if self._skips > MOST_SKIPS:
            raise self._fault(f"{told} for {self._skips} steps in a row, the last time", batch, counts, number)
        if scaler.get_scale() * scaler.get_backoff_factor() < 1:
            raise self._fault(f"{told} although fp16's scale is down to 1,", batch, counts, number)
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.step()  # lowers the scale, and nothing else
        return {name: value for name, value in found.items() if not name.startswith(GRADIENT)} | {"skipped": 1.0}

    def _fault(self, told: str, batch: Batch, counts: Tensor, number: int) -> NonFinite:
        """Say where and on which samples; all devices come here together, for what they judge by is the same."""
        singles = split(batch, len(batch["ids"]))
        calls = ((one, self.sensors, self._keep(one), counts) for one in singles)
        named = samples(self.fabric, batch["ids"], culprits(self.objective, calls, self.fabric))
        groups = where(self.optimizer.param_groups, self.plan)
        return NonFinite(f"stage '{self.stage.name}', step {number + 1}: {told} on samples {named}{groups}")

    @torch.no_grad()
    def _pull(self) -> None:
        """L2-SP, decoupled from the gradient as AdamW's weight decay is."""
        if not self._start:
            return
        names = self._names()
        for group in self.optimizer.param_groups:
            if group["l2_sp"]:
                for parameter in group["params"]:
                    start = self._start[names[id(parameter)]]
                    parameter.lerp_(start, min(1.0, group["lr"] * group["l2_sp"]))

    def _keep(self, part: Batch) -> Tensor | None:
        """Modality dropout: never of a sensor whose partner is absent anyway."""
        if not self.stage.modality_dropout:
            return None
        present: Tensor = part["present"]
        keep = modality_keep(part["seed"], self.stage.modality_dropout).to(present)
        return torch.where(present.amin(1, keepdim=True) > 0, keep, 1.0)

    def _sum(self, values: Tensor) -> Tensor:
        """Sum over all devices."""
        if self.fabric.world_size == 1:
            return values
        summed: Tensor = self.fabric.all_reduce(values, reduce_op="sum")
        return summed

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.objective.named_parameters()}

    def _named_moments(self) -> dict[str, Any]:
        """The optimiser's state by parameter name: it outlives a change of what trains."""
        names = self._names()
        return {names[id(parameter)]: moments for parameter, moments in self.optimizer.optimizer.state.items()}

    def _restore_moments(self) -> None:
        state, names = self.optimizer.optimizer.state, self._names()
        state.clear()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                moments = self._moments.get(names[id(parameter)])
                if moments is not None:  # of the parameter's own shape they follow it to its device; counters stay
                    state[parameter] = {
                        key: value.to(parameter.device) if value.shape == parameter.shape else value
                        for key, value in moments.items()
                        if isinstance(value, Tensor)
                    }


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into parts of consecutive samples, as equal as can be; empty ones are left out."""
    size = len(batch["ids"])
    edges = [round(i * size / parts) for i in range(parts + 1)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            yield {key: _cut(value, start, end) for key, value in batch.items()}


def _cut(value: Any, start: int, end: int) -> Any:  # noqa: ANN401 - tensors, lists, and dicts of tensors
    if isinstance(value, dict):
        return {key: _cut(inner, start, end) for key, inner in value.items()}
    return value[start:end]
