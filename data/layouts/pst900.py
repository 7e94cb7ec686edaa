"""PST900 (Shivakumar et al., ICRA 2020): underground scenes, four classes of objects of a search."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out, list_ids

CLASSES = ("fire_extinguisher", "backpack", "hand_drill", "survivor")
"""Mask values 1 … 4."""


def pst900(root: Path) -> Found | None:
    """The release: ``train`` and ``test``, each with ``rgb``, ``thermal`` (8-bit), ``thermal_raw``, ``labels``."""
    if not has(root, *(f"{part}/{kind}/*.png" for part in ("train", "test") for kind in ("rgb", "thermal", "labels"))):
        return None
    ids = list_ids(root, "{dir}/rgb/{name}.png")
    parts = {part: [one for one in ids if one.startswith(f"{part}/")] for part in ("train", "test")}
    assumed = [
        "train and test are the official folders; there is no official val: whole recordings of train (the name before "
        "'_rect') are held out for it",
        "thermal is the 8-bit folder after gain control, as in the literature",
        "thermal was projected onto RGB and has holes of value 0, which are left out (thermal_spec.marked)",
    ]
    if has(root, "train/thermal_raw/*.png"):
        assumed.append("raw 16-bit frames lie in thermal_raw/: name it in the card, with thermal_spec.unit: counts16")
    return Found(
        name="PST900",
        rgb="{dir}/rgb/{name}.png",
        thermal="{dir}/thermal/{name}.png",
        splits={**hold_out(parts["train"], _recording), "test": parts["test"]},
        classes=CLASSES,
        fields={"masks": "{dir}/labels/{name}.png"},
        thermal_spec={"marked": True},
        assumed=assumed,
    )


def _recording(one: str) -> str:
    """31_bag1a of train/31_bag1a_rect_rgb_frame0000000007."""
    return one.rpartition("/")[2].partition("_rect")[0]
