"""Recognising the folders that a user has: what `rgbt data init` finds, and what it has to assume."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from data.card import DatasetCard, Split, read_ids
from data.errors import DataError
from data.folders import Side, find_headers, find_pairs, find_sizes, split_pattern
from data.found_labels import FoundLabels, Pairs, find_labels
from data.found_thermal import find_signs, find_stored, find_unit
from data.ids import safe_id
from data.thermal import Planck
from data.yaml_file import atomic, dump_model, validate

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_SHOWN = 8
"""Most classes that are named."""


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
    classes: tuple[str, ...] = (),
    stored: str | None = None,
    planck: Planck | None = None,
) -> Layout:
    """Look at two folders of pictures and, where there are any, their labels.

    Args:
        rgb_dir: Pictures, also in sub-folders; or the pattern of their files, such as shots/{id}_rgb.png.
        thermal_dir: Pictures of the same names; may be the same folder where names tell them apart; or a pattern.
        labels: COCO file whose file names are those of RGB, table of classes, or folder of VOC, YOLO or masks; None:
            folders whose names hold no digit are taken for classes.
        out: Where the card shall lie.
        unit: One of data.thermal.DTYPES; None: guessed from the dtype, and said.
        unlabelled: List of the ids that make the split ``unlabelled``; None: all pairs without labels.
        name: Of the data set.
        classes: Names, where labels hold numbers; else what labels say.
        stored: One of data.thermal.Stored; None: radiometric JPEGs are recognised, else files hold the unit.
        planck: Constants that make degrees of raw counts; of radiometric JPEGs, they replace those in the files.

    Raises:
        DataError: no pairs, pictures of mixed kinds, or labels that fit no picture.
    """
    assumed: list[str] = []
    (rgb_dir, rgb_said), (thermal_dir, thermal_said) = split_pattern(rgb_dir), split_pattern(thermal_dir)
    rgb, thermal, ids = find_pairs(rgb_dir, thermal_dir, assumed, rgb_said, thermal_said)
    stored, read_header = find_stored([thermal.files[one] for one in ids], unit, stored, assumed, planck is not None)
    headers = find_headers(rgb, thermal, ids, assumed, read_header)
    rgb, thermal, ids = _only(rgb, headers), _only(thermal, headers), list(headers)
    rgb_size, thermal_size, canvas, dtype = find_sizes(list(headers.values()), assumed)
    known = {} if planck is None else {"planck": planck.model_dump(exclude_unset=True)}
    spec = find_unit(dtype, unit, list(thermal.files.values()), assumed, known, stored)
    find_signs(rgb, thermal, spec, assumed)
    root = _common(rgb_dir, thermal_dir)
    rgb_pattern, thermal_pattern = _below(root, rgb_dir, rgb), _below(root, thermal_dir, thermal)
    pairs = Pairs(ids, rgb_pattern, thermal_pattern, root)
    found = find_labels(labels, pairs, classes, lambda path: inside(path, root), assumed)
    splits, lists = _splits(ids, found, unlabelled, out, assumed)
    content = {
        "version": 1,
        "name": name or root.name or "pairs",
        "root": inside(root, out.parent),
        "rgb": rgb_pattern,
        "thermal": thermal_pattern,
        "rgb_size": rgb_size,
        "thermal_size": thermal_size,
        "canvas": canvas,
        **found.fields,
        "thermal_spec": spec,
        "splits": splits,
    }
    card = validate({key: value for key, value in content.items() if value is not None}, DatasetCard, out).at(out)
    return Layout(card, lists, {split: len(_ids_of(split, card, found.split_of, lists)) for split in splits}, assumed)


def _splits(
    ids: list[str], found: FoundLabels, unlabelled: Path | None, out: Path, assumed: list[str]
) -> tuple[dict[str, Split], dict[Path, str]]:
    labelled = found.split_of
    of_folders = found.fields.get("image_labels", {}).get("format") == "folder"
    splits: dict[str, Split] = {}
    lists: dict[str, list[str]] = {}
    named = Counter(labelled.values())
    without = named.pop(None, 0)
    if named:
        order = sorted(named, key=lambda s: (s not in SHARES, list(SHARES).index(s) if s in SHARES else 0, s))
        splits = {name: Split(coco=name) for name in order if name is not None}
        assumed.append("splits are those of the field 'split' in the labels")
        if found.elsewhere:  # the labels' own splits hold images that have no pictures
            lists = {name: [one for one, split in labelled.items() if split == name] for name in splits}
            assumed.append("the splits are lists beside the card, since some labelled images have no pictures")
        missing = [name for name in ("train", "val") if name not in named]
        if missing:
            assumed.append(f"! no labelled image has split {' or '.join(missing)}: training needs it")
        if without:
            assumed.append(f"! {without} labelled images have no 'split' and are in none")
    elif labelled:
        members = [one for one in ids if one in labelled]
        by_class = found.class_of and (of_folders or not _are_sequences(members))
        lists = _stretches_of_classes(members, found.class_of, assumed) if by_class else _blocks(members, assumed)
        if "val" not in lists:
            assumed.append("! there are too few labelled pairs for a split val: training needs it")
    rest = [one for one in ids if one not in labelled]
    if unlabelled is not None:
        rest = _listed(unlabelled, set(ids), labelled)
        assumed.append(f"the split 'unlabelled' holds the {len(rest)} pairs of {unlabelled}")
    if rest:
        lists["unlabelled"] = rest
    files = {}
    for name, members in lists.items():
        if "/" in safe_id(name, f"{out}: split"):
            raise DataError(f"{out}: the split '{name}' of the labels needs a list, and the name is none of a file")
        path = out.with_name(f"{out.stem}.{name}.txt")
        splits[name] = Split(file=path.name)
        files[path] = "\n".join(members) + "\n"
    return splits, files


def _listed(path: Path, ids: set[str], labelled: Mapping[str, str | None]) -> list[str]:
    listed = read_ids(path)
    for one in listed:
        if one not in ids:
            raise DataError(f"{path}: '{one}' is not the id of a pair")
        if one in labelled:
            raise DataError(f"{path}: '{one}' has labels")
    return listed


def _blocks(ids: list[str], assumed: list[str]) -> dict[str, list[str]]:
    """Share ids out without tearing sequences: neighbours in a recording are near-duplicates."""
    groups = _by_folder(ids)
    if not _are_sequences(ids):
        groups = {one: [one] for one in ids}  # contiguous blocks
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


def _by_folder(ids: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for one in ids:
        groups.setdefault(str(PurePosixPath(one).parent), []).append(one)
    return groups


def _are_sequences(ids: list[str]) -> bool:
    """Whether there are folders enough to share them out as they are."""
    return len(_by_folder(ids)) >= 2 * len(SHARES)


def _stretches_of_classes(ids: list[str], class_of: Mapping[str, str], assumed: list[str]) -> dict[str, list[str]]:
    """Share out the pairs of each class as contiguous stretches in the order of names."""
    classes: dict[str, list[str]] = {}
    for one in ids:
        classes.setdefault(class_of[one], []).append(one)
    assumed.append(
        "splits are contiguous stretches of each class in the order of names, about 70/15/15: neighbours stay "
        "together, and every class is in train"
    )
    few = [f"{name} ({len(members)})" for name, members in sorted(classes.items()) if len(members) < len(SHARES)]
    if few:
        more = f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else ""
        assumed.append(f"! too few pairs to be in train, val and test: {', '.join(few[:_SHOWN])}{more}")
    lists: dict[str, list[str]] = {name: [] for name in SHARES}
    for members in classes.values():
        val, test = (max(1, round(SHARES[name] * len(members))) for name in ("val", "test"))
        val, test = min(val, len(members) - 1), min(test, max(0, len(members) - 2))
        train = len(members) - val - test
        lists["train"] += members[:train]
        lists["val"] += members[train : train + val]
        lists["test"] += members[train + val :]
    return {name: members for name, members in lists.items() if members}


def _ids_of(split: str, card: DatasetCard, labelled: Mapping[str, str | None], lists: dict[Path, str]) -> list[str]:
    chosen = card.splits[split]
    if chosen.file is not None:
        return lists[card.path.parent / chosen.file].split("\n")[:-1]
    return [one for one, name in labelled.items() if name == chosen.coco]


def _only(side: Side, ids: Iterable[str]) -> Side:
    return Side(side.pattern, {one: side.files[one] for one in ids})


def _below(root: Path, folder: Path, side: Side) -> str:
    """The pattern of a sensor's files, relative to the root."""
    return str(PurePosixPath(inside(folder, root)) / side.pattern)


def _common(rgb_dir: Path, thermal_dir: Path) -> Path:
    rgb, thermal = rgb_dir.resolve(), thermal_dir.resolve()
    return next(folder for folder in (rgb, *rgb.parents) if thermal.is_relative_to(folder))


def inside(path: Path, root: Path) -> str:
    """``path`` relative to ``root`` where it lies in it, else absolute."""
    full, base = path.resolve(), root.resolve()
    return full.relative_to(base).as_posix() if full.is_relative_to(base) else str(full)
