"""Plans of TensorRT: what they are built with, the command that builds one, and a cache of those that were built.

A plan belongs to the machine that built it: its key is the model's hash, the profiles, and the versions of TensorRT,
driver and GPU. Torch-free.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from export.engines.error_lines import first_line
from export.errors import ExportError

MAX_BATCH = 8
"""Largest batch of a plan, unless another is asked for."""
INSTALL = "pip install 'rgbt-fusion[tensorrt]' on a machine with an NVIDIA driver, or use NVIDIA's JetPack"
_DRIVER = Path("/proc/driver/nvidia/version")

Shape = tuple[int, ...]
Say = Callable[[str], None]


class Profile(BaseModel):
    """The shapes of one input that a plan takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Shape
    opt: Shape
    max: Shape


class PlanSpec(BaseModel):
    """What a plan is built with: the JSON file beside the graph in a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: str
    dtypes: dict[str, str]
    """Input → dtype as the bundle declares it; the graph beside it takes thermal as float32."""
    profiles: dict[str, Profile]

    @classmethod
    def load(cls, path: Path) -> "PlanSpec":
        """Read it; ExportError says what is wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ExportError(f"{path}: cannot be read ({first_line(error)}); export the bundle again") from None


def profiles(
    shapes: Mapping[str, Sequence[int | str | None]], max_batch: int = MAX_BATCH, opt_batch: int = 1
) -> dict[str, Profile]:
    """Explicit profiles of every input; the batch is what may vary.

    Args:
        shapes: Input → shape as the graph declares it, the batch first; a dynamic dimension is a name.
        max_batch: Largest batch.
        opt_batch: The batch that the plan is tuned for.

    Raises:
        ExportError: a dimension other than the batch is dynamic, or the batches are out of order.
    """
    if not 1 <= opt_batch <= max_batch:
        raise ExportError(f"TensorRT: tuned for batch {opt_batch} of at most {max_batch}; give 1 ≤ tuned ≤ largest")
    found = {}
    for name, shape in shapes.items():
        sides = [side for side in shape[1:] if isinstance(side, int)]
        if len(sides) != len(shape) - 1:
            raise ExportError(f"TensorRT: {name} has dynamic sides {list(shape)[1:]}; export with fixed sizes for it")
        batches = (1, opt_batch, max_batch) if not isinstance(shape[0], int) else (shape[0],) * 3
        low, opt, high = ((batch, *sides) for batch in batches)
        found[name] = Profile(min=low, opt=opt, max=high)
    return found


def commands(graph: str, spec: PlanSpec) -> str:
    """What builds the plan on the device: a line for trtexec, and one for this package."""
    shapes = {
        bound: ",".join(f"{name}:{'x'.join(map(str, getattr(p, bound)))}" for name, p in spec.profiles.items())
        for bound in ("min", "opt", "max")
    }
    ranges = " ".join(f"--{bound}Shapes={text}" for bound, text in shapes.items())
    plan = f"{graph.removesuffix('.onnx')}.plan"
    return (
        "# Run on the device, in the bundle's folder. A plan runs on the GPU, driver and TensorRT that built it.\n"
        "# TensorRT 10; with TensorRT 11 and newer leave --stronglyTyped out, there it is always so.\n"
        f"trtexec --onnx={graph} --stronglyTyped --noTF32 {ranges} --saveEngine={plan}\n"
        "# Or let rgbt build it at the first use, and keep it for the next:\n"
        f"rgbt bench . --engine tensorrt --provider cuda --precision {spec.precision}\n"
    )


def load_tensorrt() -> Any:  # noqa: ANN401 - untyped library
    """Import TensorRT; ExportError says what to install."""
    return _import("tensorrt")


def load_cuda() -> Any:  # noqa: ANN401 - untyped library
    """Import the CUDA runtime of cuda-python; ExportError says what to install, or that no GPU answers."""
    try:
        runtime = import_module("cuda.bindings.runtime")
    except ImportError:
        runtime = _import("cuda.cudart")  # cuda-python 12
    cuda_call(runtime, "cudaGetDevice")
    return runtime


def cuda_call(runtime: Any, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - untyped library
    """Call the CUDA runtime; an error code becomes an ExportError."""
    code, *values = getattr(runtime, name)(*arguments)
    if int(code) != 0:
        raise ExportError(f"CUDA: {name} fails ({getattr(code, 'name', code)}); 'rgbt doctor' shows what runs")
    return values[0] if len(values) == 1 else values


def device_facts(trt: Any, runtime: Any) -> dict[str, str]:  # noqa: ANN401 - untyped libraries
    """TensorRT, driver and GPU: what a plan is tied to."""
    device = cuda_call(runtime, "cudaGetDevice")
    properties = cuda_call(runtime, "cudaGetDeviceProperties", device)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return {
        "tensorrt": str(trt.__version__),
        "cuda_driver": str(cuda_call(runtime, "cudaDriverGetVersion")),
        "driver": _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else "",
        "gpu": f"{name.rstrip(chr(0))} sm_{properties.major}{properties.minor}",
    }


def cache_key(graph: bytes, spec: PlanSpec, facts: Mapping[str, str]) -> str:
    """Name of a plan in the cache: it changes with the model, the profiles, and each of the versions."""
    content = {"model": hashlib.sha256(graph).hexdigest(), "spec": spec.model_dump(mode="json"), **facts}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def cache_folder() -> Path:
    """Where plans are kept: ``$RGBT_CACHE``, else the user's cache folder."""
    own = os.environ.get("RGBT_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(home) / "rgbt" / "tensorrt"


def plan_for(trt: Any, runtime: Any, graph: Path, spec: PlanSpec, say: Say) -> tuple[bytes, Path]:  # noqa: ANN401
    """The plan of a graph on this device, from the cache or built now, and where it is kept.

    Raises:
        ExportError: TensorRT cannot take the graph, or the cache cannot be written.
    """
    content = graph.read_bytes()
    path = cache_folder() / f"{cache_key(content, spec, device_facts(trt, runtime))}.plan"
    if path.is_file():
        return path.read_bytes(), path
    say(f"tensorrt: building a plan for this GPU, minutes at the first use; kept as {path}")
    plan = build(trt, content, spec)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # on a full disk nothing stays behind
            (Path(folder) / path.name).write_bytes(plan)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(f"{path.parent}: cannot keep the plan ({reason}); set RGBT_CACHE to a folder") from None
    return plan, path


def build(trt: Any, graph: bytes, spec: PlanSpec) -> bytes:  # noqa: ANN401 - untyped library
    """Build a plan: strongly typed, so that the precision is the graph's own, and fp32 is no TF32.

    Raises:
        ExportError: TensorRT cannot read the graph, or build it.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # gone where it is always so
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reason = str(parser.get_error(0).desc()).splitlines()[0] if parser.num_errors else "no reason given"
        raise ExportError(f"TensorRT {trt.__version__} cannot read the graph ({reason}); see 'rgbt export --inspect'")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for name, shapes in spec.profiles.items():
        profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot build the graph on this GPU; free memory on it, retry")
    return bytes(plan)


def _import(name: str) -> Any:  # noqa: ANN401 - untyped library
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ExportError(f"TensorRT cannot be used here ({error}); {INSTALL}") from None
