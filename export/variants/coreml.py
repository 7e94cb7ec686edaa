"""The model for Core ML: converted here, run on an Apple device; there is no engine for it in a Session."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.bundle_info import Variant
from export.engines.error_lines import first_line
from export.errors import ExportError
from export.variants.source import Source

PACKAGE = "coreml/model.mlpackage"
"""A folder, as Core ML has it."""
NOTE = "built only: it has not been run; check it on the device against golden.npz"


class _FloatsIn(torch.nn.Module):
    """Core ML hands in floats; the answers leave in the order of their names' first appearance."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, thermal: Tensor, present: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(rgb, thermal, present).values())


def make(source: Source, folder: Path) -> Variant:
    """Write an ``.mlpackage`` of the whole model at batch 1, computing in fp32; every input is float32.

    Raises:
        ExportError: coremltools is not installed, or cannot convert the model.
    """
    coremltools = converter()
    feeds = {name: torch.from_numpy(array).float() for name, array in source.inputs.zeros(1).items()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about sizes that are fixed here
        trace: Any = torch.jit.trace
        traced = trace(_FloatsIn(source.model), tuple(feeds.values()), check_trace=False)
    inputs = [
        coremltools.TensorType(name=name, shape=tuple(feed.shape), dtype=np.float32) for name, feed in feeds.items()
    ]
    try:
        made = coremltools.convert(
            traced,
            source="pytorch",
            inputs=inputs,
            compute_precision=coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"coremltools cannot convert this model ({first_line(error)}); leave --target coreml out"
        ) from None
    (folder / PACKAGE).parent.mkdir(exist_ok=True)
    made.save(str(folder / PACKAGE))
    files = sorted(file.relative_to(folder).as_posix() for file in (folder / PACKAGE).rglob("*") if file.is_file())
    files.sort(key=lambda name: not name.endswith("Manifest.json"))
    return Variant.model_validate({"engine": "coreml", "precision": "fp32", "files": files, "notes": (NOTE,)})


def converter() -> Any:  # noqa: ANN401 - untyped library
    """Import coremltools; ExportError says how to get it."""
    try:
        return import_module("coremltools")
    except ImportError as error:
        raise ExportError(
            f"Core ML: coremltools cannot be imported ({error}); pip install coremltools, on Linux or macOS"
        ) from None
