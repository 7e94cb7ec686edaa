"""What runs on an edge device runs without torch, and answers as evaluate does."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from data.card import DatasetCard
from data.images import read_thermal, write_image
from data.pairs import load_pair
from data.prepare import Preparer
from data.rig import Rig
from data.synthetic.dataset import write_dataset
from pipelines.evaluate import evaluate, open_subject

CLASSES = ("person", "car")
"""Of the tiny bundle."""

BLOCK = """
    import sys

    class Torchless:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {"torch", "torchvision", "lightning", "timm", "albumentations", "onnx"}:
                raise ImportError(f"{name} is not installed on this device")

    sys.meta_path.insert(0, Torchless())
"""


def run(script, *arguments):
    """Run a script in a process that cannot import torch; it must not even be loaded otherwise."""
    ending = "\nassert not [name for name in sys.modules if name.partition('.')[0] == 'torch']\n"
    code = textwrap.dedent(BLOCK) + textwrap.dedent(script) + ending
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blockade_holds():
    assert run("""
        try:
            import torch
        except ImportError as error:
            print(error)
    """) == "torch is not installed on this device\n"  # fmt: skip


def test_everything_of_live_is_imported_without_torch():
    said = run("""
        import importlib, pkgutil
        import pipelines.live
        names = [module.name for module in pkgutil.iter_modules(pipelines.live.__path__, "pipelines.live.")]
        names += ["pipelines.cli", "pipelines.live_bench", "export.bundle", "export.session"]
        names += [f"data.{name}" for name in ("frame", "rig", "thermal", "prepare", "images", "yaml_file")]
        for name in names:
            importlib.import_module(name)
        print(len(names))
    """)
    assert int(said) >= 20


def test_help_loads_nothing_heavy():
    run("""
        from pipelines.cli import main
        assert main(["live", "--help"]) == 0
        heavy = {"numpy", "cv2", "av", "onnxruntime"} & set(sys.modules)
        assert not heavy, heavy
    """)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Eight test pairs for the tiny bundle, of a thermal camera that hangs on its side and looks askew."""
    pairs = {"train": 1, "val": 1, "test": 8, "unlabelled": 1}
    out = tmp_path_factory.mktemp("pairs")
    made = DatasetCard.load(write_dataset(out, pairs, seed=3, rgb_size=(48, 64), thermal_size=(30, 40)))
    for path in (out / "thermal").iterdir():
        upright = read_thermal(path, made.thermal_spec)
        path.unlink()
        write_image(path, np.rot90(upright))  # counter-clockwise: the rig turns it back
    rig = Rig(
        rgb_size=(48, 64),
        thermal_size=(40, 30),
        rotate=90,
        homography=((1.35, 0.12, 3.0), (-0.08, 1.45, 4.5), (0.0006, -0.0004, 1.0)),
    )
    rig.save(out / "rig.yaml")
    _keep_classes(out / "boxes.json", CLASSES)
    changed = {"thermal_size": (40, 30), "rig": "rig.yaml", "classes": CLASSES}
    DatasetCard.model_validate({**made.model_dump(exclude_unset=True), **changed}).save(out / "card.yaml")
    return DatasetCard.load(out / "card.yaml")


def _keep_classes(path, classes):
    """Leave only the labels of these classes in a COCO file."""
    coco = json.loads(path.read_text(encoding="utf-8"))
    kept = {category["id"] for category in coco["categories"] if category["name"] in classes}
    coco["categories"] = [category for category in coco["categories"] if category["id"] in kept]
    coco["annotations"] = [box for box in coco["annotations"] if box["category_id"] in kept]
    path.write_text(json.dumps(coco), encoding="utf-8")


def test_live_gives_the_same_detections_as_evaluate_on_the_same_pairs(tiny_bundle, card, tmp_path):
    samples = card.samples("test")
    for sensor in ("rgb", "thermal"):
        (tmp_path / sensor).mkdir()
        for sample in samples:
            path = getattr(sample, sensor)
            (tmp_path / sensor / path.name).symlink_to(path)
    run(
        """
        from pipelines.cli import main
        assert main(["live", *sys.argv[1:]]) == 0
        """,
        *(tiny_bundle, "--rgb", tmp_path / "rgb", "--thermal", tmp_path / "thermal"),
        *("--rig", card.path.parent / "rig.yaml", "--score", 0, "--threads", 1, "--jsonl", tmp_path / "out.jsonl"),
    )
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    measured = evaluate(tiny_bundle, card, "test", without=(), examples=len(samples)).examples
    assert [example.id for example in measured] == sorted(sample.id for sample in samples)
    warped = 0
    for line, example in zip(lines, measured, strict=True):
        boxes = example.answer["boxes"][example.answer["boxes"][:, 4] > 0]
        assert line["present"] == [1, 1]
        assert len(line["boxes"]) == len(boxes) > 0
        np.testing.assert_allclose([b["box"] for b in line["boxes"]], boxes[:, :4], atol=0.1)
        np.testing.assert_allclose([b["score"] for b in line["boxes"]], boxes[:, 4], atol=1e-4)
        assert [b["class"] for b in line["boxes"]] == [CLASSES[int(label)] for label in boxes[:, 5]]
        warped += int((example.thermal == card.thermal_spec.invalid).any())
    assert warped == len(samples), "the rig leaves a part of the view unseen, so a pair without a warp would differ"


def test_the_answers_depend_on_the_rig(tiny_bundle, card):
    """Without the warp, or with it turned over, they are others: so the test above would see a wrong one."""
    turned_over = card.load_rig().model_copy(update={"rotate": 270})
    unwarped = card.load_rig().model_copy(update={"homography": None})
    subject, sample = open_subject(tiny_bundle), card.samples("test")[0]
    right, *wrong = (
        subject.predict(load_pair(sample, Preparer(card.inputs(), rig))[0])["boxes"]
        for rig in (card.load_rig(), turned_over, unwarped)
    )
    for answer in wrong:
        assert np.abs(answer[:, 4] - right[:, 4]).max() > 1e-3
