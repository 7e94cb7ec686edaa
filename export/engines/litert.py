"""LiteRT (TensorFlow Lite) on the CPU: canvases in, head maps out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.cores import cores
from export.dense_form import Array, row_by_row
from export.engines.error_lines import first_line
from export.engines.native_lines import native_lines
from export.errors import ExportError

PROVIDERS = ("cpu",)
PRECISIONS = ("fp32", "fp16")


class LiteRt:
    """One network in LiteRT, computed by XNNPACK in fp32; a file of fp16 holds its weights in half.

    Args:
        files: The ``.tflite`` file.
        provider: cpu.
        threads: Threads inside one operator; None: as many as there are cores.
        precision: fp32 or fp16; the file has it.

    Raises:
        ExportError: ai-edge-litert is not installed, another provider or precision, or a file that cannot be read.
    """

    def __init__(self, files: Sequence[Path], provider: str, threads: int | None, precision: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ExportError(f"LiteRT cannot be imported ({error}); pip install 'rgbt-fusion[litert]'") from None
        if provider not in PROVIDERS:
            raise ExportError(f"LiteRT runs on {', '.join(PROVIDERS)} here, not on '{provider}'")
        if precision not in PRECISIONS:
            raise ExportError(f"LiteRT computes in {' or '.join(PRECISIONS)}, not in '{precision}'")
        self.provider = provider
        try:
            with native_lines():  # LiteRT tells of its delegate
                self._interpreter: Any = Interpreter(model_path=str(files[0]), num_threads=threads or cores())
                self._interpreter.allocate_tensors()
                self._runner: Any = self._interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ExportError(
                f"{files[0]}: LiteRT cannot load it ({first_line(error)}); install a newer ai-edge-litert, or export "
                "the bundle again"
            ) from None

    def signature(self) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
        """Input → (dtype, shape); the batch is 1."""
        details = self._runner.get_input_details()
        return {name: (entry["dtype"].__name__, tuple(entry["shape"].tolist())) for name, entry in details.items()}

    def outputs(self) -> list[str]:
        """Names of the head maps."""
        return list(self._runner.get_output_details())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Head maps of canvases, float32 [B, …]; of several rows, one after the other.

        Raises:
            ExportError: LiteRT fails: no memory left, or a feed it does not take.
        """
        return row_by_row(self._run_one, feeds)

    def _run_one(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            maps: dict[str, Array] = self._runner(**feeds)
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"LiteRT fails ({first_line(error)}); export the bundle again") from None
        return maps

    def close(self) -> None:
        """Free the network's memory; the engine cannot run afterwards."""
        self._runner = self._interpreter = None
