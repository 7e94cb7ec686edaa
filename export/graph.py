"""From a PyTorch model to one ONNX graph: raw pixels in, answer out."""

import warnings
from typing import TYPE_CHECKING

import torch

from export.bundle import Inputs
from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

OPSET = 18

_EXAMPLE_BATCH = 2  # with 1, the exporter takes the batch for a constant
_NOTES_TO_DROP = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # hold paths of this machine


def export_graph(model: torch.nn.Module, inputs: Inputs) -> bytes:
    """Return the ONNX file of a model in eval mode on the CPU; sizes are fixed, the batch is dynamic.

    Args:
        model: ``forward(rgb, thermal, present)`` on raw values answers a dict of tensors, each [B, …];
            its keys name the outputs.
        inputs: Sizes and dtypes of what goes in.

    Raises:
        ExportError: PyTorch cannot trace the model, or lacks an operator.
    """
    example = tuple(torch.from_numpy(array) for array in inputs.zeros(_EXAMPLE_BATCH).values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        names = list(model(*example))
        batch = torch.export.Dim("batch")
        try:
            program = torch.onnx.export(
                model,
                example,
                input_names=list(inputs.shapes()),
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: batch},) * len(example),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ExportError(f"PyTorch cannot turn this model into a graph: {reason}") from error
    assert program is not None
    return bytes(_without_notes(program.model_proto).SerializeToString())


def _without_notes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    for node in model.graph.node:
        kept = [note for note in node.metadata_props if note.key not in _NOTES_TO_DROP]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return model
