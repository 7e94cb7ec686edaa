"""Measures a trained run or a bundle on a split of a card; one row for each choice of sensors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data.card import DatasetCard
from data.errors import DataError
from data.pairs import load_pair
from data.prepare import InputSpec, Prepared, Preparer
from export.bundle import INFO, read_bundle
from export.session import Session
from fusion.bootstrap import Record
from fusion.checkpoint import load_model
from fusion.detect import DetectMetric

Predict = Callable[[Prepared], NDArray[np.float32]]
"""One prepared pair → boxes [K,6] in pixels of the model's RGB."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a model with the sensors it was given."""

    name: str
    sensors: tuple[str, ...]
    ap50: float
    map: float
    per_class: dict[str, dict[str, Any]]
    """Class → ap50, map, count, precision (101 values), recall (101 values)."""


@dataclass(frozen=True)
class Example:
    """One pair as it was shown to the model, with what it answered and what is true."""

    id: str
    rgb: NDArray[np.uint8]
    """H×W×3."""
    thermal: NDArray[Any]
    """Ht×Wt in the card's unit, covering RGB's field of view."""
    found: NDArray[np.float32]
    """[K,6] x1, y1, x2, y2, score, class in pixels of ``rgb``."""
    truth: NDArray[np.float32]
    """[N,4]."""
    truth_labels: NDArray[np.int64]
    invalid: float = 0.0
    """Value of the pixels of ``thermal`` that show nothing."""


@dataclass
class Evaluation:
    """What a split says of one or several models."""

    card: str
    split: str
    pairs: int
    classes: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    records: list[list[Record]] = field(default_factory=list)
    """For each row what was answered on every pair, in the split's order."""

    def as_json(self) -> dict[str, Any]:
        """All but pictures and records, as plain JSON."""
        kept = ("card", "split", "pairs", "classes")
        return {key: getattr(self, key) for key in kept} | {"rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class Subject:
    """A model to be measured, from a run folder or a bundle."""

    name: str
    predict: Predict
    sensors: tuple[str, ...]
    inputs: dict[str, Any]
    classes: tuple[str, ...]


def open_subject(path: Path, provider: str = "cpu") -> Subject:
    """Open a run or a bundle; DataError, FusionError or ExportError says what is wrong with it."""
    if (path / INFO).exists():
        bundle = read_bundle(path)
        session = Session(bundle, provider=provider)
        inputs = bundle.info.inputs.model_dump(mode="json")
        return Subject(path.name, _by_session(session), bundle.info.sensors, inputs, bundle.info.classes)
    if not (path / "model").exists() and not (path / "checkpoints").exists():
        raise DataError(
            f"{path}: neither a bundle (no {INFO}) nor a run (no model); name the folder that train or export wrote"
        )
    model = load_model(path)
    return Subject(path.name, _by_model(model), model.config.sensors, model.config.inputs, model.config.classes)


def _by_session(session: Session) -> Predict:
    def predict(pair: Prepared) -> NDArray[np.float32]:
        boxes: NDArray[np.float32] = session.run(pair.rgb[None], pair.thermal[None], pair.present[None])["boxes"][0]
        return boxes

    return predict


def _by_model(model: torch.nn.Module) -> Predict:
    @torch.no_grad()
    def predict(pair: Prepared) -> NDArray[np.float32]:
        rgb, present = torch.from_numpy(pair.rgb)[None], torch.from_numpy(pair.present)[None]
        thermal = torch.from_numpy(pair.thermal.astype(np.float32))[None]
        boxes: NDArray[np.float32] = model(rgb, thermal, present)["boxes"][0].numpy()
        return boxes

    return predict


def evaluate(
    path: Path,
    card: DatasetCard,
    split: str,
    without: Sequence[str] | None = None,
    examples: int = 0,
    provider: str = "cpu",
) -> Evaluation:
    """Measure a run or a bundle.

    Args:
        path: A run that ``rgbt train`` wrote, or a bundle that ``rgbt export`` wrote.
        card: The data set; its classes and inputs must be those of the model.
        split: Name of a labelled split.
        without: Sensors to leave out, one row for each; None: a row with all sensors and one without each.
        examples: Number of pairs, spread over the split, to keep with their answers for a picture.
        provider: Execution provider of a bundle.

    Raises:
        DataError: classes, sizes or thermal unit of card and model differ, or the split has no labels.
    """
    subject = open_subject(path, provider)
    _require_same(subject, card, path)
    samples = card.samples(split)
    unlabelled = next((s.id for s in samples if s.boxes is None), None)
    if unlabelled is not None:
        raise DataError(f"{card.path}: pair '{unlabelled}' of split '{split}' has no labels to measure against")
    result = Evaluation(str(card.path), split, len(samples), subject.classes)
    shown = {round(i * (len(samples) - 1) / max(1, examples - 1)) for i in range(examples)}
    for sensors in _choices(subject, without):
        metric = DetectMetric(subject.classes)
        for index, example in enumerate(_answers(subject, card, split, sensors)):
            metric.update({"boxes": example.found}, {"boxes": example.truth, "labels": example.truth_labels})
            if index in shown and sensors == subject.sensors:
                result.examples.append(example)
        result.records.append(metric.records)
        figures = metric.compute()
        result.rows.append(
            Row(_row_name(subject, sensors), sensors, figures["ap50"], figures["map"], figures["per_class"])
        )
    return result


def _choices(subject: Subject, without: Sequence[str] | None) -> list[tuple[str, ...]]:
    if len(subject.sensors) == 1:
        if without:
            raise DataError(f"{subject.name} looks at {subject.sensors[0]} alone: no sensor can be left out")
        return [subject.sensors]
    left_out: list[str | None] = [None, *subject.sensors] if without is None else list(without)
    return [tuple(s for s in subject.sensors if s != absent) for absent in left_out]


def _row_name(subject: Subject, sensors: tuple[str, ...]) -> str:
    if sensors == subject.sensors:
        return "fused" if len(sensors) == 2 else f"{sensors[0]} only"
    return f"fused, {next(s for s in subject.sensors if s not in sensors)} absent"


def _answers(subject: Subject, card: DatasetCard, split: str, sensors: tuple[str, ...]) -> Iterator[Example]:
    preparer = Preparer(card.inputs(), card.load_rig())
    samples = card.samples(split)
    for sample in tqdm(
        samples, unit="pair", desc=f"{subject.name}: {'+'.join(sensors)}", leave=False, dynamic_ncols=True
    ):
        pair, boxes = load_pair(sample, preparer, sensors)
        assert boxes is not None and sample.labels is not None
        invalid = preparer.inputs.thermal.invalid
        yield Example(sample.id, pair.rgb, pair.thermal, subject.predict(pair), boxes, sample.labels, invalid)


def _require_same(subject: Subject, card: DatasetCard, path: Path) -> None:
    if tuple(card.classes) != tuple(subject.classes):
        raise DataError(
            f"{card.path}: classes are {list(card.classes)}, but {path} was trained on {list(subject.classes)}"
        )
    ours, theirs = card.inputs(), InputSpec.model_validate(subject.inputs)
    for name in ("rgb_size", "thermal_size", "letterbox", "thermal"):
        if getattr(ours, name) != getattr(theirs, name):
            raise DataError(
                f"{card.path}: {name} is {getattr(ours, name)}, but {path} takes {getattr(theirs, name)}; "
                "measure on a card of the same cameras"
            )


def table(evaluation: Evaluation) -> str:
    """The rows as text: AP50, mAP, and AP50 of each class."""
    classes = [name for name in evaluation.classes if any(name in row.per_class for row in evaluation.rows)]
    head = f"{'':24} {'AP50':>7} {'mAP':>7}  " + " ".join(f"{name:>10}" for name in classes)
    lines = [f"{evaluation.split} split, {evaluation.pairs} pairs; by class: AP50", head]
    for row in evaluation.rows:
        cells = " ".join(f"{row.per_class[n]['ap50']:10.3f}" if n in row.per_class else f"{'–':>10}" for n in classes)
        lines.append(f"{row.name:24} {row.ap50:7.3f} {row.map:7.3f}  {cells}")
    return "\n".join(lines)
