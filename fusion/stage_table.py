"""The stages of a recipe as text: what trains, how fast, what is frozen."""

from collections.abc import Iterator

from fusion.model import FusionModel
from fusion.plan import PlannedBlock, StagePlan
from fusion.recipe import Guard, Recipe, Stage


def count_parameters(model: FusionModel) -> dict[str, int]:
    """Block name → number of its parameters."""
    return {
        name: sum(p.numel() for module in modules for p in module.parameters(recurse=False))
        for name, modules in model.named_blocks().items()
    }


def table(recipe: Recipe, plans: list[StagePlan], counts: dict[str, int]) -> str:
    """The blend, then the stages as text: for each its groups with blocks, parameters and rates, and what is frozen."""
    return "\n".join(_all(recipe, plans, counts))


def _all(recipe: Recipe, plans: list[StagePlan], counts: dict[str, int]) -> Iterator[str]:
    blend = recipe.model.blend
    if len(recipe.model.sensors) == 2 and not recipe.model.is_early:
        yield f"blend {blend.kind}, anchored on {blend.anchor}; RGB's weights: {recipe.model.rgb.weights or 'random'}"
    for plan in plans:
        yield from _lines(recipe, plan, counts)


def _lines(recipe: Recipe, plan: StagePlan, counts: dict[str, int]) -> Iterator[str]:
    yield _heading(recipe, plan.stage)
    if plan.copies:
        yield "  start   thermal is copied from rgb as it is then"
    for index in range(len(plan.stage.groups)):
        blocks = [b for b in plan.training(0) if b.group == index]
        if blocks:
            yield _row("trains", blocks, counts, _settings(blocks))
    line = plan.stage.unfreeze
    opened = [b for b in plan.blocks if b.group is not None and (b.opens or b.group == -1)]
    for opens in sorted({b.opens for b in opened}):
        blocks = [b for b in opened if b.opens == opens]
        condition = " if the metric still improves" if opens and line is not None and line.auto else ""
        yield _row("opens", blocks, counts, f"{_settings(blocks)}  from epoch {opens + 1}{condition}")
    frozen = [b for b in plan.blocks if b.group is None]
    if frozen:
        yield _row("frozen", frozen, counts, "  norm frozen")


def _heading(recipe: Recipe, stage: Stage) -> str:
    optimiser = recipe.optimiser_of(stage)
    extras = [
        f"modality dropout {stage.modality_dropout:g}" if stage.modality_dropout else "",
        f"each alone {stage.alone:g}" if stage.alone else "",
        f"EMA {recipe.ema_of(stage):g}" if recipe.ema_of(stage) else "",
        f"{stage.accumulate} parts a batch" if stage.accumulate > 1 else "",
        _guard(stage.guard) if stage.guard else "",
        f"early stop {stage.early_stop.metric}" if stage.early_stop else "",
    ]
    said = [stage.objective, "+".join(recipe.sensors_of(stage)), optimiser.kind, recipe.schedule_of(stage).kind]
    said += filter(None, extras)
    return f"{stage.name}: {stage.epochs} epochs, {', '.join(said)}"


def _guard(guard: Guard) -> str:
    back = f" × {guard.lr_factor:g}, at most {guard.at_most}" if guard.on_jump == "rollback" else ""
    return f"guard {guard.metric} {guard.tolerance:.0%} {guard.on_jump}{back}"


def _row(what: str, blocks: list[PlannedBlock], counts: dict[str, int], settings: str) -> str:
    parameters = sum(counts.get(b.name, 0) for b in blocks)
    return f"  {what:7} {_names(blocks):42} {parameters:>10,} parameters{settings}"


def _settings(blocks: list[PlannedBlock]) -> str:
    rates = sorted({b.lr for b in blocks})
    span = f"{rates[0]:.1e}" if len(rates) == 1 else f"{rates[0]:.1e} … {rates[-1]:.1e}"
    pull = ", pulled to its start" if any(b.l2_sp for b in blocks) else ""
    return f"  lr {span}  norm {'/'.join(sorted({b.norm for b in blocks}))}{pull}"


def _names(blocks: list[PlannedBlock]) -> str:
    """Whole branches by one name each."""
    branches: dict[str, list[str]] = {}
    for block in blocks:
        branch, _, rest = block.name.partition(".")
        branches.setdefault(branch, []).append(rest.removeprefix("blocks."))
    parts = [branch if rests == [""] else f"{branch}[{','.join(rests)}]" for branch, rests in branches.items()]
    return " ".join(parts)
