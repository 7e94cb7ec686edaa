"""MSRS (Tang et al., Information Fusion 2022): MFNet's pairs, cleaned and with enhanced thermal."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out_stretches, list_ids
from data.layouts.mfnet import CLASSES, day_or_night

MASKS = ("Segmentation_labels", "label")
"""Folders of masks, the name of today's release first."""


def msrs(root: Path) -> Found | None:
    """The release: ``train`` and ``test``, each with ``vi/00001D.png``, ``ir/`` and ``Segmentation_labels/``."""
    if not has(root, "train/vi/*[DN].png", "train/ir/*[DN].png", "test/vi/*[DN].png", "test/ir/*[DN].png"):
        return None
    ids = list_ids(root, "{dir}/vi/{name}.png")
    parts = {part: [one for one in ids if one.startswith(f"{part}/")] for part in ("train", "val", "test")}
    official = bool(parts["val"])
    masks = next((name for name in MASKS if has(root, f"train/{name}/*.png")), None)
    assumed = ["train and test are the official folders"]
    if not official:
        assumed.append(
            "there is no official val: stretches of 50 frame numbers of train are held out for it; the official test "
            "takes every fourth frame of the same drives as train, so that its figures flatter any method"
        )
        parts |= hold_out_stretches(parts["train"], _stretch, assumed)
    if has(root, "detection/labels/*.txt"):
        assumed.append("detection/ (80 pairs with boxes, no official split, no class names) is not part of this card")
    return Found(
        name="MSRS",
        rgb="{dir}/vi/{name}.png",
        thermal="{dir}/ir/{name}.png",
        splits=parts,
        classes=CLASSES if masks else (),
        fields={"masks": f"{{dir}}/{masks}/{{name}}.png"} if masks else {},
        scenes={one: day_or_night(one) for one in ids},
        assumed=assumed,
    )


def _stretch(one: str) -> str:
    """Stretch of a drive: day or night, and the number by fifties."""
    number = "".join(filter(str.isdecimal, one.rpartition("/")[2]))
    return f"{day_or_night(one)}{int(number or 0) // 50}"
