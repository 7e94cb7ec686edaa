"""How fast a bundle answers here: every engine, precision, batch and number of threads in one run; torch-free."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

from export.bench import machine, measure
from export.bundle import Bundle
from export.bundle_info import Variant
from export.errors import ExportError
from export.session import Session


@dataclass(frozen=True)
class Matrix:
    """What is combined with what."""

    engines: Sequence[str] | None
    """None: those of the bundle."""
    precisions: Sequence[str] | None
    """None: those of the bundle."""
    provider: str | None
    """None: the one on which each engine computes by itself."""
    batches: Sequence[int]
    threads: Sequence[int | None]
    seconds: float
    """For each combination."""
    cuda_graph: bool = False
    """Replay recorded CUDA graphs."""

    def sessions(self) -> list[Sequence[int]]:
        """Batches for each session: with CUDA graphs one, as the provider tensorrt records a single graph."""
        return [[batch] for batch in self.batches] if self.cuda_graph else [self.batches]


def measure_bundle(bundle: Bundle, matrix: Matrix) -> dict[str, Any]:
    """Return machine, sizes and ``sessions``: a row for each combination that was measured.

    Also ``missing``: what was not → why; and ``failed``: the names in it that somebody asked for, of an engine that
    was named or of the one that every bundle has, or all of them where nothing was measured.

    Raises:
        ExportError: a figure out of range, or a named engine or precision that the bundle lacks.
    """
    _check(matrix)
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for name, found in _results(bundle, matrix):
        if isinstance(found, str):
            missing[name] = found
        else:
            rows.append(found)
    asked = matrix.engines or ("onnxruntime",)
    return {
        "machine": machine(),
        "bundle": str(bundle.path),
        "inputs": {name: list(shape) for name, shape in bundle.info.inputs.shapes().items()},
        "cuda_graph": matrix.cuda_graph,
        "sessions": rows,
        "missing": missing,
        "failed": [name for name in missing if not rows or name.partition("-")[0] in asked],
    }


def _check(matrix: Matrix) -> None:
    least = {"batch": min(matrix.batches), "threads": min(1 if count is None else count for count in matrix.threads)}
    for name, count in least.items():
        if count < 1:
            raise ExportError(f"--{name} is {count}; give at least 1")
    if not 0 < matrix.seconds < math.inf:
        raise ExportError(f"--seconds is {matrix.seconds:g}; give a time above 0")


def _results(bundle: Bundle, matrix: Matrix) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Each combination's name, and what was measured or why nothing was."""
    for variant in bundle.choose(matrix.engines, matrix.precisions):
        for threads, batches in product(matrix.threads, matrix.sessions()):
            try:
                opened = Session(bundle, variant.engine, matrix.provider, threads, variant.precision, matrix.cuda_graph)
                with closing(opened) as session:
                    for batch in batches:
                        name = f"{variant.key} batch {batch}" + (f" threads {threads}" if threads else "")
                        yield name, _row(bundle, variant, session, batch, matrix.seconds)
            except ExportError as error:  # it does not open here; or does not close, after its GPU has failed
                yield variant.key, str(error)


def _row(bundle: Bundle, variant: Variant, session: Session, batch: int, seconds: float) -> dict[str, Any] | str:
    """What was measured at one batch, or why nothing was: it is too large for the plan or the memory."""
    proofs = [proof for key, proof in bundle.info.proofs.items() if key.startswith(f"{variant.key}-")]
    metric = next((proof.metric for proof in proofs if proof.metric), None)
    try:
        speed = dataclasses.asdict(measure(session, batch, seconds))
    except (ExportError, MemoryError) as error:
        return str(error)
    return {**speed, "pinned": session.pinned, "metric": metric}


def table(answer: dict[str, Any], live: dict[str, Any]) -> list[str]:
    """The rows as text, then what was measured live."""
    sizes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in answer["inputs"].items())
    lines = [
        f"$ {answer['command']}",
        ", ".join(f"{name} {value}" for name, value in answer["machine"].items()),
        f"{answer['bundle']}: {sizes}",
        *_on_gpu(answer),
        "",
        f"{'target':<22}{'precision':<10}{'threads':>8}{'batch':>6}{'runs':>6}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"
        f"{'pairs/s':>9}{'bare p50':>10}  metric",
    ]
    for row in answer["sessions"]:
        metric = ", ".join(f"{name} {value:.3f}" for name, value in (row["metric"] or {}).items())
        lines.append(
            f"{row['target']:<22}{row['precision']:<10}{row['threads']:>8}{row['batch']:>6}{row['runs']:>6}"
            f"{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['pairs_per_s']:>9.1f}"
            f"{row['bare_p50_ms']:>10.2f}  {metric or '–'}"
        )
    width = max(21, *map(len, answer["missing"]), 0) + 1
    lines += [f"{name:<{width}}not measured: {reason}" for name, reason in answer["missing"].items()]
    return [*lines, *([""] if live else []), *(f"{name:<22}{value}" for name, value in live.items())]


def _on_gpu(answer: dict[str, Any]) -> list[str]:
    """How the GPU was fed; nothing of a CPU."""
    if all(row["target"].endswith("-cpu") for row in answer["sessions"]):
        return []
    locked = "page-locked" if all(row["pinned"] for row in answer["sessions"]) else "pageable"
    return [f"CUDA graphs {'on' if answer['cuda_graph'] else 'off'}; buffers in {locked} memory"]
