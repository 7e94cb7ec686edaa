"""The network inside a model, from canvases to head maps: what the engines of the dense form are given."""

from collections.abc import Sequence
from typing import cast, get_args

import torch
from torch import Tensor, nn

from export.dense_spec import DenseSpec, DenseTask, DenseThermal
from export.errors import ExportError
from fusion.blends import Joint
from fusion.detect import SLOTS
from fusion.model import FusionModel
from fusion.normalise import BLOCK, ModelInputs

_FINEST = 0
"""The scale that heads with a pyramid answer at."""


class DenseModel(nn.Module):
    """Normalised canvases in, head maps out; arguments and answers in the order of the spec's inputs and outputs.

    An absent sensor is cut out by multiplication, for which every engine has an operator: unlike raw frames, canvases
    are always finite.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(model.encoders)
        self.blend = model.blend
        self.head = model.head
        self.early = model.config.is_early

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The maps without their names, for tracing."""
        return tuple(self.maps(*inputs).values())

    def maps(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Canvas of each sensor in use, then, for a blend of two branches, a flag for each → head maps by name."""
        count = len(self.encoders)
        canvases = [torch.cat(inputs, 1)] if self.early else inputs[:count]
        features = [encoder(canvas) for encoder, canvas in zip(self.encoders.values(), canvases, strict=True)]
        maps: dict[str, Tensor] = self.head(self._join(features, inputs[count:]) if len(self.blend) else features[0])
        return maps

    def _join(self, features: list[list[Tensor]], present: Sequence[Tensor]) -> list[Tensor]:
        return [
            _joined(cast(Joint, joint), [sensor * there for sensor, there in zip(scale, present, strict=True)], present)
            for joint, *scale in zip(self.blend, *features, strict=True)
        ]


def _joined(joint: Joint, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
    """What Joint.forward does, of features in which the absent sensor's are zero."""
    anchor, other = (0, 1) if joint.anchor == "rgb" else (1, 0)
    added = features[other]
    if joint.before is not None:
        added = joint.before(added) * present[other]  # again: it has a bias
    return joint.blend(features[anchor], added)


def dense_model(model: nn.Module) -> tuple[DenseModel, DenseSpec]:
    """Return the network inside a model, sharing its weights, and what describes it.

    Raises:
        ExportError: it is no FusionModel as trained (a wrapper around one, for example), or of another task.
    """
    if not isinstance(model, FusionModel):
        raise ExportError(
            f"NCNN and LiteRT take the network inside a FusionModel, but this is a {type(model).__name__}; "
            "leave out what is built around the model (--bake-rig), or these targets"
        )
    if model.task not in get_args(DenseTask):
        raise ExportError(
            f"NCNN and LiteRT answer {', '.join(get_args(DenseTask))}, but this model's task is {model.task}; "
            "leave these targets out"
        )
    network = DenseModel(model).eval()
    inputs = _inputs(model)
    with torch.no_grad():
        maps = network.maps(*(torch.ones(shape) for shape in inputs.values()))
    return network, _spec(model, inputs, {name: tuple(found.shape) for name, found in maps.items()})


def dense_spec(model: nn.Module) -> DenseSpec:
    """Return what bundle.json says of the network inside a model; see ``dense_model``."""
    return dense_model(model)[1]


def _inputs(model: FusionModel) -> dict[str, tuple[int, ...]]:
    channels = {"rgb": 3, "thermal": 1}
    canvases: dict[str, tuple[int, ...]] = {
        sensor: (1, channels[sensor], *model.config.size) for sensor in model.config.sensors
    }
    flags = {f"{sensor}_present": (1, 1, 1, 1) for sensor in model.config.sensors} if len(model.blend) else {}
    return {**canvases, **flags}


def _spec(model: FusionModel, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> DenseSpec:
    scale = ModelInputs.model_validate(model.config.inputs).thermal
    return DenseSpec(
        task=cast(DenseTask, model.task),
        rgb_size=model.letterbox.rgb_size,
        answer_size=model.letterbox.answer_size,
        canvas=model.letterbox.canvas,
        content=model.letterbox.content,
        mean=_counts(model.rgb.mean) if model.rgb else (0.0, 0.0, 0.0),
        std=_counts(model.rgb.std) if model.rgb else (1.0, 1.0, 1.0),
        thermal=DenseThermal.model_validate({**scale.model_dump(), "block": BLOCK}),
        stride=next(iter(model.encoders.values())).strides[_FINEST],
        slots=SLOTS,
        inputs=inputs,
        outputs=outputs,
    )


def _counts(values: Sequence[float]) -> tuple[float, float, float]:
    """Of 0 to 1 → of 0 to 255."""
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue
