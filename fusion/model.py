"""The two-branch model: raw frames in, answer out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, cast

import torch
from torch import Tensor, nn

from fusion.blends import BLENDS, Joint, cut
from fusion.encoders import STRIDES, Encoder, build_encoder, norm_layers
from fusion.errors import FusionError
from fusion.head_contract import Batch
from fusion.model_config import (
    HEADS,
    SENSORS,
    Blend,
    ModelConfig,
    ModelSection,
    RgbEncoder,
    Sensor,
    Sensors,
    ThermalEncoder,
)
from fusion.normalise import Letterbox, ModelInputs, RgbNormalise, ThermalNormalise
from fusion.weights import WeightReport, copy_from_rgb, draw_weights, load_encoder_weights

__all__ = [
    "HEADS",
    "SENSORS",
    "Blend",
    "FusionModel",
    "ModelConfig",
    "ModelSection",
    "RgbEncoder",
    "Sensor",
    "Sensors",
    "ThermalEncoder",
    "build_model",
]


class FusionModel(nn.Module):
    """Two encoders, a blend at each scale, a head; raw values in, answer out.

    Early fusion has one encoder, ``rgb``, with a fourth input channel for thermal, and no blend.

    What is frozen is one set of block names (``hold``), re-applied whenever ``train()`` is called.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = ModelInputs.model_validate(config.inputs)
        self.letterbox = Letterbox(inputs.rgb_size, config.size)
        early = config.is_early
        with _in_field("model.rgb.arch"):
            self.rgb = build_encoder(config.rgb.arch, 4 if early else 3) if "rgb" in config.sensors else None
        with _in_field("model.thermal.arch"):
            self.thermal = build_encoder(config.thermal.arch, 1) if "thermal" in config.sensors and not early else None
        self.copied: WeightReport | None = None
        """What became of RGB's weights file, where a copied start has no RGB branch to wait for."""
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
        return nn.ModuleList(
            [BLENDS[blend.kind](rgb, thermal, blend.anchor, blend.norm, blend.act) for rgb, thermal in widths]
        )

    def _joints(self) -> list[Joint]:
        return [cast(Joint, blend) for blend in self.blend]

    @property
    def task(self) -> str:
        """What it answers: a key of fusion.heads.HEADS."""
        return self.config.head.kind

    @property
    def encoders(self) -> dict[str, Encoder]:
        """Sensor → its encoder; early fusion has one, ``rgb``."""
        pairs = (("rgb", self.rgb), ("thermal", self.thermal))
        return {name: encoder for name, encoder in pairs if encoder is not None}

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Answer for raw frames.

        Args:
            rgb: uint8 [B,Hr,Wr,3].
            thermal: [B,Ht,Wt] in the spec's unit, covering RGB's field of view.
            present: float32 [B,2] in {0, 1}: is RGB there, is thermal there.

        Returns:
            detect: ``boxes`` float32 [B,K,6]: x1, y1, x2, y2 in RGB pixels, score, class. segment: ``class_map`` uint8
            [B,Hr,Wr], 0 is the background, and its probability ``confidence`` float32 [B,Hr,Wr]. classify:
            ``probabilities`` float32 [B,C].
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
        features = self.features(rgb, thermal, present, sensors)
        out: dict[str, Tensor] = self.head(self.join(features, present if keep is None else present * keep))
        return out

    def features(
        self, rgb: Tensor, thermal: Tensor, present: Tensor, sensors: tuple[Sensor, ...] = SENSORS
    ) -> dict[str, list[Tensor]]:
        """What ``join`` needs of each sensor in use: its encoder's features, or its canvas before an early fusion."""
        canvases: dict[str, Tensor] = {}
        if "rgb" in self.config.sensors and "rgb" in sensors:
            canvases["rgb"] = self.rgb_canvas(rgb, present[:, 0])
        if "thermal" in self.config.sensors and "thermal" in sensors:
            canvases["thermal"] = self.thermal_canvas(thermal, present[:, 1])
        if self.config.is_early:
            return {sensor: [canvas] for sensor, canvas in canvases.items()}
        return {sensor: self.encoders[sensor](canvas) for sensor, canvas in canvases.items()}

    def join(self, features: dict[str, list[Tensor]], there: Tensor) -> list[Tensor]:
        """The head's features, from what ``features`` returned; several ``there`` may be asked of the same features.

        Args:
            features: as ``features`` returned them.
            there: float32 [B,2] in {0, 1}: which sensors count; one without a partner goes straight to the head.
        """
        if self.config.is_early:
            return self._encode_stacked(features, there)
        if len(features) == 1:  # straight to the head: a blend that starts at zero would pass no gradient
            return next(iter(features.values()))
        return [
            joint(rgb, thermal, there)
            for joint, rgb, thermal in zip(self._joints(), features["rgb"], features["thermal"], strict=True)
        ]

    def _encode_stacked(self, features: dict[str, list[Tensor]], there: Tensor) -> list[Tensor]:
        some = next(iter(features.values()))[0][:, :1]
        parts = [
            cut(features[sensor][0], there[:, index])
            if sensor in features
            else torch.zeros_like(some).expand(-1, channels, -1, -1)
            for index, (sensor, channels) in enumerate((("rgb", 3), ("thermal", 1)))
        ]
        stacked: list[Tensor] = self.encoders["rgb"](torch.cat(parts, 1))
        return stacked

    def rgb_canvas(self, rgb: Tensor, present: Tensor) -> Tensor:
        """Raw RGB [B,Hr,Wr,3] → normalised [B,3,canvas], as the RGB encoder sees it."""
        return self._canvas(self.normalise["rgb"](rgb, present))

    def thermal_canvas(self, thermal: Tensor, present: Tensor) -> Tensor:
        """Raw thermal [B,Ht,Wt] → normalised [B,1,canvas], as the thermal encoder sees it."""
        return self._canvas(self.normalise["thermal"](thermal, present))

    def _canvas(self, normalised: Tensor) -> Tensor:
        """Scale in fp32, then hand over in the weights' own precision (float64 where a test trains in it)."""
        canvas: Tensor = self.letterbox(normalised)
        return canvas.to(next(self.head.parameters()).dtype)

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
        return self.head.decode(maps, self.letterbox)

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the head is to say about a batch, which has the keys of the head's ``truth``, in RGB pixels."""
        return self.head.targets(batch, self.letterbox)

    def loss(self, maps: dict[str, Tensor], targets: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
        """The head's loss of ``maps`` against ``targets``, divided by ``counts``: see the head's."""
        return self.head.loss(maps, targets, counts)

    def copy_thermal_start(self) -> WeightReport:
        """Start the thermal encoder from what RGB's knows now; without an RGB branch ``build_model`` has done so."""
        assert self.thermal is not None
        if self.rgb is not None:
            return copy_from_rgb(self.thermal, self.rgb)
        assert self.copied is not None
        return self.copied

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
    """Build the model a recipe describes and load the weights it names; the reports say what was loaded.

    A copied start is made by ``copy_thermal_start``, when thermal is first used; without an RGB branch, which could
    learn until then, it is made here.

    Raises:
        FusionError: an architecture or weights do not fit; its text begins with the field.
    """
    torch.manual_seed(seed)
    model = FusionModel(config)
    reports = []
    if model.rgb is not None and config.rgb.weights is not None:
        with _in_field("model.rgb.weights"):
            reports.append(load_encoder_weights(model.rgb, config.rgb.arch, config.rgb.weights))
    if model.thermal is not None:
        reports += _start_thermal(model, model.thermal, config)
    return model, reports


def _start_thermal(model: FusionModel, encoder: Encoder, config: ModelConfig) -> list[WeightReport]:
    thermal = config.thermal
    if thermal.start == "copied" and thermal.arch != config.rgb.arch:
        raise FusionError(f"model.thermal.start: 'copied', but the branches differ ({config.rgb.arch}, {thermal.arch})")
    if thermal.start == "copied" and model.rgb is None:
        model.copied = _copy_from_file(encoder, config)
        return [model.copied]
    if thermal.weights is not None:
        with _in_field("model.thermal.weights"):
            return [load_encoder_weights(encoder, thermal.arch, thermal.weights)]
    if thermal.init != "default":
        draw_weights(encoder, thermal.init)
    return []


def _copy_from_file(encoder: Encoder, config: ModelConfig) -> WeightReport:
    """Start the thermal encoder of a model without an RGB branch from RGB's weights."""
    if config.rgb.weights is None:
        raise FusionError(
            "model.thermal.start: 'copied' has nothing to copy: there is no RGB branch, and model.rgb.weights is null"
        )
    with _in_field("model.rgb.weights"):
        return load_encoder_weights(encoder, config.rgb.arch, config.rgb.weights)


@contextmanager
def _in_field(name: str) -> Iterator[None]:
    """Put the field before what does not fit."""
    try:
        yield
    except FusionError as error:
        raise FusionError(f"{name}: {error}") from None
