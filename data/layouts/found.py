"""What a layout tells of a set, and what layouts share: listing ids, official lists, holding sequences out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.ids import safe_id
from data.patterns import fill, id_from_name
from data.text_file import read_text

HELD_OUT = 0.12
"""Share of the training pairs that become the validation split of a set that has none."""
MARGIN = 3
"""Frames on each side of a stretch held out that are not learned from."""


@dataclass
class Found:
    """What a card says of a set, but for what is measured on its files (sizes, thermal unit)."""

    name: str
    rgb: str
    """Pattern of the RGB pictures, relative to the root."""
    thermal: str
    splits: dict[str, list[str]]
    """Split → ids, in the order of the official list or of names."""
    classes: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the card as plain YAML content: labels, masks …"""
    thermal_spec: dict[str, Any] = field(default_factory=dict)
    """What is known of the thermal spec beside the unit, as plain YAML content: channel, marked …"""
    scenes: dict[str, str] = field(default_factory=dict)
    """Id → scene, such as day and night."""
    assumed: list[str] = field(default_factory=list)
    """What a reader of the card should know; lines that begin with "!" are warnings."""


def has(root: Path, *names: str) -> bool:
    """Whether a folder holds all of these files and folders; a name may be a glob."""
    return all(next(root.glob(name), None) is not None for name in names)


def list_ids(root: Path, pattern: str) -> list[str]:
    """Ids of the files below ``root`` that follow ``pattern``, sorted; no link to a folder is followed."""
    fixed = pattern.partition("{")[0].rpartition("/")[0]
    found = (id_from_name(path.relative_to(root).as_posix(), pattern) for path in (root / fixed).rglob("*.*"))
    return sorted(one for one in found if one is not None and (root / fill(pattern, one)).is_file())


def read_list(path: Path, name_to_id: Callable[[str], str] = str) -> list[str]:
    """Ids of an official list: the first word of each line, without its suffix; DataError when it cannot be read."""
    words = [line.split()[0] for line in read_text(path, "the official list of a split").splitlines() if line.strip()]
    ids = [name_to_id(safe_id(word, str(path)).removesuffix(".png").removesuffix(".jpg")) for word in words]
    return list(dict.fromkeys(ids))


def hold_out(ids: Sequence[str], sequence_of: Callable[[str], str], share: float = HELD_OUT) -> dict[str, list[str]]:
    """Split the ids of a training list into train and val; no sequence is torn, and those held out are spread evenly.

    Neighbouring frames are near-duplicates: pairs drawn at random would be judged by what was learned by heart.
    """
    sequences: dict[str, list[str]] = {}
    for one in ids:
        sequences.setdefault(sequence_of(one), []).append(one)
    if len(sequences) == 1:  # a single recording: its end
        end = len(ids) - max(1, round(share * len(ids)))
        return {"train": list(ids[:end]), "val": list(ids[end:])}
    due, chosen = 0.0, set[str]()
    for name, members in sequences.items():
        due += share * len(members)
        if due >= len(members) / 2:
            chosen.add(name)
            due -= len(members)
    if not chosen and sequences:
        chosen = {min(sequences, key=lambda name: len(sequences[name]))}
    train = [one for one in ids if sequence_of(one) not in chosen]
    return {"train": train, "val": [one for one in ids if sequence_of(one) in chosen]}


def hold_out_stretches(
    ids: Sequence[str], stretch_of: Callable[[str], str], assumed: list[str], share: float = HELD_OUT
) -> dict[str, list[str]]:
    """``hold_out`` of stretches of a recording: frames of train beside a cut, in the order of names, are in no split.

    A set so small that more than a tenth of train would be lost keeps them.
    """
    parts = hold_out(ids, stretch_of, share)
    held, order = set(parts["val"]), sorted(ids)
    at = [number for number, one in enumerate(order) if one in held]
    near = {one for number in at for one in order[max(0, number - MARGIN) : number + MARGIN + 1]}
    kept = [one for one in parts["train"] if one not in near]
    lost = len(parts["train"]) - len(kept)
    if not lost or 10 * lost > len(parts["train"]):
        return parts
    assumed.append(
        f"{lost} pairs are in no split: the {MARGIN} neighbours, in the order of names, before and after each stretch "
        "that is held out are nearly its frames"
    )
    return {"train": kept, "val": parts["val"]}


def stretches(ids: Iterable[str], length: int = 50) -> Callable[[str], str]:
    """Stand-in for sequences of a set that names none: stretches of so many neighbours in the order of names."""
    block = {one: str(number // length) for number, one in enumerate(sorted(ids))}
    return block.__getitem__
