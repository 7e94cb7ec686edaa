"""Cards with fewer labels, or with a validation split cut from train: made in memory, nothing is written."""

from collections.abc import Mapping, Sequence

from data.card import SENSORS, UNLABELLED, DatasetCard, Split
from data.errors import DataError


def subset(card: DatasetCard, labels: float) -> DatasetCard:
    """Keep a share of the training pairs labelled, spread evenly over the split; the others become unlabelled.

    Args:
        card: With a split ``train``.
        labels: Share of it that keeps its labels, above 0 and at most 1; at least one pair does.

    Raises:
        DataError: the share is out of range, or there is no split ``train``.
    """
    if not 0 < labels <= 1:
        raise DataError(f"{card.path}: a share of {labels:g} labels; expected one above 0, at most 1")
    ids = _train_ids(card)
    count = kept_count(len(ids), labels)
    kept = [ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)]
    chosen = set(kept)
    moved = [one for one in ids if one not in chosen]
    if not moved:
        return card
    home = _home(card)
    rest = card.ids(home) if home in card.splits else []
    return _with(card, train=Split(ids=tuple(kept)), **{home: Split(ids=(*rest, *moved))})


def holdout(card: DatasetCard, share: float, task: str = "detect") -> DatasetCard:
    """Make the last ``share`` of train the split ``val``, in place of the card's own: neighbours stay together.

    For the task classify, where the end lacks classes that train has, it is the end of each class.

    Raises:
        DataError: the share is out of range, or train has too few pairs to be cut.
    """
    samples = card.samples("train")
    ids = [sample.id for sample in samples]
    if not 0 < share < 1 or len(ids) < 2:
        raise DataError(
            f"{card.path}: a share of {share:g} of {len(ids)} training pairs cannot be held out; expected a share "
            "between 0 and 1, of two pairs or more"
        )
    count = held_out_count(len(ids), share)
    held = set(ids[-count:])
    kinds = {sample.id: sample.image_label for sample in samples if sample.image_label is not None}
    if task == "classify" and set(kinds.values()) - {kinds.get(one) for one in held}:
        held = _ends(ids, kinds, count)
    train, val = (tuple(one for one in ids if (one in held) is out) for out in (False, True))
    return _with(card, train=Split(ids=train), val=Split(ids=val))


def _ends(ids: Sequence[str], kinds: Mapping[str, int], count: int) -> set[str]:
    """``count`` of the ids: the end of each class, in the order of ``ids``, and where possible one of each."""
    left: dict[int | None, list[str]] = {}
    for one in ids:
        left.setdefault(kinds.get(one), []).append(one)
    sizes = {kind: len(own) for kind, own in left.items()}
    held = set[str]()
    for _ in range(count):  # next the class of which the smallest share is held; the last of a class stays in train
        able = [kind for kind in left if len(left[kind]) > 1] or [kind for kind in left if left[kind]]
        lagging = min(able, key=lambda kind: (1 - len(left[kind]) / sizes[kind], sizes[kind]))
        held.add(left[lagging].pop())
    return held


def kept_count(pairs: int, labels: float) -> int:
    """How many of the training pairs ``subset`` leaves labelled."""
    return max(1, round(labels * pairs))


def held_out_count(pairs: int, share: float) -> int:
    """How many of the training pairs ``holdout`` makes the split ``val``."""
    return min(max(1, round(share * pairs)), pairs - 1)


def _train_ids(card: DatasetCard) -> list[str]:
    return [sample.id for sample in card.samples("train")]


def _home(card: DatasetCard) -> str:
    """Name of the unlabelled split that takes pairs of both sensors."""
    paired = (name for name in card.unlabelled if set(card.splits[name].sensors) == set(SENSORS))
    return next(paired, f"{UNLABELLED}-pairs" if UNLABELLED in card.splits else UNLABELLED)


def _with(card: DatasetCard, **splits: Split) -> DatasetCard:
    return card.model_copy(update={"splits": card.splits | splits}).at(card.path)
