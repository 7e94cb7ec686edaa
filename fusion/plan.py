"""From a stage's groups to what trains: one list decides, nothing beside it can disagree."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from fusion.errors import FusionError
from fusion.recipe import Recipe, Stage, Unfreeze

BRANCHES = ("rgb", "thermal")


@dataclass(frozen=True)
class PlannedBlock:
    """One block of the model in one stage."""

    name: str
    group: int | None
    """Number of the group that has it; -1: the stage's unfreeze line; None: frozen."""
    lr: float
    """Learning rate at the schedule's top; 0 when frozen."""
    norm: str
    """frozen or train: whether its batch-norm statistics move."""
    l2_sp: float = 0.0
    opens: int = 0
    """Epoch of the stage from which it trains."""


@dataclass(frozen=True)
class StagePlan:
    """What trains in one stage."""

    stage: Stage
    blocks: tuple[PlannedBlock, ...]
    copies: bool = False
    """Whether the thermal branch is copied from RGB's at this stage's entry: it is the first that uses thermal."""

    def training(self, epoch: int) -> list[PlannedBlock]:
        """The blocks that train in an epoch (from 0) of the stage."""
        return [b for b in self.blocks if b.group is not None and b.opens <= epoch]

    def frozen(self, epoch: int) -> frozenset[str]:
        """Names of the blocks that do not train in an epoch."""
        return frozenset(b.name for b in self.blocks) - {b.name for b in self.training(epoch)}

    @property
    def fixed_norms(self) -> frozenset[str]:
        """Names of the blocks whose batch-norm statistics stay."""
        return frozenset(b.name for b in self.blocks if b.norm == "frozen")


def plan_stages(recipe: Recipe, blocks: Iterable[str]) -> list[StagePlan]:
    """Match every stage's groups against the model's block names.

    Raises:
        FusionError: a group matches nothing, a stage trains nothing, leaves its objective's own part untrained, or
            learns from a branch that knows nothing.
    """
    names = list(blocks)
    pretrained = {sensor for sensor in BRANCHES if _has_weights(recipe, sensor)}
    used: set[str] = set()
    plans = []
    for index, stage in enumerate(recipe.stages):
        plan = _plan(index, stage, names, _reached(recipe, stage, names), pretrained)
        trained = {b.name.split(".")[0] for b in plan.blocks if b.group is not None} & set(BRANCHES)
        if stage.objective == "distill":
            _require_teacher(index, stage, trained, pretrained)
        uses = trained | set(recipe.sensors_of(stage))
        if recipe.model.thermal.start == "copied" and "thermal" in uses - used and "thermal.stem" in names:
            _require_source(index, pretrained)
            plan = replace(plan, copies=True)
        used |= uses
        pretrained |= trained
        plans.append(plan)
    return plans


def _has_weights(recipe: Recipe, sensor: str) -> bool:
    thermal = recipe.model.thermal
    if sensor == "rgb":
        return recipe.model.rgb.weights is not None
    return bool(thermal.weights or thermal.start == "copied")


def _reached(recipe: Recipe, stage: Stage, names: list[str]) -> set[str]:
    """The blocks that the stage's loss depends on: a block that it never reaches cannot train."""
    sensors = recipe.sensors_of(stage)
    single_encoder = "thermal.stem" not in names or "rgb.stem" not in names
    parts = {s for s in BRANCHES if s in sensors or single_encoder}
    if stage.is_task:
        parts |= {"head"} | ({"blend"} if len(sensors) > 1 else set())
    reached = {name for name in names if name.split(".")[0] in parts}
    return reached if stage.is_task else reached | {"objective"}


def _plan(index: int, stage: Stage, blocks: list[str], reached: set[str], pretrained: set[str]) -> StagePlan:
    names = blocks if stage.is_task else [*blocks, "objective"]
    aliases = {name: _aliases(name, names) for name in names}
    owner: dict[str, int] = {}
    for number, group in enumerate(stage.groups):
        place = f"stages.{index}.groups.{number}.match"
        _require_every_part(place, stage, group.match, aliases)
        matched = [name for name in names if _matches(group.match, aliases[name])]
        fresh = [name for name in matched if name not in owner]
        if not fresh:
            raise FusionError(_shadowed(place, stage, group.match, matched))
        if not reached & set(fresh):
            raise FusionError(
                f"{place}: stage '{stage.name}' would train nothing by '{group.match}': its loss does not depend on "
                f"{', '.join(fresh[:3])}; it reaches {', '.join(sorted({n.split('.')[0] for n in reached}))}"
            )
        owner |= dict.fromkeys((name for name in fresh if name in reached), number)
    if "objective" in names and "objective" not in owner:
        raise FusionError(
            f"stages.{index}.groups: stage '{stage.name}': no group matches 'objective', so the {stage.objective} "
            "decoder would stay random; add objective.* to a group"
        )
    planned = {name: _block(name, owner.get(name), stage, names, pretrained) for name in names}
    if stage.unfreeze is not None:
        planned |= _unfrozen(index, stage, stage.unfreeze, planned, reached, pretrained)
    return StagePlan(stage, tuple(planned.values()))


def _aliases(name: str, names: list[str]) -> tuple[str, ...]:
    """A block can be counted from the end as well, and ``head.*`` means ``head``."""
    branch, _, number = name.rpartition(".")
    if not number.isdigit():
        return name, f"{name}."
    count = sum(other.startswith(f"{branch}.") for other in names)
    return name, f"{branch}.{int(number) - count}"


def _matches(pattern: str, aliases: tuple[str, ...]) -> bool:
    return any(fnmatchcase(alias, part.strip()) for part in pattern.split("|") for alias in aliases)


def _require_every_part(place: str, stage: Stage, pattern: str, aliases: dict[str, tuple[str, ...]]) -> None:
    """Each alternative of a pattern matches some block: a misspelt one would freeze what it means."""
    for part in pattern.split("|"):
        if not any(_matches(part, found) for found in aliases.values()):
            near = difflib.get_close_matches(part.strip(), aliases, n=3, cutoff=0.3) or list(aliases)[:6]
            raise FusionError(
                f"{place}: stage '{stage.name}': '{part.strip()}' matches nothing; near: {', '.join(near)} "
                "(rgbt recipe show --names)"
            )


def _shadowed(place: str, stage: Stage, pattern: str, matched: list[str]) -> str:
    return (
        f"{place}: stage '{stage.name}': '{pattern}' matches only what an earlier group already has "
        f"({', '.join(matched[:4])}); the first match wins"
    )


def _require_teacher(index: int, stage: Stage, trained: set[str], pretrained: set[str]) -> None:
    if "rgb" in trained:
        raise FusionError(
            f"stages.{index}.groups: stage '{stage.name}' distils from the RGB branch, which must stay frozen; "
            "take rgb.* out of its groups"
        )
    if "rgb" not in pretrained:
        raise FusionError(
            f"stages.{index}.objective: stage '{stage.name}' distils from an RGB branch with random weights; give "
            "model.rgb.weights, or train rgb.* in an earlier stage"
        )


def _require_source(index: int, pretrained: set[str]) -> None:
    if "rgb" not in pretrained:
        raise FusionError(
            f"model.thermal.start: 'copied' has nothing to copy at stages.{index}: model.rgb.weights is null and no "
            "earlier stage trains rgb.*"
        )


def _block(name: str, index: int | None, stage: Stage, names: list[str], pretrained: set[str]) -> PlannedBlock:
    if index is None:
        return PlannedBlock(name, None, 0.0, "frozen")
    group = stage.groups[index]
    rate = group.lr * group.layer_decay ** _distance(name, names)
    return PlannedBlock(name, index, rate, group.norm or _norm_default(name, pretrained), group.l2_sp)


def _norm_default(name: str, pretrained: set[str]) -> str:
    return "frozen" if name.split(".")[0] in pretrained else "train"


def _distance(name: str, names: Iterable[str]) -> int:
    """Blocks between this one and its branch's deepest; the stem lies above block 0. Only branches have depth."""
    branch = name.split(".")[0]
    if branch not in BRANCHES:
        return 0
    depth = sum(other.startswith(f"{branch}.blocks.") for other in names)
    return depth if name.endswith(".stem") else depth - 1 - int(name.rsplit(".", 1)[1])


def _unfrozen(
    index: int,
    stage: Stage,
    line: Unfreeze,
    planned: dict[str, PlannedBlock],
    reached: set[str],
    pretrained: set[str],
) -> dict[str, PlannedBlock]:
    """The blocks of the unfreeze line with the epoch at which each opens; those too late for the stage stay frozen."""
    branches = BRANCHES if line.branch == "both" else (line.branch,)
    names = [n for n in planned if n.split(".")[0] in branches and n in reached]
    if not names:
        raise FusionError(f"stages.{index}.unfreeze.branch: stage '{stage.name}' does not use {line.branch}")
    deepest = {b: max(_distance(n, planned) for n in names if n.split(".")[0] == b) for b in branches}
    top = line.lr or max(group.lr for group in stage.groups)
    opened = {}
    for name in names:
        distance = _distance(name, planned)
        turn = distance if line.start == "last" else deepest[name.split(".")[0]] - distance
        block = planned[name]
        if block.group is None:
            norm = line.norm or _norm_default(name, pretrained)
            block = PlannedBlock(name, -1, top * line.lr_factor**turn, norm)
        opens = turn * line.every
        opened[name] = replace(block, opens=opens) if opens < stage.epochs else PlannedBlock(name, None, 0.0, "frozen")
    return opened
