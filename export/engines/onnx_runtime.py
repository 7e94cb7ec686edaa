"""ONNX Runtime on CPU, CUDA or TensorRT; the provider that was asked for, or an error."""

import contextlib
import ctypes
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.bundle import Array
from export.errors import ExportError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""What a user types → the name that ONNX Runtime gives it."""

OR_CPU = "; or use --provider cpu; 'rgbt doctor' shows what runs"
"""How an error about a provider ends."""

_LIBRARIES = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}
_ADVICE = {
    "cuda": "install the NVIDIA driver and: pip install 'rgbt-fusion[cuda]'",
    "tensorrt": "install the NVIDIA driver, TensorRT, and: pip install 'rgbt-fusion[cuda]'",
}


_GPU_ADVICE = f"free memory on the GPU, or install a driver and an onnxruntime-gpu that know this GPU{OR_CPU}"
_RUN_ADVICE = {
    "cpu": "free some memory, or repair the runtime: pip install --force-reinstall rgbt-fusion",
    "cuda": _GPU_ADVICE,
    "tensorrt": _GPU_ADVICE,
}
_LONGEST = 200


class OnnxRuntime:
    """One graph on one provider of ONNX Runtime.

    Args:
        model: Path of the graph, or its bytes.
        provider: One of PROVIDERS; when it does not load, that is an error, never a fall-back to the CPU.
        threads: Threads inside one operator on the CPU; None: as many as there are cores.

    Raises:
        ExportError: unknown provider, one that does not load, or a graph that cannot be read.
    """

    def __init__(self, model: Path | bytes, provider: str = "cpu", threads: int | None = None) -> None:
        self.provider = provider
        self._session = _open(model, provider, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape) as the graph declares them; a dynamic dimension is a name."""
        names = {"tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(float)": "float32"}
        return {i.name: (names.get(i.type, i.type), tuple(i.shape)) for i in self._session.get_inputs()}

    def outputs(self) -> list[str]:
        """Names of the answers."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch.

        Raises:
            ExportError: ONNX Runtime fails: no memory left, a GPU it has no code for, a feed it does not take.
        """
        run = self._session.run
        try:
            answers = run(self._outputs, dict(feeds))
        except Exception as error:  # noqa: BLE001 - the C++ side raises a dozen types
            raise ExportError(
                f"ONNX Runtime fails on provider '{self.provider}' ({_reason(error)}); {_RUN_ADVICE[self.provider]}"
            ) from None
        return dict(zip(self._outputs, answers, strict=True))

    def close(self) -> None:
        """Free the graph's memory; the engine cannot run afterwards."""
        self._session = None


def _open(model: Path | bytes, provider: str, threads: int | None) -> Any:  # noqa: ANN401 - untyped library
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"ONNX Runtime cannot be imported ({error}); pip install rgbt-fusion") from None
    if provider not in PROVIDERS:
        raise ExportError(f"unknown provider '{provider}'; one of {', '.join(PROVIDERS)}")
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise ExportError(
            f"this onnxruntime {onnxruntime.__version__} is built without provider '{provider}'; "
            f"replace onnxruntime by onnxruntime-gpu (never both){OR_CPU}"
        )
    with _quiet(onnxruntime):
        if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # finds the CUDA and cuDNN libraries of pip's nvidia packages
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                _options(onnxruntime, threads),
                providers=_fallback_free(name),
            )
        except Exception as error:  # noqa: BLE001 - the C++ side raises a dozen types
            where = "the graph" if isinstance(model, bytes) else model
            raise ExportError(
                f"{where}: ONNX Runtime cannot load it ({_first_line(error)}); "
                "install a newer onnxruntime, or export the bundle again"
            ) from None
    if name not in session.get_providers():
        raise ExportError(
            f"provider '{provider}' does not load here{_missing(onnxruntime, provider)}; {_ADVICE[provider]}{OR_CPU}"
        )
    return session


def _fallback_free(name: str) -> list[str]:
    # TensorRT leaves operators that it lacks to CUDA; the CPU as a whole is never a substitute.
    cuda = PROVIDERS["cuda"]
    return [name, cuda] if name == PROVIDERS["tensorrt"] else [name]


def _options(onnxruntime: Any, threads: int | None) -> Any:  # noqa: ANN401 - untyped library
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Spinning workers burn the cores that decoding needs while they wait for the next frame.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


@contextlib.contextmanager
def _quiet(onnxruntime: Any) -> Iterator[None]:  # noqa: ANN401 - untyped library
    """Keep the library's own lines off the terminal: our error says it in one."""
    onnxruntime.set_default_logger_severity(4)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _missing(onnxruntime: Any, provider: str) -> str:  # noqa: ANN401 - untyped library
    """Name the shared library that keeps a provider from loading, where the linker says so."""
    library = Path(onnxruntime.__file__).parent / "capi" / _LIBRARIES.get(provider, "")
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        if "cannot open shared object file" in str(error):
            return f" ({error})"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:_LONGEST] if str(error).strip() else type(error).__name__


def _reason(error: Exception) -> str:
    """What went wrong in a run: it stands at the end of the line, behind node and source file, before ' ; GPU=0 …'."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = line.rpartition("Status Message: ")[2].partition(" ; ")[0].strip()
    return reason if len(reason) <= _LONGEST else f"…{reason[-_LONGEST:]}"
