"""A prepared pair together with its truth, changed as one."""

from dataclasses import replace

import numpy as np

from data.augment.augmenter import Augmenter
from data.pairs import Truth
from data.prepare import Prepared


def augment_pair(augmenter: Augmenter, prepared: Prepared, truth: Truth, seed: int) -> tuple[Prepared, Truth]:
    """Change a pair, and what of its truth lies in its pixels; a label of the whole picture stays."""
    there = (bool(prepared.present[0]), bool(prepared.present[1]))
    placed = {name: value for name, value in truth.items() if name in ("boxes", "labels", "mask")}
    changed = augmenter(prepared.rgb, prepared.thermal, seed, there, **placed)
    pair = replace(prepared, rgb=changed.rgb, thermal=changed.thermal, present=np.array(changed.present, np.float32))
    return pair, truth | {name: getattr(changed, name) for name in placed}
