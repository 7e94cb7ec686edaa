"""Trains a recipe on a card into a run folder, and goes on with a run that was stopped."""

import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger
from tqdm import tqdm

from data.card import DatasetCard
from data.errors import DataError
from data.yaml_file import atomic, read_model
from fusion.checkpoint import Row
from fusion.errors import Stopped
from fusion.faults import NonFinite
from fusion.model import FusionModel, ModelConfig, build_model
from fusion.plan import plan_stages
from fusion.stage_table import count_parameters, table
from fusion.synchronise import sketch_objectives
from fusion.trainer import Store, Trainer
from pipelines.launch import (
    Processes,
    end_processes,
    failed_process,
    find_processes,
    lost_partner,
    make_fabric,
    watched,
)
from pipelines.loaders import CardLoaders
from pipelines.loggers import DEFAULT, STOPPED, make_loggers
from pipelines.recipe_file import TrainRecipe, dump_recipe
from pipelines.versions import versions

RECIPE, RUN, HISTORY = "recipe.yaml", "run.json", "history.json"


@dataclass(frozen=True)
class RunInfo:
    """What a run folder remembers of itself, beside its recipe."""

    recipe_name: str
    recipe_sha256: str
    card: str
    """Path of the dataset card, absolute."""
    card_sha256: str
    """Of what a run takes from it: sizes, unit, classes, ids and labels."""
    accelerator: str = "unknown"
    """cpu, cuda or mps, of the last process that trained here; as what follows."""
    devices: int = 1
    """On each node."""
    nodes: int = 1
    precision: str = "32-true"
    versions: dict[str, str] = field(default_factory=dict)
    """Package → version; python as well."""


def train(
    recipe: TrainRecipe,
    name: str,
    card: DatasetCard,
    out: Path,
    resume: bool = False,
    accelerator: str = "auto",
    precision: str = "32-true",
    devices: int | None = None,
    nodes: int | None = None,
    loggers: Sequence[str] = DEFAULT,
    stop: Callable[[], bool] = lambda: False,
    store: Store | None = None,
) -> list[Row]:
    """Train through all stages; return the history.

    Writes into ``out``: recipe.yaml (resolved), run.json, logs, checkpoints, history.json, and model/ at the end.

    Args:
        recipe: What to train, and how.
        name: Of the recipe, for the record.
        card: The pairs.
        out: Folder of the run.
        resume: Go on with the run that lies there.
        accelerator: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        devices: On each node; None: as many as torchrun or SLURM started, else one. More than one are processes that
            run this program again, up to here.
        nodes: None: as many as the launcher uses, else one.
        loggers: Names of pipelines.loggers.LOGGERS, or none.
        stop: Asked after each step; once it is true, the run saves and stops.
        store: Where the outputs of stages are kept for other runs.

    Raises:
        DataError: the folder holds another run, the card does not fit or has changed, a picture cannot be read, or
            there are fewer devices than asked for.
        FusionError: recipe, weights or checkpoint do not fit.
        Stopped: ``stop`` was heeded.
    """
    processes = find_processes(devices, nodes)
    if processes.leads:
        _claim(out, dump_recipe(recipe), resume, precision)
    made = make_loggers(loggers, out) if processes.leads else []
    fabric = make_fabric(processes, accelerator, precision, made)
    say = _say if processes.leads else _nothing
    # All that can be wrong with recipe, card and weights is found before other processes are started.
    loaders = _load(recipe, card, processes, say)
    info = _info(recipe, name, card, loaders.fingerprint, processes, fabric, precision)
    if resume and processes.leads:
        _require_same_card(out, info)
    model = _build(recipe, card, say)
    with _running(fabric, made):
        trainer = Trainer(model, recipe, loaders, out, fabric, say, stop, store)
        if processes.leads:
            _describe(recipe, info, out, made)
        history = trainer.fit(resume)
    if processes.leads:
        _write(out / HISTORY, json.dumps(history))
    return history


def _load(recipe: TrainRecipe, card: DatasetCard, processes: Processes, say: Callable[[str], None]) -> CardLoaders:
    """This process's share of the pairs; says what is odd about them."""
    loaders = CardLoaders(card, recipe, processes.rank, processes.world)
    if loaders.warning:
        say(loaders.warning)
    return loaders


def _build(recipe: TrainRecipe, card: DatasetCard, say: Callable[[str], None]) -> FusionModel:
    """The model with the weights that the recipe names; says what was loaded, and the stages."""
    with recipe.blamed():
        model, reports = build_model(model_config(recipe, card), recipe.seed)
        stages = _table(recipe, model)
    for report in reports:
        say(f"weights  {report}")
    say(stages)
    return model


def _describe(recipe: TrainRecipe, info: RunInfo, out: Path, loggers: Sequence[Logger]) -> None:
    """Leave in the run, and with the trackers, what it is."""
    _write(out / RECIPE, dump_recipe(recipe))
    _write(out / RUN, json.dumps(asdict(info), indent=1))
    for logger in loggers:
        logger.log_hyperparams(recipe.model_dump(mode="json"))


def _info(
    recipe: TrainRecipe,
    name: str,
    card: DatasetCard,
    fingerprint: str,
    processes: Processes,
    fabric: Fabric,
    precision: str,
) -> RunInfo:
    return RunInfo(
        recipe_name=name,
        recipe_sha256=hashlib.sha256(dump_recipe(recipe).encode()).hexdigest(),
        card=str(card.path.resolve()),
        card_sha256=fingerprint,
        accelerator=fabric.device.type,
        devices=processes.devices,
        nodes=processes.nodes,
        precision=precision,
        versions={"python": platform.python_version(), **versions()},
    )


@contextlib.contextmanager
def _running(fabric: Fabric, loggers: Sequence[Logger]) -> Iterator[None]:
    """Start the processes and leave none behind; close the loggers, and make one line of what a partner's end tells."""
    ended = "failed"
    try:
        fabric.launch()
        with watched(fabric):
            yield
        ended = "success"
    except Stopped:
        ended = STOPPED
        raise
    except NonFinite:
        if not fabric.is_global_zero:
            raise SystemExit(1) from None  # all processes know it; one says it
        raise
    except DataError as error:  # a worker's error comes wrapped in its traceback
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("data.errors.DataError: ")) from None
    except RuntimeError as error:
        if fabric.world_size > 1 and lost_partner(error):
            if not fabric.is_global_zero or failed_process(fabric):
                raise SystemExit(1) from None  # the one that failed has said why
            raise DataError("another process of this run has ended; its own line says why") from None
        raise
    finally:
        for logger in loggers:
            logger.finalize(ended)
        end_processes(fabric, failed=ended == "failed")


def model_config(recipe: TrainRecipe, card: DatasetCard) -> ModelConfig:
    """Join the recipe's model section with the card's classes and inputs."""
    section = recipe.model.model_dump()
    return ModelConfig(
        **section, classes=card.classes_of(recipe.model.head.kind), inputs=card.inputs().model_dump(mode="json")
    )


def stage_table(recipe: TrainRecipe) -> tuple[str, dict[str, int]]:
    """The expanded stages as text, and every block name with its parameters; no weights are loaded."""
    thermal = {"unit": "intensity8", "polarity": "white-hot", "range": None, "min_span": 16.0, "invalid": 0.0}
    inputs = {"rgb_size": recipe.model.size, "thermal_size": recipe.model.size, "thermal": thermal}
    config = ModelConfig(**recipe.model.model_dump(), classes=("object",), inputs=inputs)
    with recipe.blamed():
        model = FusionModel(config)
        return _table(recipe, model), count_parameters(model)


def _table(recipe: TrainRecipe, model: FusionModel) -> str:
    """The stages as text; a stage that cannot learn from this model is an error."""
    counts = count_parameters(model)
    plans = plan_stages(recipe, counts)
    sketch_objectives(model, recipe)
    return table(recipe, plans, counts)


def read_run(run: Path) -> tuple[TrainRecipe, RunInfo, list[Row]]:
    """Read what a finished run remembers; DataError when it is no run, or not finished."""
    info = _read_info(run)
    if info is None or not (run / HISTORY).exists():
        missing = RUN if info is None else HISTORY
        raise DataError(f"{run}: not a finished run ({missing} is missing); train it, or go on with --resume")
    history = json.loads((run / HISTORY).read_text())
    return read_model(run / RECIPE, TrainRecipe), info, history


def _claim(out: Path, recipe: str, resume: bool, precision: str) -> None:
    """Refuse a folder that holds another run, or one of another precision."""
    if resume:
        if not (out / RECIPE).exists():
            raise DataError(f"{out}: no run to resume there ({RECIPE} is missing); run without --resume")
        if (out / RECIPE).read_text() != recipe:
            raise DataError(
                f"{out / RECIPE}: the run was started with another recipe; resume with the same one and --set"
            )
        _require_same_precision(out, precision)
        return
    if any((out / name).exists() for name in (RECIPE, "checkpoints", "model")):
        raise DataError(f"{out}: holds a run already; go on with it by --resume, or name another --out")


def _say(text: str) -> None:
    """Progress goes to stderr, above the bar: stdout is for results."""
    tqdm.write(text, file=sys.stderr)


def _nothing(text: str) -> None:
    """Other processes than the first say nothing."""


def _require_same_precision(out: Path, precision: str) -> None:
    """Moments, fp16's scale and the same bits as of a run never stopped belong to one precision."""
    before = _read_info(out)
    if before is not None and before.precision != precision:
        raise DataError(
            f"--precision {precision}: {out} was started with {before.precision}; go on with --precision "
            f"{before.precision}, or start a new run"
        )


def _require_same_card(out: Path, info: RunInfo) -> None:
    before = _read_info(out)
    if before is not None and before.card_sha256 != info.card_sha256:
        raise DataError(
            f"{info.card}: sizes, classes, ids or labels are not those that {out} was started with ({before.card}); "
            "resume with the same data, or start a new run"
        )


def _read_info(run: Path) -> RunInfo | None:
    """What run.json holds; None when the run was stopped before it was written."""
    if not (run / RUN).exists():
        return None
    try:
        return RunInfo(**json.loads((run / RUN).read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{run / RUN}: damaged ({error}); start a new run") from None


def _write(path: Path, text: str) -> None:
    with atomic(path, "w") as file:
        file.write(text)
