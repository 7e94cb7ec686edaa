"""Replays a bundle's golden pairs: the engine must answer what PyTorch answered."""

from dataclasses import dataclass

import numpy as np

from export.bundle import Array
from export.errors import ExportError
from export.session import Session

SCORE_LIMIT = 1e-4
BOX_LIMIT_PX = 0.1
_BATCHES = (1, 2)  # what live sends, and proof that the batch is dynamic


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest absolute differences between an engine and PyTorch."""

    pairs: int
    """Golden pairs replayed, single-sensor ones included."""
    scores: float
    boxes_px: float

    @property
    def holds(self) -> bool:
        """Whether both differences are within the limits."""
        return self.scores <= SCORE_LIMIT and self.boxes_px <= BOX_LIMIT_PX

    def __str__(self) -> str:
        scores = f"scores differ by at most {self.scores:.1e} (limit {SCORE_LIMIT:.0e})"
        return f"{self.pairs} golden pairs: {scores}, boxes by {self.boxes_px:.1e} px (limit {BOX_LIMIT_PX} px)"


def replay(session: Session) -> Parity:
    """Run a bundle's golden pairs, one by one and in batches of two, and compare with PyTorch's answers.

    Raises:
        ExportError: golden.npz does not fit the graph, or an answer is not finite.
    """
    golden = session.bundle.golden()
    parities = []
    for batch in _BATCHES:
        answers = [
            session.run(*(golden[name][start : start + batch] for name in ("rgb", "thermal", "present")))
            for start in range(0, len(golden["rgb"]), batch)
        ]
        parities.append(compare_boxes(golden["boxes"], np.concatenate([answer["boxes"] for answer in answers])))
    return Parity(
        pairs=len(golden["rgb"]),
        scores=max(parity.scores for parity in parities),
        boxes_px=max(parity.boxes_px for parity in parities),
    )


def compare_boxes(expected: Array, found: Array) -> Parity:
    """Compare two answers [B,K,6] of the same pairs after matching their slots.

    Slots may change places where scores tie. A slot level with the last one kept may be another one on either
    side, so only its score is compared.

    Raises:
        ExportError: the shapes differ, or a number is not finite.
    """
    if expected.shape != found.shape:
        raise ExportError(f"the engine answers boxes {list(found.shape)}, PyTorch answered {list(expected.shape)}")
    if not np.isfinite(found).all():
        raise ExportError("the engine's answer holds NaN or infinite numbers; try another provider or precision")
    differences = [_difference(one, other) for one, other in zip(expected, found, strict=True)]
    scores, boxes = np.array(differences, np.float64).reshape(-1, 2).max(axis=0)
    return Parity(len(expected), float(scores), float(boxes))


def _difference(expected: Array, found: Array) -> tuple[float, float]:
    """Largest difference of scores, and of boxes in pixels, between two answers [K,6] of one pair."""
    floor = max(expected[:, 4].min(), found[:, 4].min()) + SCORE_LIMIT
    score = float(np.abs(np.sort(expected[:, 4]) - np.sort(found[:, 4])).max())
    box = 0.0
    free = np.ones(len(found), np.bool_)
    for slot in expected[np.argsort(-expected[:, 4], kind="stable")]:
        if slot[4] <= floor:
            break
        pixels = np.abs(found[:, :4] - slot[:4]).max(axis=1)
        points = np.abs(found[:, 4] - slot[4])
        cost = np.where(free & (found[:, 5] == slot[5]), pixels / BOX_LIMIT_PX + points / SCORE_LIMIT, np.inf)
        best = int(cost.argmin())
        if np.isinf(cost[best]):  # this box is not there at all
            score = max(score, float(slot[4]))
            continue
        free[best] = False
        score, box = max(score, float(points[best])), max(box, float(pixels[best]))
    unexpected = found[free & (found[:, 4] > floor), 4]
    return max(score, float(unexpected.max(initial=0.0))), box
