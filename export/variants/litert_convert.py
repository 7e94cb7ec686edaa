"""Converts an exported program into LiteRT's files; run by the interpreter of an environment that has litert-torch.

Nothing of ours is imported: that environment has its own PyTorch, and this package is not in it. Usage::

    python -I litert_convert.py JOB.json

The job names, as paths, ``program`` (of torch.export.save), ``single`` (the .tflite file, made where it does not lie
there yet) and ``half`` (the same with weights of 16 bits, or null); and ``inputs`` (name → shape) and ``outputs``
(names), in the program's order.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch


class Named(torch.nn.Module):
    """A program whose inputs and outputs carry names: they become those of LiteRT's signature."""

    def __init__(self, program: torch.nn.Module, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.program, self.inputs, self.outputs = program, inputs, outputs

    def forward(self, **feeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs by name → outputs by name."""
        return dict(zip(self.outputs, self.program(*(feeds[name] for name in self.inputs)), strict=True))


def main(job: dict[str, Any]) -> None:
    """Write what the job asks for."""
    if not Path(job["single"]).is_file():
        _convert(job)
    if job["half"]:
        _halve(job["single"], job["half"])


def _convert(job: dict[str, Any]) -> None:
    import litert_torch

    program = torch.export.load(job["program"]).module()
    example = {name: torch.zeros(shape) for name, shape in job["inputs"].items()}
    litert_torch.convert(Named(program, list(example), job["outputs"]), sample_kwargs=example).export(job["single"])


def _halve(single: str, half: str) -> None:
    """Store the weights of convolutions and linear layers in half; they become float32 when loaded."""
    from ai_edge_quantizer import qtyping, quantizer

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    work = quantizer.Quantizer(single)
    work.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        ),
        algorithm_key="float_casting",
    )
    work.quantize().export_model(half, overwrite=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
