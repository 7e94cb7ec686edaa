"""FMB (Liu et al., ICCV 2023): street scenes in all weathers, fourteen classes."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out_stretches, list_ids, stretches

CLASSES = (
    "road", "sidewalk", "building", "lamp", "sign", "vegetation", "sky", "person", "car", "truck", "bus", "motorcycle",
    "bicycle", "pole",
)  # fmt: skip
"""Mask values 1 … 14; 0 was not labelled."""


def fmb(root: Path) -> Found | None:
    """The release: ``train`` and ``test``, each with ``Visible``, ``Infrared``, ``Label`` (indices), ``color``."""
    kinds = ("Visible", "Infrared", "Label")
    if not has(root, *(f"{part}/{kind}/*.png" for part in ("train", "test") for kind in kinds)):
        return None
    ids = list_ids(root, "{dir}/Visible/{name}.png")
    parts = {part: [one for one in ids if one.startswith(f"{part}/")] for part in ("train", "val", "test")}
    official = bool(parts["val"])
    assumed = [
        "mask value 0 is ignored: it means 'not labelled', and the fourteen classes are judged (some papers judge it "
        "as a fifteenth class, 'background': then set masks.zero: background)"
    ]
    if not official:
        assumed.append(
            "train and test are the official folders; there is no official val and names tell no sequences: stretches "
            "of 50 neighbours in the order of names of train are held out for it"
        )
        parts |= hold_out_stretches(parts["train"], stretches(parts["train"]), assumed)
    return Found(
        name="FMB",
        rgb="{dir}/Visible/{name}.png",
        thermal="{dir}/Infrared/{name}.png",
        splits=parts,
        classes=CLASSES,
        fields={"masks": {"path": "{dir}/Label/{name}.png", "zero": "ignore"}},
        assumed=assumed,
    )
