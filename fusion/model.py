"""The two-branch model: raw frames in, answer out."""

from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from fusion.blends import BLENDS, Anchor, Concat, ZeroResidual
from fusion.detect import DetectHead
from fusion.encoders import STRIDES, Encoder, build_encoder, norm_layers
from fusion.errors import FusionError
from fusion.layers import Activation, Norm
from fusion.normalise import Letterbox, ModelInputs, RgbNormalise, ThermalNormalise
from fusion.weights import WeightReport, copy_from_rgb, load_encoder_weights

Sensor = Literal["rgb", "thermal"]
SENSORS: tuple[Sensor, ...] = ("rgb", "thermal")


def _in_order(sensors: tuple[Sensor, ...]) -> tuple[Sensor, ...]:
    if not sensors or len(set(sensors)) < len(sensors):
        raise ValueError(f"expected rgb, thermal or both, each once; found {list(sensors)}")
    return tuple(sensor for sensor in SENSORS if sensor in sensors)


Sensors = Annotated[tuple[Sensor, ...], AfterValidator(_in_order)]
HEADS = {"detect": DetectHead}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RgbEncoder(_Section):
    """The RGB branch."""

    arch: str
    """A timm name, or module:package.module:factory."""
    weights: str | None
    """pretrained (timm's own), a local file, or null for random weights, which must be said."""


class ThermalEncoder(_Section):
    """The thermal branch."""

    arch: str
    start: Literal["random", "copied"] = "random"
    """copied: the RGB branch's weights, the first layer summed over its channels."""
    weights: str | None = None
    """A local file of weights, instead of a start."""


class Blend(_Section):
    """How the branches are joined at each scale."""

    kind: str = "zero_residual"
    anchor: Anchor = "rgb"
    """The sensor whose features the other's are added to: the stronger one (thermal at night)."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in BLENDS:
            raise ValueError(f"unknown blend '{self.kind}'; one of {', '.join(BLENDS)}")
        return self


class Head(_Section):
    """What the model answers."""

    kind: str = "detect"
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    norm: Norm = "batch"
    act: Activation = "relu"

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in HEADS:
            raise ValueError(f"unknown head '{self.kind}'; one of {', '.join(HEADS)}")
        return self


class ModelSection(_Section):
    """The ``model`` section of a recipe."""

    size: tuple[Annotated[int, Field(gt=0, multiple_of=32)], Annotated[int, Field(gt=0, multiple_of=32)]]
    """Height, width of the network's canvas."""
    sensors: Sensors = SENSORS
    """One sensor alone gives a single-sensor baseline: the same encoder and head, no blend."""
    rgb: RgbEncoder
    thermal: ThermalEncoder
    blend: Blend = Blend()
    head: Head = Head()


class ModelConfig(ModelSection):
    """All that rebuilds a model: the recipe's section, the card's classes, and what goes in."""

    classes: tuple[str, ...]
    inputs: dict[str, Any]
    """JSON of data.prepare.InputSpec."""


class FusionModel(nn.Module):
    """Two encoders, a blend at each scale, a head; raw values in, answer out.

    What is frozen is one set of block names (``hold``), re-applied whenever ``train()`` is called.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = ModelInputs.model_validate(config.inputs)
        self.letterbox = Letterbox(inputs.rgb_size, config.size)
        self.rgb = build_encoder(config.rgb.arch, 3) if "rgb" in config.sensors else None
        self.thermal = build_encoder(config.thermal.arch, 1) if "thermal" in config.sensors else None
        self.normalise = nn.ModuleDict({"thermal": ThermalNormalise(inputs.thermal)})
        if self.rgb is not None:
            self.normalise["rgb"] = RgbNormalise(self.rgb.mean, self.rgb.std)
        self.blend = self._blends(config.blend)
        single = self.encoders[config.sensors[0]]
        channels = [blend.channels for blend in self._joints()] or single.channels
        self.head = HEADS[config.head.kind](
            channels, STRIDES, len(config.classes), config.head.width, config.head.norm, config.head.act
        )
        self._frozen: frozenset[str] = frozenset()
        self._fixed_norms: frozenset[str] = frozenset()

    def _blends(self, blend: Blend) -> nn.ModuleList:
        if self.rgb is None or self.thermal is None:
            return nn.ModuleList()
        widths = zip(self.rgb.channels, self.thermal.channels, strict=True)
        return nn.ModuleList([BLENDS[blend.kind](rgb, thermal, blend.anchor) for rgb, thermal in widths])

    def _joints(self) -> "list[ZeroResidual | Concat]":
        return [cast("ZeroResidual | Concat", blend) for blend in self.blend]

    @property
    def encoders(self) -> dict[str, Encoder]:
        """Sensor → its encoder, for the sensors that the model has."""
        pairs = (("rgb", self.rgb), ("thermal", self.thermal))
        return {name: encoder for name, encoder in pairs if encoder is not None}

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Answer for raw frames.

        Args:
            rgb: uint8 [B,Hr,Wr,3].
            thermal: [B,Ht,Wt] in the spec's unit, covering RGB's field of view.
            present: float32 [B,2] in {0, 1}: is RGB there, is thermal there.

        Returns:
            For detect: ``boxes`` float32 [B,K,6]: x1, y1, x2, y2 in RGB pixels, score, class.
        """
        return self.answer(self.maps(rgb, thermal, present))

    def maps(
        self,
        rgb: Tensor,
        thermal: Tensor,
        present: Tensor,
        keep: Tensor | None = None,
        sensors: tuple[Sensor, ...] = SENSORS,
    ) -> dict[str, Tensor]:
        """What the head says before decoding.

        Args:
            rgb: as forward.
            thermal: as forward.
            present: as forward.
            keep: float32 [B,2] in {0, 1}: modality dropout, acting at the blend so that no filler enters an
                encoder's statistics.
            sensors: sensors to use at all; the features of one alone go straight to the head.
        """
        features: dict[str, list[Tensor]] = {}
        if self.rgb is not None and "rgb" in sensors:
            features["rgb"] = self.rgb(self.letterbox(self.normalise["rgb"](rgb, present[:, 0])))
        if self.thermal is not None and "thermal" in sensors:
            features["thermal"] = self.thermal(self.thermal_canvas(thermal, present[:, 1]))
        there = present if keep is None else present * keep
        out: dict[str, Tensor] = self.head(self._join(features, there))
        return out

    def thermal_canvas(self, thermal: Tensor, present: Tensor) -> Tensor:
        """Raw thermal [B,Ht,Wt] → normalised [B,1,canvas], as the thermal encoder sees it."""
        canvas: Tensor = self.letterbox(self.normalise["thermal"](thermal, present))
        return canvas

    def _join(self, features: dict[str, list[Tensor]], there: Tensor) -> list[Tensor]:
        if len(features) == 1:  # straight to the head: a blend that starts at zero would pass no gradient
            return next(iter(features.values()))
        return [
            blend(rgb, thermal, there)
            for blend, rgb, thermal in zip(self.blend, features["rgb"], features["thermal"], strict=True)
        ]

    def require_width(self, sensors: tuple[Sensor, ...], objective: str) -> None:
        """Raise FusionError where a sensor alone would go into a head that takes the anchor's channels, not its own."""
        joints = [blend.channels for blend in self._joints()]
        if objective != "task" or len(sensors) > 1 or not joints:
            return
        widths = list(self.encoders[sensors[0]].channels)
        if widths != joints:
            raise FusionError(
                f"a stage with {sensors[0]} alone trains it straight into the head, but its features have {widths} "
                f"channels and the head takes the anchor's, {joints}; give both branches one architecture, or anchor "
                f"the blend on {sensors[0]}"
            )

    def answer(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Decode head maps, in pixels of the RGB frame."""
        boxes = self.head.decode(maps)["boxes"]
        sx, sy = self.letterbox.to_rgb
        return {"boxes": boxes * boxes.new_tensor([sx, sy, sx, sy, 1.0, 1.0])}

    def loss(self, maps: dict[str, Tensor], boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """The head's loss; ``boxes`` in RGB pixels, [N,4] for each sample."""
        sx, sy = self.letterbox.to_rgb
        scale = maps["heat"].new_tensor([sx, sy, sx, sy])
        return self.head.loss(maps, [b / scale for b in boxes], labels)

    def named_blocks(self) -> dict[str, list[nn.Module]]:
        """Our names (``rgb.stem``, ``rgb.blocks.0`` …, ``blend.0`` …, ``head``) → the modules that carry them."""
        named: dict[str, list[nn.Module]] = {}
        for sensor, encoder in self.encoders.items():
            named |= {f"{sensor}.{block}": modules for block, modules in encoder.blocks().items()}
        named |= {f"blend.{i}": list(blend.modules()) for i, blend in enumerate(self.blend)}
        named["head"] = list(self.head.modules())
        return named

    def hold(self, frozen: frozenset[str], fixed_norms: frozenset[str]) -> None:
        """Freeze the named blocks (no gradient, eval), and keep the norm statistics of others as they are."""
        self._frozen, self._fixed_norms = frozen, fixed_norms
        for name, modules in self.named_blocks().items():
            for module in modules:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(name not in frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train mode; frozen blocks and fixed norms stay in eval."""
        super().train(mode)
        if mode and (self._frozen or self._fixed_norms):
            for name, modules in self.named_blocks().items():
                still = modules if name in self._frozen else norm_layers(modules) if name in self._fixed_norms else ()
                for module in still:
                    module.training = False
        return self


def build_model(config: ModelConfig, seed: int) -> tuple[FusionModel, list[WeightReport]]:
    """Build the model a recipe describes and load the weights it names; the reports say what was loaded."""
    torch.manual_seed(seed)
    model = FusionModel(config)
    reports = []
    if model.rgb is not None and config.rgb.weights is not None:
        reports.append(load_encoder_weights(model.rgb, config.rgb.arch, config.rgb.weights))
    if model.thermal is not None and config.thermal.weights is not None:
        reports.append(load_encoder_weights(model.thermal, config.thermal.arch, config.thermal.weights))
    elif model.thermal is not None and config.thermal.start == "copied":
        reports.append(_copied(model.thermal, config))
    return model, reports


def _copied(thermal: Encoder, config: ModelConfig) -> WeightReport:
    if config.rgb.weights is None:
        raise FusionError("model.thermal.start is 'copied', but model.rgb.weights is null: there is nothing to copy")
    if config.thermal.arch != config.rgb.arch:
        raise FusionError(
            f"model.thermal.start is 'copied', but the branches differ ({config.rgb.arch}, {config.thermal.arch})"
        )
    source = build_encoder(config.rgb.arch, 3)
    load_encoder_weights(source, config.rgb.arch, config.rgb.weights)
    return copy_from_rgb(thermal, source)
