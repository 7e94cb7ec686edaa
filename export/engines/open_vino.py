"""OpenVINO on CPUs, and on Intel's GPUs and NPUs; the device and precision that were asked for, or an error.

OpenVINO rounds a whole graph to bf16 or fp16 when told so, the scaling of raw thermal pixels included: at counts around
51 000 bf16 has steps of 256, and nothing is left of a scene. So below fp32 the graph is cut into preparation, body and
decoding, and only the body is rounded.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle_info import Array
from export.engines.error_lines import last_line
from export.errors import ExportError

DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
"""What a user types → the name that OpenVINO gives it."""

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""Precision → in what OpenVINO computes the body's floats; an int8 file says itself which layers are in int8."""

_CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
_DRIVERS = {"gpu": "install Intel's GPU driver (OpenCL)", "npu": "install Intel's NPU driver"}
_OR_CPU = "; or use --provider cpu; 'rgbt doctor' shows what runs"
_SINK = "/sink_port_0"


class OpenVino:
    """One graph on one device of OpenVINO.

    Args:
        files: The graph: model.onnx, or an IR file (.xml, its .bin beside it). Only the first is opened.
        provider: One of DEVICES; when it is not there, that is an error, never a fall-back to the CPU.
        threads: Threads on the CPU; None: as many as there are cores.
        precision: One of HINTS; when the device does not compute in it, that is an error.

    Raises:
        ExportError: OpenVINO is missing, an unknown or absent device or precision, or a graph that cannot be read.
    """

    def __init__(
        self, files: Sequence[Path], provider: str = "cpu", threads: int | None = None, precision: str = "fp32"
    ) -> None:
        from export.engines.open_vino_regions import split

        core = _core()
        device = _device(core, provider)
        _check_precision(core, device, provider, precision)
        model = _read(core, files[0])
        self.provider = provider
        self._inputs = {port.get_any_name(): _describe(port) for port in model.inputs}
        self._outputs = output_names(model)
        parts = [model] if HINTS[precision] == "f32" else split(model)
        self._compiled = []
        for part in parts:
            hint = "f32" if part.get_friendly_name() in ("pre", "post") else HINTS[precision]
            self._compiled.append(_compile(core, part, device, provider, threads, hint, files[0]))
        self._parts = [Request(compiled) for compiled in self._compiled]

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape) as the graph declares them; a dynamic dimension is None."""
        return dict(self._inputs)

    def outputs(self) -> list[str]:
        """Names of the answers."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch; the caller's arrays are read where they lie, the answers are copies.

        Raises:
            ExportError: OpenVINO fails: no memory left, or a feed it does not take.
        """
        return self._answer(self._parts, self._tensors(feeds))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Return what answers the batch that lies in ``feeds``, contiguous arrays, at the moment of the call."""
        assert all(array.flags.c_contiguous and array.flags.writeable for array in feeds.values()), "bound to a copy"
        parts = [Request(compiled) for compiled in self._compiled]
        tensors = self._tensors(feeds)
        return lambda: self._answer(parts, tensors)

    def close(self) -> None:
        """Free the graph's memory; the engine cannot run afterwards."""
        self._compiled, self._parts = [], []

    def _tensors(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        if feeds.keys() != self._inputs.keys():
            raise ExportError(f"OpenVINO is fed {sorted(feeds)}, the graph takes {sorted(self._inputs)}")
        return shared(feeds)

    def _answer(self, parts: "list[Request]", feeds: Mapping[str, Any]) -> dict[str, Array]:
        tensors = dict(feeds)
        with _one_line(f"OpenVINO fails on provider '{self.provider}'", "free some memory on the device, or restart"):
            for part in parts:
                tensors |= part.run(tensors)
            return {name: tensors[name].data.copy() for name in self._outputs}


class Request:
    """One infer request of a compiled model, allocated once."""

    def __init__(self, compiled: Any) -> None:  # noqa: ANN401 - untyped here: the type would import the library
        self._request = compiled.create_infer_request()
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = output_names(compiled)

    def run(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors by name → the answers' tensors, which the next run overwrites."""
        for name in self._inputs:
            self._request.set_tensor(name, tensors[name])
        self._request.infer()
        return {name: self._request.get_tensor(name) for name in self._outputs}


def shared(feeds: Mapping[str, Array]) -> dict[str, Any]:
    """OpenVINO tensors over the arrays' own memory; an array that is not contiguous or not writeable is copied."""
    import openvino

    return {
        name: openvino.Tensor(np.require(array, requirements=("C", "W")), shared_memory=True)
        for name, array in feeds.items()
    }


def output_names(model: Any) -> list[str]:  # noqa: ANN401 - Model or CompiledModel
    """Names of a model's answers, in its order; of a tensor with several names the one that the result says."""
    found = []
    for port in model.outputs:
        said = port.get_node().get_friendly_name().removesuffix(_SINK)
        found.append(said if said in port.get_names() else port.get_any_name())
    return found


def _core() -> Any:  # noqa: ANN401
    try:
        import openvino
    except ImportError as error:
        raise ExportError(f"OpenVINO cannot be imported ({error}); pip install 'rgbt-fusion[openvino]'") from None
    return openvino.Core()


def _device(core: Any, provider: str) -> str:  # noqa: ANN401
    """The name of a device that is there, with its number where it has one."""
    if provider not in DEVICES:
        raise ExportError(f"unknown provider '{provider}' of OpenVINO; one of {', '.join(DEVICES)}")
    there: list[str] = core.available_devices
    for name in there:
        if name.partition(".")[0] == DEVICES[provider]:
            return name
    if provider not in _DRIVERS:
        raise ExportError(f"OpenVINO does not run on this machine's processor; it finds {there or 'no device'}")
    raise ExportError(
        f"OpenVINO finds no device '{provider}' here, only {', '.join(there) or 'none'}; {_DRIVERS[provider]}{_OR_CPU}"
    )


def _check_precision(core: Any, device: str, provider: str, precision: str) -> None:  # noqa: ANN401
    if precision not in HINTS:
        raise ExportError(f"unknown precision '{precision}' of OpenVINO; one of {', '.join(HINTS)}")
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in able:
        known = [name for name, capability in _CAPABILITIES.items() if capability in able]
        raise ExportError(
            f"OpenVINO's provider '{provider}' ({core.get_property(device, 'FULL_DEVICE_NAME').strip()}) does not "
            f"compute in {precision}, only in {', '.join(known) or 'none that we know'}; use one of those"
        )


def _read(core: Any, path: Path) -> Any:  # noqa: ANN401
    with _one_line(f"{path}: OpenVINO cannot read it", "install a newer openvino, or export the bundle again"):
        return core.read_model(path)


def _compile(core: Any, model: Any, device: str, provider: str, threads: int | None, hint: str, path: Path) -> Any:  # noqa: ANN401
    """Compile for one device, and read back that this is where and how it computes."""
    wanted: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if provider == "cpu":
        # Pinned threads of two processes would share the first cores while others are free.
        wanted |= {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads or 0, "ENABLE_CPU_PINNING": False}
    with _one_line(f"{path}: OpenVINO cannot load it on provider '{provider}'", f"use another precision{_OR_CPU}"):
        compiled = core.compile_model(model, device, wanted)
        runs: list[str] = compiled.get_property("EXECUTION_DEVICES")
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if any(name.partition(".")[0] != DEVICES[provider] for name in runs) or computes != hint:
        raise ExportError(f"OpenVINO was asked for '{provider}' in {hint}, and runs on {runs} in {computes}{_OR_CPU}")
    return compiled


def _describe(port: Any) -> tuple[str, tuple[int | None, ...]]:  # noqa: ANN401
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    return str(port.get_element_type().to_dtype()), shape


@contextlib.contextmanager
def _one_line(what: str, advice: str) -> Iterator[None]:
    """Turn an error of the C++ side, which prints its call stack's files, into one line."""
    try:
        yield
    except RuntimeError as error:
        raise ExportError(f"{what} ({last_line(error)}); {advice}") from None
