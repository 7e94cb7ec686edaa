"""The dataset card: one YAML file that says where RGB, thermal and labels lie, and what they mean."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from data.coco import CocoImage, read_coco
from data.errors import DataError
from data.patterns import Pattern, fill, id_from_name
from data.prepare import InputSpec
from data.rig import Rig, Size
from data.thermal import ThermalSpec
from data.yaml_file import read_model, write_model

Sensor = Literal["rgb", "thermal"]
SENSORS: tuple[Sensor, ...] = get_args(Sensor)
UNLABELLED = "unlabelled"
"""Splits whose names begin so are learned from without labels; what labels there are of their pairs is not used."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair of a data set: where its files lie, and what is known of it."""

    id: str
    rgb: Path
    thermal: Path
    boxes: NDArray[np.float32] | None
    """[N,4] x1, y1, x2, y2 in pixels of the delivered RGB frame; None: nobody labelled this pair."""
    labels: NDArray[np.int64] | None
    """[N], index into the card's classes; None as above."""
    scene: str | None = None
    mask: Path | None = None
    """Picture of class indices, at RGB's size."""
    sensors: tuple[Sensor, ...] = SENSORS
    """Which of the two files there are."""


class Labels(BaseModel):
    """Where the labels lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["coco"]
    path: str
    """Relative to the root."""


class Split(BaseModel):
    """Which pairs belong to a split: exactly one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str | None = None
    """Text file with an id on each line, relative to the card."""
    ids: tuple[str, ...] | None = None
    coco: str | None = None
    """The images whose field ``split`` has this value in the COCO file."""
    sensors: Annotated[tuple[Sensor, ...], Field(min_length=1)] = SENSORS
    """Which sensors its pictures have; only a split that begins with 'unlabelled' may lack one."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.file, self.ids, self.coco)) != 1:
            raise ValueError("a split is given by exactly one of file, ids, coco")
        return self


class DatasetCard(BaseModel):
    """Paths, sizes, classes, thermal unit and splits of one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    name: str
    root: str = "."
    """Folder that the patterns start from: absolute, or relative to the card's folder."""
    rgb: Pattern
    thermal: Pattern
    rgb_size: Size | None = None
    """Height, width of RGB frames as delivered; None: they vary, see canvas."""
    thermal_size: Size | None = None
    """Height, width of thermal frames as delivered; None: they vary, see canvas."""
    canvas: Size | None = None
    """Height, width onto which frames of any size are scaled; None: frames have exactly the sizes above."""
    classes: tuple[str, ...] = ()
    labels: Labels | None = None
    thermal_spec: ThermalSpec
    rig: str | None = None
    """Path of a rig.yaml, relative to the card; None: thermal already lies on RGB."""
    splits: dict[str, Split]
    scenes: str | None = None
    """Path of a JSON object id → scene name, relative to the root."""
    masks: Pattern | None = None

    _path: Path = PrivateAttr(default=Path("card.yaml"))

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.canvas is None and (self.rgb_size is None or self.thermal_size is None):
            raise ValueError("frames of varying size need a canvas: [height, width]")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is listed twice")
        if self.labels is not None and not self.classes:
            raise ValueError("labels need classes: [name, …]")
        if self.labels is None and any(split.coco is not None for split in self.splits.values()):
            raise ValueError("a split by 'coco' needs labels")
        for name, split in self.splits.items():
            if name not in self.unlabelled and set(split.sensors) != set(SENSORS):
                raise ValueError(
                    f"splits.{name}.sensors: boxes are in RGB's pixels and judge both sensors, so that only a split "
                    f"whose name begins with '{UNLABELLED}' may lack one"
                )
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a card; DataError names file, field and line."""
        return read_model(path, cls).at(path)

    def save(self, path: Path) -> None:
        """Write the card as YAML, atomically, and take ``path`` as its place."""
        write_model(path, self)
        self._path = path

    def at(self, path: Path) -> Self:
        """Take ``path`` as the card's place, from which its relative paths start; return the card."""
        self._path = path
        return self

    @property
    def path(self) -> Path:
        """Where the card lies; relative paths in it start from there."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder that the patterns start from."""
        return self._path.parent / self.root

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The splits that are learned from without labels: those whose names begin with 'unlabelled'."""
        return tuple(name for name in self.splits if name.startswith(UNLABELLED))

    def inputs(self) -> InputSpec:
        """What a model or a bundle trained on this card takes."""
        if self.canvas is not None:
            return InputSpec(rgb_size=self.canvas, thermal_size=self.canvas, letterbox=True, thermal=self.thermal_spec)
        assert self.rgb_size is not None and self.thermal_size is not None
        aligned = self.load_rig().aligner(self.thermal_spec, self.rgb_size, self.thermal_size).out_size
        return InputSpec(rgb_size=self.rgb_size, thermal_size=aligned, thermal=self.thermal_spec)

    def load_rig(self) -> Rig:
        """Read the rig that the card names; the identity when it names none."""
        return Rig() if self.rig is None else Rig.load(self._path.parent / self.rig)

    def samples(self, split: str) -> list[Sample]:
        """List the pairs of a split in its order; files are not opened.

        Raises:
            DataError: the split is unknown or empty, or the labels are wrong.
        """
        if split not in self.splits:
            raise DataError(f"{self._path}: no split '{split}'; there is {', '.join(self.splits) or 'none'}")
        labelled = self.read_labels()
        ids = self.split_ids(split, labelled)
        if not ids:
            raise DataError(f"{self._path}: split '{split}' is empty ({_source(self.splits[split])})")
        scenes = self._read_scenes()
        known = {} if split in self.unlabelled else labelled
        sensors = self.splits[split].sensors
        return [self._sample(one, known.get(one), scenes.get(one), sensors) for one in ids]

    def read_labels(self) -> dict[str, CocoImage]:
        """Read the boxes of every labelled pair, by id; empty without labels."""
        if self.labels is None:
            return {}
        images, _ = read_coco(self.folder / self.labels.path, self.classes, self.rgb_size)
        return {self._id_of(image): image for image in images}

    def split_ids(self, split: str, labelled: dict[str, CocoImage]) -> list[str]:
        """List the ids of a split, given what ``read_labels`` returned."""
        chosen = self.splits[split]
        if chosen.ids is not None:
            return list(chosen.ids)
        if chosen.coco is not None:
            return [one for one, image in labelled.items() if image.split == chosen.coco]
        assert chosen.file is not None
        return read_ids(self._path.parent / chosen.file)

    def _sample(self, one: str, image: CocoImage | None, scene: str | None, sensors: tuple[Sensor, ...]) -> Sample:
        return Sample(
            id=one,
            rgb=self.folder / fill(self.rgb, one),
            thermal=self.folder / fill(self.thermal, one),
            boxes=None if image is None else image.boxes,
            labels=None if image is None else image.labels,
            scene=scene,
            mask=None if self.masks is None else self.folder / fill(self.masks, one),
            sensors=sensors,
        )

    def _id_of(self, image: CocoImage) -> str:
        one = id_from_name(image.file_name, self.rgb)
        if one is None:
            assert self.labels is not None
            raise DataError(
                f"{self.folder / self.labels.path}: file_name '{image.file_name}' does not fit the card's "
                f"pattern rgb: {self.rgb}"
            )
        return one

    def _read_scenes(self) -> dict[str, str]:
        if self.scenes is None:
            return {}
        path = self.folder / self.scenes
        try:
            scenes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: scenes cannot be read ({error})") from None
        if not isinstance(scenes, dict):
            raise DataError(f"{path}: expected a JSON object id → scene name")
        return {str(key): str(value) for key, value in scenes.items()}


def read_ids(path: Path) -> list[str]:
    """Read a list of ids, one on each line; DataError when it cannot be read or an id is there twice."""
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{path}: the list of ids cannot be read ({reason})") from None
    seen: set[str] = set()
    for number, one in enumerate(ids, 1):
        if one in seen:
            raise DataError(f"{path}: id '{one}' is listed twice (entry {number})")
        seen.add(one)
    return ids


def _source(split: Split) -> str:
    if split.coco is not None:
        return f"no image of the labels has split: {split.coco}"
    return f"{split.file} lists no id" if split.file is not None else "ids: []"
