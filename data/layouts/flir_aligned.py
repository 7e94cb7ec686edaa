"""FLIR-aligned (Zhang et al., ICIP 2020): the well-aligned pairs of FLIR's ADAS set, three classes."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out_stretches, read_list, stretches

CLASSES = ("person", "bicycle", "car")
_ENDINGS = ("_PreviewData", "_RGB")
_PICTURES = ("JPEGImages", "AnnotatedImages")
_LISTS = (".", "ImageSets/Main")


def flir_aligned(root: Path) -> Found | None:
    """``JPEGImages/FLIR_00002_RGB.jpg`` and ``…_PreviewData.jpeg``, ``Annotations``, ``align_train.txt``."""
    pictures = next((name for name in _PICTURES if has(root, f"{name}/*_RGB.jpg", f"{name}/*_PreviewData.jpeg")), None)
    lists = next((name for name in _LISTS if has(root / name, "align_train.txt", "align_validation.txt")), None)
    if pictures is None or lists is None:
        return None
    train, test = (read_list(root / lists / f"align_{part}.txt", _plain) for part in ("train", "validation"))
    ending = "_PreviewData" if has(root, "Annotations/*_PreviewData.xml") else ""
    assumed = [
        "test is align_validation.txt, on which all papers report; val is held out of align_train.txt by stretches "
        "of 50 neighbours in the order of names, which tell no sequences",
        "boxes of dogs are left out, as in the literature",
        "! 'aligned' is not exact: there is a systematic roll of about 1.2°",
    ]
    return Found(
        name="FLIR-aligned",
        rgb=f"{pictures}/{{id}}_RGB.jpg",
        thermal=f"{pictures}/{{id}}_PreviewData.jpeg",
        splits={**hold_out_stretches(train, stretches(train), assumed), "test": test},
        classes=CLASSES,
        fields={"labels": {"format": "voc", "path": f"Annotations/{{id}}{ending}.xml", "names": {"dog": None}}},
        assumed=assumed,
    )


def _plain(name: str) -> str:
    """FLIR_00002 of FLIR_00002_PreviewData."""
    for ending in _ENDINGS:
        name = name.removesuffix(".jpeg").removesuffix(ending)
    return name
