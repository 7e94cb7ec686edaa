"""From a PyTorch model to one ONNX graph: raw pixels in, answer out."""

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import torch

from export.bundle_info import SCHEMA_VERSION, Inputs
from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Unless another is asked for: what PyTorch's exporter writes natively, and every engine of ours reads."""
OPSETS = range(18, 24)
"""Opsets that can be asked for; tested on ONNX Runtime."""
PRODUCER = "rgbt-fusion"

MapSize = Literal["camera", "network"]
MAP_SIZES: tuple[MapSize, ...] = ("camera", "network")
"""camera: one value for each RGB pixel. network: one for each place where the network scores, a quarter as dense."""

SMALLEST, LARGEST = 16, 8192
"""Pixels along a side, where sizes are dynamic."""
_EXAMPLE_BATCH = 2  # with 1, the exporter takes the batch for a constant
_NOTES_TO_DROP = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")  # hold paths of this machine


def export_graph(
    model: torch.nn.Module,
    inputs: Inputs,
    opset: int = OPSET,
    metadata: Mapping[str, Any] | None = None,
    any_size: bool = False,
) -> bytes:
    """Return the ONNX file of a model in eval mode on the CPU; the batch is dynamic, sizes are fixed or dynamic too.

    Args:
        model: ``forward(rgb, thermal, present)`` on raw values answers a dict of tensors, each [B, …];
            its keys name the outputs.
        inputs: Sizes and dtypes of what goes in.
        opset: One of OPSETS.
        metadata: What the file says of itself (see ``file_metadata``); each value is written as JSON.
        any_size: Frames of any size go in; the model must be an export.any_size.AnySize.

    Raises:
        ExportError: PyTorch cannot trace the model, or lacks an operator; an opset that is not among OPSETS.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}; leave --opset out for {OPSET}")
    example = tuple(torch.from_numpy(array) for array in inputs.zeros(_EXAMPLE_BATCH).values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        names = list(model(*example))
        try:
            program = torch.onnx.export(
                model,
                example,
                input_names=list(inputs.shapes()),
                output_names=names,
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=_dynamic(inputs, any_size),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ExportError(f"PyTorch cannot turn this model into a graph: {reason}") from error
    assert program is not None
    proto = _without_notes(program.model_proto)
    written = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise ExportError(f"opset {opset}: PyTorch wrote opset {written} for this model; ask for that with --opset")
    _describe(proto, metadata or {})
    return bytes(proto.SerializeToString())


def _dynamic(inputs: Inputs, any_size: bool) -> tuple[dict[int, Any], ...]:
    """Dimensions of each input that vary."""
    batch = torch.export.Dim("batch")
    sides = {
        f"{name}_{side}": torch.export.Dim(f"{name}_{side}", min=SMALLEST, max=LARGEST)
        for name in ("rgb", "thermal")
        for side in ("height", "width")
    }
    return tuple(
        {0: batch, 1: sides[f"{name}_height"], 2: sides[f"{name}_width"]}
        if any_size and name != "present"
        else {0: batch}
        for name in inputs.shapes()
    )


def file_metadata(task: str, classes: Sequence[str], sensors: Sequence[str], inputs: Inputs) -> dict[str, Any]:
    """What the ONNX file says of itself, for whoever finds it without its bundle; bundle.json stays the source."""
    return {
        "task": task,
        "classes": list(classes),
        "sensors": list(sensors),
        "thermal": inputs.thermal.model_dump(mode="json", include={"unit", "polarity", "range", "min_span", "invalid"}),
        "rig_baked": inputs.rig_baked,
        "schema_version": SCHEMA_VERSION,
        "version": version(PRODUCER),
    }


def set_map_size(model: torch.nn.Module, size: MapSize) -> None:
    """Have a segmentation answer at the camera's or at the network's resolution; changes ``model`` in place.

    Either way the map covers the whole RGB frame.

    Raises:
        ExportError: unknown size, or the model answers no map.
    """
    if size not in MAP_SIZES:
        raise ExportError(f"map size '{size}': expected {' or '.join(MAP_SIZES)}")
    letterbox: Any = getattr(model, "letterbox", None)
    if getattr(model, "task", None) != "segment" or letterbox is None:
        raise ExportError("--map-size is of a class map, and this model answers none; leave it out")
    stride: Any = getattr(model.head, "stride", 4)
    letterbox.answer_size = letterbox.rgb_size if size == "camera" else letterbox.content_at(stride)


def map_layout(size: MapSize) -> dict[str, str]:
    """Output → what bundle.json says of a map of that size."""
    cell = {
        "camera": "for each RGB pixel",
        "network": "at the network's resolution (over the whole RGB frame: scale it up, nearest), for each cell",
    }[size]
    return {
        "class_map": f"{cell} 0 for background, i for classes[i-1]",
        "confidence": f"{cell} the probability of the class that class_map says, 0 to 1",
    }


def _describe(model: "onnx.ModelProto", metadata: Mapping[str, Any]) -> None:
    model.producer_name, model.producer_version = PRODUCER, version(PRODUCER)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))


def _without_notes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    for node in model.graph.node:
        kept = [note for note in node.metadata_props if note.key not in _NOTES_TO_DROP]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return model
