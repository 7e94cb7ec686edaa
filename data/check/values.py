"""Whether thermal's values fit what the card says of them."""

import numpy as np
from numpy.typing import NDArray

from data.check.facts import HISTOGRAM
from data.check.findings import Finding
from data.thermal import ThermalSpec

_CLIPPED = 0.02
"""Share of pixels at the end of the scale that is pointed out."""
_OUTSIDE = 0.05
"""Share of pixels outside of the card's range that is pointed out."""


def wrong_range(values: NDArray[np.int64], found: tuple[float, float], spec: ThermalSpec) -> list[Finding]:
    """Compare the measured values with the unit, and with the card's range.

    Args:
        values: Histogram of the whole set, in the bins of ``HISTOGRAM``.
        found: Lowest and highest valid value.
        spec: The card's.
    """
    low, high, count = HISTOGRAM[spec.unit]
    edges = np.linspace(low, high, count + 1)
    findings = []
    if spec.unit == "counts16" and found[1] <= 255:
        text = f"thermal holds {found[0]:g} … {found[1]:g} in 16 bits: these are 8-bit pictures, not raw counts"
        findings.append(Finding("warning", "range", "thermal", text))
    clipped = int(values[-1]) / max(1, int(values.sum()))
    if spec.unit != "celsius" and found[1] >= high - 1 and clipped > _CLIPPED:
        text = f"{clipped:.0%} of thermal's pixels lie at the upper end ({edges[-2]:g} … {high - 1:g}): clipped"
        findings.append(Finding("warning", "range", "thermal", text))
    if spec.range is not None:
        middles = (edges[:-1] + edges[1:]) / 2
        inside = values[(middles >= spec.range[0]) & (middles <= spec.range[1])].sum()
        outside = 1 - int(inside) / max(1, int(values.sum()))
        if outside > _OUTSIDE:
            text = (
                f"{outside:.0%} of thermal's pixels lie outside of the card's thermal_spec.range {list(spec.range)}; "
                f"they hold {found[0]:g} … {found[1]:g}"
            )
            findings.append(Finding("warning", "range", "thermal", text))
    return findings
