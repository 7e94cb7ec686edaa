"""Measures a variant on this machine: agreement with PyTorch, the task's metric, speed; what bundle.json records."""

from collections.abc import Mapping

from export.bench import machine, measure
from export.bundle import Bundle
from export.bundle_info import Array, Proof, Variant
from export.engines.tensor_rt_build import load_cuda, load_tensorrt
from export.errors import ExportError
from export.session import Session
from export.variants.source import Metric
from export.verify import replay

_SECONDS = 2.0
"""Time spent on a variant's latency."""


def not_here(variant: Variant) -> str | None:
    """Why a variant that can be written here cannot be measured here; None where it can."""
    if variant.engine == "coreml":
        return "it runs on Apple devices"
    if variant.engine == "tensorrt":
        try:
            load_tensorrt()
            load_cuda()
        except ExportError as error:
            return str(error)
    return None


def prove(bundle: Bundle, key: str, metric: Metric | None) -> Proof:
    """Replay, evaluate and time one variant on the CPU, or on the device that its engine needs.

    Args:
        bundle: Being written; its golden pairs and files are there.
        key: Of ``bundle.info.variants``.
        metric: Of the validation pairs; None: not measured.

    Raises:
        ExportError: its engine does not run here, or at fp32 it answers otherwise than PyTorch.
    """
    variant = bundle.info.variants[key]
    session = Session(bundle, variant.engine, precision=variant.precision)
    try:
        parity = replay(session)
        if variant.precision == "fp32" and not parity.holds:
            raise ExportError(f"{key} answers otherwise than PyTorch, so no bundle was written: {parity}")
        figure = {} if metric is None else {metric.name: metric.of(lambda feeds: _run(session, feeds))}
        speed = measure(session, 1, _SECONDS)
        return Proof(
            provider=session.provider,
            parity=parity.as_dict(),
            metric=figure,
            metric_pairs=metric.pairs if metric else 0,
            size_bytes=sum(path.stat().st_size for path in bundle.files(variant)),
            p50_ms=speed.p50_ms,
            p95_ms=speed.p95_ms,
            p99_ms=speed.p99_ms,
            pairs_per_s=speed.pairs_per_s,
            machine=machine(),
        )
    finally:
        session.close()


def _run(session: Session, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return session.run(feeds["rgb"], feeds["thermal"], feeds["present"])
