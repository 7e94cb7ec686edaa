"""From a run folder to a bundle: the trained model, golden pairs from its card, and what was measured."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import nn
from tqdm import tqdm

from data.card import DatasetCard
from data.errors import DataError
from data.pairs import load_pair
from data.prepare import InputSpec, Prepared
from data.sample import Sample
from export.bundle import Bundle
from export.bundle_info import Array, Inputs
from export.graph import MapSize
from export.variants.source import Metric, Run
from export.variants.table import keys
from export.write import Forms, export_bundle
from fusion.checkpoint import load_model
from fusion.heads import metric_for
from fusion.model import FusionModel
from pipelines.report.bundle import bundle_page
from pipelines.run_report import EVALUATION
from pipelines.subject import one_answer, preparer_of, require_cameras, require_classes
from pipelines.train import read_run

_T = TypeVar("_T")
_CANDIDATES = 4
"""Pairs looked at for each one that calibrates, so that the darkest and the brightest are among them."""


@dataclass(frozen=True)
class Request:
    """What to export, and what to measure it on."""

    run: Path
    out: Path
    card: Path | None = None
    """Of the golden and the validation pairs; None: the run's own."""
    split: str = "val"
    """Of the golden and the validation pairs."""
    golden: int = 4
    targets: Sequence[str] = ("onnxruntime",)
    precisions: Sequence[str] = ("fp32",)
    calibration: Path | None = None
    """Card of the pairs that int8 is calibrated on; None: as ``card``."""
    calibration_split: str = "train"
    calibration_pairs: int = 64
    max_drop: float = 1.0
    """Points of the task's main metric that int8 may lose."""
    opset: int | None = None
    bake_rig: bool = False
    """Put the warp of the card's rig into the graph, which then takes the thermal camera's own frames."""
    map_size: MapSize = "camera"
    """Of a segmentation's answer: the camera's, or the network's."""
    any_size: bool = False
    """Also write a graph for frames of any size."""


def export_run(request: Request, progress: Callable[[str], None]) -> Bundle:
    """Export the model of a run; golden pairs are spread over the split.

    Raises:
        DataError: the run is not finished, or the card's pairs cannot be read.
        ExportError: the graph answers otherwise than PyTorch, or int8 loses too much; an older bundle stays as it was.
    """
    wanted = keys(request.targets, request.precisions)
    _, info, _ = read_run(request.run)
    model = load_model(request.run)
    card = DatasetCard.load(request.card or Path(info.card))
    require_cameras(InputSpec.model_validate(model.config.inputs), request.run, card)
    subject = _baked(model, card) if request.bake_rig else _as_trained(model)
    samples = card.samples(request.split)
    pairs = list(map(subject.reader(card), _spread(samples, request.golden)))
    arrays = {"rgb": np.stack([p.rgb for p in pairs]), "thermal": np.stack([p.thermal for p in pairs])}
    measured = request.run / EVALUATION
    metrics = json.loads(measured.read_text()) if measured.exists() else {}
    forms = Forms(progress=progress, map_size=request.map_size, any_size=request.any_size)
    if request.opset is not None:
        forms = replace(forms, opset=request.opset)
    if wanted != ["onnxruntime-fp32"]:
        forms = replace(
            forms,
            keys=wanted,
            calibration=_calibration(request, card, subject) if "int8" in request.precisions else (),
            metric=_metric(card, samples, subject, request),
            max_drop=request.max_drop,
            page=bundle_page,
        )
    return export_bundle(
        subject.model,
        subject.inputs.model_dump(mode="json"),
        subject.classes,
        subject.sensors,
        arrays,
        metrics,
        info.recipe_sha256,
        request.out,
        subject.task,
        forms,
    )


@dataclass(frozen=True)
class _Exported:
    """The model as it is exported, and how pairs are made for it."""

    model: nn.Module
    task: str
    classes: Sequence[str]
    sensors: tuple[str, ...]
    inputs: InputSpec

    def reader(self, card: DatasetCard) -> Callable[[Sample], Prepared]:
        """Return what reads a sample of a card, without what is true of it."""
        preparer = preparer_of(self.inputs, card)
        return lambda sample: load_pair(sample, preparer, self.sensors, None, card)[0]


def _as_trained(model: FusionModel) -> _Exported:
    config = model.config
    return _Exported(model, model.task, config.classes, config.sensors, InputSpec.model_validate(config.inputs))


def _baked(model: FusionModel, card: DatasetCard) -> _Exported:
    """With the card's rig in the graph."""
    from export.baked_rig import bake_rig

    whole, rig = _as_trained(model), card.load_rig()
    if not rig.moves:
        raise DataError(f"{card.path}: names no rig that moves thermal, so there is none to bake; leave out --bake-rig")
    height, width = whole.inputs.thermal_size
    camera = (width, height) if rig.rotate in (90, 270) else (height, width)
    sampling = rig.aligner(whole.inputs.thermal, whole.inputs.rgb_size, camera).sampling_map()
    baked, inputs = bake_rig(model, Inputs.model_validate(whole.inputs.model_dump()), sampling, camera)
    return replace(whole, model=baked, inputs=InputSpec.model_validate(inputs.model_dump()))


def _metric(card: DatasetCard, samples: Sequence[Sample], subject: _Exported, request: Request) -> Metric | None:
    """The task's main figure on the labelled pairs of the split; None where there are none, and nothing needs it."""
    task, classes = subject.task, subject.classes
    labelled = [sample for sample in samples if sample.has(task)]
    if not labelled and "int8" in request.precisions:
        raise DataError(
            f"{card.path}: split '{request.split}' has no labels for {task}, so what int8 loses cannot be measured; "
            "name another with --split, or a card with --data"
        )
    if not labelled:
        return None
    require_classes(classes, task, request.run, card)
    preparer = preparer_of(subject.inputs, card)

    def of(run: Run) -> float:
        metric = metric_for(task, classes)
        for sample in tqdm(labelled, unit="pair", desc="validation", leave=False, dynamic_ncols=True):
            pair, truth = load_pair(sample, preparer, subject.sensors, task, card)
            metric.update(one_answer(run(_feeds(pair)), subject.inputs.rgb_size), truth)
        return float(metric.compute()[metric.metrics[0]])

    return Metric(metric_for(task, classes).metrics[0], len(labelled), of)


def _calibration(request: Request, card: DatasetCard, subject: _Exported) -> list[Mapping[str, Array]]:
    """Pairs evenly spread over the brightness of the split's RGB pictures, from night to day."""
    source = DatasetCard.load(request.calibration) if request.calibration else card
    require_cameras(subject.inputs, request.run, source)
    samples = [s for s in source.samples(request.calibration_split) if {*subject.sensors} <= {*s.sensors}]
    candidates, read = _spread(samples, _CANDIDATES * request.calibration_pairs), subject.reader(source)
    # Read twice, so that only those that calibrate are held: of large frames all candidates would fill the memory.
    candidates.sort(key=lambda sample: float(read(sample).rgb.mean()))
    return [_feeds(read(sample)) for sample in _spread(candidates, request.calibration_pairs)]


def _feeds(pair: Prepared) -> dict[str, Array]:
    return {"rgb": pair.rgb[None], "thermal": pair.thermal[None], "present": pair.present[None]}


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """``count`` of them, evenly spread from the first to the last; all of them where there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]
