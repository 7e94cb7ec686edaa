"""Replays a bundle's golden pairs: the engine must answer what PyTorch answered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle_info import Array
from export.errors import ExportError
from export.session import Session

SCORE_LIMIT = 1e-4
BOX_LIMIT_PX = 0.1
LIMITS = {
    "scores_max_abs": SCORE_LIMIT,
    "boxes_max_abs_px": BOX_LIMIT_PX,
    "class_map_differs": 1e-3,
    "confidence_max_abs": 1e-4,
    "probabilities_max_abs": 1e-4,
}
"""Figure → the largest that still counts as the same answer. ``class_map_differs`` is a share of the pixels."""
_SAYS = {
    "scores_max_abs": "scores differ by at most {value:.1e}",
    "boxes_max_abs_px": "boxes by {value:.1e} px",
    "class_map_differs": "class maps differ in at most {value:.3%} of the pixels",
    "confidence_max_abs": "confidence by {value:.1e}",
    "probabilities_max_abs": "probabilities differ by at most {value:.1e}",
    "agreement": "{value:.1%} of the answers agree",
}
_UNITS = {"boxes_max_abs_px": "{:g} px", "class_map_differs": "{:.1%}", "agreement": "{:.1%}"}
AGREEMENT = "agreement"
"""Share of what PyTorch answers that the engine answers too: boxes from SURE up, pixels, pictures."""
SURE = 0.3
"""Least score of a box that counts; where PyTorch has none, half of its greatest score."""
_SAME_IOU = 0.5
_LEVEL_PEAKS = 0.02
"""Share of a pair's boxes below SURE that one side alone may have."""
_NO_PARTNER = 1e3
"""Limits by which the nearest box is off, from which on it is another one."""
_SLACK = 0.05
"""How much less than at export a reduced precision may agree: another processor rounds otherwise."""
_LEAST_AGREEMENT = 0.9
"""For a reduced precision that was not measured at export."""
_LOOSER = {"ncnn": 10, "litert": 10}
"""Engine → by what its limits of scores and probabilities are multiplied: it has its own arithmetic."""
_BATCHES = (1, 2)  # what live sends, and proof that the batch is dynamic


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an engine's answers are from PyTorch's."""

    pairs: int
    """Golden pairs replayed, single-sensor ones included."""
    figures: Mapping[str, float]
    """Those of LIMITS that the task's answers have, over all pairs the largest, and AGREEMENT."""
    limits: Mapping[str, float]
    """Figure → the largest that counts as the same; of AGREEMENT the smallest."""

    @property
    def holds(self) -> bool:
        """Whether every figure that has a limit is within it."""
        return all(
            self.figures[name] >= limit if name == AGREEMENT else self.figures[name] <= limit
            for name, limit in self.limits.items()
        )

    def as_dict(self) -> dict[str, float]:
        """Pairs and figures, as bundle.json records them."""
        return {"pairs": self.pairs, **self.figures}

    def __str__(self) -> str:
        said = [
            f"{_SAYS[name].format(value=value)}{self._limit(name)}"
            for name, value in self.figures.items()
            if name in self.limits or name == AGREEMENT
        ]  # where answers may differ, the largest difference tells less than their agreement
        return f"{self.pairs} golden pairs: {', '.join(said)}"

    def _limit(self, name: str) -> str:
        if name not in self.limits:
            return ""
        return f" (limit {_UNITS.get(name, '{:.0e}').format(self.limits[name])})"


def replay(session: Session) -> Parity:
    """Run a bundle's golden pairs, one by one and in batches of two, and compare with PyTorch's answers.

    At fp32 the answers must be the same. A reduced precision must agree with PyTorch as it did at export, where the
    task's own metric was measured.

    Raises:
        ExportError: golden.npz does not fit the graph, or an answer is not finite.
    """
    golden = session.bundle.golden()
    expected = {name: golden[name] for name in session.bundle.info.outputs}
    parities = []
    for batch in _BATCHES:
        answers = [
            session.run(*(golden[name][start : start + batch] for name in ("rgb", "thermal", "present")))
            for start in range(0, len(golden["rgb"]), batch)
        ]
        found = {name: np.concatenate([answer[name] for answer in answers]) for name in expected}
        parities.append(compare(expected, found, session.precision))
    figures = {name: max(parity.figures[name] for parity in parities) for name in parities[0].figures}
    figures[AGREEMENT] = min(parity.figures[AGREEMENT] for parity in parities)
    return Parity(len(golden["rgb"]), figures, _limits(session, figures))


def _limits(session: Session, figures: Mapping[str, float]) -> dict[str, float]:
    if session.precision == "fp32":
        loose = _LOOSER.get(session.engine, 1)
        known = {name: LIMITS[name] for name in figures if name in LIMITS}
        return {name: limit * loose if name.endswith("max_abs") else limit for name, limit in known.items()}
    proofs = session.bundle.info.proofs
    recorded = [proof.parity[AGREEMENT] for key, proof in proofs.items() if key.startswith(f"{session.variant.key}-")]
    return {AGREEMENT: min(recorded) - _SLACK if recorded else _LEAST_AGREEMENT}


def compare(expected: Mapping[str, Array], found: Mapping[str, Array], precision: str = "fp32") -> Parity:
    """Compare two answers to the same pairs, each output by the rule of its name.

    Boxes are compared after matching their slots: slots may change places where scores tie, and a slot level with the
    last one kept may be another one on either side, so only its score is compared. Below SURE two boxes in a hundred
    may be on one side alone: where peaks lie beside each other and are level, rounding decides which is one. Below
    fp32 ``boxes_max_abs_px`` is of the boxes that AGREEMENT counts as the same, 0 where there are none: the others may
    lie anywhere. Of a class map, the pixels of another class count; where two classes are level, rounding decides.

    Raises:
        ExportError: shapes differ, a number is not finite, or an output has no rule.
    """
    figures: dict[str, float] = {}
    for name, wanted in expected.items():
        if name not in RULES:
            raise ExportError(f"no rule says when two answers '{name}' are the same; known are {', '.join(RULES)}")
        got = found[name]
        if wanted.shape != got.shape:
            raise ExportError(f"the engine answers {name} {list(got.shape)}, PyTorch answered {list(wanted.shape)}")
        if not np.isfinite(got).all():
            raise ExportError(
                f"the engine's answer {name} holds NaN or infinite numbers; try another provider or precision"
            )
        figures |= RULES[name](wanted, got)
        if precision != "fp32" and name in REDUCED:
            figures |= REDUCED[name](wanted, got)
    figures[AGREEMENT] = min(AGREES[name](wanted, found[name]) for name, wanted in expected.items() if name in AGREES)
    limits = {name: LIMITS[name] for name in figures if name in LIMITS}
    return Parity(len(next(iter(expected.values()))), figures, limits)


def _compare_boxes(expected: Array, found: Array) -> dict[str, float]:
    differences = [_difference(one, other) for one, other in zip(expected, found, strict=True)]
    scores, boxes = np.array(differences, np.float64).reshape(-1, 2).max(axis=0)
    return {"scores_max_abs": float(scores), "boxes_max_abs_px": float(boxes)}


def _difference(expected: Array, found: Array) -> tuple[float, float]:
    """Largest difference of scores, and of boxes in pixels, between two answers [K,6] of one pair."""
    floor = max(expected[:, 4].min(), found[:, 4].min()) + SCORE_LIMIT
    score = box = 0.0
    lonely: list[float] = []
    free = np.ones(len(found), np.bool_)
    for slot in expected[np.argsort(-expected[:, 4], kind="stable")]:
        if slot[4] <= floor:
            break
        pixels = np.abs(found[:, :4] - slot[:4]).max(axis=1)
        points = np.abs(found[:, 4] - slot[4])
        cost = np.where(free & (found[:, 5] == slot[5]), pixels / BOX_LIMIT_PX + points / SCORE_LIMIT, np.inf)
        best = int(cost.argmin())
        if np.isinf(cost[best]) or (cost[best] > _NO_PARTNER and slot[4] < SURE):
            lonely.append(float(slot[4]))
            continue
        free[best] = False
        score, box = max(score, float(points[best])), max(box, float(pixels[best]))
    lonely += found[free & (found[:, 4] > floor), 4].tolist()
    if lonely and not _rounding_decides(lonely, len(expected)):
        score = max(score, *lonely)
    elif not lonely:
        score = max(score, float(np.abs(np.sort(expected[:, 4]) - np.sort(found[:, 4])).max()))
    return score, box


def _rounding_decides(lonely: Sequence[float], slots: int) -> bool:
    """Whether boxes that one side alone has may be peaks level with a neighbour, of which rounding keeps the one."""
    return max(lonely) < SURE and len(lonely) <= _LEVEL_PEAKS * slots


def _compare_class_maps(expected: Array, found: Array) -> dict[str, float]:
    return {"class_map_differs": float((expected != found).mean(axis=(1, 2)).max())}  # of the worst pair


def _compare_confidence(expected: Array, found: Array) -> dict[str, float]:
    return {"confidence_max_abs": float(np.abs(expected - found).max())}


def _compare_probabilities(expected: Array, found: Array) -> dict[str, float]:
    return {"probabilities_max_abs": float(np.abs(expected - found).max())}


RULES: dict[str, Callable[[Array, Array], dict[str, float]]] = {
    "boxes": _compare_boxes,
    "class_map": _compare_class_maps,
    "confidence": _compare_confidence,
    "probabilities": _compare_probabilities,
}
"""Output → what is measured between two of them, PyTorch's first."""


def _agreeing_boxes(expected: Array, found: Array) -> float:
    """F1 of the engine's sure boxes against PyTorch's."""
    sure = _sure(expected)
    total = sum(int(_counts(boxes, sure).sum()) for boxes in (expected, found))
    return 2 * len(_same_boxes(expected, found)) / total if total else 1.0


def _same_boxes(expected: Array, found: Array) -> list[tuple[Array, Array]]:
    """Sure boxes of PyTorch, each with the engine's that is the same: its class, an IoU of at least a half."""
    sure = _sure(expected)
    same = []
    for one, other in zip(expected, found, strict=True):
        got = other[_counts(other, sure)]
        free = np.ones(len(got), np.bool_)
        for box in one[_counts(one, sure)]:
            overlap = np.where(free & (got[:, 5] == box[5]), _iou(box, got), 0.0)
            if len(got) and overlap.max() >= _SAME_IOU:
                best = int(overlap.argmax())
                free[best] = False
                same.append((box, got[best]))
    return same


def _sure(expected: Array) -> float:
    """Least score of a box that counts, from PyTorch's boxes [N,K,6]."""
    # Of a model that is sure of nothing its best boxes count: an engine that answers none must not agree with it.
    return min(SURE, 0.5 * float(expected[:, :, 4].max()))


def _counts(boxes: Array, sure: float) -> NDArray[np.bool_]:
    """Which boxes [..., 6] are sure, and no empty slots."""
    scores = boxes[..., 4]
    counts: NDArray[np.bool_] = (scores >= sure) & (scores > 0)
    return counts


def _compare_same_boxes(expected: Array, found: Array) -> dict[str, float]:
    pixels = [float(np.abs(one[:4] - other[:4]).max()) for one, other in _same_boxes(expected, found)]
    return {"boxes_max_abs_px": max(pixels, default=0.0)}


REDUCED: dict[str, Callable[[Array, Array], dict[str, float]]] = {"boxes": _compare_same_boxes}
"""Output → what is measured below fp32 in place of RULES' figures of that name."""


def _iou(box: Array, others: Array) -> Array:
    """[N]: intersection over union of one box [4+] with others [N,4+]."""
    sides = np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others[:, 2:4] - others[:, :2]).prod(axis=1) + (box[2:4] - box[:2]).prod()
    iou: Array = shared / np.maximum(areas - shared, 1e-9)
    return iou


AGREES: dict[str, Callable[[Array, Array], float]] = {
    "boxes": _agreeing_boxes,
    "class_map": lambda expected, found: float((expected == found).mean()),
    "probabilities": lambda expected, found: float((expected.argmax(1) == found.argmax(1)).mean()),
}
"""Output that tells the task → the share of it on which two answers agree, 0 to 1."""
