"""Writes a synthetic data set: pairs, boxes, masks, classes of pictures, scenes, what is really there, and the card."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.card import DatasetCard
from data.card_fields import ImageLabels, Labels, Masks, Split
from data.errors import DataError
from data.images import write_image
from data.synthetic.background import Grid, make_background
from data.synthetic.camera import expose_rgb, expose_thermal, make_pattern, view_matrix
from data.synthetic.render import Truth, find_truth, render_celsius, render_rgb
from data.synthetic.settings import SETTINGS, Setting
from data.synthetic.site import CONDITIONS, REGIMES, Site, Weather, make_site, make_weather
from data.synthetic.surface import share_out, state_of
from data.synthetic.things import CLASSES
from data.synthetic.world import populate
from data.thermal import ThermalSpec

_IMAGE_LABELS = "image_labels.csv"


@dataclass(frozen=True, slots=True)
class Shot:
    """One pair to be taken."""

    id: str
    split: str
    site: Site
    weather: Weather
    offset: float
    seed: int

    def image_class(self, truth: Truth) -> str | None:
        """Class of the whole picture: the state of the road where it has one, else the nearest thing."""
        surface = self.weather.surface
        return truth.nearest if surface is None else state_of(surface)


def write_dataset(
    out: Path,
    pairs: Mapping[str, int] | None,
    seed: int,
    rgb_size: tuple[int, int] = (160, 192),
    thermal_size: tuple[int, int] = (128, 160),
    misregistration: float = 2.0,
    setting: str = "default",
) -> Path:
    """Write ``pairs`` (split → number) into the folder ``out`` and return the path of its card.yaml.

    The same arguments give the same bytes.

    Args:
        out: A folder; created.
        pairs: Any of train, val, test, unlabelled; None: as many as the setting says.
        seed: Of everything.
        rgb_size: Height, width.
        thermal_size: Height, width.
        misregistration: Largest shift of thermal against RGB, in RGB pixels; another one for each pair.
        setting: One of data.synthetic.settings.SETTINGS.

    Raises:
        DataError: an unknown split, or a number below 1.
    """
    chosen = SETTINGS[setting]
    pairs = chosen.pairs if pairs is None else pairs
    for split, count in pairs.items():
        if split not in REGIMES or count < 1:
            raise DataError(f"pairs '{split}={count}': expected a number from 1 for any of {', '.join(REGIMES)}")
    for folder in ("rgb", "thermal", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    scenes: dict[str, str] = {}
    truths: dict[str, Any] = {}
    for shot in _shots(pairs, seed, chosen):
        truth, shift = _take(shot, out, rgb_size, thermal_size, misregistration, chosen.rgb_noise)
        scenes[shot.id] = shot.weather.condition
        truths[shot.id] = {
            "shift_rgb_px": list(shift),
            "boxes": truth.boxes.tolist(),
            "labels": [CLASSES[k] for k in truth.labels],
            "image_label": shot.image_class(truth),
        }
        if shot.split != "unlabelled":
            _label(shot, truth, rgb_size, images, annotations)
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    for name, content in (("boxes.json", coco), ("scenes.json", scenes), ("truth.json", truths)):
        (out / name).write_text(json.dumps(content), encoding="utf-8")
    _write_image_labels(out / _IMAGE_LABELS, truths)
    name = "synthetic" if setting == "default" else f"synthetic-{setting}"
    return _write_card(out, name, pairs, list(scenes), rgb_size, thermal_size, chosen.image_classes)


def _shots(pairs: Mapping[str, int], seed: int, setting: Setting) -> Iterator[Shot]:
    for split, count in pairs.items():
        regime = setting.regimes[split]
        rng = np.random.default_rng([seed, list(REGIMES).index(split)])
        sites = [make_site(rng, regime) for _ in range(regime.sites)]
        edges = np.cumsum(regime.mix) * count  # exact shares, so that a small set has all conditions
        order = rng.permutation(count)
        drift = np.cumsum(rng.normal(0, 90, count))
        roads = share_out(np.random.default_rng([seed, list(REGIMES).index(split), 1]), count) if setting.road else None
        for number in range(count):
            site = sites[number * len(sites) // count]
            condition = CONDITIONS[min(int(np.searchsorted(edges, order[number], side="right")), 2)]
            weather = make_weather(rng, regime, condition)
            if roads is not None:
                weather = replace(weather, surface=roads[number])
            yield Shot(
                f"{split}_{number:05d}", split, site, weather, site.offset + float(drift[number]),
                int(rng.integers(2**31)),
            )  # fmt: skip


def _take(
    shot: Shot,
    out: Path,
    rgb_size: tuple[int, int],
    thermal_size: tuple[int, int],
    misregistration: float,
    rgb_noise: float,
) -> tuple[Truth, tuple[float, float]]:
    rng = np.random.default_rng(shot.seed)
    grid = Grid(rgb_size[0], rgb_size[1], margin=max(2, round(0.06 * rgb_size[0])))
    place = make_background(shot.site, shot.weather, grid)
    movers = populate(rng, shot.site, grid.width / grid.height)
    things = [mover.thing for mover in movers]
    rgb = expose_rgb(render_rgb(things, place, shot.weather, grid), shot.weather, grid, rng, rgb_noise)
    right, down = (float(v) for v in rng.uniform(-misregistration, misregistration, 2))
    view = view_matrix(grid, thermal_size, (right, down))
    celsius = render_celsius(things, place, shot.weather, grid)
    thermal = expose_thermal(celsius, grid, view, make_pattern(rng, thermal_size), shot.offset, rng)
    truth = find_truth(things, shot.weather, grid)
    write_image(out / "rgb" / f"{shot.id}.jpg", rgb)
    write_image(out / "thermal" / f"{shot.id}.png", thermal)
    write_image(out / "masks" / f"{shot.id}.png", truth.mask)
    return truth, (right, down)


def _label(
    shot: Shot,
    truth: Truth,
    rgb_size: tuple[int, int],
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> None:
    images.append({
        "id": len(images) + 1, "file_name": f"{shot.id}.jpg", "height": rgb_size[0], "width": rgb_size[1],
        "split": shot.split,
    })  # fmt: skip
    for box, label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        annotations.append({
            "id": len(annotations) + 1, "image_id": len(images), "category_id": label + 1,
            "bbox": [box[0], box[1], width, height], "area": width * height, "iscrowd": 0,
        })  # fmt: skip


def _write_image_labels(path: Path, truths: Mapping[str, Mapping[str, Any]]) -> None:
    """A table of the classes of pictures; nobody has labelled the unlabelled."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label"))
        writer.writerows(
            (one, truth["image_label"])
            for one, truth in truths.items()
            if truth["image_label"] is not None and not one.startswith("unlabelled_")
        )


def _write_card(
    out: Path,
    name: str,
    pairs: Mapping[str, int],
    ids: list[str],
    rgb_size: tuple[int, int],
    thermal_size: tuple[int, int],
    image_classes: tuple[str, ...],
) -> Path:
    splits = {split: Split(coco=split) for split in pairs if split != "unlabelled"}
    if "unlabelled" in pairs:
        listed = [one for one in ids if one.startswith("unlabelled_")]
        (out / "unlabelled.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
        splits["unlabelled"] = Split(file="unlabelled.txt")
    card = DatasetCard(
        version=1,
        name=name,
        rgb="rgb/{id}.jpg",
        thermal="thermal/{id}.png",
        rgb_size=rgb_size,
        thermal_size=thermal_size,
        classes=CLASSES,
        labels=Labels(format="coco", path="boxes.json"),
        thermal_spec=ThermalSpec(unit="counts16"),
        splits=splits,
        scenes="scenes.json",
        masks=Masks(path="masks/{id}.png"),
        image_classes=image_classes,
        image_labels=ImageLabels(format="csv", path=_IMAGE_LABELS),
    )
    card.save(out / "card.yaml")
    return card.path
