"""What ONNX Runtime is told for a GPU, and batches that lie at fixed places on it."""

import contextlib
import ctypes
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle_info import Array
from export.engines import pinned
from export.engines.tensor_rt_build import cache_folder, load_tensorrt
from export.errors import ExportError

DTYPES = {"tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(float)": "float32", "tensor(int64)": "int64"}
"""ONNX Runtime's name of a type → numpy's."""

_DEVICE = "cuda"
_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))
_GPUS = Path("/proc/driver/nvidia/gpus")
_INFER = ("libnvinfer.so.11", "libnvinfer.so.10")


class DeviceBatch:
    """Inputs and answers of one batch size at fixed places on the GPU, tied to a session once.

    Args:
        session: ONNX Runtime's, on a GPU.
        feeds: Arrays of the batch's shapes and dtypes; what they hold does not matter.
        graph: The number under which the session records the batch's CUDA graph; None: it records none.
    """

    def __init__(self, session: Any, feeds: Mapping[str, Array], graph: int | None = None) -> None:  # noqa: ANN401
        import onnxruntime

        empty = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._session, self._binding = session, session.io_binding()
        self._inputs = {name: empty(list(a.shape), str(a.dtype), _DEVICE, 0) for name, a in feeds.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        batch = len(next(iter(feeds.values())))
        self._outputs: dict[str, Any] = {}
        for output in session.get_outputs():  # given, as a CUDA graph asks for addresses that never change
            value = empty([batch, *output.shape[1:]], DTYPES[output.type], _DEVICE, 0)
            self._binding.bind_ortvalue_output(output.name, value)
            self._outputs[output.name] = value
        self._options = onnxruntime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
        self._runtime = pinned.loaded_runtime()
        self._host: dict[str, Array] = {}
        for output in session.get_outputs():
            dtype = np.dtype(DTYPES[output.type])
            array, locked = pinned.zeros([batch, *output.shape[1:]], dtype, self._runtime)
            if locked:
                self._host[output.name] = array

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer what the feeds hold; they are copied to the GPU, and the answers are new arrays."""
        for name, value in self._inputs.items():
            value.update_inplace(feeds[name])
        self._session.run_with_iobinding(self._binding, self._options)
        if len(self._host) < len(self._outputs):
            return dict(zip(self._outputs, self._binding.copy_outputs_to_cpu(), strict=True))
        for name, array in self._host.items():
            pinned.fetch(array, self._outputs[name].data_ptr(), self._runtime)
        return {name: array.copy() for name, array in self._host.items()}


def cuda_options(cuda_graph: bool) -> dict[str, str]:
    """Options of the provider cuda: fp32 is no TF32; a CUDA graph where asked for."""
    return {"use_tf32": "0"} | ({"enable_cuda_graph": "1"} if cuda_graph else {})


def tensorrt_options(model: Path | bytes, version: str, cuda_graph: bool) -> dict[str, str]:
    """Options of the provider tensorrt: its engines are kept, in a folder for this model on this machine.

    ``trt_fp16_enable`` stays off: with it TensorRT may put any layer into fp16, the scaling of raw counts as well.
    Without it the network is strongly typed, and a file has the precision that it says.

    Args:
        model: The graph.
        version: Of ONNX Runtime.
        cuda_graph: Record a CUDA graph.

    Raises:
        ExportError: the folder cannot be made.
    """
    options = {"trt_cuda_graph_enable": "True"} if cuda_graph else {}
    if not any(path.is_file() for path in _DRIVERS):
        return options  # no GPU: nothing will be kept
    folder = cache_folder() / "onnxruntime"
    place = folder / _key(model if isinstance(model, bytes) else model.read_bytes(), version)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(f"{place}: cannot keep TensorRT's engines ({reason}); set RGBT_CACHE to a folder") from None
    kept = {"engine": place, "timing": folder}
    for name, path in kept.items():
        options |= {f"trt_{name}_cache_enable": "True", f"trt_{name}_cache_path": str(path)}
    return options


def tensorrt_version() -> str:
    """Version of TensorRT here; asking pip's package loads its libraries, and ONNX Runtime then finds them."""
    with contextlib.suppress(ExportError):
        return str(load_tensorrt().__version__)
    for name in _INFER:
        with contextlib.suppress(OSError):
            return str(ctypes.CDLL(name).getInferLibVersion())
    return ""


def _key(graph: bytes, version: str) -> str:
    """The model's hash and what builds: an engine holds the weights, but ONNX Runtime names it by the graph alone."""
    sources = [*(path for path in _DRIVERS if path.is_file()), *sorted(_GPUS.glob("*/information"))]
    facts = [path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] for path in sources]
    content = [hashlib.sha256(graph).hexdigest(), version, tensorrt_version(), *facts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
