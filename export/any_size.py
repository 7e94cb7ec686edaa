"""A model that takes frames of any size: the letterbox is computed in the graph, from the size of the RGB frame.

For clients of the full form on ONNX Runtime; the graph of a bundle has fixed sizes, as every other engine wants them.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.bundle_info import Inputs
from export.errors import ExportError
from fusion.model import FusionModel
from fusion.normalise import Letterbox


class _Frame:
    """What Letterbox is, for sizes that are known only when the graph runs; rounded half up, in whole numbers."""

    to_rgb = (1.0, 1.0)
    """Boxes stay in pixels of the canvas until ``scale`` is applied."""

    def __init__(self, height: int, width: int, canvas: tuple[int, int]) -> None:
        self.size, self.canvas = (height, width), canvas
        rows, columns = canvas
        least: Any = torch.sym_min
        self.content: tuple[int, int] = (
            least(rows, (2 * height * columns + width) // (2 * width)),
            least(columns, (2 * width * rows + height) // (2 * height)),
        )
        self.scale = (width / self.content[1], height / self.content[0])
        """RGB pixels for each pixel of the canvas, along x and y."""

    def fit(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,canvas], as Letterbox."""
        x = F.interpolate(x, self.content, mode="bilinear", align_corners=False)
        return F.pad(x, (0, self.canvas[1] - self.content[1], 0, self.canvas[0] - self.content[0]))

    def undo(self, x: Tensor) -> Tensor:
        """[B,C,h,w] at any stride over the canvas → [B,C,Hr,Wr]."""
        x = F.interpolate(x, self.canvas, mode="bilinear", align_corners=False)
        x = x[:, :, : self.content[0], : self.content[1]]
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)


class AnySize(nn.Module):
    """A FusionModel whose frames may have any size; RGB's gives the letterbox, and is sent also where RGB is absent.

    Args:
        model: In eval mode; its canvas stays what it is.
    """

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> dict[str, Tensor]:
        """As FusionModel, for rgb [B,H,W,3] and thermal [B,h,w] of any sizes; thermal covers RGB's view."""
        model = self.model
        frame = _Frame(rgb.shape[1], rgb.shape[2], model.letterbox.canvas)
        raw = {"rgb": rgb, "thermal": thermal}
        canvases = {
            sensor: frame.fit(model.normalise[sensor](raw[sensor], present[:, index]))
            for index, sensor in enumerate(("rgb", "thermal"))
            if sensor in model.config.sensors
        }
        features: dict[str, list[Tensor]] = {
            sensor: [canvas] if model.config.is_early else model.encoders[sensor](canvas)
            for sensor, canvas in canvases.items()
        }
        maps = model.head(model.join(features, present))
        answer = model.head.decode(maps, cast(Letterbox, frame))
        if "boxes" in answer:
            sx, sy = frame.scale
            x1, y1, x2, y2, *rest = answer["boxes"].unbind(2)
            answer["boxes"] = torch.stack([x1 * sx, y1 * sy, x2 * sx, y2 * sy, *rest], 2)
        return answer


def any_size(model: nn.Module, inputs: Inputs) -> AnySize:
    """Wrap a model for ``export_graph(…, any_size=True)``.

    Raises:
        ExportError: its graph holds something that is of one size.
    """
    if inputs.rig_baked or not isinstance(model, FusionModel):
        raise ExportError("--size dynamic: a baked rig is of one size; leave out --bake-rig, or --size dynamic")
    if model.letterbox.answer_size != model.letterbox.rgb_size:
        raise ExportError("--size dynamic: the map is at camera size then; leave out --map-size")
    return AnySize(model)
