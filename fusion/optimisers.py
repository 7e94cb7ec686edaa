"""What turns gradients into steps: torch's optimisers and their constants, by name."""

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0)]
_Groups = list[dict[str, Any]]


class _Constants(BaseModel):
    """Biases and the scales and shifts of norms are exempt from weight decay: see fusion.rates.parameter_groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AdamW(_Constants):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: Decay = 0.02
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Adam(_Constants):
    """Adam (Kingma & Ba, ICLR 2015); its weight decay is part of the gradient."""

    kind: Literal["adam"]
    weight_decay: Decay = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Sgd(_Constants):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    weight_decay: Decay = 1e-4
    momentum: Share = 0.9
    nesterov: bool = True


def _default_kind(value: Any) -> Any:  # noqa: ANN401 - plain YAML content
    return {"kind": "adamw", **value} if isinstance(value, dict) else value


Optimiser = Annotated[AdamW | Adam | Sgd, Field(discriminator="kind"), BeforeValidator(_default_kind)]

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def build_optimiser(constants: AdamW | Adam | Sgd, groups: _Groups) -> torch.optim.Optimizer:
    """Build torch's optimiser over ``groups``, which carry their own ``lr`` and ``weight_decay``."""
    settings = constants.model_dump(exclude={"kind", "weight_decay"})
    return OPTIMISERS[constants.kind](groups, **settings)
