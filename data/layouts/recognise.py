"""From a public set on disk to its card: what the layout tells, and what is measured on the files."""

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from data.card import DatasetCard
from data.errors import DataError
from data.folders import Side, find_headers, find_sizes
from data.found_thermal import find_signs, find_stored, find_unit
from data.layout import Layout, inside
from data.layouts.found import Found
from data.layouts.known import find_layout
from data.patterns import fill
from data.yaml_file import validate

MEASURED = 1000
"""Most pairs whose headers are read for size and depth; `data check` reads every file."""


def recognise_set(
    path: Path, out: Path, unit: str | None = None, name: str | None = None, stored: str | None = None
) -> Layout | None:
    """Recognise one of the field's public sets in a folder, or in a folder of it; None: it is none that is known.

    Args:
        path: Folder of the set.
        out: Where the card shall lie; lists of the splits and of the scenes lie beside it.
        unit: One of data.thermal.DTYPES; None: by the dtype of the files, and said.
        name: Of the data set; None: the set's own.
        stored: One of data.thermal.Stored that needs no further numbers; None: what is known of the set.

    Raises:
        DataError: no such folder, several sets in it, or a set none of whose pairs are there.
    """
    recognised = find_layout(path)
    if recognised is None:
        return None
    key, root, found = recognised
    assumed = [f"{root} is laid out as {found.name} ('{key}')", *found.assumed]
    splits = _present(root, found, assumed)
    ids = _spread(list(dict.fromkeys(chain.from_iterable(splits.values()))), assumed)
    rgb, thermal = (Side(text, {one: root / fill(text, one) for one in ids}) for text in (found.rgb, found.thermal))
    stored, read_header = find_stored(
        list(thermal.files.values()), unit, stored or found.thermal_spec.get("stored"), assumed
    )
    headers = find_headers(rgb, thermal, ids, assumed, read_header)
    rgb, thermal = (Side(side.pattern, {one: side.files[one] for one in headers}) for side in (rgb, thermal))
    broken = set(ids) - headers.keys()
    whole = {split: [one for one in members if one not in broken] for split, members in splits.items()}
    splits = {split: members for split, members in whole.items() if members}
    _tell_labels(root, found, splits, assumed)
    rgb_size, thermal_size, canvas, dtype = find_sizes(list(headers.values()), assumed)
    spec = find_unit(dtype, unit, list(thermal.files.values()), assumed, found.thermal_spec, stored)
    find_signs(rgb, thermal, spec, assumed)
    lists = {out.with_name(f"{out.stem}.{split}.txt"): "\n".join(members) + "\n" for split, members in splits.items()}
    scenes = out.with_name(f"{out.stem}.scenes.json")
    if found.scenes:
        lists[scenes] = json.dumps(found.scenes, indent=0) + "\n"
    content = {
        "version": 1,
        "name": name or found.name,
        "root": inside(root, out.parent),
        "rgb": found.rgb,
        "thermal": found.thermal,
        "rgb_size": rgb_size,
        "thermal_size": thermal_size,
        "canvas": canvas,
        "classes": found.classes,
        **found.fields,
        "thermal_spec": spec,
        "splits": {split: {"file": f"{out.stem}.{split}.txt"} for split in splits},
        "scenes": inside(scenes, root) if found.scenes else None,
    }
    card = validate({key: value for key, value in content.items() if value is not None}, DatasetCard, out).at(out)
    return Layout(card, lists, {split: len(members) for split, members in splits.items()}, assumed)


def _present(root: Path, found: Found, assumed: list[str]) -> dict[str, list[str]]:
    """The splits without the pairs that are not on disk, which are told of."""
    splits = {}
    for split, ids in found.splits.items():
        there = [one for one in ids if all((root / fill(text, one)).is_file() for text in (found.rgb, found.thermal))]
        if len(there) < len(ids):
            lost = next(one for one in ids if one not in set(there))
            assumed.append(f"! {len(ids) - len(there)} of {len(ids)} pairs of {split} are not here (first: {lost})")
        if there:
            splits[split] = there
    if not splits:
        raise DataError(f"{root}: laid out as {found.name}, but no pair has both of its files; is the copy complete?")
    missing = [split for split in ("train", "val") if split not in splits]
    if missing:
        assumed.append(f"! there are no pairs for {' and '.join(missing)}: training needs them")
    return splits


def _tell_labels(root: Path, found: Found, splits: dict[str, list[str]], assumed: list[str]) -> None:
    """Say how many pairs have no file of labels, of those kinds that have one for each pair."""
    masks, boxes = found.fields.get("masks"), found.fields.get("labels", {})
    for pattern, meaning in (
        (masks if isinstance(masks, str) or masks is None else masks["path"], "they have no mask"),
        (boxes.get("path"), "nothing is on them" if boxes.get("missing") == "empty" else "nobody has labelled them"),
    ):
        ids = [one for members in splits.values() for one in members if pattern is not None]
        lost = [one for one in ids if not (root / fill(pattern or "", one)).is_file()]
        if lost:
            where = fill(pattern or "", lost[0])
            assumed.append(f"! {len(lost)} of {len(ids)} pairs lack a file of labels: {meaning} (first: {where})")


def _spread(ids: Sequence[str], assumed: list[str]) -> list[str]:
    """At most MEASURED ids, spread evenly."""
    if len(ids) <= MEASURED:
        return list(ids)
    assumed.append(f"sizes and depth are those of {MEASURED} of {len(ids)} pairs; 'rgbt data check' reads all of them")
    return [ids[number * len(ids) // MEASURED] for number in range(MEASURED)]
