"""The ``model`` section of a recipe, and all else that rebuilds a model."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fusion.blends import BLENDS, Anchor
from fusion.heads import HEADS as HEADS
from fusion.layers import Activation, Norm
from fusion.sizes import FIELD, with_size

Sensor = Literal["rgb", "thermal"]
SENSORS: tuple[Sensor, ...] = ("rgb", "thermal")


def _in_order(sensors: tuple[Sensor, ...]) -> tuple[Sensor, ...]:
    if not sensors or len(set(sensors)) < len(sensors):
        raise ValueError(f"expected rgb, thermal or both, each once; found {list(sensors)}")
    return tuple(sensor for sensor in SENSORS if sensor in sensors)


Sensors = Annotated[tuple[Sensor, ...], AfterValidator(_in_order)]
EARLY = "early"
"""The kind of blend that is none: one encoder over both pictures stacked."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RgbEncoder(_Section):
    """The RGB branch."""

    arch: str
    """A timm name, or module:package.module:factory."""
    weights: str | None
    """pretrained (timm's own), a local file, or null for random weights, which must be said."""


class ThermalEncoder(_Section):
    """The thermal branch; of no meaning to an early fusion, which has none."""

    arch: str
    start: Literal["random", "copied"] = "random"
    """copied: what the RGB branch knows when thermal is first used, the first layer averaged and scaled by 3."""
    init: Literal["default", "kaiming", "xavier"] = "default"
    """How a random start draws the weights of convolutions and linear layers; default: the architecture's own way."""
    weights: str | None = None
    """A local file of weights, instead of a start."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.weights is not None and self.start == "copied":
            raise ValueError("start: copied would overwrite weights; give one of them")
        if self.init != "default" and (self.weights is not None or self.start != "random"):
            raise ValueError(f"init: {self.init} is how a random start is drawn; with copied or weights leave it out")
        return self


class Blend(_Section):
    """How the branches are joined at each scale."""

    kind: str = "zero_residual"
    """zero_residual, gated, cross_attention, concat; or early: one encoder, RGB's, over both pictures stacked."""
    anchor: Anchor = "rgb"
    """The sensor whose features the other's are added to: the stronger one (thermal at night)."""
    norm: Norm = "none"
    """Of the convolution that ``act`` asks for."""
    act: Activation | None = None
    """With one, the other sensor's features pass a 1×1 convolution, norm and this before they are blended."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in (*BLENDS, EARLY):
            raise ValueError(f"unknown blend '{self.kind}'; one of {', '.join((*BLENDS, EARLY))}")
        if self.norm != "none" and self.act is None:
            raise ValueError(f"norm: {self.norm} belongs to a convolution that only an act brings; give act, say relu")
        if self.kind == EARLY and self.act is not None:
            raise ValueError("an early fusion has no blend that an act could go before; leave act and norm out")
        return self


class Head(_Section):
    """What the model answers."""

    kind: str = "detect"
    """The task: detect, segment or classify."""
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    norm: Norm = "batch"
    act: Activation = "relu"

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in HEADS:
            raise ValueError(f"unknown head '{self.kind}'; one of {', '.join(HEADS)}")
        return self


class ModelSection(_Section):
    """The ``model`` section of a recipe.

    ``encoders: edge|base|large`` (see fusion.sizes) stands for the ``arch`` of both branches, and takes the place of
    those that are given; the resolved recipe holds the architectures.
    """

    size: tuple[Annotated[int, Field(gt=0, multiple_of=32)], Annotated[int, Field(gt=0, multiple_of=32)]]
    """Height, width of the network's canvas."""
    sensors: Sensors = SENSORS
    """One sensor alone gives a single-sensor baseline: the same encoder and head, no blend."""
    rgb: RgbEncoder
    thermal: ThermalEncoder
    blend: Blend = Blend()
    head: Head = Head()

    @property
    def is_early(self) -> bool:
        """Whether both pictures go stacked into one encoder."""
        return self.blend.kind == EARLY and len(self.sensors) > 1

    @model_validator(mode="before")
    @classmethod
    def _a_size_names_both(cls, values: Any) -> Any:  # noqa: ANN401 - pydantic hands in what it was given
        return with_size(values) if isinstance(values, dict) and FIELD in values else values

    @model_validator(mode="after")
    def _no_thermal_weights_unused(self) -> Self:
        if self.is_early and self.thermal.weights is not None:
            raise ValueError("an early fusion has one encoder, RGB's: thermal.weights would go nowhere; leave it out")
        return self


class ModelConfig(ModelSection):
    """All that rebuilds a model: the recipe's section, the card's classes, and what goes in."""

    classes: tuple[str, ...]
    """Of the task, without a background."""
    inputs: dict[str, Any]
    """JSON of data.prepare.InputSpec."""
