"""A model that takes the thermal camera's own frames: the rig's warp becomes part of the graph (``--bake-rig``)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from export.bundle_info import Inputs, ThermalInput
from export.errors import ExportError

_MIXED = 1e-3
"""Largest share of invalid pixels in a pixel that counts as valid: data.rig's."""
_FAR = -4.0
"""A place far outside a frame, whose sides lie at -1 and 1."""


class BakedRig(nn.Module):
    """Warps raw thermal frames as data.rig does with OpenCV, then asks the model.

    Args:
        model: ``forward(rgb, thermal, present)``, thermal covering RGB's field of view.
        sampling: float32 [Ht,Wt,2]: for each pixel of the frame that the model takes, x and y in pixels of the
            camera's frame (centres are whole numbers); NaN where the camera sees nothing of it.
        camera_size: Height, width of the camera's frame.
        thermal: Unit and validity of its pixels.
    """

    grid: Tensor

    def __init__(
        self, model: nn.Module, sampling: NDArray[np.float32], camera_size: tuple[int, int], thermal: ThermalInput
    ) -> None:
        super().__init__()
        self.model = model
        self.thermal = thermal
        height, width = camera_size
        # In float64: half a unit in the last place of float32 is 3e-5 of a pixel.
        normed = (2.0 * sampling.astype(np.float64) + 1.0) / np.array([width, height]) - 1.0
        grid = np.where(np.isfinite(sampling).all(-1, keepdims=True), normed, _FAR)
        self.register_buffer("grid", torch.from_numpy(grid.astype(np.float32))[None], persistent=False)

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> dict[str, Tensor]:
        """As the model; ``thermal`` is the camera's own frame [B,Hc,Wc]."""
        answer: dict[str, Tensor] = self.model(rgb, self.warp(thermal), present)
        return answer

    def warp(self, thermal: Tensor) -> Tensor:
        """The camera's frames [B,Hc,Wc] → float32 [B,Ht,Wt] in the unit; pixels that show nothing carry ``invalid``."""
        invalid, whole = self.thermal.invalid, self.thermal.unit != "celsius"
        x, dead = self._read(thermal)
        # What is sampled is the distance from invalid: beyond the frame's edge it is 0, as OpenCV's border value is.
        planes = torch.stack([x - invalid, dead.float(), torch.ones_like(x)], 1)
        grid = self.grid.expand(x.shape[0], -1, -1, -1)
        value, mixed, seen = F.grid_sample(planes, grid, "bilinear", "zeros", align_corners=False).unbind(1)
        value = value + invalid
        if whole:
            value = value.round()
        return torch.where((seen < 1 - _MIXED) | (mixed > _MIXED), invalid, value)

    def _read(self, thermal: Tensor) -> tuple[Tensor, Tensor]:
        """Values off ``invalid`` by one step where they are valid, float32 [B,Hc,Wc], and where nothing is shown."""
        spec, x = self.thermal, thermal.float()
        if spec.unit == "celsius":
            finite = (x == x) & (x.abs() < 1e30)
            return torch.where(finite, x, 0.0), ~finite | (x == spec.invalid)
        if spec.marked or spec.blank:
            return x, x == spec.invalid
        off = spec.invalid - 1 if spec.invalid else 1.0
        return torch.where(x == spec.invalid, off, x), torch.zeros_like(x, dtype=torch.bool)


def bake_rig(
    model: nn.Module, inputs: Inputs, sampling: NDArray[np.float32], camera_size: tuple[int, int]
) -> tuple[BakedRig, Inputs]:
    """Put a rig's warp before a model; returns the model for the camera's own frames, and what then goes in.

    Args:
        model: On the CPU, in eval mode.
        inputs: What it takes: thermal covers RGB's field of view.
        sampling: As BakedRig; data.rig.Aligner.sampling_map makes it.
        camera_size: Height, width of the thermal camera's frames.

    Raises:
        ExportError: the map does not fit the model, or frames of any size are scaled onto a canvas.
    """
    if inputs.letterbox:
        raise ExportError("--bake-rig: the card scales frames of any size onto a canvas; a rig is baked for one size")
    if inputs.rig_baked:
        raise ExportError("--bake-rig: a rig is baked into this model already; export the run again")
    if sampling.shape != (*inputs.thermal_size, 2):
        found, wanted = list(sampling.shape[:2]), list(inputs.thermal_size)
        raise ExportError(f"--bake-rig: the rig gives frames of {found} (height, width), but the model takes {wanted}")
    if not np.isfinite(sampling).all(-1).any():
        raise ExportError("--bake-rig: by this rig thermal sees nothing of RGB's view; calibrate again")
    baked = BakedRig(model, sampling, camera_size, inputs.thermal).eval()
    return baked, inputs.model_copy(update={"thermal_size": camera_size, "rig_baked": True})
