"""ONNX Runtime on CPU, CUDA or TensorRT; the provider that was asked for, or an error."""

import contextlib
import ctypes
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from export.bundle_info import Array
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
_NUMPY = {"tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(float)": "float32", "tensor(int64)": "int64"}
_LONGEST = 200


class OnnxRuntime:
    """One graph on one provider of ONNX Runtime.

    Args:
        model: Path of the graph, or its bytes.
        provider: One of PROVIDERS; when it does not load, that is an error, never a fall-back to the CPU.
        threads: Threads inside one operator on the CPU; None: as many as there are cores.
        cuda_graph: Record the GPU's kernels at the first run of a bound batch, and replay them from then on: one
            launch instead of hundreds. For the provider cuda, and one batch size.

    Raises:
        ExportError: unknown provider, one that does not load, or a graph that cannot be read.
    """

    def __init__(
        self, model: Path | bytes, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False
    ) -> None:
        if cuda_graph and provider != "cuda":
            raise ExportError(f"CUDA graphs need provider 'cuda', found '{provider}'; leave out --cuda-graph")
        self.provider = provider
        self._session = _open(model, provider, threads, cuda_graph)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape) as the graph declares them; a dynamic dimension is a name."""
        return {i.name: (_NUMPY.get(i.type, i.type), tuple(i.shape)) for i in self._session.get_inputs()}

    def outputs(self) -> list[str]:
        """Names of the answers."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch.

        Raises:
            ExportError: ONNX Runtime fails: no memory left, a GPU it has no code for, a feed it does not take.
        """
        with self._told():
            answers = self._session.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, answers, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Tie inputs and outputs to fixed memory: on the CPU the buffers themselves, on a GPU their copies there.

        Args:
            feeds: Buffers that stay where they are; what they hold at the moment of a call is answered.

        Returns:
            What answers them; as ``run`` it raises ExportError.
        """
        import onnxruntime

        device = "cpu" if self.provider == "cpu" else "cuda"
        binding = self._session.io_binding()
        inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in feeds.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        batch = len(next(iter(feeds.values())))
        for output in self._session.get_outputs():
            if device == "cpu":
                binding.bind_output(output.name)
            else:  # CUDA graphs ask for addresses that never change
                shape = [batch, *output.shape[1:]]
                value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _NUMPY[output.type], device, 0)
                binding.bind_ortvalue_output(output.name, value)

        def answer() -> dict[str, Array]:
            if device != "cpu":
                for name, value in inputs.items():
                    value.update_inplace(feeds[name])
            with self._told():
                self._session.run_with_iobinding(binding)
                return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

        return answer

    def close(self) -> None:
        """Free the graph's memory; the engine cannot run afterwards."""
        self._session = None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """One line for whatever the C++ side raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it raises a dozen types
            raise ExportError(
                f"ONNX Runtime fails on provider '{self.provider}' ({_reason(error)}); {_RUN_ADVICE[self.provider]}"
            ) from None


def _open(model: Path | bytes, provider: str, threads: int | None, cuda_graph: bool) -> Any:  # noqa: ANN401 - untyped library
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
                providers=_fallback_free(name, cuda_graph),
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


def _fallback_free(name: str, cuda_graph: bool) -> list[Any]:
    # TensorRT leaves operators that it lacks to CUDA; the CPU as a whole is never a substitute.
    cuda = PROVIDERS["cuda"]
    if cuda_graph:
        return [(name, {"enable_cuda_graph": "1"})]
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
