"""The table of what was measured of each engine and precision of a bundle; torch-free."""

from export.bundle_info import BundleInfo


def proof_table(info: BundleInfo) -> list[str]:
    """Lines of text, a row for each proof in bundle.json."""
    metric = next((name for proof in info.proofs.values() for name in proof.metric), None)
    width = max(len(key) for key in info.proofs) + 2
    title = f"{metric:>10}" if metric else ""
    lines = [
        f"{'measured at export':<{width}}{'agreement':>10}{title}{'MB':>8}{'p50 ms':>9}{'p99 ms':>9}{'pairs/s':>9}"
    ]
    for key, proof in info.proofs.items():
        figure = f"{proof.metric[metric]:>10.3f}" if metric else ""
        lines.append(
            f"{key:<{width}}{proof.parity['agreement']:>10.1%}{figure}{proof.size_bytes / 1e6:>8.1f}"
            f"{proof.p50_ms:>9.1f}{proof.p99_ms:>9.1f}{proof.pairs_per_s:>9.1f}"
        )
        layers = info.variants[key.rpartition("-")[0]].float_layers
        if layers:
            lines.append(f"  {len(layers)} layers in float: {', '.join(layers)}")
    return lines
