"""A model to be measured: a run that ``rgbt train`` wrote, or a bundle that ``rgbt export`` wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data.card import DatasetCard
from data.errors import DataError
from data.prepare import InputSpec, Prepared, Preparer
from data.rig import Rig
from export.bundle import read_bundle
from export.bundle_info import INFO
from export.session import Session
from fusion.checkpoint import load_model

Answer = dict[str, NDArray[Any]]
Predict = Callable[[Prepared], Answer]
"""One prepared pair → the task's answer for it, without a batch."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured."""

    path: Path
    task: str
    predict: Predict
    sensors: tuple[str, ...]
    inputs: dict[str, Any]
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.path.name

    def preparer(self, card: DatasetCard) -> Preparer:
        """Makes of the card's pairs what the model takes; a baked rig is in the graph, so it is not applied before."""
        return preparer_of(InputSpec.model_validate(self.inputs), card)

    def require_fits(self, card: DatasetCard) -> None:
        """Raise DataError where the card has no labels for the task, or other classes, sizes or thermal unit."""
        card.require(self.task)
        require_classes(self.classes, self.task, self.path, card)
        require_cameras(InputSpec.model_validate(self.inputs), self.path, card)


def preparer_of(inputs: InputSpec, card: DatasetCard) -> Preparer:
    """What makes of a card's pairs what a model with these inputs takes; a baked rig is in the graph already."""
    return Preparer(inputs, Rig()) if inputs.rig_baked else Preparer(card.inputs(), card.load_rig())


def require_classes(mine: Sequence[str], task: str, path: Path, card: DatasetCard) -> None:
    """Raise DataError where the card's classes for the task are not those that a model was trained on, in order."""
    classes = card.classes_of(task)
    if tuple(classes) != tuple(mine):
        raise DataError(f"{card.path}: classes are {list(classes)}, but {path} was trained on {list(mine)}")


def require_cameras(mine: InputSpec, path: Path, card: DatasetCard) -> None:
    """Raise DataError where the card's pairs have other sizes or another thermal unit than a model takes.

    Args:
        mine: What the model takes.
        path: Of the model, for the error.
        card: Of the pairs.
    """
    ours, theirs = _seen(card.inputs()), _seen(mine)
    if mine.rig_baked:  # it takes the camera's own frames, which a rig may turn by a quarter
        del ours["thermal_size"]
    for name, value in ours.items():
        if value != theirs[name]:
            raise DataError(
                f"{card.path}: {name} is {value}, but {path} takes {theirs[name]}; use a card of the same cameras"
            )


def _seen(inputs: InputSpec) -> dict[str, object]:
    """What the model sees of a card; how its files store thermal, as counts or as degrees, is converted before."""
    sizes = {name: getattr(inputs, name) for name in ("rgb_size", "thermal_size", "letterbox")}
    thermal = {name: getattr(inputs.thermal, name) for name in ("unit", "polarity", "range", "min_span", "invalid")}
    return sizes | {f"thermal_spec.{name}": value for name, value in thermal.items()}


def open_subject(
    path: Path, provider: str | None = None, engine: str = "onnxruntime", precision: str = "fp32"
) -> Subject:
    """Open a run or a bundle; DataError, FusionError or ExportError says what is wrong with it.

    Args:
        path: Its folder.
        provider: As engine and precision: of a bundle (see Session); a run is answered by PyTorch on the CPU.
        engine: One of export.session.ENGINES.
        precision: One that the bundle holds.
    """
    if (path / INFO).exists():
        bundle = read_bundle(path)
        info, session = bundle.info, Session(bundle, engine, provider, precision=precision)
        inputs = info.inputs.model_dump(mode="json")
        return Subject(path, info.task, _by_session(session), info.sensors, inputs, info.classes)
    if not (path / "model").exists() and not (path / "checkpoints").exists():
        raise DataError(
            f"{path}: neither a bundle (no {INFO}) nor a run (no model); name the folder that train or export wrote"
        )
    model = load_model(path)
    config = model.config
    return Subject(path, config.head.kind, _by_model(model), config.sensors, config.inputs, config.classes)


def one_answer(answers: Mapping[str, NDArray[Any]], rgb_size: tuple[int, int]) -> Answer:
    """Take a batch of one out of its batch; maps at the network's resolution are scaled up, nearest, to the frame."""
    found = {name: answer[0] for name, answer in answers.items()}
    for name in ("class_map", "confidence"):
        if name in found and found[name].shape != rgb_size:
            found[name] = cv2.resize(found[name], rgb_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return found


def _by_session(session: Session) -> Predict:
    def predict(pair: Prepared) -> Answer:
        answers = session.run(pair.rgb[None], pair.thermal[None], pair.present[None])
        return one_answer(answers, session.bundle.info.inputs.rgb_size)

    return predict


def _by_model(model: torch.nn.Module) -> Predict:
    @torch.no_grad()
    def predict(pair: Prepared) -> Answer:
        rgb, present = torch.from_numpy(pair.rgb)[None], torch.from_numpy(pair.present)[None]
        thermal = torch.from_numpy(pair.thermal.astype(np.float32))[None]
        return {name: answer[0].numpy() for name, answer in model(rgb, thermal, present).items()}

    return predict
