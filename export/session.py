"""A bundle that runs: checks what goes in, and hands it to the engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from export.bundle import Array, Bundle
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError


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


class EngineFactory(Protocol):
    """What ENGINES holds."""

    def __call__(self, model: Path, provider: str, threads: int | None) -> Engine:
        """Load a graph."""


ENGINES: dict[str, EngineFactory] = {"onnxruntime": OnnxRuntime}
"""Engine → its class; the class imports its runtime when it is built."""


class Session:
    """Runs a bundle on an engine.

    Args:
        bundle: A bundle whose hashes held (``read_bundle``).
        engine: One of ENGINES.
        provider: Where the engine computes; asked for by name and read back.
        threads: CPU threads inside one operator; None: as many as there are cores.

    Raises:
        ExportError: unknown engine, a provider that does not load, or a graph that bundle.json does not fit.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "onnxruntime", provider: str = "cpu", threads: int | None = None
    ) -> None:
        if engine not in ENGINES:
            raise ExportError(f"unknown engine '{engine}'; one of {', '.join(ENGINES)}")
        if threads is not None and threads < 1:
            raise ExportError(f"threads is {threads}; give at least 1")
        self.bundle = bundle
        self.engine = engine
        self.threads = threads
        self._shapes = bundle.info.inputs.shapes()
        self._dtypes = bundle.info.inputs.dtypes()
        self._runtime = ENGINES[engine](bundle.model, provider, threads)
        self._check_graph()

    @property
    def provider(self) -> str:
        """The provider that really runs."""
        return self._runtime.provider

    @property
    def target(self) -> str:
        """Engine and provider in one word, as tables name it."""
        return f"{self.engine}-{self.provider}"

    def run(self, rgb: Array, thermal: Array, present: Array) -> dict[str, Array]:
        """Answer a batch of pairs.

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
        if not present.all():
            feeds["rgb"] = _blank(rgb, present[:, 0])
            feeds["thermal"] = _blank(thermal, present[:, 1])
        return self._runtime.run(feeds)

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames once, so that allocation is no part of the first answer's time."""
        self._runtime.run(self.bundle.info.inputs.zeros(batch))

    def close(self) -> None:
        """Free what the engine holds."""
        self._runtime.close()

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
        wanted = {name: (str(self._dtypes[name]), self._shapes[name]) for name in self._shapes}
        found = {name: (dtype, tuple(shape[1:])) for name, (dtype, shape) in self._runtime.signature().items()}
        answers = list(self.bundle.info.outputs)
        if found != wanted or sorted(self._runtime.outputs()) != sorted(answers):
            raise ExportError(
                f"{self.bundle.model}: takes {found} and answers {self._runtime.outputs()}, but bundle.json "
                f"says {wanted} and {answers}; export the bundle again"
            )


def _blank(image: Array, present: Array) -> Array:
    """Zeros where the sensor is absent; the caller's array stays as it is."""
    if present.all():
        return image
    blanked = image.copy()
    blanked[present == 0] = 0
    return blanked
