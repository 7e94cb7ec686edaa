"""NCNN's files of a model, made by pnnx from its dense form."""

import importlib.util
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from export.bundle_info import Variant
from export.dense_spec import DenseSpec
from export.errors import ExportError
from export.variants.dense_model import DenseModel, dense_model
from export.variants.source import Source

FILES = ("ncnn/model.param", "ncnn/model.bin")
_LIMIT_S = 1800
"""Seconds after which pnnx has hung."""


def make_fp32(source: Source, folder: Path) -> Variant:
    """Write NCNN's files; see ``_make``."""
    return _make(source, folder, "fp32", ("without half floats, without Winograd",))


def make_fp16(source: Source, folder: Path) -> Variant:
    """Write NCNN's files, which are those of fp32: halves are made where they run; see ``_make``."""
    notes = (
        "the files of fp32: weights become half when loaded",
        "half on ARM with fp16; on x86 NCNN stays in fp32, with Winograd",
    )
    return _make(source, folder, "fp16", notes)


def _make(source: Source, folder: Path, precision: str, notes: tuple[str, ...]) -> Variant:
    """Write the two files, once for both precisions, and describe the variant.

    Raises:
        ExportError: pnnx is not installed or fails, or NCNN lacks an operator, which is named.
    """
    if not all((folder / name).is_file() for name in FILES):
        network, spec = dense_model(source.model)
        param, weights = _converted(network, spec)
        (folder / FILES[0]).parent.mkdir(exist_ok=True)
        (folder / FILES[0]).write_text(param, encoding="ascii")
        (folder / FILES[1]).write_bytes(weights)
    return Variant(engine="ncnn", precision=precision, form="dense", files=FILES, notes=notes)


def _converted(network: DenseModel, spec: DenseSpec) -> tuple[str, bytes]:
    """NCNN's text and weights of a network, its inputs and outputs named as the spec says."""
    program = converter()
    example = tuple(torch.zeros(shape) for shape in spec.inputs.values())
    with tempfile.TemporaryDirectory(prefix="rgbt-pnnx-") as name:
        place = Path(name)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, and what pnnx reads
            traced: torch.jit.ScriptModule = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(place / "model.pt"))
        _run(program, spec, place)
        param = (place / "ncnn.param").read_text(encoding="ascii")
        _refuse_foreign(param)
        return _named(param, spec), (place / "ncnn.bin").read_bytes()


def converter() -> str:
    """Where pnnx lies; ExportError says how to get it."""
    found = importlib.util.find_spec("pnnx")  # not imported: the package imports more than we need
    if found is None or found.origin is None:
        raise ExportError("NCNN's converter pnnx is not installed; pip install 'rgbt-fusion[ncnn-export]'")
    return str(next(Path(found.origin).parent.glob("pnnx*"), Path("pnnx")))


def _run(program: str, spec: DenseSpec, place: Path) -> None:
    shapes = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in spec.inputs.values())
    command = [program, "model.pt", f"inputshape={shapes}", "fp16=0", "ncnnparam=ncnn.param", "ncnnbin=ncnn.bin"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"pnnx cannot run ({error}); pip install --force-reinstall pnnx") from None
    if done.returncode or not (place / "ncnn.bin").is_file():
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ExportError(f"pnnx fails with code {done.returncode}: {said[-1] if said else 'it says nothing'}")


def _refuse_foreign(param: str) -> None:
    """Raise where pnnx left an operator in PyTorch's name (``aten::topk``, ``Tensor.slice``) for want of a layer."""
    kinds = [line.split()[0] for line in param.splitlines()[2:] if line.strip()]
    foreign = sorted({kind for kind in kinds if not kind.isalnum()})
    if foreign:
        raise ExportError(
            f"NCNN has no layer for {', '.join(foreign)}; choose an encoder without it (timm: resnet18, "
            "mobilenetv4_conv_small), or leave NCNN out"
        )


def _named(param: str, spec: DenseSpec) -> str:
    """NCNN's text with our names for pnnx's in0 …, out0 …, and the shape in every Input layer."""
    names = {f"in{index}": name for index, name in enumerate(spec.inputs)}
    names |= {f"out{index}": name for index, name in enumerate(spec.outputs)}
    head, lines = param.splitlines()[:2], param.splitlines()[2:]
    return "\n".join([*head, *(_renamed(line, names, spec.inputs) for line in lines)]) + "\n"


def _renamed(line: str, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    kind, layer, taken, given, *fields = line.split()
    blobs = int(taken) + int(given)
    fields[:blobs] = [names.get(blob, blob) for blob in fields[:blobs]]
    if kind == "Input":
        layer = fields[0]
        _, channels, height, width = shapes[layer]
        fields = [layer, f"0={width}", f"1={height}", f"2={channels}"]
    return " ".join([kind, layer, taken, given, *fields])
