"""Hands batches of a card to the trainer: what comes when is a function of the order it asks for, nothing else."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from torch.utils.data import DataLoader, Dataset, IterableDataset

from data.card import SENSORS, TASKS, DatasetCard, Sample
from data.dataset import Batch, Item, PairDataset, Stacked, stack, unpack
from data.errors import DataError
from data.sample import tell_empty
from data.text_file import read_bytes
from fusion.objectives import OBJECTIVES
from fusion.seeds import derive, permutation
from pipelines.freed_memory import keep_freed_memory
from pipelines.recipe_file import TrainRecipe
from pipelines.stopping import shielded

Key = tuple[str, int, int]
"""Kind (or val), index of a sample among those of its kind, and the seed of its augmentation."""
Steps = list[list[Key]]
"""The keys of each batch."""
_READ: dict[str, tuple[str, ...]] = {"thermal": ("thermal",), "pairs": SENSORS}
"""Kind of pictures that need no labels → the sensors that are read."""


class CardLoaders:
    """The loaders of one process of a training run; see fusion.trainer.Loaders."""

    def __init__(self, card: DatasetCard, recipe: TrainRecipe, rank: int = 0, world: int = 1) -> None:
        """Look at the card, and at which files are there; nothing is read yet.

        Args:
            card: The data set.
            recipe: Says which pictures are needed, how they are changed, and how many make a batch.
            rank: Of this process, from 0.
            world: Number of processes that share each batch.

        Raises:
            DataError: the card lacks pictures, files or labels that a stage needs, or a batch cannot be shared out.
        """
        task = recipe.model.head.kind
        _require_shares(recipe, world)
        _require_task(card, recipe)
        self._recipe, self._rank, self._world = recipe, rank, world
        splits = _read(card, recipe)
        _require_files(card, recipe, splits)
        self.warning = tell_empty(one for samples in splits.values() for one in samples) if task == "detect" else ""
        """One line on what is left out; empty: nothing is."""
        self.fingerprint = _fingerprint(card, task, splits)
        """Hash of what a run takes from the card: sizes, unit, classes, rig, ids, the task's labels (masks byte by
        byte), and the length of each other file."""
        learnt = [sample for name, samples in splits.items() if name != "val" for sample in samples]
        whole = {kind: _having(learnt, sensors) for kind, sensors in _READ.items()}
        kinds: dict[str, list[Sample]] = {"labelled": splits.get("train", []), **whole}
        self.sizes: dict[str, int] = {kind: len(samples) for kind, samples in kinds.items()}
        """Kind → number of its pictures."""
        _require_pictures(card, recipe, self.sizes, world)
        reads = {"labelled": recipe.model.sensors, **_READ}
        train = {
            kind: PairDataset(card, samples, recipe.augment, reads[kind], task if kind == "labelled" else None)
            for kind, samples in kinds.items()
        }
        val = PairDataset(card, splits["val"], None, recipe.model.sensors, task)
        # A pool for each: validation is over before training goes on, and both keep their workers.
        self._train = _Pool(_ByKind(train), recipe.workers)
        self._validation = _Pool(_ByKind({"val": val}), recipe.workers)
        self._pictures = len(val)

    def train(self, kind: str, order: tuple[int | str, ...], skip: int = 0) -> DataLoader[Any]:
        """This process's share of the batches of one epoch; ``len`` is the whole epoch's, whatever is skipped.

        Args:
            kind: labelled: the split train, ``recipe.repeat`` times. thermal: train and all unlabelled pictures, of
                which only thermal is read. pairs: those of them that have both sensors.
            order: Decides order and augmentation, and nothing else does.
            skip: Batches that are done already; they are not read.
        """
        return _as_loader(_Epoch(self._train, self._steps_of(kind), lambda: self._keys(kind, order, skip)))

    def validation(self) -> DataLoader[Any]:
        """This process's share of the validation split: every ``world``-th batch, in its order, not augmented."""
        batch = self._recipe.batch
        keys = [("val", i, derive("val", i)) for i in range(self._pictures)]
        own = [keys[start : start + batch] for start in range(0, len(keys), batch)][self._rank :: self._world]
        return _as_loader(_Epoch(self._validation, len(own), lambda: own))

    def _passes(self, kind: str) -> int:
        return self._recipe.repeat if kind == "labelled" else 1

    def _steps_of(self, kind: str) -> int:
        """Optimiser steps of an epoch.

        What does not fill a batch is left out. Where there is less than one, all of it is one: as much as can be shared
        out evenly.
        """
        return max(1, self.sizes[kind] * self._passes(kind) // self._recipe.batch)

    def _keys(self, kind: str, order: tuple[int | str, ...], skip: int) -> Steps:
        size, count = self._recipe.batch, self.sizes[kind]
        epoch = [
            (number, index)
            for number in range(self._passes(kind))
            for index in permutation(count, *order, "order", number)
        ]
        # Equal shares: a process with fewer pairs could take fewer parts of its batch, and the others would wait.
        del epoch[len(epoch) - len(epoch) % self._world :]
        batches = [epoch[step * size : (step + 1) * size] for step in range(skip, self._steps_of(kind))]
        return [
            [(kind, index, derive(*order, "pair", number, index)) for number, index in batch[self._rank :: self._world]]
            for batch in batches
        ]


class _ByKind(Dataset[Item]):
    """Several data sets behind one pool of workers."""

    def __init__(self, sets: Mapping[str, PairDataset]) -> None:
        self._sets = sets

    def __getitem__(self, key: Key) -> Item:
        kind, index, seed = key
        return self._sets[kind][index, seed]


class _Plan:
    """What the workers read next; set anew for each epoch, while they live on."""

    def __init__(self) -> None:
        self.steps: Steps = []

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.steps)


class _Pool:
    """Processes that read and change pictures, from the first epoch to the last."""

    def __init__(self, pairs: _ByKind, workers: int) -> None:
        self._plan = _Plan()
        if not workers:
            keep_freed_memory()  # this process makes the pictures itself
        self._loader: DataLoader[Any] = DataLoader(
            pairs,
            batch_sampler=self._plan,
            collate_fn=stack,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=shielded(_one_thread),
        )

    def read(self, steps: Steps) -> Iterator[Batch]:
        """Yield the batches of these keys; what an epoch that was broken off had still in hand is dropped."""
        self._plan.steps = steps
        stacked: Stacked
        try:
            for stacked in self._loader:
                yield unpack(stacked)
        except DataError as error:  # torch puts a worker's whole traceback before what it says
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].removesuffix("\\n")) from None


def _one_thread(_: int) -> None:
    """Workers are as many as are to read at once: OpenCV's own threads would get in their way."""
    cv2.setNumThreads(0)
    keep_freed_memory()


class _Epoch(IterableDataset[Batch]):
    """Batches whose keys are drawn when they are asked for, so that asking for their number costs nothing."""

    def __init__(self, pool: _Pool, count: int, keys: Callable[[], Steps]) -> None:
        self._pool, self._count, self._keys = pool, count, keys

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        return self._pool.read(self._keys())


def _as_loader(epoch: _Epoch) -> DataLoader[Any]:
    """Fabric takes nothing but a DataLoader; this one hands on what the pool's own gives."""
    return DataLoader(epoch, batch_size=None, collate_fn=_same)


def _same(batch: Any) -> Any:  # noqa: ANN401 - as DataLoader declares it
    return batch


def _kinds(recipe: TrainRecipe) -> set[str]:
    """What the recipe's stages learn from."""
    return {OBJECTIVES[stage.objective].learns_from for stage in recipe.stages}


def _read(card: DatasetCard, recipe: TrainRecipe) -> dict[str, list[Sample]]:
    """The samples of each split that a run takes: train, those without labels, val."""
    labelled = "labelled" in _kinds(recipe)
    train = ["train"] if labelled or "train" in card.splits else []
    splits = {name: card.samples(name) for name in (*train, *card.unlabelled, "val")}
    for name in ("train", "val") if labelled else ():
        lacking = [sample.id for sample in splits[name] if not sample.has(recipe.model.head.kind)]
        if lacking:
            raise DataError(
                f"{card.path}: {len(lacking)} pairs of split '{name}' have no labels for the task "
                f"'{recipe.model.head.kind}' (first: '{lacking[0]}'); move them to the split 'unlabelled'"
            )
    return splits


def _having(samples: Sequence[Sample], sensors: Sequence[str]) -> list[Sample]:
    """Those that have these sensors, without their labels: nothing that learns without labels pays for them."""
    return [
        replace(one, boxes=None, labels=None, mask=None, image_label=None)
        for one in samples
        if set(sensors) <= set(one.sensors)
    ]


def _require_files(card: DatasetCard, recipe: TrainRecipe, splits: Mapping[str, Sequence[Sample]]) -> None:
    """Fail before anything is trained or written, not at the first batch that misses a file."""
    kinds = _kinds(recipe)
    own: set[str] = set(recipe.model.sensors) if "labelled" in kinds else set()
    free: set[str] = {sensor for kind in kinds & _READ.keys() for sensor in _READ[kind]}
    for name, samples in splits.items():
        needed = {"train": own | free, "val": {str(s) for s in recipe.model.sensors}}.get(name, free)
        paths = [getattr(sample, sensor) for sample in samples for sensor in sample.sensors if sensor in needed]
        if recipe.model.head.kind == "segment" and "labelled" in kinds:
            paths += [sample.mask for sample in samples if sample.mask is not None]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise DataError(
                f"{missing[0]}: no such file ({len(missing)} of split '{name}' are missing); "
                f"rgbt data check {card.path}"
            )


def _require_task(card: DatasetCard, recipe: TrainRecipe) -> None:
    """The card has labels for what the recipe learns, if a stage learns from labels."""
    if recipe.model.head.kind not in TASKS:
        raise DataError(f"model.head.kind: {recipe.model.head.kind}: cards know the tasks {', '.join(TASKS)}")
    if "labelled" in _kinds(recipe):
        card.require(recipe.model.head.kind)


def _require_shares(recipe: TrainRecipe, world: int) -> None:
    if recipe.batch % world:
        raise DataError(
            f"batch: {recipe.batch} pairs cannot be shared out evenly to {world} devices; "
            f"expected a multiple, such as --set batch={-(-recipe.batch // world) * world}"
        )


def _require_pictures(card: DatasetCard, recipe: TrainRecipe, sizes: Mapping[str, int], world: int) -> None:
    """Each stage has something to learn from, on each device."""
    named = {"labelled": "labelled pairs", "thermal": "pictures with thermal", "pairs": "pairs of both sensors"}
    for index, stage in enumerate(recipe.stages):
        kind = OBJECTIVES[stage.objective].learns_from
        if sizes[kind] < world:
            found = f"has only {sizes[kind]} for {world} devices" if sizes[kind] else "has none"
            raise DataError(
                f"{card.path}: {found} of the {named[kind]} that stage '{stage.name}' learns from "
                f"(stages.{index}.objective: {stage.objective}); they come from train and splits named unlabelled…"
            )


def _fingerprint(card: DatasetCard, task: str, splits: Mapping[str, Sequence[Sample]]) -> str:
    inputs = card.inputs().model_dump_json(exclude={"rig_baked"})  # of bundles alone; runs of before know no such field
    facts = (inputs, card.load_rig().model_dump_json(), task, repr(card.classes_of(task)))
    digest = hashlib.sha256("\n".join(facts).encode())
    if task == "segment" and card.masks is not None:
        digest.update(repr(card.masks).encode())
    for split, samples in splits.items():
        for sample in samples:
            files = [(sensor, _length(getattr(sample, sensor))) for sensor in sample.sensors]
            digest.update(f"{split}/{sample.id}{files}".encode())
            digest.update(_of_labels(sample, task))
    return digest.hexdigest()


def _of_labels(sample: Sample, task: str) -> bytes:
    """What a sample's labels for a task are known by; a mask by its bytes, for another class has the same length."""
    if task == "detect" and sample.boxes is not None and sample.labels is not None:
        return sample.boxes.tobytes() + sample.labels.tobytes()
    if task == "segment" and sample.mask is not None and sample.mask.exists():
        return hashlib.sha256(read_bytes(sample.mask, "the mask")).digest()
    return repr(sample.image_label).encode() if task == "classify" else b""


def _length(path: Path) -> int:
    """Of a file in bytes: a picture that was made anew nearly always has another. −1: there is none."""
    return path.stat().st_size if path.exists() else -1
