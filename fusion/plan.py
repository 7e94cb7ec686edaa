"""From a stage's groups to what trains: one list decides, nothing beside it can disagree."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.recipe import Group, Recipe, Schedule, Stage


@dataclass(frozen=True)
class PlannedBlock:
    """One block of the model in one stage."""

    name: str
    group: int | None
    """Number of the group that has it; None: frozen."""
    lr: float
    """Learning rate at the schedule's top; 0 when frozen."""
    norm: str
    """frozen or train: whether its batch-norm statistics move."""


@dataclass(frozen=True)
class StagePlan:
    """What trains in one stage."""

    stage: Stage
    blocks: tuple[PlannedBlock, ...]

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the blocks that do not train."""
        return frozenset(b.name for b in self.blocks if b.group is None)

    @property
    def fixed_norms(self) -> frozenset[str]:
        """Names of the blocks whose batch-norm statistics stay."""
        return frozenset(b.name for b in self.blocks if b.norm == "frozen")


def plan_stages(recipe: Recipe, blocks: Iterable[str]) -> list[StagePlan]:
    """Match every stage's groups against the model's block names.

    Raises:
        FusionError: a group matches nothing, or a stage leaves its objective's own part untrained.
    """
    names = list(blocks)
    pretrained = {sensor for sensor in ("rgb", "thermal") if _has_weights(recipe, sensor)}
    plans = []
    for stage in recipe.stages:
        own = names + (["objective"] if stage.objective != "task" else [])
        plans.append(_plan(stage, own, pretrained))
        pretrained |= {b.name.split(".")[0] for b in plans[-1].blocks if b.group is not None} & {
            "rgb",
            "thermal",
        }
    return plans


def _has_weights(recipe: Recipe, sensor: str) -> bool:
    thermal = recipe.model.thermal
    return (
        recipe.model.rgb.weights is not None if sensor == "rgb" else bool(thermal.weights or thermal.start == "copied")
    )


def _plan(stage: Stage, names: list[str], pretrained: set[str]) -> StagePlan:
    aliases = {name: _aliases(name, names) for name in names}
    owner: dict[str, int] = {}
    for index, group in enumerate(stage.groups):
        _require_every_part(stage, index, group, aliases)
        matched = [name for name in names if _matches(group.match, aliases[name])]
        fresh = [name for name in matched if name not in owner]
        if not fresh:
            raise FusionError(_shadowed(stage, index, group, matched))
        owner |= dict.fromkeys(fresh, index)
    if "objective" in names and "objective" not in owner:
        raise FusionError(
            f"stage '{stage.name}': no group matches 'objective', so the {stage.objective} decoder would stay random; "
            "add objective.* to a group"
        )
    return StagePlan(stage, tuple(_block(name, owner.get(name), stage, names, pretrained) for name in names))


def _aliases(name: str, names: list[str]) -> tuple[str, ...]:
    """A block can be counted from the end as well, and ``head.*`` means ``head``."""
    branch, _, number = name.rpartition(".")
    if not number.isdigit():
        return name, f"{name}."
    count = sum(other.startswith(f"{branch}.") for other in names)
    return name, f"{branch}.{int(number) - count}"


def _matches(pattern: str, aliases: tuple[str, ...]) -> bool:
    return any(fnmatchcase(alias, part.strip()) for part in pattern.split("|") for alias in aliases)


def _require_every_part(stage: Stage, index: int, group: Group, aliases: dict[str, tuple[str, ...]]) -> None:
    """Each alternative of a pattern matches some block: a misspelt one would freeze what it means."""
    for part in group.match.split("|"):
        if not any(_matches(part, found) for found in aliases.values()):
            near = difflib.get_close_matches(part.strip(), aliases, n=3, cutoff=0.3) or list(aliases)[:6]
            raise FusionError(
                f"stage '{stage.name}', groups.{index}.match: '{part.strip()}' matches nothing; near: "
                f"{', '.join(near)} (rgbt recipe show --names)"
            )


def _shadowed(stage: Stage, index: int, group: Group, matched: list[str]) -> str:
    return (
        f"stage '{stage.name}', groups.{index}.match: '{group.match}' matches only what an earlier group already has "
        f"({', '.join(matched[:4])}); the first match wins"
    )


def _block(name: str, index: int | None, stage: Stage, names: list[str], pretrained: set[str]) -> PlannedBlock:
    if index is None:
        return PlannedBlock(name, None, 0.0, "frozen")
    group = stage.groups[index]
    default = "frozen" if name.split(".")[0] in pretrained else "train"
    return PlannedBlock(name, index, group.lr * group.layer_decay ** _distance(name, names), group.norm or default)


def _distance(name: str, names: list[str]) -> int:
    """Blocks between this one and its branch's deepest; the stem lies above block 0. Only branches have depth."""
    branch = name.split(".")[0]
    if branch not in ("rgb", "thermal"):
        return 0
    depth = sum(other.startswith(f"{branch}.blocks.") for other in names)
    return depth if name.endswith(".stem") else depth - 1 - int(name.rsplit(".", 1)[1])


def rate(schedule: Schedule, step: int, steps: int) -> float:
    """Share of the top rate at ``step`` (from 0) of a stage of ``steps``; a pure function, with no scheduler object."""
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    if schedule.kind == "constant":
        return 1.0
    progress = (step - warm) / max(1, steps - warm)
    return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(
    plan: StagePlan, modules: dict[str, list[nn.Module]], weight_decay: float
) -> list[dict[str, object]]:
    """Optimiser groups, one or two for each training block: matrices with weight decay, vectors without.

    Each carries ``block`` and ``top`` (its rate at the schedule's top) beside the optimiser's own settings.
    """
    groups: list[dict[str, object]] = []
    for block in plan.blocks:
        if block.group is None:
            continue
        parameters = [p for module in modules[block.name] for p in module.parameters(recurse=False)]
        for decays in (True, False):
            chosen = [p for p in parameters if (p.dim() > 1) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                groups.append(
                    {
                        "params": chosen,
                        "lr": block.lr,
                        "weight_decay": decay,
                        "block": block.name,
                        "top": block.lr,
                    }
                )
    return groups


def count_parameters(model: FusionModel) -> dict[str, int]:
    """Block name → number of its parameters."""
    return {
        name: sum(p.numel() for module in modules for p in module.parameters(recurse=False))
        for name, modules in model.named_blocks().items()
    }


def table(recipe: Recipe, plans: list[StagePlan], counts: dict[str, int]) -> str:
    """The stages as text: for each its groups with blocks, parameters and rates, and what is frozen."""
    lines = []
    for plan in plans:
        stage = plan.stage
        dropout = f", modality dropout {stage.modality_dropout:g}" if stage.modality_dropout else ""
        sensors = "+".join(recipe.sensors_of(stage))
        lines.append(
            f"{stage.name}: {stage.epochs} epochs, {stage.objective}, {sensors}, {stage.schedule.kind}{dropout}"
        )
        for index in range(len(stage.groups)):
            blocks = [b for b in plan.blocks if b.group == index]
            parameters = sum(counts.get(b.name, 0) for b in blocks)
            rates = sorted({b.lr for b in blocks})
            span = f"{rates[0]:.1e}" if len(rates) == 1 else f"{rates[0]:.1e} … {rates[-1]:.1e}"
            norms = "/".join(sorted({b.norm for b in blocks}))
            lines.append(f"  trains  {_names(blocks):42} {parameters:>10,} parameters  lr {span}  norm {norms}")
        frozen = [b for b in plan.blocks if b.group is None]
        if frozen:
            parameters = sum(counts.get(b.name, 0) for b in frozen)
            lines.append(f"  frozen  {_names(frozen):42} {parameters:>10,} parameters")
    return "\n".join(lines)


def _names(blocks: list[PlannedBlock]) -> str:
    """Whole branches by one name each."""
    branches: dict[str, list[str]] = {}
    for block in blocks:
        branch, _, rest = block.name.partition(".")
        branches.setdefault(branch, []).append(rest.removeprefix("blocks."))
    parts = [branch if rests == [""] else f"{branch}[{','.join(rests)}]" for branch, rests in branches.items()]
    return " ".join(parts)
