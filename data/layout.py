"""Recognising the folders that a user has: what `rgbt data init` finds, and what it has to assume."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from data.card import DatasetCard, Labels, Split, read_ids
from data.coco import CocoImage, read_coco
from data.errors import DataError
from data.folders import find_pairs, find_sizes, find_unit
from data.patterns import id_from_name
from data.yaml_file import atomic, dump_model

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


@dataclass
class Layout:
    """A card that fits what was found, the files that go with it, and what was assumed."""

    card: DatasetCard
    lists: dict[Path, str]
    """Text files beside the card."""
    counts: dict[str, int]
    """Split → pairs."""
    assumed: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the lists and the card; either all of them appear, or none."""
        files = {**self.lists, path: dump_model(self.card)}
        with ExitStack() as stack:
            for target, text in files.items():
                file = stack.enter_context(atomic(target, "w"))
                file.write(text)
                file.flush()  # a full disk shows here, before the first file is in place


def recognise(
    rgb_dir: Path,
    thermal_dir: Path,
    labels: Path | None,
    out: Path,
    unit: str | None = None,
    unlabelled: Path | None = None,
    name: str | None = None,
) -> Layout:
    """Look at two folders of pictures and, where there are any, COCO boxes.

    Args:
        rgb_dir: Pictures, also in sub-folders.
        thermal_dir: Pictures of the same names; may be the same folder where names tell the sensors apart.
        labels: COCO file whose file names are those of RGB.
        out: Where the card shall lie.
        unit: One of data.thermal.DTYPES; None: guessed from the dtype, and said.
        unlabelled: List of the ids that make the split ``unlabelled``; None: all pairs without labels.
        name: Of the data set.

    Raises:
        DataError: no pairs, pictures of mixed kinds, or labels that fit no picture.
    """
    assumed: list[str] = []
    rgb, thermal, ids = find_pairs(rgb_dir, thermal_dir, assumed)
    rgb_size, thermal_size, canvas, dtype = find_sizes(rgb, thermal, ids, assumed)
    spec = find_unit(dtype, unit, [thermal.files[one] for one in ids], assumed)
    root = _common(rgb_dir, thermal_dir)
    rgb_pattern = str(PurePosixPath(_inside(rgb_dir, root)) / rgb.pattern)
    images, classes = read_coco(labels, None) if labels is not None else ([], [])
    labelled = _labelled(images, rgb_pattern, set(ids), labels, assumed)
    splits, lists = _splits(ids, labelled, unlabelled, out, assumed)
    card = DatasetCard(
        version=1,
        name=name or root.name or "pairs",
        root=_inside(root, out.parent),
        rgb=rgb_pattern,
        thermal=str(PurePosixPath(_inside(thermal_dir, root)) / thermal.pattern),
        rgb_size=rgb_size,
        thermal_size=thermal_size,
        canvas=canvas,
        classes=tuple(classes),
        labels=None if labels is None else Labels(format="coco", path=_inside(labels, root)),
        thermal_spec=spec,
        splits=splits,
    ).at(out)
    counts = {split: len(_ids_of(split, card, labelled, lists)) for split in splits}
    return Layout(card, lists, counts, assumed)


def _labelled(
    images: list[CocoImage], pattern: str, ids: set[str], path: Path | None, assumed: list[str]
) -> dict[str, CocoImage]:
    if path is None:
        assumed.append("no labels: every pair is in the split 'unlabelled'")
        return {}
    found = {id_from_name(image.file_name, pattern): image for image in images}
    labelled = {one: image for one, image in found.items() if one is not None and one in ids}
    if not labelled:
        first = images[0].file_name if images else "none"
        raise DataError(f"{path}: no file_name (first: '{first}') is that of an RGB picture {pattern}")
    lost = len(images) - len(labelled)
    boxes = sum(len(image.boxes) for image in labelled.values())
    assumed.append(
        f"labels are boxes in RGB pixels: {boxes} on {len(labelled)} pairs; {len(ids) - len(labelled)} pairs have none"
    )
    if lost:
        assumed.append(f"! {lost} labelled images have no pair of pictures and are left out")
    return labelled


def _splits(
    ids: list[str], labelled: dict[str, CocoImage], unlabelled: Path | None, out: Path, assumed: list[str]
) -> tuple[dict[str, Split], dict[Path, str]]:
    splits: dict[str, Split] = {}
    lists: dict[str, list[str]] = {}
    named = Counter(image.split for image in labelled.values())
    without = named.pop(None, 0)
    if named:
        order = sorted(named, key=lambda s: (s not in SHARES, list(SHARES).index(s) if s in SHARES else 0, s))
        splits = {name: Split(coco=name) for name in order if name is not None}
        assumed.append("splits are those of the field 'split' in the labels")
        missing = [name for name in ("train", "val") if name not in splits]
        if missing:
            assumed.append(f"! no labelled image has split {' or '.join(missing)}: training needs it")
        if without:
            assumed.append(f"! {without} labelled images have no 'split' and are in none")
    elif labelled:
        lists = _blocks([one for one in ids if one in labelled], assumed)
    rest = [one for one in ids if one not in labelled]
    if unlabelled is not None:
        rest = _listed(unlabelled, set(ids), labelled)
        assumed.append(f"the split 'unlabelled' holds the {len(rest)} pairs of {unlabelled}")
    if rest:
        lists["unlabelled"] = rest
    files = {}
    for name, members in lists.items():
        path = out.with_name(f"{out.stem}.{name}.txt")
        splits[name] = Split(file=path.name)
        files[path] = "\n".join(members) + "\n"
    return splits, files


def _listed(path: Path, ids: set[str], labelled: dict[str, CocoImage]) -> list[str]:
    listed = read_ids(path)
    for one in listed:
        if one not in ids:
            raise DataError(f"{path}: '{one}' is not the id of a pair")
        if one in labelled:
            raise DataError(f"{path}: '{one}' has labels")
    return listed


def _blocks(ids: list[str], assumed: list[str]) -> dict[str, list[str]]:
    """Share ids out without tearing sequences: neighbours in a recording are near-duplicates."""
    groups: dict[str, list[str]] = {}
    for one in ids:
        groups.setdefault(str(PurePosixPath(one).parent), []).append(one)
    if len(groups) < 2 * len(SHARES):
        groups = {one: [one] for one in ids}  # too few folders to be sequences: contiguous blocks
        assumed.append("splits are contiguous blocks in the order of names, 70/15/15, so that neighbours stay together")
    else:
        assumed.append("splits keep the pairs of a folder together, about 70/15/15")
    lists: dict[str, list[str]] = {name: [] for name in SHARES}
    done, bounds = 0, np.cumsum(list(SHARES.values())) * len(ids)
    for members in groups.values():
        middle = done + len(members) / 2
        lists[list(SHARES)[min(int(np.searchsorted(bounds, middle)), len(SHARES) - 1)]] += members
        done += len(members)
    return {name: members for name, members in lists.items() if members}


def _ids_of(split: str, card: DatasetCard, labelled: dict[str, CocoImage], lists: dict[Path, str]) -> list[str]:
    chosen = card.splits[split]
    if chosen.file is not None:
        return lists[card.path.parent / chosen.file].split("\n")[:-1]
    return card.split_ids(split, labelled)


def _common(rgb_dir: Path, thermal_dir: Path) -> Path:
    rgb, thermal = rgb_dir.resolve(), thermal_dir.resolve()
    return next(folder for folder in (rgb, *rgb.parents) if thermal.is_relative_to(folder))


def _inside(path: Path, root: Path) -> str:
    """``path`` relative to ``root`` where it lies in it, else absolute."""
    full, base = path.resolve(), root.resolve()
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else str(full)
