"""NCNN on the CPU: canvases in, head maps out, in fp32 or with weights and features in half."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.dense_form import Array, row_by_row
from export.engines.native_lines import native_lines
from export.errors import ExportError

PROVIDERS = ("cpu",)
PRECISIONS = ("fp32", "fp16")
_SHAPE_KEYS = ("2", "1", "0")
"""Parameters of an Input layer that give channels, height, width."""


class Ncnn:
    """One network in NCNN.

    fp32 computes without half floats and without Winograd, whose transforms lose digits; fp16 stores weights and
    features in half, computes in half where the CPU does, and takes Winograd. Both read the same files. On x86 NCNN
    1.0.20261020 has no layers in half: there fp16 is fp32 with Winograd.

    Args:
        files: The ``.param`` and the ``.bin`` file.
        provider: cpu.
        threads: Threads inside one layer; None: NCNN's own choice, the fast cores.
        precision: fp32 or fp16.

    Raises:
        ExportError: ncnn is not installed, another provider or precision, or files that cannot be read.
    """

    def __init__(self, files: Sequence[Path], provider: str, threads: int | None, precision: str) -> None:
        try:
            import ncnn
        except ImportError as error:
            raise ExportError(f"NCNN cannot be imported ({error}); pip install 'rgbt-fusion[ncnn]'") from None
        if provider not in PROVIDERS:
            raise ExportError(f"NCNN runs on {', '.join(PROVIDERS)} here, not on '{provider}'")
        if precision not in PRECISIONS:
            raise ExportError(f"NCNN computes in {' or '.join(PRECISIONS)}, not in '{precision}'")
        self.provider = provider
        self._mat = ncnn.Mat
        self._inputs = _input_shapes(files[0])
        self._net: Any = ncnn.Net()
        _configure(self._net.opt, threads, precision)
        with native_lines() as said:
            failed = self._net.load_param(str(files[0])) or self._net.load_model(str(files[1]))
        if failed:
            reason = f" ({said[0]})" if said else ""
            raise ExportError(
                f"{files[0]}: NCNN cannot load it{reason}; install a newer ncnn, or export the bundle again"
            )
        self._outputs = [str(name) for name in self._net.output_names()]

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape); the batch is 1."""
        return {name: ("float32", (1, *shape)) for name, shape in self._inputs.items()}

    def outputs(self) -> list[str]:
        """Names of the head maps."""
        return list(self._outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Head maps of canvases, float32 [B, …]; of several rows, one after the other.

        Raises:
            ExportError: NCNN fails: no memory left, or a feed it does not take.
        """
        return row_by_row(self._run_one, feeds)

    def _run_one(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        extractor = self._net.create_extractor()
        # Copies: NCNN wants its own alignment, and keeps no hold on an array of ours.
        mats = {name: self._mat(np.ascontiguousarray(feeds[name][0])).clone() for name in self._inputs}
        for name, mat in mats.items():
            extractor.input(name, mat)
        maps = {}
        for name in self._outputs:
            code, found = extractor.extract(name)
            if code:
                raise ExportError(f"NCNN fails on '{name}' (code {code}); free some memory, or export the bundle again")
            maps[name] = np.array(found)[None]
        return maps

    def close(self) -> None:
        """Free the network's memory; the engine cannot run afterwards."""
        self._net.clear()


def _configure(options: Any, threads: int | None, precision: str) -> None:  # noqa: ANN401 - untyped library
    half = precision == "fp16"
    options.use_vulkan_compute = False
    options.use_bf16_storage = False
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
    options.use_winograd_convolution = half
    if threads is not None:
        options.num_threads = threads


def _input_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Input → channels, height, width, as export wrote them into the Input layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for line in path.read_text(encoding="ascii").splitlines()[2:]:
            kind, _, _, _, *fields = line.split()
            if kind == "Input":
                sizes = dict(field.split("=") for field in fields[1:])
                shapes[fields[0]] = tuple(int(sizes[key]) for key in _SHAPE_KEYS)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{path}: is no NCNN network of a bundle ({error}); export the bundle again") from None
    return shapes
