"""What the dense form of a model needs before its network and after it: the part of bundle.json about it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Side = Annotated[int, Field(gt=0)]
Size = tuple[Side, Side]
Rgb = tuple[float, float, float]
DenseTask = Literal["detect", "segment", "classify"]


class DenseThermal(BaseModel):
    """How thermal values become what the network sees; the meaning is that of the bundle's thermal input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["intensity8", "counts16", "celsius"]
    polarity: Literal["white-hot", "black-hot"]
    range: tuple[float, float] | None
    """Fixed range that maps to 0…1, in the unit; None: measured on each frame by means of blocks."""
    min_span: float
    """Smallest span of a measured range, in the unit."""
    invalid: float
    """The value of pixels that show nothing."""
    block: Side
    """Side in pixels of the blocks whose means give a frame's range."""


class DenseSpec(BaseModel):
    """A network from canvases to head maps, of batch 1, and what turns frames into the one and the other into answers.

    Inputs are ``rgb`` [1,3,H,W] and ``thermal`` [1,1,H,W], normalised, where the model looks at the sensor, and, where
    two branches are blended, ``rgb_present`` and ``thermal_present`` [1,1,1,1], 1 or 0. All are float32, as the maps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: DenseTask
    rgb_size: Size
    """Height, width of RGB frames, whose pixels boxes count in."""
    answer_size: Size
    """Height, width of masks."""
    canvas: Size
    """Height, width of the network's input; a frame lies on it top left."""
    content: Size
    """Height, width of the part of the canvas that shows the frame; the rest is zero."""
    mean: Rgb
    """Subtracted from RGB, of 0…255."""
    std: Rgb
    """What RGB is divided by after that."""
    thermal: DenseThermal
    stride: Side
    """Pixels of the canvas for each cell of a detection's maps."""
    slots: Side
    """Boxes in every answer of a detection."""
    inputs: dict[str, tuple[Side, ...]]
    """Input of the network, by the name that every engine's file gives it → its shape, in order."""
    outputs: dict[str, tuple[Side, ...]]
    """Head map, by the same rule → its shape, in order."""

    @property
    def to_rgb(self) -> tuple[float, float]:
        """RGB pixels for each pixel of the canvas, along x and y."""
        return self.rgb_size[1] / self.content[1], self.rgb_size[0] / self.content[0]
