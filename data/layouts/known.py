"""The layouts that are known, and which of them a folder has."""

from collections.abc import Callable
from pathlib import Path

from data.errors import DataError
from data.layouts.flir_aligned import flir_aligned
from data.layouts.fmb import fmb
from data.layouts.found import Found
from data.layouts.kaist import kaist
from data.layouts.llvip import llvip
from data.layouts.m3fd import m3fd
from data.layouts.mfnet import mfnet
from data.layouts.msrs import msrs
from data.layouts.pst900 import pst900

LAYOUTS: dict[str, tuple[Callable[[Path], Found | None], str]] = {
    "mfnet": (mfnet, "images/*D.png, labels/, train.txt, val.txt, test.txt"),
    "msrs": (msrs, "train/vi, train/ir, test/vi, test/ir with *D.png and *N.png"),
    "pst900": (pst900, "rgb, thermal, labels in train/ and test/"),
    "fmb": (fmb, "Visible, Infrared, Label in train/ and test/"),
    "kaist": (kaist, "set00/V000/visible and lwir, also in images/"),
    "llvip": (llvip, "visible/train, visible/test, infrared/train, Annotations/*.xml"),
    "flir-aligned": (
        flir_aligned,
        "JPEGImages/*_RGB.jpg and *_PreviewData.jpeg, align_train.txt, align_validation.txt",
    ),
    "m3fd": (m3fd, "Vis, Ir, Annotation/*.xml"),
}
"""Name → function that returns what it found, or None where a folder is not its set; and what it looks for."""


def find_layout(root: Path) -> tuple[str, Path, Found] | None:
    """Name, folder and finding of the set that lies in ``root``, or in one folder of it; None: no known set.

    Raises:
        DataError: there is no such folder, or several of its folders are sets.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    for folders in ([root], sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())):
        found = [
            (name, folder, one) for folder in folders for name, (read, _) in LAYOUTS.items() if (one := read(folder))
        ]
        if len({folder for _, folder, _ in found}) > 1:
            names = ", ".join(f"{folder.name} ({name})" for name, folder, _ in found)
            raise DataError(f"{root} holds several sets: {names}; name one of them")
        if found:
            return found[0]
    return None


def looked_for() -> str:
    """What would have been a known layout, for the error of a folder that has none."""
    return "; ".join(f"{name}: {what}" for name, (_, what) in LAYOUTS.items())
