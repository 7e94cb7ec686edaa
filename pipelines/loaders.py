"""Hands batches of a card to the trainer: what comes when is a function of the order it asks for, nothing else."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Sampler

from data.card import DatasetCard
from data.dataset import PairDataset, collate
from data.errors import DataError
from fusion.seeds import derive, permutation
from pipelines.recipe_file import TrainRecipe

Key = tuple[int, int]
"""Index of a sample, and the seed of its augmentation."""


class OrderedSampler(Sampler[list[Key]]):
    """Batches of keys in an order that can be set anew for each epoch; works with workers that live on."""

    def __init__(self, count: int, batch: int) -> None:
        self.count, self.batch = count, batch
        self.order: tuple[int | str, ...] | None = None
        """What the order and the seeds derive from; None: as listed, for validation."""

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order
        indices = list(range(self.count)) if order is None else permutation(self.count, *order)
        keys = [(i, 0 if order is None else derive(*order, i)) for i in indices]
        for start in range(0, self.count, self.batch):
            yield keys[start : start + self.batch]


class CardLoaders:
    """The loaders of one training run; see fusion.trainer.Loaders."""

    def __init__(self, card: DatasetCard, recipe: TrainRecipe) -> None:
        sensors = recipe.model.sensors
        labelled = PairDataset(card, "train", recipe.augment, sensors)
        _require_labels(card, "train")
        _require_labels(card, "val")
        for split in ("train", "val", *(["unlabelled"] if "unlabelled" in card.splits else [])):
            _require_files(card, split, sensors)
        self.fingerprint = _fingerprint(card)
        """Hash of what a run takes from the card: sizes, unit, classes, ids and labels."""
        self._recipe = recipe
        self._samplers: dict[bool, OrderedSampler] = {}
        self._loaders: dict[bool, DataLoader[Any]] = {}
        self._add(True, labelled)
        splits = ["train", "unlabelled"] if "unlabelled" in card.splits else ["train"]
        self._add(False, PairDataset(card, splits, recipe.augment, sensors))
        validation = PairDataset(card, "val", None, sensors)
        self._validation = self._loader(validation, OrderedSampler(len(validation), recipe.batch))

    def _add(self, labelled: bool, pairs: PairDataset) -> None:
        self._samplers[labelled] = OrderedSampler(len(pairs), self._recipe.batch)
        self._loaders[labelled] = self._loader(pairs, self._samplers[labelled])

    def _loader(self, pairs: PairDataset, sampler: OrderedSampler) -> DataLoader[Any]:
        workers = self._recipe.workers
        return DataLoader(
            pairs, batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
        )

    def train(self, labelled: bool, *order: int | str) -> DataLoader[Any]:
        """Batches of one epoch over the labelled pairs, or over all that can be learnt from without labels."""
        self._samplers[labelled].order = order
        return self._loaders[labelled]

    def validation(self) -> DataLoader[Any]:
        """Batches of the validation split, in its order, not augmented."""
        return self._validation


def _fingerprint(card: DatasetCard) -> str:
    digest = hashlib.sha256(card.inputs().model_dump_json().encode() + repr(card.classes).encode())
    for split in ("train", "unlabelled", "val"):
        for sample in card.samples(split) if split in card.splits else ():
            digest.update(f"{split}/{sample.id}".encode())
            if sample.boxes is not None and sample.labels is not None:
                digest.update(sample.boxes.tobytes() + sample.labels.tobytes())
    return digest.hexdigest()


def _require_files(card: DatasetCard, split: str, sensors: Sequence[str]) -> None:
    """Fail before anything is trained or written, not at the first batch that misses a file."""
    missing = [path for s in card.samples(split) for path in (getattr(s, one) for one in sensors) if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]}: no such file ({len(missing)} of split '{split}' are missing); rgbt data check")


def _require_labels(card: DatasetCard, split: str) -> None:
    lacking = [sample.id for sample in card.samples(split) if sample.boxes is None]
    if lacking:
        raise DataError(
            f"{card.path}: {len(lacking)} pairs of split '{split}' have no labels (first: '{lacking[0]}'); "
            "move them to the split 'unlabelled'"
        )
