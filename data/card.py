"""The dataset card: one YAML file that says where RGB, thermal and labels lie, and what they mean."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, model_validator

from data.card_fields import MAX_CLASSES, AnyMasks, ImageLabels, Inside, InsidePattern, Labels, Masks, Place, Split
from data.encoded import MAX_PIXELS
from data.errors import DataError
from data.ids import read_ids, safe_id
from data.labels.boxes import read_boxes
from data.labels.image_classes import IMAGE_LABEL_FORMATS
from data.labels.source import IGNORE_NAME, Boxed, BoxSource, Ignore
from data.patterns import fill
from data.prepare import InputSpec
from data.rig import Rig, Size
from data.sample import SENSORS, TASKS, Sample, Sensor, Task
from data.text_file import read_json
from data.thermal import ThermalSpec
from data.yaml_file import read_model, write_model

__all__ = ["SENSORS", "TASKS", "UNLABELLED", "DatasetCard", "ImageLabels", "Labels", "Masks", "Sample", "Sensor",
           "Split", "Task", "read_ids"]  # fmt: skip
UNLABELLED = "unlabelled"
"""Splits whose names begin so are learned from without labels; what labels there are of their pairs is not used."""
_LABELS_OF: dict[str, str] = {"detect": "labels", "segment": "masks", "classify": "image_labels"}
"""Task → the card's field that says where its labels lie."""


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a class is listed twice")
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{len(names)} classes, more than the {MAX_CLASSES} that a mask can tell apart")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_once)]


class DatasetCard(BaseModel):
    """Paths, sizes, classes, thermal unit and splits of one data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    name: str
    root: Place = "."
    """Folder that the patterns start from: absolute, or relative to the card's folder."""
    rgb: InsidePattern
    thermal: InsidePattern
    rgb_size: Size | None = None
    """Height, width of RGB frames as delivered; None: they vary, see canvas."""
    thermal_size: Size | None = None
    """Height, width of thermal frames as delivered; None: they vary, see canvas."""
    canvas: Size | None = None
    """Height, width onto which frames of any size are scaled; None: frames have exactly the sizes above."""
    classes: Names = ()
    """Of boxes and masks."""
    image_classes: Names = ()
    """Of whole pictures."""
    labels: Labels | None = None
    """Boxes."""
    masks: AnyMasks | None = None
    image_labels: ImageLabels | None = None
    thermal_spec: ThermalSpec
    """One for all frames, ``planck`` too: frames of other constants belong into a card of their own, unless they are
    radiometric JPEGs, of which each holds its own."""
    rig: Place | None = None
    """Path of a rig.yaml, relative to the card; None: thermal already lies on RGB."""
    splits: dict[str, Split]
    scenes: Inside | None = None
    """Path of a JSON object id → scene name, relative to the root."""

    _path: Path = PrivateAttr(default=Path("card.yaml"))

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.canvas is None and (self.rgb_size is None or self.thermal_size is None):
            raise ValueError("frames of varying size need a canvas: [height, width]")
        for name, size in (("rgb", self.rgb_size), ("thermal", self.thermal_size), ("canvas", self.canvas)):
            if size is not None and size[0] * size[1] > MAX_PIXELS:
                raise ValueError(f"{name}: {list(size)} is more than {MAX_PIXELS >> 20} megapixels")
        if self.labels is not None and not self.classes:
            raise ValueError("labels need classes: [name, …]")
        if self.masks is not None and not self.classes:
            raise ValueError("masks need classes: [name, …], in the order of the indices from 1")
        if self.image_labels is not None and not self.image_classes:
            raise ValueError("image_labels need image_classes: [name, …]")
        self._names_are_classes()
        if not self._in_one_file() and any(split.coco is not None for split in self.splits.values()):
            raise ValueError("a split by 'coco' needs labels of format coco")
        for name, split in self.splits.items():
            if name not in self.unlabelled and set(split.sensors) != set(SENSORS):
                raise ValueError(
                    f"splits.{name}.sensors: boxes are in RGB's pixels and judge both sensors, so that only a split "
                    f"whose name begins with '{UNLABELLED}' may lack one"
                )
        return self

    def _names_are_classes(self) -> None:
        """What labels and masks map to must be among the classes."""
        if self.labels is not None:
            wrong = {name for name in self.labels.names.values() if name is not None} - {*self.classes, IGNORE_NAME}
            if wrong:
                raise ValueError(f"labels.names: '{min(wrong)}' is not among the classes ({', '.join(self.classes)})")
        if self.masks is not None and (reserved := {*self.classes} & {"background", "ignore"}):
            raise ValueError(
                f"classes: '{min(reserved)}' is no class of a mask; leave it out: index 0 is the background, the first "
                "class has index 1 (masks.zero and masks.ignore say where it is otherwise)"
            )
        if self.masks is not None and self.masks.palette is not None:
            wrong = self.masks.palette.keys() - {*self.classes, "background", "ignore"}
            if wrong:
                raise ValueError(
                    f"masks.palette: '{min(wrong)}' is none of background, ignore and the classes "
                    f"({', '.join(self.classes)})"
                )

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

    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the card has labels for."""
        return tuple(task for task in TASKS if getattr(self, _LABELS_OF[task]) is not None)

    def classes_of(self, task: str) -> tuple[str, ...]:
        """What a task tells apart; for segment without the background."""
        return self.image_classes if task == "classify" else self.classes

    def require(self, task: str) -> None:
        """Raise DataError unless the card has labels for a task."""
        if task not in self.tasks():
            having = ", ".join(f"{one} ({_LABELS_OF[one]})" for one in self.tasks()) or "no task"
            raise DataError(
                f"{self._path}: {_LABELS_OF[task]}: the card has none, and a model for the task '{task}' "
                f"(model.head.kind) learns from them; the card has labels for {having}"
            )

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
        """List the pairs of a split in its order; their pictures are not opened.

        Raises:
            DataError: the split is unknown or empty, or the labels are wrong.
        """
        if split not in self.splits:
            raise DataError(f"{self._path}: no split '{split}'; there is {', '.join(self.splits) or 'none'}")
        free = split in self.unlabelled
        whole = self._read_boxes(()) if self._in_one_file() else {}
        ids = self.split_ids(split, whole)
        if not ids:
            raise DataError(f"{self._path}: split '{split}' is empty ({_source(self.splits[split])})")
        boxes: Mapping[str, Boxed] = {} if free else whole or self._read_boxes(ids)
        kinds = {} if free else self._read_image_labels(ids)
        scenes = self._read_scenes()
        sensors = self.splits[split].sensors
        return [
            Sample(
                id=one,
                rgb=self.folder / fill(self.rgb, one),
                thermal=self.folder / fill(self.thermal, one),
                boxes=boxes[one].boxes if one in boxes else None,
                labels=boxes[one].labels if one in boxes else None,
                scene=scenes.get(one),
                mask=None if self.masks is None or free else self.folder / fill(self.masks.path, one),
                sensors=sensors,
                image_label=kinds.get(one),
                clipped=boxes[one].clipped if one in boxes else (),
                stated=boxes[one].stated if one in boxes else None,
                empty=boxes[one].empty if one in boxes else (),
            )
            for one in ids
        ]

    def ids(self, split: str) -> list[str]:
        """List the ids of a split; labels are read only where they say what is in it."""
        by_labels = self.splits[split].coco is not None
        return self.split_ids(split, self._read_boxes(()) if by_labels else {})

    def read_labels(self) -> dict[str, Boxed]:
        """Read the boxes of every labelled pair, by id; empty without labels.

        Formats with a file for each pair are read for the pairs of all splits.
        """
        if self.labels is None or self._in_one_file():
            return self._read_boxes(())
        return self._read_boxes(dict.fromkeys(one for split in self.splits for one in self.ids(split)))

    def split_ids(self, split: str, labelled: Mapping[str, Boxed]) -> list[str]:
        """List the ids of a split, given what ``read_labels`` returned."""
        chosen = self.splits[split]
        if chosen.ids is not None:
            return [safe_id(one, f"{self._path}: splits.{split}.ids") for one in chosen.ids]
        if chosen.coco is not None:
            return [one for one, truth in labelled.items() if truth.split == chosen.coco]
        assert chosen.file is not None
        return read_ids(self._path.parent / chosen.file)

    def _in_one_file(self) -> bool:
        return self.labels is not None and self.labels.format == "coco"

    def _read_boxes(self, ids: Iterable[str]) -> dict[str, Boxed]:
        """Boxes of these pairs; from one file those of all its pairs."""
        if self.labels is None:
            return {}
        source = BoxSource(
            self.folder,
            self.labels.path,
            self.rgb,
            self.classes,
            self.labels.names,
            self.rgb_size,
            self.labels.missing == "empty",
            Ignore(self.labels.ignore_below, self.labels.ignore_hidden),
        )
        return read_boxes(self.labels.format, source, list(ids))

    def _read_image_labels(self, ids: list[str]) -> dict[str, int]:
        if self.image_labels is None:
            return {}
        read = IMAGE_LABEL_FORMATS[self.image_labels.format]
        return read(self.image_labels, self.folder, self.image_classes, ids)

    def _read_scenes(self) -> dict[str, str]:
        if self.scenes is None:
            return {}
        path = self.folder / self.scenes
        scenes = read_json(path, "scenes")
        if not isinstance(scenes, dict):
            raise DataError(f"{path}: expected a JSON object id → scene name")
        return {key: str(value) for key, value in scenes.items()}


def _source(split: Split) -> str:
    if split.coco is not None:
        return f"no image of the labels has split: {split.coco}"
    return f"{split.file} lists no id" if split.file is not None else "ids: []"
