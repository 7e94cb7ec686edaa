"""M3FD (Liu et al., CVPR 2022): road and campus scenes, six classes, no official split."""

from pathlib import Path

from data.layouts.found import Found, has, hold_out_stretches, list_ids, read_list, stretches

CLASSES = ("People", "Car", "Bus", "Motorcycle", "Lamp", "Truck")
_TEST = 0.2


def m3fd(root: Path) -> Found | None:
    """The detection archive: ``Vis/00000.png``, ``Ir`` and ``Annotation`` (VOC); lists in ``meta`` are used."""
    if not has(root, "Vis/*.png", "Ir/*.png", "Annotation/*.xml"):
        return None
    assumed = ["! warped thermal frames have black borders: see 'rgbt data show', and thermal_spec.marked"]
    return Found(
        name="M3FD",
        rgb="Vis/{id}.png",
        thermal="Ir/{id}.png",
        splits=_splits(root, list_ids(root, "Vis/{id}.png"), assumed),
        classes=CLASSES,
        fields={"labels": {"format": "voc", "path": "Annotation/{id}.xml"}},
        assumed=assumed,
    )


def _splits(root: Path, ids: list[str], assumed: list[str]) -> dict[str, list[str]]:
    names = [name for name in ("train", "val", "test") if (root / "meta" / f"{name}.txt").is_file()]
    if "train" in names:
        assumed.append(f"splits are the lists in meta/ ({', '.join(names)}); the authors published none")
        listed = {name: read_list(root / "meta" / f"{name}.txt") for name in names}
        train = listed["train"]
        return listed if "val" in names else {**listed, **hold_out_stretches(train, stretches(train), assumed)}
    assumed.append(
        "there is no official split: stretches of 50 neighbours in the order of names are held out, a fifth of all for "
        "test and an eighth of the rest for val; figures on other splits cannot be compared"
    )
    rest, test = hold_out_stretches(ids, stretches(ids), assumed, _TEST).values()
    return {**hold_out_stretches(rest, stretches(rest), assumed), "test": test}
