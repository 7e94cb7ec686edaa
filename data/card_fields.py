"""The parts of a dataset card: where boxes, masks and classes of pictures lie, and what makes a split."""

from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from data.patterns import Pattern
from data.sample import SENSORS, Sensor

IGNORE = 255
"""Value of a mask's pixels that are not judged, once it is read."""
MAX_CLASSES = 253
"""What a mask's byte can tell apart beside the background, what is not judged, and what is unknown."""

Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r:.60} is no path")
    return text


def _inside(text: str) -> str:
    if ".." in PurePosixPath(text).parts or not text:
        raise ValueError("expected a path that does not climb out of its folder with '..'")
    return text


Place = Annotated[str, AfterValidator(_printable)]
Inside = Annotated[Place, AfterValidator(_inside)]
"""A path below the root or the card's folder, or an absolute one that the user wrote."""
InsidePattern = Annotated[Pattern, AfterValidator(_printable), AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Part):
    """Where the boxes lie."""

    format: Literal["coco", "voc", "yolo", "kaist"]
    path: Inside
    """Relative to the root. coco: the JSON file. The others: a pattern of one file for each pair."""
    names: dict[str, str | None] = {}
    """A class as the files call it → one of the card's classes, null to leave its boxes out, or ignore: there boxes of
    every class count neither as right nor as wrong."""
    ignore_below: Annotated[float, Field(ge=0)] = 0
    """Height in RGB pixels; lower boxes are ignored."""
    ignore_hidden: Annotated[int, Field(ge=1)] | None = None
    """Degree of occlusion from which on boxes are ignored, where files say it (kaist; voc's occlusion): 1 partly, 2
    heavily hidden. None: none is."""
    missing: Literal["unlabelled", "empty"] = "unlabelled"
    """What it means that a pair has no file: nobody looked (unlabelled), or nothing is there (empty)."""

    @model_validator(mode="after")
    def _pattern_of_files(self) -> Self:
        if self.format != "coco":
            TypeAdapter(Pattern).validate_python(self.path)
        return self


class Masks(_Part):
    """Where the masks lie, and what their pixels mean; a plain string in the card is the path alone."""

    path: InsidePattern
    """Relative to the root."""
    palette: dict[str, Colour] | None = None
    """Class, ``background`` or ``ignore`` → colour [r, g, b]; None: pixels are indices."""
    ignore: Annotated[int, Field(ge=0, le=65535)] = IGNORE
    """Index that is not judged."""
    zero: Literal["background", "ignore", "class"] = "background"
    """What index 0 is; with class, index i is classes[i], else classes[i - 1]."""
    channel: Annotated[int, Field(ge=0, le=3)] | None = None
    """Which channel of a picture of several holds the indices: 0 red, 1 green, 2 blue, 3 alpha."""

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.palette is not None and self.channel is not None:
            raise ValueError("a palette reads colours, so that no channel is chosen")
        if self.palette is not None and len(set(self.palette.values())) != len(self.palette):
            raise ValueError("a colour stands twice in the palette")
        return self

    @model_serializer(mode="wrap")
    def _short(self, serialise: SerializerFunctionWrapHandler) -> Any:  # noqa: ANN401 - text or mapping
        return self.path if self.model_fields_set == {"path"} else serialise(self)


def _as_mapping(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


AnyMasks = Annotated[Masks, BeforeValidator(_as_mapping)]


class ImageLabels(_Part):
    """Where the classes of whole pictures are said."""

    format: Literal["folder", "csv"]
    """folder: the class is the name of the folder that the id ends in; csv: a table with a row for each pair."""
    path: Inside | None = None
    """Of the table, relative to the root."""
    id: str = "id"
    """The table's column of ids."""
    label: str = "label"
    """The table's column of classes, by their names."""

    @model_validator(mode="after")
    def _table_has_a_path(self) -> Self:
        if (self.format == "csv") != (self.path is not None):
            raise ValueError("format csv needs a path, format folder has none")
        return self


class Split(_Part):
    """Which pairs belong to a split: exactly one of the three."""

    file: Inside | None = None
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
        if self.ids is not None and len(set(self.ids)) < len(self.ids):
            raise ValueError(f"the id '{Counter(self.ids).most_common(1)[0][0]:.60}' is listed twice")
        return self
