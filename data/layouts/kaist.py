"""KAIST multispectral pedestrians (Hwang et al., CVPR 2015): twelve sets of videos, day and night."""

import re
from pathlib import Path

from data.layouts.found import Found, has, hold_out, list_ids, read_list

IGNORED = ("people", "person?", "cyclist")
"""What the benchmark neither counts as found nor as missed."""
_LOWEST, _HEAVILY = 55, 2
"""Height in pixels, and degree of occlusion, of what the setting 'reasonable' (Dollár et al., 2012) does not judge."""
_IMAGES = ("images", ".")
"""Folders that the sets may lie in."""
_BOXES = {
    "annotations_paired": "{dir}/visible/{name}.txt",  # of Zhang et al., ICCV 2019: boxes for each sensor
    "annotations": "{dir}/{name}.txt",
    "annotations-xml-new-sanitized": "{dir}/{name}.xml",  # of Li et al., BMVC 2018
    "annotations-xml-new": "{dir}/{name}.xml",
    "annotations-xml-15": "{dir}/{name}.xml",
    "annotations-xml": "{dir}/{name}.xml",
}
"""Folder of boxes → pattern below it, the better annotations first."""
_NIGHT = (3, 4, 5, 9, 10, 11)
_STEPS = {"train": 2, "test": 20}


def kaist(root: Path) -> Found | None:
    """``set00/V000/visible/I00000.jpg`` and ``lwir``, also below ``images``; ``annotations`` and ``imageSets``."""
    images = next(
        (name for name in _IMAGES if has(root / name, "set[01][0-9]/V*/visible", "set[01][0-9]/V*/lwir")), None
    )
    if images is None:
        return None
    inside = "" if images == "." else f"{images}/"
    ids = list_ids(root, f"{inside}{{dir}}/visible/{{name}}.jpg")
    assumed = ["train is sets 00–05, test sets 06–11, as published"]
    train, test = (_frames(root, part, ids, assumed) for part in _STEPS)
    assumed.append("there is no official val: whole videos of the train sets are held out for it")
    boxes = next((name for name in _BOXES if has(root, f"{name}/set[01][0-9]")), None)
    return Found(
        name="KAIST",
        rgb=f"{inside}{{dir}}/visible/{{name}}.jpg",
        thermal=f"{inside}{{dir}}/lwir/{{name}}.jpg",
        splits={**hold_out(train, lambda one: one.rpartition("/")[0]), "test": test},
        classes=("person",) if boxes else (),
        fields={"labels": _labels(boxes, assumed)} if boxes else {},
        scenes={one: "night" if _set(one) in _NIGHT else "day" for one in (*train, *test)},
        assumed=assumed,
    )


def _labels(folder: str, assumed: list[str]) -> dict[str, object]:
    path = f"{folder}/{_BOXES[folder]}"
    assumed.append(
        f"boxes are those of {folder}. As in the benchmark's setting 'reasonable', {', '.join(IGNORED)}, persons below "
        f"{_LOWEST} pixels and heavily hidden ones count neither as found nor as missed; AP is no log-average miss rate"
    )
    return {
        "format": "voc" if path.endswith(".xml") else "kaist",
        "path": path,
        "names": dict.fromkeys(IGNORED, "ignore"),
        "ignore_below": _LOWEST,
        "ignore_hidden": _HEAVILY,
        "missing": "empty",
    }


def _set(one: str) -> int:
    """0 of set00/V000/I00000; -1 of what lies in no set."""
    match = re.match(r"set(\d\d)/", one)
    return int(match[1]) if match else -1


def _frames(root: Path, part: str, ids: list[str], assumed: list[str]) -> list[str]:
    """The frames of the official list, or those that its rule takes: every 2nd of train, every 20th of test."""
    step, mine = _STEPS[part], (range(6) if part == "train" else range(6, 12))
    official = root / "imageSets" / f"{part}-all-{step:02}.txt"
    if official.is_file():
        assumed.append(f"{part} is {official.relative_to(root)}")
        return read_list(official)
    every = [one for one in ids if _set(one) in mine]
    taken = [one for one in every if _number(one) % step == step - 1]
    if not taken or len(taken) > len(every) * 2 / step:  # somebody has thinned the set out already
        return every
    assumed.append(f"{part} takes every {step}th frame, as imageSets/{official.name} does, which is not here")
    return taken


def _number(one: str) -> int:
    digits = "".join(filter(str.isdecimal, one.rpartition("/")[2]))
    return int(digits or 0)
