"""The ``augment:`` part of a recipe."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class AugmentSpec(BaseModel):
    """How far a training pair may be changed; geometry moves both pictures, the boxes and the mask alike.

    What is on by default costs a few milliseconds for 480×640 and suits every data set. The rest is 0: each is a
    probability that a pair is changed so, but for ``perspective`` and ``misregistration``, which are lengths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: Share = 0.5
    """Probability of a horizontal flip."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 5.0
    """Largest rotation to either side, in degrees."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Smallest and largest zoom; above 1 a part is cropped out."""
    crop: Share = 0.1
    """Largest shift of the cropped part, as a fraction of width and height."""
    perspective: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Largest shift of each corner, as a fraction of width and height; beyond 0.2 the picture could fold over."""
    misregistration: Annotated[float, Field(ge=0)] = 0.0
    """Largest shift of thermal against RGB to each side, in pixels of the model's RGB; boxes and mask stay with RGB."""
    rgb_brightness: Share = 0.2
    """Largest change, as a fraction of the frame's mean: a share of white would drown or blind the night."""
    rgb_contrast: Share = 0.2
    thermal_gain: Share = 0.1
    """Largest relative change of a pixel's distance to the frame's mean."""
    thermal_offset: Share = 0.05
    """Largest shift, as a fraction of the frame's span."""
    night: Share = 0.0
    """This and the next ten are those of data.augment.degrade, each at a strength that is drawn."""
    fog: Share = 0.0
    glare: Share = 0.0
    motion_blur: Share = 0.0
    rgb_noise: Share = 0.0
    frozen: Share = 0.0
    thermal_drift: Share = 0.0
    column_noise: Share = 0.0
    thermal_noise: Share = 0.0
    dead_pixels: Share = 0.0
    agc_jump: Share = 0.0
    strength: tuple[Share, Share] = (0.3, 1.0)
    """Weakest and strongest of the eleven above; 1 is as bad as in ``rgbt evaluate --degrade``."""
    drop_rgb: Share = 0.0
    """Probability that RGB is missing where both are there. A stage's ``modality_dropout`` does it at the blend, at no
    cost in statistics: prefer it, unless the encoders too are to see the gap."""
    drop_thermal: Share = 0.0
    albumentations: tuple[dict[str, Any], ...] = ()
    """Further changes of RGB's pixels, such as [{name: CLAHE, p: 0.1}]: albumentations' own names and arguments."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}, expected [smallest, largest], above 0")
        if self.strength[0] > self.strength[1]:
            raise ValueError(f"strength is {list(self.strength)}, expected [weakest, strongest]")
        if self.drop_rgb + self.drop_thermal > 1:
            raise ValueError(f"drop_rgb and drop_thermal are {self.drop_rgb:g} and {self.drop_thermal:g}, above 1")
        if any(not isinstance(one.get("name"), str) for one in self.albumentations):
            raise ValueError("albumentations: each entry says a name, such as {name: CLAHE, p: 0.1}")
        return self
