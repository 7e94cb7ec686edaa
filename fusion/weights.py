"""Pretrained weights for an encoder: loaded, counted and reported; what does not fit is an error."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusion.encoders import Encoder
from fusion.errors import FusionError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "rgb.")
PRETRAINED = "pretrained"
"""As ``weights``: timm's own pretrained weights, downloaded once into its cache."""


@dataclass(frozen=True)
class WeightReport:
    """What became of a weights file."""

    source: str
    loaded: int
    """Tensors taken as they are."""
    adapted: tuple[str, ...]
    """First layers whose input channels were summed (thermal alone) or extended (RGB and thermal stacked)."""
    skipped: tuple[str, ...]
    """Tensors of the file that the encoder does not have: its classifier and the like."""

    def __str__(self) -> str:
        adapted = f", adapted {len(self.adapted)} ({', '.join(self.adapted)})" if self.adapted else ""
        skipped = f", skipped {len(self.skipped)} ({', '.join(self.skipped[:3])}…)" if self.skipped else ""
        return f"{self.source}: loaded {self.loaded} tensors{adapted}{skipped}"


def load_encoder_weights(encoder: Encoder, arch: str, weights: str) -> WeightReport:
    """Fill ``encoder`` from timm (``pretrained``) or a local ``.safetensors``, ``.pth`` or ``.pt`` state dict.

    timm's and torchvision's naming fit alike; wrappers such as ``state_dict`` and prefixes such as ``module.`` are
    taken off. The first convolution is adapted to the encoder's channels.

    Raises:
        FusionError: the file cannot be read, or leaves a tensor of the encoder without a value or with another shape.
    """
    state = _timm_state(arch) if weights == PRETRAINED else read_state(Path(weights))
    return fill(encoder, state, f"timm's {arch}" if weights == PRETRAINED else weights)


def _timm_state(arch: str) -> dict[str, Tensor]:
    if timm.get_pretrained_cfg(arch) is None or not timm.is_model_pretrained(arch):
        raise FusionError(f"timm has no pretrained weights for '{arch}'; give a local file, or say weights: null")
    try:
        return dict(timm.create_model(arch, pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FusionError(
            f"timm's weights for '{arch}' could not be fetched ({reason}); give a local file as model.rgb.weights, "
            "or say weights: null to start from random weights"
        ) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without ever unpickling an object; FusionError says why a file is refused."""
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise FusionError(f"{path}: no such weights file") from None
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FusionError(f"{path}: not a readable state dict of tensors ({reason:.120})") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise FusionError(f"{path}: expected a dict of name → tensor, found {type(content).__name__}")
    return content


def fill(encoder: Encoder, state: dict[str, Tensor], source: str) -> WeightReport:
    """Copy ``state`` into ``encoder`` by name; see load_encoder_weights."""
    target = encoder.net.state_dict()
    offered = _rename(state, {_flat(name) for name in target})
    missing = [name for name in target if _flat(name) not in offered and not name.endswith("num_batches_tracked")]
    if missing:
        raise FusionError(
            f"{source}: does not fit the encoder: {len(missing)} of its {len(target)} tensors have no value there "
            f"({', '.join(missing[:3])}…); the file holds {', '.join(list(state)[:3])}…; is it another architecture?"
        )
    adapted = []
    for name, tensor in target.items():
        given = offered.get(_flat(name), tensor)
        if given.shape != tensor.shape:
            given = _adapt(name, given, tensor, source)
            adapted.append(name)
        tensor.copy_(given)
    wanted = {_flat(name) for name in target}
    skipped = tuple(name for name in offered if name not in wanted)
    return WeightReport(source, len(target) - len(adapted), tuple(adapted), skipped)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _rename(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Take off the chain of prefixes that lets most names fit."""
    best = {_flat(name): tensor for name, tensor in state.items()}
    current = dict(state)
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in current)), None):
        current = {name.removeprefix(prefix): t for name, t in current.items() if name.startswith(prefix)}
        candidate = {_flat(name): tensor for name, tensor in current.items()}
        if len(wanted & set(candidate)) > len(wanted & set(best)):
            best = candidate
    return best


def _adapt(name: str, given: Tensor, wanted: Tensor, source: str) -> Tensor:
    """Make three input channels into one or four; any other difference in shape is an error."""
    if wanted.dim() == 4 and given.shape == (wanted.shape[0], 3, *wanted.shape[2:]):
        if wanted.shape[1] == 1:  # averaged and scaled by 3: the answer to a grey picture (R = G = B) stays
            return given.sum(1, keepdim=True)
        if wanted.shape[1] == 4:  # RGB as it is, thermal as their mean
            return torch.cat([given, given.mean(1, keepdim=True)], 1)
    raise FusionError(
        f"{source}: tensor '{name}' has shape {tuple(given.shape)}, but the encoder needs {tuple(wanted.shape)}"
    )


def copy_from_rgb(thermal: Encoder, rgb: Encoder) -> WeightReport:
    """Start the thermal encoder from RGB's weights, the first layer summed over its channels."""
    return fill(thermal, dict(rgb.net.state_dict()), "the RGB encoder")


@torch.no_grad()
def draw_weights(encoder: Encoder, init: Literal["kaiming", "xavier"]) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases and norms stay as they are.

    Source: He et al., ICCV 2015 (``kaiming``, by what comes in); Glorot & Bengio, AISTATS 2010 (``xavier``).
    """
    for module in encoder.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if init == "kaiming":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:  # each group of a convolution by itself: torch would count the outputs of all groups
            for part in module.weight.chunk(getattr(module, "groups", 1)):
                nn.init.xavier_normal_(part)
