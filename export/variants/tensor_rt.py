"""The model for TensorRT: a graph that takes thermal as float32, the plan's profiles, and the command to build it."""

import tempfile
from pathlib import Path

import onnx

from export.bundle_info import Inputs, Variant
from export.engines.tensor_rt_build import PlanSpec, commands, load_cuda, load_tensorrt, plan_for, profiles
from export.errors import ExportError
from export.variants.source import Source

FOLDER = "tensorrt"
HINT = "build it there: {folder}/{precision}.txt holds the command"


def make_fp32(source: Source, folder: Path) -> Variant:
    """Write the fp32 graph for TensorRT, and build its plan where TensorRT and a GPU are at hand."""
    return make(source, folder, source.graph, "fp32")


def make_fp16(source: Source, folder: Path) -> Variant:
    """As make_fp32, of the graph in half: its ends, the thermal scaling and the decoding stay in fp32."""
    from export.variants.table import MAKERS  # imports this module when it is asked for

    with tempfile.TemporaryDirectory() as aside:
        made = MAKERS["onnxruntime-fp16"](source, Path(aside))
        graph = (Path(aside) / made.files[0]).read_bytes()
    return make(source, folder, graph, "fp16")


def make_int8(source: Source, folder: Path) -> Variant:
    """As make_fp32, of the graph in symmetric int8, whose accuracy was measured on ONNX Runtime.

    Raises:
        ExportError: as export.variants.int8.make.
    """
    from export.variants.int8 import quantise_with_control

    made = quantise_with_control(source, "s8s8")
    return make(source, folder, made.graph, "int8", made.float_layers, (made.note,))


def make(
    source: Source,
    folder: Path,
    graph: bytes,
    precision: str,
    float_layers: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Variant:
    """Write a graph of any precision for TensorRT (``tensorrt/PRECISION.onnx``, ``.json``, ``.txt``).

    Raises:
        ExportError: TensorRT is here, and cannot build the graph.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    name = f"{FOLDER}/{precision}"
    files = (f"{name}.onnx", f"{name}.json", f"{name}.txt")
    (folder / files[0]).write_bytes(float_thermal(graph))
    spec = plan_spec(source.inputs, precision)
    (folder / files[1]).write_text(spec.model_dump_json(indent=2) + "\n")
    (folder / files[2]).write_text(commands(files[0], spec))
    note = _build_here(source, folder / files[0], spec)
    source.progress(f"tensorrt-{precision}: {note}")
    fields = {"engine": "tensorrt", "precision": precision, "files": files, "float_layers": float_layers}
    return Variant.model_validate({**fields, "notes": (*notes, note)})


def plan_spec(inputs: Inputs, precision: str) -> PlanSpec:
    """Explicit profiles for a bundle's inputs, at a dynamic batch."""
    shapes: dict[str, tuple[int | str, ...]] = {name: ("batch", *shape) for name, shape in inputs.shapes().items()}
    dtypes = {name: str(dtype) for name, dtype in inputs.dtypes().items()}
    return PlanSpec(precision=precision, dtypes=dtypes, profiles=profiles(shapes))


def float_thermal(graph: bytes) -> bytes:
    """A graph whose input ``thermal`` is float32 of the same numbers; TensorRT has no 16-bit unsigned ones."""
    model = onnx.load_from_string(graph)
    for value in model.graph.input:
        if value.name == "thermal":
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    direct = [node for node in model.graph.node if "thermal" in node.input and node.op_type != "Cast"]
    stale = {name for node in direct for name in node.output}
    kept = [value for value in model.graph.value_info if value.name not in stale]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _build_here(source: Source, graph: Path, spec: PlanSpec) -> str:
    """Build the plan into this machine's cache, or say why it is to be built elsewhere."""
    try:
        trt, runtime = load_tensorrt(), load_cuda()
    except ExportError as error:
        reason = str(error).partition(";")[0]
        return f"no plan was built ({reason}); {HINT.format(folder=FOLDER, precision=spec.precision)}"
    _, path = plan_for(trt, runtime, graph, spec, source.progress)
    return f"plan built for this GPU: {path.name}"
