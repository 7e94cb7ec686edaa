"""TensorRT by itself, without ONNX Runtime around it: one plan on one NVIDIA GPU."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle_info import Array
from export.engines.tensor_rt_build import PlanSpec, cuda_call, load_cuda, load_tensorrt, plan_for
from export.errors import ExportError

PROVIDERS = ("cuda",)


class TensorRt:
    """A bundle's graph as a plan; built at the first use on a device, then taken from the cache.

    Feeds have the dtypes that the bundle declares; thermal is handed on as float32.

    Args:
        files: The graph for TensorRT, and the JSON beside it (export.variants.tensor_rt writes both).
        provider: cuda.
        threads: Of no meaning on a GPU.
        precision: That of the graph.

    Raises:
        ExportError: no TensorRT or no GPU here, another provider, a bundle without a graph for TensorRT, or one that
            TensorRT cannot build.
    """

    def __init__(self, files: Sequence[Path], provider: str, threads: int | None, precision: str) -> None:
        del threads
        if provider not in PROVIDERS:
            raise ExportError(f"TensorRT runs on cuda, not on '{provider}'; give --provider cuda")
        if len(files) < 2:
            raise ExportError(
                f"{files[0]}: TensorRT takes thermal as float32, and this graph does not; "
                f"rgbt export RUN --target tensorrt --precision {precision} adds one that does"
            )
        trt, self._cuda = load_tensorrt(), load_cuda()
        self.provider = provider
        self._spec = PlanSpec.load(files[1])
        plan, path = plan_for(trt, self._cuda, files[0], self._spec, _say)
        self._logger = trt.Logger(trt.Logger.ERROR)  # the engine keeps no reference to it
        self._runtime = trt.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(f"{path}: TensorRT cannot load this plan; remove the file, and it is built again")
        self._context: Any = self._engine.create_execution_context()
        self._stream = cuda_call(self._cuda, "cudaStreamCreate")
        self._types: dict[str, np.dtype[Any]] = {}
        self._outputs: list[str] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            self._types[name] = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            if name not in self._spec.dtypes:
                self._outputs.append(name)
        self._memory: dict[str, tuple[int, int]] = {}

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape) as the bundle declares them."""
        shapes = {name: profile.opt[1:] for name, profile in self._spec.profiles.items()}
        return {name: (dtype, ("batch", *shapes[name])) for name, dtype in self._spec.dtypes.items()}

    def outputs(self) -> list[str]:
        """Names of the answers."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer one batch.

        Raises:
            ExportError: a batch beyond the plan's profile, or the GPU fails.
        """
        first = next(iter(self._spec.profiles))
        batch, largest = len(feeds[first]), self._spec.profiles[first].max[0]
        if batch > largest:
            raise ExportError(f"TensorRT: a batch of {batch}, but the plan takes at most {largest}; send smaller ones")
        kept = {name: np.ascontiguousarray(array, self._types[name]) for name, array in feeds.items()}
        for name, array in kept.items():
            self._context.set_input_shape(name, array.shape)
            self._copy(self._at(name, array.nbytes), array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")
        answers = {
            name: np.empty(tuple(self._context.get_tensor_shape(name)), self._types[name]) for name in self._outputs
        }
        for name, array in answers.items():
            self._at(name, array.nbytes)
        if not self._context.execute_async_v3(int(self._stream)):
            raise ExportError("TensorRT fails on this GPU; free memory on it, or remove the plan to build it again")
        for name, array in answers.items():
            self._copy(array.ctypes.data, self._memory[name][0], array.nbytes, "cudaMemcpyDeviceToHost")
        cuda_call(self._cuda, "cudaStreamSynchronize", self._stream)
        return answers

    def close(self) -> None:
        """Free the GPU's memory; the engine cannot run afterwards."""
        for address, _ in self._memory.values():
            cuda_call(self._cuda, "cudaFree", address)
        self._memory.clear()
        self._context = self._engine = None
        cuda_call(self._cuda, "cudaStreamDestroy", self._stream)

    def _at(self, name: str, size: int) -> int:
        """Address of a tensor's memory on the GPU, which grows with the batch and is kept."""
        address, room = self._memory.get(name, (0, 0))
        if room < size:
            if room:
                cuda_call(self._cuda, "cudaFree", address)
            address = int(cuda_call(self._cuda, "cudaMalloc", size))
            self._memory[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address

    def _copy(self, to: int, origin: int, size: int, kind: str) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        cuda_call(self._cuda, "cudaMemcpyAsync", to, origin, size, direction, self._stream)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
