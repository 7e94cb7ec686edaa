"""What turns gradients into steps: torch's optimisers and their constants, by name."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

BelowOne = Annotated[float, Field(ge=0, lt=1)]
"""From 0 to just below 1."""
Decay = Annotated[float, Field(ge=0)]
_Groups = list[dict[str, Any]]


class _Constants(BaseModel):
    """Biases and the scales and shifts of norms are exempt from weight decay: see fusion.rates.parameter_groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AdamW(_Constants):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019)."""

    kind: Literal["adamw"] = "adamw"
    weight_decay: Decay = 0.02
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Adam(_Constants):
    """Adam (Kingma & Ba, ICLR 2015); its weight decay is part of the gradient."""

    kind: Literal["adam"]
    weight_decay: Decay = 0.0
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Sgd(_Constants):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    weight_decay: Decay = 1e-4
    momentum: BelowOne = 0.9
    nesterov: bool = True
    """Look ahead (Sutskever et al., ICML 2013). Left out: where there is momentum."""

    @model_validator(mode="before")
    @classmethod
    def _default(cls, given: Any) -> Any:  # noqa: ANN401 - plain YAML content
        return {"nesterov": False, **given} if isinstance(given, dict) and given.get("momentum") == 0 else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, found momentum: 0; say nesterov: false")
        return self


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
