"""ONNX Runtime on CPU, CUDA or TensorRT; the provider that was asked for, or an error."""

import contextlib
import ctypes
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from export.bundle_info import Array
from export.engines import pinned
from export.engines.error_lines import first_line, status_message
from export.engines.onnx_runtime_gpu import DTYPES, DeviceBatch, cuda_options, tensorrt_options, tensorrt_version
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


class OnnxRuntime:
    """One graph on one provider of ONNX Runtime.

    Args:
        model: Path of the graph, or its bytes.
        provider: One of PROVIDERS; when it does not load, that is an error, never a fall-back to the CPU.
        threads: Threads inside one operator on the CPU; None: as many as there are cores.
        cuda_graph: Record the GPU's kernels at the first run of a batch size, and replay them from then on: one launch
            instead of hundreds. On the provider tensorrt one batch size for each engine.

    Raises:
        ExportError: unknown provider, one that does not load, or a graph that cannot be read.
    """

    def __init__(
        self, model: Path | bytes, provider: str = "cpu", threads: int | None = None, cuda_graph: bool = False
    ) -> None:
        if cuda_graph and provider not in ("cuda", "tensorrt"):
            raise ExportError(
                f"CUDA graphs need provider cuda or tensorrt, found '{provider}'; "
                "leave out --cuda-graph, or say --provider cuda"
            )
        self.provider, self.cuda_graph = provider, cuda_graph
        self.pinned = False
        """Whether the memory of ``buffers`` is page-locked."""
        self._session = _open(model, provider, threads, cuda_graph)
        self._recorded: dict[int, DeviceBatch] = {}
        self._outputs = [output.name for output in self._session.get_outputs()]

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape) as the graph declares them; a dynamic dimension is a name."""
        return {i.name: (DTYPES.get(i.type, i.type), tuple(i.shape)) for i in self._session.get_inputs()}

    def outputs(self) -> list[str]:
        """Names of the answers."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch.

        Raises:
            ExportError: ONNX Runtime fails: no memory left, a GPU it has no code for, a feed it does not take.
        """
        if self.cuda_graph:  # what is replayed reads and writes where it did when it was recorded
            batch = self._fixed(feeds)
            with self._told():
                return batch.run(feeds)
        with self._told():
            answers = self._session.run(self._outputs, dict(feeds))
        return dict(zip(self._outputs, answers, strict=True))

    def buffers(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """Return memory to bind, with what ``like`` holds: for a GPU page-locked, where the CUDA runtime does it."""
        if self.provider == "cpu":
            return dict(like)
        runtime = pinned.loaded_runtime()
        made = {name: pinned.zeros(array.shape, array.dtype, runtime) for name, array in like.items()}
        for name, (array, _) in made.items():
            array[:] = like[name]
        self.pinned = all(locked for _, locked in made.values())
        return {name: array for name, (array, _) in made.items()}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Tie inputs and outputs to fixed memory: on the CPU the buffers themselves, on a GPU their copies there.

        Args:
            feeds: Buffers that stay where they are (``buffers``); what they hold at the moment of a call is answered.

        Returns:
            What answers them; as ``run`` it raises ExportError.
        """
        if self.provider != "cpu":
            batch = self._fixed(feeds)

            def on_gpu() -> dict[str, Array]:
                with self._told():
                    return batch.run(feeds)

            return on_gpu
        import onnxruntime

        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0))
        for name in self._outputs:
            binding.bind_output(name)

        def on_cpu() -> dict[str, Array]:
            with self._told():
                self._session.run_with_iobinding(binding)
                return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

        return on_cpu

    def close(self) -> None:
        """Free the graph's memory; the engine cannot run afterwards."""
        self._recorded.clear()
        self._session = None

    def _fixed(self, feeds: Mapping[str, Array]) -> DeviceBatch:
        """The batch's places on the GPU; where a graph is recorded they outlive the buffers that are bound to them."""
        size = len(next(iter(feeds.values())))
        if size in self._recorded:
            return self._recorded[size]
        if self.provider == "tensorrt" and self._recorded:
            raise ExportError(
                f"the provider tensorrt records one CUDA graph, here of batch {next(iter(self._recorded))}, "
                f"and this batch is {size}; open a session for each batch size, or leave out --cuda-graph"
            )
        # The provider tensorrt knows one graph, without a number.
        graph = size if self.cuda_graph and self.provider == "cuda" else None
        with self._told():
            batch = DeviceBatch(self._session, feeds, graph)
        if self.cuda_graph:
            self._recorded[size] = batch
        return batch

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """One line for whatever the C++ side raises."""
        try:
            yield
        except ExportError:
            raise
        except Exception as error:  # noqa: BLE001 - it raises a dozen types
            advice = (
                f"leave out --cuda-graph, {_RUN_ADVICE[self.provider]}"
                if self.cuda_graph
                else _RUN_ADVICE[self.provider]
            )
            raise ExportError(
                f"ONNX Runtime fails on provider '{self.provider}' ({status_message(error)}); {advice}"
            ) from None


def _open(model: Path | bytes, provider: str, threads: int | None, cuda_graph: bool) -> Any:  # noqa: ANN401 - untyped library
    # Official builds (from 1.29 also on Linux) write a device id to the home folder and report over the network, unless
    # this is set when they are loaded; an owner who wants that says 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
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
        if provider == "tensorrt":
            tensorrt_version()  # loads pip's TensorRT, where there is one
        providers = _fallback_free(onnxruntime, provider, model, cuda_graph)
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                _options(onnxruntime, threads),
                providers=providers,
            )
            session.disable_fallback()  # or a GPU that fails in a run is left for the CPU
        except Exception as error:  # noqa: BLE001 - the C++ side raises a dozen types
            where = "the graph" if isinstance(model, bytes) else model
            without = "leave out --cuda-graph, " if cuda_graph else ""
            raise ExportError(
                f"{where}: ONNX Runtime cannot load it ({first_line(error)}); "
                f"{without}install a newer onnxruntime, or export the bundle again"
            ) from None
    if name not in session.get_providers():
        raise ExportError(
            f"provider '{provider}' does not load here{_missing(onnxruntime, provider)}; {_ADVICE[provider]}{OR_CPU}"
        )
    return session


def _fallback_free(onnxruntime: Any, provider: str, model: Path | bytes, cuda_graph: bool) -> list[Any]:  # noqa: ANN401
    # TensorRT leaves operators that it lacks to CUDA; the CPU as a whole is never a substitute.
    if provider == "cpu":
        return [PROVIDERS["cpu"]]
    if provider == "cuda":
        return [(PROVIDERS["cuda"], cuda_options(cuda_graph))]
    options = tensorrt_options(model, onnxruntime.__version__, cuda_graph)
    return [(PROVIDERS["tensorrt"], options), (PROVIDERS["cuda"], cuda_options(False))]


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
