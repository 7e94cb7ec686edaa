"""MFNet (Ha et al., IROS 2017): street scenes, eight classes, thermal as the fourth channel of the PNG."""

from pathlib import Path

from data.layouts.found import Found, has, read_list

CLASSES = ("car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
"""Mask values 1 … 8; MSRS has the same."""
LISTS = ("train", "val", "test", "test_day", "test_night")


def mfnet(root: Path) -> Found | None:
    """The original archive: ``images/00001D.png`` of four channels, ``labels/``, and lists of the splits."""
    if not has(root, "images/*[DN].png", "labels/*[DN].png", "train.txt", "val.txt", "test.txt"):
        return None
    splits = {name: read_list(root / f"{name}.txt") for name in LISTS if (root / f"{name}.txt").is_file()}
    mirrored = sum(one.endswith("_flip") for ids in splits.values() for one in ids)
    splits = {name: [one for one in ids if not one.endswith("_flip")] for name, ids in splits.items()}
    assumed = ["splits are the official lists; test_day and test_night are parts of test", "thermal is the 4th channel"]
    if mirrored:
        assumed.append(f"{mirrored} mirrored copies (…_flip, of make_flip.py) are left out: augmentation mirrors")
    return Found(
        name="MFNet",
        rgb="images/{id}.png",
        thermal="images/{id}.png",
        splits=splits,
        classes=CLASSES,
        fields={"masks": "labels/{id}.png"},
        thermal_spec={"channel": 3},
        scenes={one: day_or_night(one) for ids in splits.values() for one in ids},
        assumed=assumed,
    )


def day_or_night(one: str) -> str:
    """Scene by the letter after the number: 00001D, 00002N."""
    return "night" if one.rpartition("/")[2].partition("_")[0].endswith("N") else "day"
