"""LiteRT's files of a model: its dense form, converted in an environment of its own.

litert-torch pins a PyTorch and a NumPy of its own, so it is never installed beside training. The exported program goes
through a file to an interpreter that has it, which ``RGBT_LITERT_PYTHON`` names.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from export.bundle_info import Variant
from export.errors import ExportError
from export.variants import litert_convert
from export.variants.dense_model import dense_model
from export.variants.source import Source

PYTHON = "RGBT_LITERT_PYTHON"
"""Environment variable: the interpreter of an environment with litert-torch."""
SINGLE, HALF = "litert/model.tflite", "litert/model.fp16.tflite"
_LIMIT_S = 3600
"""Seconds after which the converter has hung."""


def make_fp32(source: Source, folder: Path) -> Variant:
    """Write LiteRT's file.

    Raises:
        ExportError: there is no converter, or it fails.
    """
    _write(source, folder, SINGLE)
    return Variant(engine="litert", precision="fp32", form="dense", files=(SINGLE,))


def make_fp16(source: Source, folder: Path) -> Variant:
    """Write LiteRT's file with weights in half; as ``make_fp32``."""
    _write(source, folder, HALF)
    notes = ("weights in half, made float32 when loaded",)
    return Variant(engine="litert", precision="fp16", form="dense", files=(HALF,), notes=notes)


def _write(source: Source, folder: Path, wanted: str) -> None:
    """Convert in a temporary folder; a file of fp32 that the bundle has already is not made again."""
    python = converter()
    with tempfile.TemporaryDirectory(prefix="rgbt-litert-") as name:
        place = Path(name)
        made = {SINGLE: place / "single.tflite", HALF: place / "half.tflite"}
        if (folder / SINGLE).is_file():
            made[SINGLE].write_bytes((folder / SINGLE).read_bytes())
        job = _job(source, place, made[SINGLE], made[HALF] if wanted == HALF else None)
        _run([python, "-I", str(Path(litert_convert.__file__)), str(job)], made[wanted])
        (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
        (folder / wanted).write_bytes(made[wanted].read_bytes())


def converter() -> str:
    """The interpreter that has litert-torch, the one that is named or this one; ExportError says how to get it."""
    named = os.environ.get(PYTHON)
    if named:  # it is started from another folder; not resolved: a link is what makes an environment of it
        return str(Path(named).absolute()) if Path(named).exists() else named
    if importlib.util.find_spec("litert_torch"):
        return sys.executable
    raise ExportError(
        "LiteRT's converter wants an environment of its own: python3 -m venv litert-env && litert-env/bin/pip install "
        f"'litert-torch==0.10.*' (deploy/litert-requirements.txt), then {PYTHON}=litert-env/bin/python rgbt export …"
    )


def _job(source: Source, place: Path, single: Path, half: Path | None) -> Path:
    """Write the program and what is to be made of it."""
    network, spec = dense_model(source.model)
    program = place / "program.pt2"
    example = tuple(torch.zeros(shape) for shape in spec.inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        torch.export.save(torch.export.export(network, example), program)
    job = {
        "program": str(program),
        "single": str(single),
        "half": str(half) if half else None,
        "inputs": spec.inputs,
        "outputs": list(spec.outputs),
    }
    path = place / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def _run(command: list[str], made: Path) -> None:
    try:
        done = subprocess.run(command, cwd=made.parent, capture_output=True, text=True, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"LiteRT's converter cannot run ({error}); {PYTHON} names {command[0]}") from None
    if done.returncode or not made.is_file():
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = said[-1] if said else "it says nothing"
        raise ExportError(f"LiteRT's converter ({command[0]}) fails with code {done.returncode}: {reason}")
