"""What the loader costs beyond bare decoding, at 480×640: python tests/benchmarks/loader_ratio.py [PAIRS].

The synthetic pairs are written three times: as JPEG and 16-bit PNG as ``rgbt data synth`` makes them, both as PNG, and
both as 8-bit JPEG, the fastest to decode and so the hardest to keep up with.
"""

import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from data.augment.spec import AugmentSpec
from data.card import DatasetCard
from data.images import read_rgb, read_thermal, write_image
from data.synthetic.dataset import write_dataset
from data.thermal import ThermalSpec
from pipelines.loader_bench import measure_loader

SIZE = (480, 640)
LIMITS = {".jpg": {"none": 0.85, "flip + affine": 0.4}, ".png": {"none": 0.85, "flip + affine": 0.6}}
"""RGB's suffix → row → smallest loader_ratio."""
MILLISECONDS = 10.0
"""Of a pair of JPEG with the default recipe, reading included; of PNG, decoding alone takes nearly as long."""


def rewrite(card: DatasetCard, suffix: str) -> DatasetCard:
    """Write the pairs of a card again, beside it: both files with this suffix, 8-bit thermal where that is JPEG."""
    spec = ThermalSpec(unit="intensity8") if suffix == ".jpg" else card.thermal_spec
    for split in card.splits:
        for sample in card.samples(split):
            thermal = read_thermal(sample.thermal, card.thermal_spec)
            if suffix == ".jpg":
                thermal = np.asarray(cv2.normalize(thermal, None, 1, 255, cv2.NORM_MINMAX, cv2.CV_8U))
            for kind, image in (("rgb", read_rgb(sample.rgb)), ("thermal", thermal)):
                path = card.folder / f"{kind}{suffix}" / f"{sample.id}{suffix}"
                path.parent.mkdir(exist_ok=True)
                write_image(path, image)
    changes = {"rgb": f"rgb{suffix}/{{id}}{suffix}", "thermal": f"thermal{suffix}/{{id}}{suffix}", "thermal_spec": spec}
    whole = card.model_dump() | changes | {"labels": None, "splits": {"all": {"ids": _ids(card)}}}
    return DatasetCard.model_validate(whole).at(card.path)


def _ids(card: DatasetCard) -> list[str]:
    return [sample.id for split in card.splits for sample in card.samples(split)]


def main(pairs: int) -> int:
    """Measure the three; 1 when one is under its limit."""
    with tempfile.TemporaryDirectory() as folder:
        card = DatasetCard.load(write_dataset(Path(folder), {"train": 24}, 0, SIZE, SIZE))
        answers = [
            measure_loader(one, AugmentSpec(), "default recipe", pairs=pairs)
            for one in (card, rewrite(card, ".png"), rewrite(card, ".jpg"))
        ]
    missed = []
    for answer in answers:
        files = answer["files"]
        print(files, "load", answer["machine"]["load"], json.dumps(answer["transforms_ms"]))
        print(*map(json.dumps, answer["rows"]), sep="\n")
        if files["rgb"] == files["thermal"]:
            limits = LIMITS[files["rgb"]]
            missed += [f"{files['rgb']} {row['row']}: {row['loader_ratio']}" for row in answer["rows"]
                       if row["loader_ratio"] < limits.get(row["row"], 0)]  # fmt: skip
        if files["thermal"] == ".jpg" and answer["rows"][-1]["ms_per_pair"] > MILLISECONDS:
            missed.append(f"default recipe: {answer['rows'][-1]['ms_per_pair']} ms")
    print("missed: " + ", ".join(missed) if missed else "all within their limits")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 120))
