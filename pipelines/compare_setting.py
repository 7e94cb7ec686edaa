"""Which pictures train, select and are reported: nothing is ever chosen on the reported ones."""

import hashlib

from data.card import DatasetCard
from data.errors import DataError
from data.sample import Sample
from data.subset import holdout, subset
from pipelines.compare_cells import Setting
from pipelines.compare_request import Request


def choose_setting(request: Request, task: str) -> Setting:
    """Decide which pictures train, select and are reported: never is anything chosen on the reported ones."""
    source = DatasetCard.load(request.card)
    both = {"val", "test"} <= set(source.splits)
    reported = request.report or ("test" if both or "val" not in source.splits else "val")
    samples = source.samples(reported)
    source.require(task)
    lacking = next((sample.id for sample in samples if not sample.has(task)), None)
    if lacking is not None:
        raise DataError(
            f"{source.path}: pair '{lacking}' of split '{reported}' has no labels, so it cannot be reported; "
            "name another split by --report"
        )
    card = source if request.labels == 1 else subset(source, request.labels)
    cut = 0.0
    if reported != "val" and "val" in source.splits:
        words = f"the card's split 'val' ({len(source.samples('val'))} pairs)"
    else:
        without = holdout(card, request.holdout, task)
        tail = f"{len(without.samples('val'))} pairs from the end of train"
        if request.select == "last":
            card = card.model_copy(update={"splits": card.splits | {"val": without.splits["val"]}})
            words = f"{tail}, which it also trains on (in-sample: for monitoring and the guard only)"
        else:
            card, cut, words = without, request.holdout, f"{tail}, which are cut off and not trained on"
    _require_apart(source, card, reported)
    shown = {sample.id for sample in samples}
    return Setting(
        task=task,
        card=card,
        source=source,
        reported=reported,
        pictures=len(samples),
        digest=_digest(reported, samples, task),
        validation=words,
        validated=len(card.samples("val")),
        leaks=sum(sample.id in shown for split in card.unlabelled for sample in card.samples(split)),
        labelled=len(source.samples("train")),
        cut=cut,
    )


def _digest(split: str, samples: list[Sample], task: str) -> str:
    digest = hashlib.sha256(split.encode())
    for sample in samples:
        digest.update(sample.id.encode() + _truth(sample, task))
    return digest.hexdigest()


def _truth(sample: Sample, task: str) -> bytes:
    """What the pair is labelled with, as bytes."""
    if task == "detect":
        assert sample.boxes is not None and sample.labels is not None
        return sample.boxes.tobytes() + sample.labels.tobytes()
    if task == "segment":
        assert sample.mask is not None
        return sample.mask.read_bytes()
    return str(sample.image_label).encode()


def _require_apart(source: DatasetCard, card: DatasetCard, reported: str) -> None:
    """What is reported neither trains nor selects."""
    shown = {sample.id for sample in source.samples(reported)}
    for split in ("train", "val"):
        common = [sample.id for sample in card.samples(split) if sample.id in shown]
        if common:
            raise DataError(
                f"{card.path}: {len(common)} pairs of the reported split '{reported}' (first: '{common[0]}') are used "
                f"in training too ({split}); report a split of other pairs"
            )
