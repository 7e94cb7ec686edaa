"""The page in a bundle: accuracy over latency of every engine and precision that was measured at export."""

from html import escape

from matplotlib.figure import Figure

from export.bundle_info import BundleInfo, Proof, Variant
from pipelines.figures import called
from pipelines.report.shell import Section, head, html_page, html_table, name_cell
from pipelines.report.style import colour
from pipelines.report.svg import inline, plot_style

_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "openvino", "ncnn", "ai-edge-litert")


def bundle_page(info: BundleInfo) -> str:
    """The whole page, from what bundle.json will hold."""
    about = (
        f"{info.task}: {', '.join(info.classes)}. Measured on the machine that exported it; rgbt verify and "
        "rgbt bench measure again, there where the bundle runs."
    )
    return html_page(
        "Bundle", about, _facts(info), [Section("proof", "Accuracy and speed", _plot(info) + _table(info))]
    )


def _facts(info: BundleInfo) -> dict[str, str]:
    here = next(iter(info.proofs.values())).machine
    size = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in info.inputs.shapes().items())
    measured = max(proof.metric_pairs for proof in info.proofs.values())
    return {
        "inputs": f"{size}; thermal in {info.inputs.thermal.unit}",
        **({"validation": f"{measured} pairs"} if measured else {}),
        "machine": f"{here['cpu']}, {here['cores']} cores, {here['system']}",
        "engines": ", ".join(f"{name} {here[name]}" for name in _PACKAGES if name in here),
    }


def _metric(info: BundleInfo) -> str | None:
    return next((name for proof in info.proofs.values() for name in proof.metric), None)


def _plot(info: BundleInfo) -> str:
    metric = _metric(info)
    if metric is None:
        return ""
    alt = "; ".join(f"{key} {proof.metric[metric]:.3f} at {proof.p50_ms:.1f} ms" for key, proof in info.proofs.items())
    with plot_style(9.0):
        figure = Figure((7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for key, proof in info.proofs.items():
            axes.plot(proof.p50_ms, proof.metric[metric], "o", color=colour("fused"), markersize=6)
            axes.annotate(
                key,
                (proof.p50_ms, proof.metric[metric]),
                textcoords="offset points",
                xytext=(6, 4),
                color=colour("ink"),
            )
        axes.set(xlabel="p50 latency of one pair, ms", ylabel=called(metric), xlim=(0, None))
        axes.margins(x=0.25, y=0.3)
        return inline(figure, "accuracy-latency", f"{called(metric)} over latency. {alt}.")


def _table(info: BundleInfo) -> str:
    metric = _metric(info)
    heads = [head("Engine, precision"), head("Agrees", "with PyTorch"), head("Size", "MB")]
    heads += [head(called(metric), "validation")] if metric else []
    heads += [head(name, "ms") for name in ("p50", "p95", "p99")] + [head("Pairs/s"), head("Notes", text=True)]
    rows = [_row(key, proof, info.variants[key.rpartition("-")[0]], metric) for key, proof in info.proofs.items()]
    return html_table("What was measured of each engine and precision", heads, rows)


def _row(key: str, proof: Proof, variant: Variant, metric: str | None) -> str:
    figures = [f"{proof.parity['agreement']:.1%}", f"{proof.size_bytes / 1e6:.1f}"]
    figures += [f"{proof.metric[metric]:.3f}"] if metric else []
    figures += [f"{value:.1f}" for value in (proof.p50_ms, proof.p95_ms, proof.p99_ms, proof.pairs_per_s)]
    notes = [*variant.notes]
    if variant.float_layers:
        notes.append(f"{len(variant.float_layers)} layers in float: {', '.join(variant.float_layers)}")
    cells = "".join(f"<td>{figure}</td>" for figure in figures)
    return f'<tr>{name_cell(escape(key))}{cells}<td class="text">{escape("; ".join(notes))}</td></tr>'
