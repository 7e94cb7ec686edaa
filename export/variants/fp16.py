"""fp16 inside, fp32 at both ends: raw thermal counts pass fp16's maximum, and pixels of a large frame its steps."""

from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.bundle_info import Variant
from export.regions import name_nodes, regions
from export.variants.source import Source

MODEL = "model.fp16.onnx"


def make(source: Source, folder: Path) -> Variant:
    """Write ``model.fp16.onnx`` for ONNX Runtime."""
    (folder / MODEL).write_bytes(to_fp16(source.graph))
    return Variant(engine="onnxruntime", precision="fp16", files=(MODEL,))


def to_fp16(graph: bytes) -> bytes:
    """Return the ONNX file with the network in fp16; inputs, answers, preparation and decoding stay as they are."""
    model = onnx.load_from_string(graph)
    name_nodes(model)
    _forget_constants(model.graph)
    notes, theirs = list(model.metadata_props), {node.name for node in model.graph.node}
    ends = [name for name, region in regions(model).items() if region != "body"]
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=ends)
    _bypass_round_trips(model.graph, theirs)
    ONNXModel(model).topological_sort()  # the converter appends its casts
    del model.metadata_props[:]
    model.metadata_props.extend(notes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _forget_constants(graph: onnx.GraphProto) -> None:
    """Drop the shapes noted of constants: the converter takes what is noted for a tensor that it made fp16."""
    constants = {tensor.name for tensor in graph.initializer}
    kept = [note for note in graph.value_info if note.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _bypass_round_trips(graph: onnx.GraphProto, theirs: Collection[str]) -> None:
    """Join fp32 to fp32 where the converter put fp16 between, as it does around each node that it leaves alone.

    Raw counts would go through fp16 after all. ``theirs``: names of the nodes that were there before.
    """
    made: set[str] = set()
    for node in [node for node in graph.node if node.name not in theirs]:
        if node.name in made:  # the converter adds one for each reader, all of one name
            graph.node.remove(node)
        made.add(node.name)
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.name not in theirs}
    answers = {output.name for output in graph.output}
    for back in casts.values():
        forth = casts.get(back.input[0])
        if forth is None:
            continue
        source, target = forth.input[0], back.output[0]
        for node in graph.node:
            node.input[:] = [source if name == target else name for name in node.input]
        if target in answers:  # it keeps its name, so what makes it takes that
            graph.node.remove(back)
            for node in graph.node:
                node.input[:] = [target if name == source else name for name in node.input]
                node.output[:] = [target if name == source else name for name in node.output]
    _drop_unread(graph, answers, theirs)


def _drop_unread(graph: onnx.GraphProto, answers: Collection[str], theirs: Collection[str]) -> None:
    """Remove the casts that nobody reads any more; those back to fp32 first, for they read the others."""
    for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        read = {*answers, *(tensor for node in graph.node for tensor in node.input)}
        for node in [node for node in graph.node if node.name not in theirs and node.output[0] not in read]:
            assert node.op_type == "Cast"
            if node.attribute[0].i == kind:
                graph.node.remove(node)
