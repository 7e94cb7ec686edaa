"""LLVIP (Jia et al., ICCV workshops 2021): fixed street cameras at night, pedestrians."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out, list_ids


def llvip(root: Path) -> Found | None:
    """The release: ``visible`` and ``infrared``, each with ``train`` and ``test``, and ``Annotations/010001.xml``."""
    if not has(root, "visible/train/*.jpg", "visible/test/*.jpg", "infrared/train/*.jpg", "Annotations/*.xml"):
        return None
    ids = list_ids(root, "visible/{id}.jpg")
    parts = {part: [one for one in ids if one.startswith(f"{part}/")] for part in ("train", "test")}
    return Found(
        name="LLVIP",
        rgb="visible/{id}.jpg",
        thermal="infrared/{id}.jpg",
        splits={**hold_out(parts["train"], _camera), "test": parts["test"]},
        classes=("person",),
        fields={"labels": {"format": "voc", "path": "Annotations/{name}.xml"}},
        assumed=[
            "train and test are the official folders; there is no official val: whole places of train (the first two "
            "digits of a name) are held out for it"
        ],
    )


def _camera(one: str) -> str:
    """01 of train/010001."""
    return one.rpartition("/")[2][:2]
