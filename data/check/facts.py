"""What the files of one pair are: every problem becomes a finding, every figure is kept for the whole set's."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.alignment import Shift, estimate
from data.card import DatasetCard, Sample
from data.check.duplicates import Words, dhash
from data.check.findings import Finding
from data.errors import DataError
from data.frame import Image
from data.images import read_rgb, read_thermal
from data.labels.masks import read_mask
from data.rig import Aligner
from data.thermal import ThermalSpec

HISTOGRAM: dict[str, tuple[float, float, int]] = {
    "intensity8": (0, 256, 64),
    "counts16": (0, 65536, 1024),
    "celsius": (-60, 200, 260),
}
"""Unit → lowest value, highest value, bins; what lies outside is counted in the outermost bins."""
RGB_HISTOGRAM = (0, 256, 64)


@dataclass(slots=True)
class Facts:
    """What was found in the files of one pair."""

    findings: list[Finding] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    """Sensor → digest of its file; empty when one is missing."""
    pixels: dict[str, bytes] = field(default_factory=dict)
    """Sensor → digest of its pixels."""
    hashes: dict[str, Words] = field(default_factory=dict)
    """Sensor → difference hash; a flat picture has none."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Sensor → height, width as read."""
    low: float = np.inf
    """Lowest and highest valid value of thermal, in the unit."""
    high: float = -np.inf
    values: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Sensor → histogram of its values."""
    classes: NDArray[np.int64] | None = None
    """[256]: pixels of each value of the mask."""
    same: bool = False
    """Whether RGB and thermal are one picture."""
    compared: bool = False
    """Whether the shift was looked for."""
    shift: Shift | None = None

    def add(self, level: str, kind: str, where: str, text: str) -> None:
        """Add a finding."""
        assert level in ("error", "warning", "note")
        self.findings.append(Finding(level, kind, where, text))  # type: ignore[arg-type]


class Looker:
    """Reads pairs of a card; may be called from several threads."""

    def __init__(self, card: DatasetCard) -> None:
        """Read the card's rig; DataError when it cannot be read."""
        self.align: frozenset[str] = frozenset()
        """Ids of the pairs whose shift is estimated."""
        self._card = card
        self._rig = card.load_rig()
        self._aligners: dict[tuple[tuple[int, int], tuple[int, int]], Aligner] = {}

    def __call__(self, sample: Sample) -> Facts:
        """Read the files of a pair."""
        facts = Facts()
        files = sensor_files(sample)
        wanted = {**files, **({"mask": sample.mask} if sample.mask is not None and "RGB" in files else {})}
        for name, path in wanted.items():
            if not path.is_file():
                facts.add("error", "missing", sample.id, f"{path}: missing {name} file of pair '{sample.id}'")
        if facts.findings:
            return facts
        images = {name: image for name in files if (image := self._read(name, sample, facts)) is not None}
        for name, image in images.items():
            facts.sizes[name] = (image.shape[0], image.shape[1])
            facts.digests[name] = _digest(files[name].read_bytes()).hex()
            facts.pixels[name] = _digest(np.ascontiguousarray(image).data)
        if "thermal" in images:
            _measure(sample, images["thermal"], self._card.thermal_spec, facts)
        if "RGB" in images:
            _measure_rgb(sample, images["RGB"], facts)
        if len(images) == 2:
            facts.same = _is_same(images["RGB"], images["thermal"])
        _wrong_sizes(sample, facts, self._card)
        if "mask" in wanted and "RGB" in images:
            self._mask(sample, facts)
        if sample.id in self.align and len(images) == 2:
            self._compare(sample, images["RGB"], images["thermal"], facts)
        return facts

    def _read(self, name: str, sample: Sample, facts: Facts) -> Image | None:
        try:
            return read_rgb(sample.rgb) if name == "RGB" else read_thermal(sample.thermal, self._card.thermal_spec)
        except DataError as error:
            facts.add("error", "unreadable", sample.id, str(error))
            return None

    def _mask(self, sample: Sample, facts: Facts) -> None:
        try:
            mask = read_mask(sample, self._card)
        except DataError as error:
            facts.add("error", "label", sample.id, str(error))
            return
        height, width = facts.sizes["RGB"]
        if mask.shape != (height, width):
            text = (
                f"{sample.mask}: {mask.shape[1]}×{mask.shape[0]} (width×height), expected RGB's size {width}×{height}"
            )
            facts.add("error", "label", sample.id, text)
            return
        facts.classes = np.bincount(mask.ravel(), minlength=256)

    def aligned(self, rgb: Image, thermal: Image, where: str) -> tuple[Image, NDArray[np.bool_]]:
        """Thermal as it lies on RGB by the card's rig, and which of its pixels show nothing; DataError: wrong sizes."""
        key = (rgb.shape[0], rgb.shape[1]), (thermal.shape[0], thermal.shape[1])
        if key not in self._aligners:
            self._aligners[key] = self._rig.aligner(self._card.thermal_spec, *key)
        aligner = self._aligners[key]
        lying = aligner(thermal, where)
        hidden = self._card.thermal_spec.dead(lying)
        outside = aligner.outside
        shown = np.zeros(lying.shape, bool)
        for part in (hidden, outside):
            if part is not None:
                shown |= part
        return lying, shown

    def _compare(self, sample: Sample, rgb: Image, thermal: Image, facts: Facts) -> None:
        try:
            lying, hidden = self.aligned(rgb, thermal, str(sample.thermal))
        except DataError as error:
            if not any(finding.kind == "size" for finding in facts.findings):
                facts.add("error", "size", sample.id, str(error))
            return
        facts.compared = True
        facts.shift = estimate(rgb, lying, hidden)


def sensor_files(sample: Sample) -> dict[str, Path]:
    """The pictures that a sample must have, by sensor."""
    files = {"RGB": sample.rgb} if "rgb" in sample.sensors else {}
    if "thermal" in sample.sensors:
        files["thermal"] = sample.thermal
    return files


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=12).digest()


def _measure(sample: Sample, thermal: Image, spec: ThermalSpec, facts: Facts) -> None:
    dead = spec.dead(thermal)
    valid = thermal if dead is None else thermal[~dead]
    if not valid.size:
        facts.add("warning", "flat", sample.id, f"{sample.thermal}: no valid pixel")
        return
    facts.low, facts.high = float(valid.min()), float(valid.max())
    facts.values["thermal"] = _histogram(valid, HISTOGRAM[spec.unit])
    if facts.low >= facts.high:
        facts.add("warning", "flat", sample.id, f"{sample.thermal}: thermal is flat")
    else:
        facts.hashes["thermal"] = dhash(thermal)


def _measure_rgb(sample: Sample, rgb: Image, facts: Facts) -> None:
    facts.values["RGB"] = _histogram(rgb[..., 1], RGB_HISTOGRAM)
    if int(rgb.max()) == int(rgb.min()):
        facts.add("warning", "flat", sample.id, f"{sample.rgb}: RGB is flat")
    else:
        facts.hashes["RGB"] = dhash(rgb)


def _is_same(rgb: Image, thermal: Image) -> bool:
    """Whether RGB is a grey picture, and thermal that picture; one that is flat could be anything."""
    if rgb.shape[:2] != thermal.shape or rgb.dtype != thermal.dtype or thermal.min() == thermal.max():
        return False
    return all(np.array_equal(rgb[..., k], thermal) for k in range(3))


def _histogram(values: Image, bins: tuple[float, float, int]) -> NDArray[np.int64]:
    low, high, count = bins
    if values.dtype.kind == "u":
        every = np.bincount(values.ravel(), minlength=int(high))
        return np.asarray(every.reshape(count, -1).sum(axis=1), np.int64)
    places = ((values.astype(np.float64) - low) * (count / (high - low))).clip(0, count - 1)
    return np.asarray(np.bincount(places.astype(np.int64).ravel(), minlength=count), np.int64)


def _wrong_sizes(sample: Sample, facts: Facts, card: DatasetCard) -> None:
    for name, field_name, path, declared in (
        ("RGB", "rgb_size", sample.rgb, card.rgb_size),
        ("thermal", "thermal_size", sample.thermal, card.thermal_size),
    ):
        size = facts.sizes.get(name)
        if size is not None and declared is not None and size != declared:
            text = (
                f"{path}: {size[1]}×{size[0]} (width×height), but the card says {field_name}: {list(declared)} "
                "(height, width)"
            )
            facts.add("error", "size", sample.id, text)
    rgb = facts.sizes.get("RGB")
    if rgb is not None and sample.boxes is not None and len(sample.boxes) and sample.stated in (None, rgb):
        right, bottom = sample.boxes[:, 2:].max(axis=0).tolist()
        if right > rgb[1] + 0.5 or bottom > rgb[0] + 0.5:
            text = (
                f"{sample.rgb}: {rgb[1]}×{rgb[0]} (width×height), but its boxes reach to ({right:g}, {bottom:g}): "
                "the labels were made on pictures of another size"
            )
            facts.add("error", "label", sample.id, text)
