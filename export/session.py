"""A bundle that runs: checks what goes in, and hands it to the engine."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from export.bundle import Bundle
from export.bundle_info import Array, default_provider
from export.errors import ExportError

_BUFFERED_BATCHES = 4
"""Batch sizes whose buffers are kept; a client uses one or two."""


class Engine(Protocol):
    """A runtime with one graph loaded."""

    provider: str
    """The provider that really runs."""

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape)."""

    def outputs(self) -> list[str]:
        """Names of the answers."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch."""

    def close(self) -> None:
        """Free what the engine holds."""


@runtime_checkable
class BindingEngine(Protocol):
    """What a runtime adds that can tie itself to buffers which stay where they are."""

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Return what answers the batch that lies in ``feeds`` at the moment of the call."""


@runtime_checkable
class BufferingEngine(Protocol):
    """What a runtime adds that has memory of its own to bind."""

    pinned: bool
    """Whether it is page-locked, as a GPU likes it; known once there is some."""

    def buffers(self, like: Mapping[str, Array]) -> dict[str, Array]:
        """Return memory to bind, with what ``like`` holds."""


class EngineFactory(Protocol):
    """Files of a variant, provider, threads, precision, CUDA graphs or not → a runtime with the model loaded."""

    def __call__(
        self, files: Sequence[Path], provider: str, threads: int | None, precision: str, cuda_graph: bool = False
    ) -> Engine:
        """Load it."""


def _onnxruntime(
    files: Sequence[Path], provider: str, threads: int | None, precision: str, cuda_graph: bool = False
) -> Engine:
    from export.engines.onnx_runtime import OnnxRuntime

    del precision  # the file has it
    return OnnxRuntime(files[0], provider, threads, cuda_graph)


def _by(module: str, name: str) -> EngineFactory:
    """The engine of that name, imported when it is asked for."""

    def load(
        files: Sequence[Path], provider: str, threads: int | None, precision: str, cuda_graph: bool = False
    ) -> Engine:
        if cuda_graph:
            raise ExportError(
                f"CUDA graphs are for engine onnxruntime, found '{module.replace('_', '')}'; "
                "leave out --cuda-graph, or say --engine onnxruntime"
            )
        engine: Engine = getattr(import_module(f"export.engines.{module}"), name)(files, provider, threads, precision)
        return engine

    return load


ENGINES: dict[str, EngineFactory] = {
    "onnxruntime": _onnxruntime,
    "openvino": _by("open_vino", "OpenVino"),
    "tensorrt": _by("tensor_rt", "TensorRt"),
    "ncnn": _by("ncnn", "Ncnn"),
    "litert": _by("litert", "LiteRt"),
}
"""Engine → what loads a model with it; its module and its runtime are imported then."""


class Session:
    """Runs a bundle on an engine.

    Args:
        bundle: A bundle whose hashes held (``read_bundle``).
        engine: One of ENGINES.
        provider: Where the engine computes, asked for by name and read back; None: on the CPU, of TensorRT on cuda.
        threads: CPU threads inside one operator; None: as many as there are cores.
        precision: fp32, fp16, bf16 or int8; the bundle must hold it, or the engine make it of the graph.
        cuda_graph: Record the GPU's kernels for each batch size and replay them, one launch instead of hundreds; for
            onnxruntime on cuda, or on tensorrt with one batch size for each session.

    Raises:
        ExportError: unknown engine, a precision that the bundle lacks, a provider that does not load, or a graph that
            bundle.json does not fit.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "onnxruntime",
        provider: str | None = None,
        threads: int | None = None,
        precision: str = "fp32",
        cuda_graph: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise ExportError(f"unknown engine '{engine}'; one of {', '.join(ENGINES)}")
        if threads is not None and threads < 1:
            raise ExportError(f"threads is {threads}; give at least 1")
        self.bundle = bundle
        self.variant = bundle.variant(engine, precision)
        self.engine, self.precision, self.threads, self.cuda_graph = engine, precision, threads, cuda_graph
        self._shapes = bundle.info.inputs.shapes()
        self._dtypes = bundle.info.inputs.dtypes()
        self._buffers: dict[int, dict[str, Array]] = {}
        self._bound: dict[int, Callable[[], dict[str, Array]]] = {}
        where = provider or default_provider(engine)
        self._runtime = ENGINES[engine](bundle.files(self.variant), where, threads, precision, cuda_graph)
        self._check_graph()

    @property
    def provider(self) -> str:
        """The provider that really runs."""
        return self._runtime.provider

    @property
    def pinned(self) -> bool:
        """Whether the buffers are page-locked, from which a GPU copies faster; known after the first run."""
        return isinstance(self._runtime, BufferingEngine) and self._runtime.pinned

    @property
    def target(self) -> str:
        """Engine and provider in one word, as tables name it."""
        return f"{self.engine}-{self.provider}"

    def run(self, rgb: Array, thermal: Array, present: Array) -> dict[str, Array]:
        """Answer a batch of pairs; pairs of several rigs may share one.

        Args:
            rgb: uint8 [B,Hr,Wr,3].
            thermal: [B,Ht,Wt] of the dtype that the bundle declares, covering RGB's field of view.
            present: float32 [B,2], 1 where RGB, thermal is there. What an absent sensor's buffer holds
                does not matter.

        Returns:
            The answers that ``bundle.info.outputs`` describes, each [B, …].

        Raises:
            ExportError: an input of another shape or dtype, or a pair without any sensor.
        """
        feeds = {"rgb": rgb, "thermal": thermal, "present": present}
        self._check(feeds)
        batch = len(rgb)
        buffers = self._buffers_of(batch)
        for name, array in feeds.items():
            np.copyto(buffers[name], array)
        for index, name in enumerate(("rgb", "thermal")):  # what a camera that is gone left behind is overwritten
            buffers[name][present[:, index] == 0] = 0
        return self._bound[batch]()

    def bare(self, rgb: Array, thermal: Array, present: Array) -> Callable[[], object]:
        """Return the engine's own call on this batch, without checks, copies, preparation and decoding."""
        feeds = {"rgb": rgb, "thermal": thermal, "present": present}
        spec = self.bundle.info.dense
        if self.variant.form == "dense" and spec is not None:
            from export.dense_form import prepare

            feeds = prepare(feeds, spec)
        return lambda: self._runtime.run(feeds)

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames once, so that allocation is no part of the first answer's time."""
        zeros = self.bundle.info.inputs.zeros(batch)
        self.run(zeros["rgb"], zeros["thermal"], zeros["present"])

    def close(self) -> None:
        """Free what the engine holds."""
        self._bound.clear()
        self._buffers.clear()
        self._runtime.close()

    def _buffers_of(self, batch: int) -> dict[str, Array]:
        """Fixed memory for a batch, to which the engine is bound once."""
        if batch not in self._buffers:
            if len(self._buffers) == _BUFFERED_BATCHES:
                oldest = next(iter(self._buffers))
                del self._buffers[oldest], self._bound[oldest]
            zeros = self.bundle.info.inputs.zeros(batch)
            buffers = self._runtime.buffers(zeros) if isinstance(self._runtime, BufferingEngine) else zeros
            self._buffers[batch], self._bound[batch] = buffers, self._bind(buffers)
        return self._buffers[batch]

    def _bind(self, buffers: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        runtime, spec = self._runtime, self.bundle.info.dense
        if self.variant.form == "dense" and spec is not None:
            from export.dense_form import answer  # brings OpenCV, 26 MB that the full form does not need

            return lambda: answer(runtime.run, buffers, spec)
        return runtime.bind(buffers) if isinstance(runtime, BindingEngine) else lambda: runtime.run(buffers)

    def _check(self, feeds: dict[str, Array]) -> None:
        batch = len(feeds["rgb"])
        for name, array in feeds.items():
            shape = (batch, *self._shapes[name])
            if array.shape != shape or array.dtype != self._dtypes[name]:
                raise ExportError(
                    f"{self.bundle.path}: {name} is {array.dtype} {list(array.shape)}, "
                    f"expected {self._dtypes[name]} {list(shape)}; frames must come as bundle.json says"
                )
        present = feeds["present"]
        if not np.isin(present, (0, 1)).all():
            raise ExportError(f"{self.bundle.path}: present holds {present.tolist()}, expected only 0 and 1")
        if not present.any(axis=1).all():
            raise ExportError(f"{self.bundle.path}: a pair has neither RGB nor thermal; leave it out")
        used = self.bundle.info.sensors
        if len(used) == 1 and not present[:, ("rgb", "thermal").index(used[0])].all():
            raise ExportError(f"{self.bundle.path}: the model looks at {used[0]} alone, and a pair lacks it")

    def _check_graph(self) -> None:
        """Refuse a file that is another model than the one that bundle.json describes."""
        spec = self.bundle.info.dense
        if self.variant.form == "full":
            wanted = {name: (str(self._dtypes[name]), self._shapes[name]) for name in self._shapes}
            answers = list(self.bundle.info.outputs)
        elif spec is not None:
            wanted = {name: ("float32", shape[1:]) for name, shape in spec.inputs.items()}
            answers = list(spec.outputs)
        else:
            raise ExportError(f"{self.bundle.path}: bundle.json lacks 'dense'; export the bundle again")
        found = {name: (dtype, tuple(shape[1:])) for name, (dtype, shape) in self._runtime.signature().items()}
        if found != wanted or sorted(self._runtime.outputs()) != sorted(answers):
            raise ExportError(
                f"{self.bundle.files(self.variant)[0]}: takes {found} and answers {self._runtime.outputs()}, but "
                f"bundle.json says {wanted} and {answers}; export the bundle again"
            )
