"""Writes a bundle: graph, description and golden pairs, checked before it replaces an older one."""

import copy
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from export.accuracy_control import too_few_pairs
from export.any_size import any_size
from export.bundle import Bundle, read_bundle, write_info
from export.bundle_info import GOLDEN, INFO, MODEL, Array, BundleInfo, Inputs, Proof
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.graph import OPSET, MapSize, export_graph, file_metadata, map_layout, set_map_size
from export.prove import not_here, prove
from export.session import Session
from export.variants.source import Metric, Run, Source
from export.variants.table import MAKERS, require
from export.verify import compare, replay
from fusion.folder import atomic_folder

REPORT = "report.html"
ANY_SIZE = "model.any-size.onnx"
_FP32 = "onnxruntime-fp32"
MISSING_SENSOR = (
    "Set its entry of 'present' to 0 and send any frame of the right size and dtype in its place, zeros for "
    "example: the graph cuts the absent sensor out and answers from the other alone. Never both 0."
)
LAYOUTS = {
    "boxes": "x1,y1,x2,y2,score,class in RGB pixels; slots by falling score, empty ones have score 0",
    "probabilities": "for each of classes its probability; they sum to 1",
}
"""Output → what its numbers mean."""


@dataclass(frozen=True)
class Forms:
    """In which forms a bundle carries the model, and what they are made and measured with."""

    keys: Sequence[str] = ()
    """Of export.variants.table.MAKERS, beside ``onnxruntime-fp32``, which every bundle has."""
    calibration: Sequence[Mapping[str, Array]] = ()
    """Feeds of batch 1, real pairs of day and night."""
    metric: Metric | None = None
    """Of the validation pairs; int8 needs it."""
    max_drop: float = 1.0
    """Points of the metric that a quantised model may lose."""
    progress: Callable[[str], None] = print
    """Says one line of progress."""
    page: Callable[[BundleInfo], str] | None = None
    """Makes the bundle's report.html of what was measured."""
    opset: int = OPSET
    map_size: MapSize = "camera"
    """Of a segmentation's answer."""
    any_size: bool = False
    """Also write ANY_SIZE, for frames of any size on ONNX Runtime."""


def export_bundle(
    model: torch.nn.Module,
    inputs: Mapping[str, Any],
    classes: Sequence[str],
    sensors: Sequence[str],
    golden: Mapping[str, Array],
    metrics: Mapping[str, Any],
    recipe_sha256: str,
    out: Path,
    task: str = "detect",
    forms: Forms | None = None,
) -> Bundle:
    """Write a bundle folder as a whole, after ONNX Runtime has answered as PyTorch does.

    A failed export leaves an older bundle at ``out`` as it was.

    Args:
        model: ``forward(rgb, thermal, present)`` on raw values; it is copied, and stays as it is.
        inputs: The JSON of the card's input spec.
        classes: Names, by class index.
        sensors: Sensors that the model looks at.
        golden: ``rgb`` uint8 [N,Hr,Wr,3] and ``thermal`` [N,Ht,Wt] of real pairs. Where the model looks at both,
            the first is replayed with either sensor absent as well.
        metrics: The task's own metric, as evaluated.
        recipe_sha256: Hash of the resolved recipe.
        out: The folder; an existing one is replaced only if it is a bundle.
        task: detect, segment or classify.
        forms: Other engines and precisions; None: ONNX Runtime at fp32 alone, neither evaluated nor timed.

    Raises:
        ExportError: the model cannot become a graph, a converter or engine is missing, or one answers otherwise.
    """
    description, forms = Inputs.model_validate(inputs), forms or Forms()
    _check_golden(golden, description)
    require(forms.keys)
    model = copy.deepcopy(model).cpu().eval()
    if forms.map_size != "camera":
        set_map_size(model, forms.map_size)
    feeds = _with_absent_sensors(golden) if len(sensors) == 2 else _with_both(golden)
    answers = _answers(model, feeds)
    fields = {
        "task": task,
        "classes": tuple(classes),
        "inputs": description,
        "outputs": _describe(answers, LAYOUTS | map_layout(forms.map_size)),
        "sensors": tuple(sensors),
        "missing_sensor": _missing_sensor(sensors),
        "opset": forms.opset,
        "recipe_sha256": recipe_sha256,
        "metrics": dict(metrics),
        "created_with": _versions(),
    }
    with atomic_folder(out, marker=INFO) as folder:
        graph = _write_graphs(folder, model, description, file_metadata(task, classes, sensors, description), forms)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **cast("dict[str, Any]", {**feeds, **answers}))
        _check_any_size(folder / ANY_SIZE, feeds, answers)
        fields |= _variants(forms, _source(model, graph, description, task, forms), folder)
        write_info(folder, {**fields, "parity": {}})
        _prove(folder, fields, forms)
    return read_bundle(out)


def _write_graphs(
    folder: Path, model: torch.nn.Module, inputs: Inputs, metadata: Mapping[str, Any], forms: Forms
) -> bytes:
    """Write the graph of fixed sizes, which is returned, and where asked for that of any size."""
    graph = export_graph(model, inputs, forms.opset, metadata)
    (folder / MODEL).write_bytes(graph)
    if forms.any_size:
        whole = export_graph(any_size(model, inputs), inputs, forms.opset, metadata, any_size=True)
        (folder / ANY_SIZE).write_bytes(whole)
    return graph


def _check_any_size(graph: Path, feeds: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
    """Refuse a graph of any size that answers the golden pairs otherwise than PyTorch; there may be none."""
    if not graph.is_file():
        return
    engine = OnnxRuntime(graph)
    parity = compare(answers, engine.run(feeds))
    engine.close()
    if not parity.holds:
        raise ExportError(f"{ANY_SIZE} answers otherwise than PyTorch, so no bundle was written: {parity}")


def _source(model: torch.nn.Module, graph: bytes, inputs: Inputs, task: str, forms: Forms) -> Source:
    def unmeasured(run: Run) -> float:
        raise ExportError("int8 needs a metric: validation pairs with labels")

    metric = forms.metric.of if forms.metric else unmeasured
    return Source(model, graph, inputs, task, forms.calibration, metric, forms.max_drop, forms.progress)


def _variants(forms: Forms, source: Source, folder: Path) -> dict[str, Any]:
    """Write every form; the fields of bundle.json about them."""
    made = {}
    _warn(forms)
    for key in dict.fromkeys((_FP32, *forms.keys)):
        if key != _FP32:
            forms.progress(f"{key}: writing")
        made[key] = MAKERS[key](source, folder)
    dense = None
    if any(variant.form == "dense" for variant in made.values()):
        from export.variants.dense_model import dense_spec

        dense = dense_spec(source.model)
    return {"variants": made, "dense": dense}


def _warn(forms: Forms) -> None:
    """Say where what int8 may lose is less than the metric can show."""
    if forms.metric and any(key.endswith("-int8") for key in forms.keys):
        problem = too_few_pairs(forms.metric.name, forms.metric.pairs, forms.max_drop)
        if problem:
            forms.progress(f"int8: warning: {problem}")


def _prove(folder: Path, fields: dict[str, Any], forms: Forms) -> None:
    """Measure every form, and refuse the bundle where one at fp32 answers otherwise than PyTorch."""
    bundle = read_bundle(folder)
    if not forms.keys:
        write_info(folder, {**fields, "parity": {"onnxruntime-cpu": _parity(bundle)}})
        return
    proofs: dict[str, Proof] = {}
    for key, variant in bundle.info.variants.items():
        reason = not_here(variant)
        forms.progress(f"{key}: not measured here: {reason}" if reason else f"{key}: measuring")
        if reason:
            continue
        proof = prove(bundle, key, forms.metric)
        proofs[f"{key}-{proof.provider}"] = proof
    fields |= {"proofs": proofs, "parity": {"onnxruntime-cpu": proofs[f"{_FP32}-cpu"].parity}}
    if forms.page:
        write_info(folder, fields)
        (folder / REPORT).write_text(forms.page(read_bundle(folder).info), encoding="utf-8")
    write_info(folder, fields)


def _parity(bundle: Bundle) -> dict[str, Any]:
    """Replay the golden pairs of a bundle that is about to be finished, and refuse it beyond the limits."""
    session = Session(bundle)
    parity = replay(session)
    session.close()
    if not parity.holds:
        raise ExportError(f"ONNX Runtime answers otherwise than PyTorch, so no bundle was written: {parity}")
    return parity.as_dict()


def _describe(answers: Mapping[str, Array], layouts: Mapping[str, str]) -> dict[str, Any]:
    """Shape, dtype and layout of every output."""
    unknown = [name for name in answers if name not in layouts]
    if unknown:
        raise ExportError(f"the model answers '{unknown[0]}', expected of {', '.join(layouts)}")
    return {
        name: {"shape": ("B", *array.shape[1:]), "dtype": str(array.dtype), "layout": layouts[name]}
        for name, array in answers.items()
    }


def _missing_sensor(sensors: Sequence[str]) -> str:
    return MISSING_SENSOR if len(sensors) == 2 else f"The model looks at {sensors[0]} alone; it must be there."


def _check_golden(golden: Mapping[str, Array], inputs: Inputs) -> None:
    for name in ("rgb", "thermal"):
        found, wanted = golden[name], (len(golden["rgb"]), *inputs.shapes()[name])
        if len(found) == 0 or found.shape != wanted or found.dtype != inputs.dtypes()[name]:
            raise ExportError(
                f"golden {name} is {found.dtype} {list(found.shape)}, expected {inputs.dtypes()[name]} "
                f"{list(wanted)}, at least one pair"
            )


def _with_both(golden: Mapping[str, Array]) -> dict[str, Array]:
    return {**golden, "present": np.ones((len(golden["rgb"]), 2), np.float32)}


def _with_absent_sensors(golden: Mapping[str, Array]) -> dict[str, Array]:
    """Append the first pair twice: without thermal, and without RGB."""
    rgb = np.concatenate([golden["rgb"], golden["rgb"][:1], np.zeros_like(golden["rgb"][:1])])
    thermal = np.concatenate([golden["thermal"], np.zeros_like(golden["thermal"][:1]), golden["thermal"][:1]])
    present = np.ones((len(rgb), 2), np.float32)
    present[-2, 1] = present[-1, 0] = 0
    return {"rgb": rgb, "thermal": thermal, "present": present}


def _answers(model: torch.nn.Module, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return what PyTorch answers, pair by pair, as live asks."""
    rows: list[dict[str, Array]] = []
    with torch.no_grad():
        for index in range(len(feeds["rgb"])):
            row = model(*(torch.from_numpy(feeds[name][index : index + 1]) for name in ("rgb", "thermal", "present")))
            rows.append({name: tensor.numpy() for name, tensor in row.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("rgbt-fusion", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # one of the two ONNX Runtime packages is always absent
            continue
    return found
